"""Prints and draws what several commands show."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from coop_edge.estimator import Estimator
    from coop_edge.mesh import Mesh
    from coop_edge.render.base import Renderer
    from coop_edge.types import Camera, Detection, PoseEstimate

WHOLE_POSES = "whole poses (4x4 matrices, covariances): --json"
"""Says where the rotations are, which tables and lines leave out."""


def print_values(values: Mapping[str, Any], as_json: bool) -> None:
    """Print a report of a few values as a table, or as JSON."""
    if as_json:
        typer.echo(json.dumps(values))
        return
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a hash or a path is of use only when whole
    for key, value in values.items():
        if value not in (None, []) and key != "T_camera_object":
            table.add_row(key, "\n".join(map(str, value)) if key == "notes" else str(value))
    Console().print(table)


def print_line(text: str) -> None:
    """Print a text as it is: not wrapped, without markup."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def print_address(host: str, port: int, may: str) -> None:
    """Print where a page is served, and who else may do what there (``may``) if others reach it."""
    print_line(f"open http://{'localhost' if host in ('0.0.0.0', '127.0.0.1') else host}:{port}")
    if host not in ("127.0.0.1", "localhost"):
        print_line(f"listening at {host}: whoever reaches this address can {may}")


def what_ran(estimator: Estimator) -> dict[str, Any]:
    """Return the engines and the backend of an Estimator as plain data."""
    backend = {"name": estimator.backend.name, "reason": estimator.backend.reason}
    return {"engines": estimator.bundle.name, "version": estimator.bundle.version, "backend": backend}


def print_what_ran(report: Mapping[str, Any]) -> None:
    """Print the line of what ``what_ran`` returned."""
    backend = report["backend"]
    print_line(f"{report['engines']} {report['version']} on {backend['name']} ({backend['reason']})")


def print_poses(
    report: Mapping[str, Any],
    results: Sequence[PoseEstimate],
    errors: Sequence[Mapping[str, float] | None] | None = None,
) -> None:
    """Print what ran, one row per detection, and the times.

    Args:
        report: of ``what_ran``, with "overlay" (a picture's path or None) and perhaps "seconds" (name to seconds).
        results: one per detection.
        errors: one per detection, where the truth is known; None for a detection without a pose.
    """
    print_what_ran(report)
    table = Table("object", "score", "x, y, z (m)", *(["error"] if errors is not None else []), "result")
    for i, result in enumerate(results):
        T = result.T_camera_object
        position = "" if T is None else ", ".join(f"{value:.4f}" for value in T[:3, 3])
        error = [] if errors is None else [_error_text(errors[i])]
        verdict = Text("found" if result.success else result.reason, "green" if result.success else "red")
        table.add_row(Text(result.object), f"{result.score:.3f}", position, *error, verdict)
    table.columns[-1].overflow = "fold"  # a reason is of use only when whole
    console = Console()
    console.print(table)
    if "seconds" in report:
        console.print("seconds: " + ", ".join(f"{name} {value:g}" for name, value in report["seconds"].items()))
    if not results:
        console.print("no detections, so no object was searched for")
    if results and (times := results[0].times) is not None:
        stages = ", ".join(f"{f.name.removesuffix('_ms')} {getattr(times, f.name):.1f}" for f in fields(times))
        console.print(f"milliseconds: {stages}; in all {times.total_ms:.1f}")
    if report["overlay"]:
        print_line(f"drawn: {report['overlay']}")


def print_hints(results: Sequence[PoseEstimate], *, boxed: bool) -> None:
    """Print what a user may want next: whole poses, and what to check where there is none.

    Args:
        results: of one call.
        boxed: they were looked for in given boxes.
    """
    if any(result.success for result in results):
        print_line(WHOLE_POSES)
    if not all(result.success for result in results):
        box = "a box is x, y, width, height and not two corners; " if boxed else ""
        print_line(
            f"to check: {box}the camera's K is of this image's size; the mesh's unit and colours; in Python, the image "
            "is RGB. More: docs/guides/detections.md"
        )


def draw_poses(
    path: Path,
    image: ArrayLike,
    camera: Camera,
    estimator: Estimator,
    results: Sequence[PoseEstimate],
    detections: Sequence[Detection | None],
    *,
    renderer: Callable[[Mesh], Renderer],
) -> None:
    """Write the image with the poses drawn over it to ``path``; the arguments are those of ``with_poses``."""
    from coop_edge.visual.draw import write_image

    write_image(path, with_poses(image, camera, estimator, results, detections, renderer=renderer))


def with_poses(
    image: ArrayLike,
    camera: Camera,
    estimator: Estimator,
    results: Sequence[PoseEstimate],
    detections: Sequence[Detection | None],
    *,
    renderer: Callable[[Mesh], Renderer],
) -> NDArray[np.uint8]:
    """Return the image with the poses drawn over it, uint8 [height,width,3].

    Args:
        image: RGB uint8 [height,width,3] of ``camera``.
        estimator: its objects are the meshes.
        results, detections: in one order; None where there is no detection to draw.
        renderer: makes the renderer of a mesh.
    """
    from coop_edge.visual.overlay import OverlayItem, draw_overlay

    meshes = estimator.objects
    pairs = zip(results, detections, strict=True)
    items = [OverlayItem(result, meshes[result.object], detection) for result, detection in pairs]
    return draw_overlay(image, camera, items, renderer=renderer)


def _error_text(error: Mapping[str, float] | None) -> str:
    if error is None:
        return ""
    return f"{1e3 * error['metres']:.1f} mm = {error['diameters']:.1%} of the diameter, {error['degrees']:.1f} deg"
