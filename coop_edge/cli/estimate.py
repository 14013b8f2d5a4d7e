"""The commands `coop-edge estimate` and `coop-edge demo`: poses in one image. Exit codes: 0 all found, 1 something was
not found (in the demo: or is wrong), 2 wrong use.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from coop_edge.estimator import Estimator
    from coop_edge.mesh import Mesh
    from coop_edge.types import Camera, Detection, PoseEstimate, StageTimes

WRONG = 0.1
"""Share of the diameter by which a pose of the demo may be off on average (ADD; Hinterstoisser et al., ACCV 2012)."""


class DeviceName(str, Enum):
    """Devices that a user may choose."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Engines = Annotated[str, typer.Option(help="Name of an installed bundle of networks, or a bundle's folder.")]
DeviceOption = Annotated[DeviceName, typer.Option(help="Where to run.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 = all cores.")]
Hypotheses = Annotated[
    int, typer.Option(min=1, max=42, help="Poses refined per detection; 5 find more for little more time.")
]
Templates = Annotated[
    list[str] | None, typer.Option(help="NAME=TEMPLATES.npz of `coop-edge onboard`; may be given several times.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def estimate(
    image: Annotated[Path, typer.Option(help="Picture.")],
    camera: Annotated[str, typer.Option(help="FX,FY,CX,CY in pixels, or a JSON file with K or fx, fy, cx, cy.")],
    object_: Annotated[list[str], typer.Option("--object", help="NAME=MESH:UNIT; may be given several times.")],
    detections: Annotated[
        Path, typer.Option(help='JSON list of {"object": NAME, "bbox": [x, y, width, height], "mask": PICTURE}.')
    ],
    overlay: Annotated[Path | None, typer.Option(help="Picture to write: the poses drawn over the image.")] = None,
    templates: Templates = None,
    engines: Engines = "coop-xs",
    device: DeviceOption = DeviceName.auto,
    threads: Threads = 0,
    hypotheses: Hypotheses = 1,
    iterations: Annotated[int, typer.Option(min=0, max=100, help="Renders per hypothesis.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Poses of detected objects in one image. Exit code 0: all found, 1: something was not, 2: wrong use."""
    from coop_edge.cli import inputs
    from coop_edge.estimator import Estimator
    from coop_edge.visual.draw import check_suffix

    if overlay is not None:
        check_suffix(overlay)
    objects = inputs.parse_objects(object_)
    files = inputs.parse_templates(templates or [], [each.name for each in objects])
    picture = inputs.read_image(image)
    intrinsics = inputs.read_camera(camera, picture)
    wanted = inputs.read_detections(detections)
    config = {"coarse": {"hypotheses": hypotheses}, "refine": {"iterations": iterations}}
    with Estimator.from_engines(engines, device=device.value, config=config, threads=threads) as estimator:
        for each in objects:
            estimator.add_object(each.name, each.mesh, unit=each.unit, templates=files.get(each.name))
        results = estimator.estimate(picture, intrinsics, wanted)
        if overlay is not None:
            _draw(overlay, estimator, picture, intrinsics, wanted, results)
        report = {
            "image": str(image),
            "overlay": str(overlay) if overlay else None,
            **_setting(estimator),
            "results": [result.to_dict() for result in results],
        }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print(report, _poses(results), results)
    raise typer.Exit(0 if all(result.success for result in results) else 1)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write.")] = Path("demo.png"),
    engines: Engines = "coop-xs",
    device: DeviceOption = DeviceName.auto,
    threads: Threads = 0,
    as_json: JsonOption = False,
) -> None:
    """Find the objects of the sample scene, and compare with the truth. Exit code 1: one is missing or wrong."""
    from coop_edge.demo import load_scene
    from coop_edge.estimator import Estimator
    from coop_edge.visual.draw import check_suffix

    check_suffix(output)
    scene, seconds = load_scene(), {}
    start = time.perf_counter()
    with Estimator.from_engines(engines, device=device.value, threads=threads) as estimator:
        seconds["load"] = _lap(start)
        start = time.perf_counter()
        for name, (mesh, unit) in scene.meshes.items():
            estimator.add_object(name, mesh, unit=unit)
        seconds["objects"] = _lap(start)
        seconds["warmup"] = round(sum(estimator.warmup().values()), 3)
        results = estimator.estimate(scene.image, scene.camera, scene.detections)
        errors = [_error(result, estimator.objects[result.object], scene.truth[result.object]) for result in results]
        _draw(output, estimator, scene.image, scene.camera, scene.detections, results)
        report = {
            "overlay": str(output),
            **_setting(estimator),
            "seconds": seconds,
            "results": [result.to_dict() | {"error": error} for result, error in zip(results, errors, strict=True)],
        }
    right = all(error is not None and error["diameters"] <= WRONG for error in errors)
    if as_json:
        typer.echo(json.dumps(report | {"right": right}))
    else:
        _print(report, _poses(results, errors), results)
        bound = f"{WRONG:.0%} of its diameter"
        Console().print(f"every object within {bound}" if right else f"[bold red]not every object within {bound}[/]")
    raise typer.Exit(0 if right else 1)


def _setting(estimator: Estimator) -> dict[str, Any]:
    backend = {"name": estimator.backend.name, "reason": estimator.backend.reason}
    return {"engines": estimator.bundle.name, "version": estimator.bundle.version, "backend": backend}


def _error(result: PoseEstimate, mesh: Mesh, truth: NDArray[np.float64]) -> dict[str, float] | None:
    """How far a pose is off: mean distance of the vertices (metres, and over the diameter), and angle in degrees."""
    import numpy as np

    from coop_edge.geometry import se3

    if result.T_camera_object is None:
        return None
    points = mesh.vertices.astype(np.float64) + mesh.centre
    gap = se3.transform(result.T_camera_object, points) - se3.transform(truth, points)
    metres = float(np.linalg.norm(gap, axis=1).mean())
    angle = se3.rotation_angle(result.T_camera_object[:3, :3], truth[:3, :3])
    return {"metres": metres, "diameters": metres / mesh.diameter, "degrees": float(np.degrees(angle))}


def _draw(
    path: Path,
    estimator: Estimator,
    image: NDArray[np.uint8],
    camera: Camera,
    detections: Sequence[Detection],
    results: Sequence[PoseEstimate],
) -> None:
    from coop_edge.visual.draw import write_image
    from coop_edge.visual.overlay import OverlayItem, draw_overlay

    meshes = estimator.objects
    items = [
        OverlayItem(result, meshes[result.object], detection)
        for result, detection in zip(results, detections, strict=True)
    ]
    write_image(path, draw_overlay(image, camera, items, renderer=estimator.backend.renderer))


def _poses(results: Sequence[PoseEstimate], errors: Sequence[Mapping[str, float] | None] | None = None) -> Table:
    """One row per detection."""
    table = Table("object", "score", "x, y, z (m)", *(["error"] if errors is not None else []), "")
    for i, result in enumerate(results):
        T = result.T_camera_object
        place = "" if T is None else ", ".join(f"{value:.4f}" for value in T[:3, 3])
        off = [] if errors is None else [_error_text(errors[i])]
        verdict = Text("found" if result.success else result.reason, "green" if result.success else "red")
        table.add_row(Text(result.object), f"{result.score:.3f}", place, *off, verdict)
    table.columns[-1].overflow = "fold"  # a reason is of use only when whole
    return table


def _error_text(error: Mapping[str, float] | None) -> str:
    if error is None:
        return ""
    return f"{1e3 * error['metres']:.1f} mm = {error['diameters']:.1%} of the diameter, {error['degrees']:.1f} deg"


def _print(report: Mapping[str, Any], poses: Table, results: Sequence[PoseEstimate]) -> None:
    console, backend = Console(), report["backend"]
    engines = f"{report['engines']} {report['version']} on {backend['name']} ({backend['reason']})"
    console.print(engines, markup=False, highlight=False, soft_wrap=True)
    console.print(poses)
    if "seconds" in report:
        console.print("seconds: " + ", ".join(f"{name} {value:g}" for name, value in report["seconds"].items()))
    if results and results[0].times is not None:
        console.print(_times(results[0].times))
    if report["overlay"]:
        console.print(f"drawn: {report['overlay']}", markup=False, highlight=False, soft_wrap=True)


def _times(times: StageTimes) -> str:
    stages = ", ".join(f"{f.name.removesuffix('_ms')} {getattr(times, f.name):.1f}" for f in fields(times))
    return f"milliseconds: {stages}; in all {times.total_ms:.1f}"


def _lap(start: float) -> float:
    return round(time.perf_counter() - start, 3)
