"""The command `coop-edge`: onboard objects, look at them, build plans, examine the machine. Exit codes: 0 done,
1 `doctor` found that no Estimator could run, 2 wrong use or a failure that has a name.

Errors are one readable line on standard error; `--debug` shows the trace.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

import coop_edge
from coop_edge.cli import bench, build, estimate, track
from coop_edge.errors import CoopEdgeError, InputError

if TYPE_CHECKING:
    from coop_edge.mesh import Mesh, Symmetries

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
_errors = Console(stderr=True)
_debug = False
F = TypeVar("F", bound=Callable[..., None])


class Unit(str, Enum):
    """Length unit of a mesh file."""

    m = "m"
    cm = "cm"
    mm = "mm"
    inch = "in"


class RendererName(str, Enum):
    """Renderers that a user may choose."""

    open3d = "open3d"
    cpu = "cpu"
    cuda = "cuda"


MeshFile = Annotated[Path, typer.Argument(help="OBJ, PLY, GLB, GLTF, STL, DAE or OFF file.")]
UnitOption = Annotated[Unit, typer.Option("--unit", help="Length unit of the mesh file (no default).")]
AlbedoOption = Annotated[
    str | None, typer.Option(help="R,G,B (0..255) of faces without a colour of their own; default 200,200,200.")
]
IgnoreColors = Annotated[bool, typer.Option("--ignore-colors", help="Drop the file's colours and textures.")]
MaxFaces = Annotated[int, typer.Option(min=4, help="A mesh with more triangles is simplified to as many.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _readable_errors(command: F) -> F:
    """Errors on purpose become one line and exit code 2; anything else is a bug and keeps its trace."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (CoopEdgeError, OSError) as error:
            if _debug:
                raise
            _errors.print(f"[bold red]error:[/] {type(error).__name__}: ", end="")
            _errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None

    return wrapped  # type: ignore[return-value]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"coop-edge {coop_edge.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the full trace of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is being done.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """6-DoF pose of an object known only by its CAD model, from one RGB image, on the device itself."""
    global _debug
    _debug = debug
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s: %(message)s")


