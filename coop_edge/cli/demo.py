"""The command `coop-edge demo`: the poses of the sample scene, compared with the truth."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from coop_edge.base.compile_time import compile_seconds, working_time
from coop_edge.cli import options
from coop_edge.cli.output import draw_poses, print_line, print_poses, what_ran
from coop_edge.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from coop_edge.mesh import Mesh
    from coop_edge.types import PoseEstimate

WRONG = 0.1
"""Share of the diameter by which a pose may be off on average (ADD; Hinterstoisser et al., ACCV 2012)."""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write.")] = Path("demo.png"),
    engines: options.Engines = "coop-xs",
    device: options.Device = options.DeviceName.auto,
    threads: options.Threads = 0,
    effort: options.Effort = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
    files: Annotated[
        Path | None,
        typer.Option(
            help="Write the scene's image, meshes and boxes into this folder, and print the command that reads them."
        ),
    ] = None,
) -> None:
    """Find the objects of the sample scene, and compare with the true poses. Exit code 1: one is missing or wrong."""
    if files is not None:
        print_line("coop-edge " + shlex.join(_write_files(files)))
        return
    from coop_edge.demo import load_scene
    from coop_edge.estimator import Estimator
    from coop_edge.visual.draw import check_suffix

    check_suffix(output)
    config = options.configured(settings, {"effort": effort})
    scene, seconds = load_scene(), {}
    start, compiled = working_time(), compile_seconds()
    with Estimator.from_engines(engines, device=device.value, config=config, threads=threads) as estimator:
        seconds["load"] = round(working_time() - start, 3)
        start = working_time()
        for name, (mesh, unit) in scene.meshes.items():
            estimator.add_object(name, mesh, unit=unit)
        seconds["objects"] = round(working_time() - start, 3)
        seconds["warmup"] = round(sum(estimator.warmup().values()), 3)
        if (once := round(compile_seconds() - compiled, 3)) >= 1.0:
            seconds["compiling, once"] = once
        results = estimator.estimate(scene.image, scene.camera, scene.detections)
        errors = [_error(result, estimator.objects[result.object], scene.truth[result.object]) for result in results]
        renderer = estimator.backend.renderer
        draw_poses(output, scene.image, scene.camera, estimator, results, scene.detections, renderer=renderer)
        report = {
            "overlay": str(output),
            **what_ran(estimator),
            "seconds": seconds,
            "results": [result.to_dict() | {"error": error} for result, error in zip(results, errors, strict=True)],
        }
    right = all(error is not None and error["diameters"] <= WRONG for error in errors)
    if as_json:
        typer.echo(json.dumps(report | {"right": right}))
    else:
        print_poses(report, results, errors)
        bound = f"{WRONG:.0%} of its diameter"
        Console().print(f"every object within {bound}" if right else f"[bold red]not every object within {bound}[/]")
    raise typer.Exit(0 if right else 1)


def _write_files(folder: Path) -> list[str]:
    """Write picture, meshes, camera and detections of the scene; return the command, in words, that estimates them.

    Raises InputError where ``folder`` holds a file of such a name already, OSError.
    """
    from coop_edge.base.files import atomic_write
    from coop_edge.demo import __file__ as home
    from coop_edge.demo import load_scene

    scene, suffixes = load_scene(), (".png", ".obj", ".mtl", ".jpg", ".ply", ".glb")
    contents = {p.name: p.read_bytes() for p in sorted(Path(home).parent.iterdir()) if p.suffix in suffixes}
    contents["scene.png"] = contents.pop("image.png")
    camera = {"K": scene.camera.K.tolist(), "width": scene.camera.width, "height": scene.camera.height}
    found = [{"object": d.object, "bbox": list(d.bbox or ()), "score": d.score} for d in scene.detections]
    contents["camera.json"] = json.dumps(camera, indent=1).encode() + b"\n"
    contents["detections.json"] = json.dumps(found, indent=1).encode() + b"\n"
    if there := [name for name in contents if (folder / name).exists()]:
        raise InputError(f"--files: {folder / there[0]} is there already; give a new folder")
    for name, data in contents.items():
        with atomic_write(folder / name) as file:
            file.write(data)
    objects = [f"{name}={folder / mesh.name}:{unit}" for name, (mesh, unit) in scene.meshes.items()]
    inputs = ["--camera", str(folder / "camera.json"), "--detections", str(folder / "detections.json")]
    return ["estimate", str(folder / "scene.png"), *objects, *inputs, "--overlay", str(folder / "poses.png")]


def _error(result: PoseEstimate, mesh: Mesh, truth: NDArray[np.float64]) -> dict[str, float] | None:
    """Measure how far a pose is off: mean distance of the vertices (metres, and over the diameter), and the angle."""
    import numpy as np

    from coop_edge.geometry import se3

    if result.T_camera_object is None:
        return None
    points = mesh.vertices.astype(np.float64) + mesh.centre
    gap = se3.transform(result.T_camera_object, points) - se3.transform(truth, points)
    metres = float(np.linalg.norm(gap, axis=1).mean())
    angle = se3.rotation_angle(result.T_camera_object[:3, :3], truth[:3, :3])
    return {"metres": metres, "diameters": metres / mesh.diameter, "degrees": float(np.degrees(angle))}
