"""The command `coop-edge render`: one view of a mesh as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coop_edge.base.compile_time import working_time
from coop_edge.cli import meshes, options
from coop_edge.cli.output import print_values
from coop_edge.errors import InputError


def render(
    mesh: meshes.MeshFile,
    unit: meshes.UnitOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write (.png).")],
    view: Annotated[int, typer.Option(min=0, max=41, help="Which of the 42 viewpoints.")] = 9,
    size: Annotated[int, typer.Option(min=16, max=2048, help="Side of each picture, pixels.")] = 448,
    renderer: Annotated[meshes.RendererName, typer.Option(help="Which renderer to use.")] = meshes.RendererName.cpu,
    supersample: meshes.Supersample = 3,
    albedo: meshes.Albedo = None,
    ignore_colors: options.IgnoreColors = False,
    max_faces: meshes.MaxFaces = 100_000,
    allow_outside: options.AllowOutside = False,
    as_json: options.Json = False,
) -> None:
    """Render one view of a mesh: colour, depth and object-point map side by side."""
    from coop_edge.backend import make_renderer
    from coop_edge.templates import template_camera
    from coop_edge.visual.draw import check_suffix, side_by_side, write_image

    check_suffix(output)
    loaded = meshes.load_mesh(mesh, unit, albedo, ignore_colors, max_faces, allow_outside)
    drawer = make_renderer(renderer.value, loaded, supersample=supersample)
    poses, K = template_camera(loaded, size)
    result = drawer.render(poses[view : view + 1], K, size)  # the first call compiles; the second one is timed
    start = working_time()
    result = drawer.render(poses[view : view + 1], K, size)
    milliseconds = 1e3 * (working_time() - start)
    depth = result.depth[0][result.mask[0]]
    if depth.size == 0:
        raise InputError(f"view {view} of {mesh} shows nothing (a flat mesh seen edge-on?); choose another --view")
    write_image(output, side_by_side(result, 0))
    report = {
        "picture": str(output),
        "view": view,
        "T_camera_object": poses[view].tolist(),
        "covered": round(float(result.mask.mean()), 4),
        "depth_m": [round(float(depth.min()), 5), round(float(depth.max()), 5)],
        "renderer": renderer.value,
        "render_ms": round(milliseconds, 2),
        **meshes.describe(loaded),
    }
    print_values(report, as_json)