@app.command()
@_readable_errors
def onboard(
    mesh: MeshFile,
    unit: UnitOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Template file to write (.npz).")],
    size: Annotated[int, typer.Option(min=16, max=2048, help="Side of a template, pixels.")] = 224,
    renderer: Annotated[RendererName, typer.Option(help="open3d is the offline reference.")] = RendererName.open3d,
    supersample: Annotated[int, typer.Option(help="Samples per pixel side: 1, 3 or 5.")] = 3,
    albedo: AlbedoOption = None,
    ignore_colors: IgnoreColors = False,
    max_faces: MaxFaces = 100_000,
    models_info: Annotated[
        Path | None, typer.Option(help="BOP models_info.json to take symmetries from; with --object-id.")
    ] = None,
    object_id: Annotated[int | None, typer.Option(help="Entry of --models-info.")] = None,
    contact_sheet: Annotated[Path | None, typer.Option(help="Also write a picture of the 42 templates.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Render the 42 templates of an object, once, and keep them in a file."""
    from coop_edge.backend import make_renderer
    from coop_edge.templates import TemplateSet
    from coop_edge.visual.draw import check_suffix, write_image
    from coop_edge.visual.draw import contact_sheet as draw_sheet

    if contact_sheet is not None:
        check_suffix(contact_sheet)
    symmetries = _symmetries(models_info, object_id)
    loaded = _load(mesh, unit, albedo, ignore_colors, max_faces)
    start = time.perf_counter()
    templates = TemplateSet.render(
        loaded,
        size,
        renderer=functools.partial(make_renderer, renderer.value),
        supersample=supersample,
        symmetries=symmetries,
    )
    seconds = time.perf_counter() - start
    templates.save(output)
    if contact_sheet is not None:
        write_image(contact_sheet, draw_sheet(templates.rgb))
    _report(
        {
            "templates": str(output),
            "contact_sheet": str(contact_sheet) if contact_sheet else None,
            "views": len(templates.rgb),
            "size": size,
            "renderer": renderer.value,
            "render_seconds": round(seconds, 3),
            **_describe(loaded),
            "hash": templates.hash,
        },
        as_json,
    )


@app.command()
@_readable_errors
def render(
    mesh: MeshFile,
    unit: UnitOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write (.png).")],
    view: Annotated[int, typer.Option(min=0, max=41, help="Which of the 42 viewpoints.")] = 9,
    size: Annotated[int, typer.Option(min=16, max=2048, help="Side of each picture, pixels.")] = 448,
    renderer: Annotated[RendererName, typer.Option(help="Which renderer to use.")] = RendererName.cpu,
    supersample: Annotated[int, typer.Option(help="Samples per pixel side: 1, 3 or 5.")] = 3,
    albedo: AlbedoOption = None,
    ignore_colors: IgnoreColors = False,
    max_faces: MaxFaces = 100_000,
    as_json: JsonOption = False,
) -> None:
    """Render one view of a mesh: colour, depth and object-point map side by side."""
    from coop_edge.backend import make_renderer
    from coop_edge.templates import template_camera
    from coop_edge.visual.draw import check_suffix, side_by_side, write_image

    check_suffix(output)
    loaded = _load(mesh, unit, albedo, ignore_colors, max_faces)
    drawer = make_renderer(renderer.value, loaded, supersample=supersample)
    poses, K = template_camera(loaded, size)
    result = drawer.render(poses[view : view + 1], K, size)  # the first call compiles; the second one is timed
    start = time.perf_counter()
    result = drawer.render(poses[view : view + 1], K, size)
    milliseconds = 1e3 * (time.perf_counter() - start)
    depth = result.depth[0][result.mask[0]]
    if depth.size == 0:
        raise InputError(f"view {view} of {mesh} shows nothing (a flat mesh seen edge-on?); choose another --view")
    write_image(output, side_by_side(result, 0))
    _report(
        {
            "picture": str(output),
            "view": view,
            "T_camera_object": poses[view].tolist(),
            "covered": round(float(result.mask.mean()), 4),
            "depth_m": [round(float(depth.min()), 5), round(float(depth.max()), 5)],
            "renderer": renderer.value,
            "render_ms": round(milliseconds, 2),
            **_describe(loaded),
        },
        as_json,
    )


@app.command()
@_readable_errors
def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Also import Open3D and load every network (seconds).")] = False,
    as_json: JsonOption = False,
) -> None:
    """What is on this machine, what to install, and whether an Estimator could run (exit code 0) or not (1)."""
    from coop_edge.doctor import examine
    from coop_edge.doctor.table import show

    report = examine(deep=deep)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        show(report, Console())
    raise typer.Exit(0 if report.ready else 1)


for _command in (build.build, estimate.estimate, track.track, estimate.demo, bench.bench):
    app.command()(_readable_errors(_command))


def _load(mesh: Path, unit: Unit, albedo: str | None, ignore_colors: bool, max_faces: int) -> Mesh:
    from coop_edge.mesh import Mesh

    color = _albedo(albedo)
    return Mesh.load(mesh, unit=unit.value, albedo=color, ignore_colors=ignore_colors, max_faces=max_faces)


def _albedo(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        r, g, b = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--albedo: wanted R,G,B with values in 0..255, got {text!r}") from None
    return r, g, b


def _symmetries(models_info: Path | None, object_id: int | None) -> Symmetries | None:
    if models_info is None and object_id is None:
        return None
    if models_info is None or object_id is None:
        raise InputError("--models-info and --object-id go together")
    from coop_edge.mesh import Symmetries

    try:
        entries = json.loads(models_info.read_text())
    except ValueError as error:
        raise InputError(f"--models-info: {models_info} is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise InputError(
            f"--models-info: {models_info} holds a {type(entries).__name__}; wanted BOP's mapping from object ids"
        )
    if str(object_id) not in entries:
        raise InputError(f"--object-id: {models_info} has no object {object_id} (it has {', '.join(entries)})")
    return Symmetries.from_bop(entries[str(object_id)])


def _describe(mesh: Mesh) -> dict[str, Any]:
    return {
        "mesh": mesh.name,
        "faces": len(mesh.faces),
        "diameter_m": round(mesh.diameter, 6),
        "textures": len(mesh.textures),
        "notes": list(mesh.notes),
    }


def _report(values: dict[str, Any], as_json: bool) -> None:
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


def main() -> None:
    """Entry point of the command."""
    app(prog_name="coop-edge")


if __name__ == "__main__":
    main()
