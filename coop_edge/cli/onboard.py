"""The command `coop-edge onboard`: the templates of an object, rendered once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from coop_edge.base.compile_time import working_time
from coop_edge.cli import meshes, options, symmetries
from coop_edge.cli.output import print_values


def onboard(
    mesh: meshes.MeshFile,
    unit: meshes.UnitOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Template file to write (.npz).")],
    engines: options.Engines = "coop-xs",
    size: Annotated[
        int | None, typer.Option(min=16, max=2048, help="Side of a template, pixels; default: that of --engines.")
    ] = None,
    renderer: Annotated[
        meshes.RendererName, typer.Option(help="open3d is the offline reference.")
    ] = meshes.RendererName.cpu,
    supersample: meshes.Supersample = 3,
    albedo: meshes.Albedo = None,
    ignore_colors: options.IgnoreColors = False,
    max_faces: meshes.MaxFaces = 100_000,
    allow_outside: options.AllowOutside = False,
    models_info: symmetries.ModelsInfo = None,
    object_id: Annotated[int | None, typer.Option(help="Entry of --models-info.")] = None,
    contact_sheet: Annotated[Path | None, typer.Option(help="Also write a picture of the 42 templates.")] = None,
    as_json: options.Json = False,
) -> None:
    """Render the 42 templates of an object for a bundle of engines, and keep them with their features in a file."""
    from coop_edge.backend import make_renderer
    from coop_edge.estimator import Estimator
    from coop_edge.templates import TemplateSet
    from coop_edge.visual.draw import check_suffix, write_image
    from coop_edge.visual.draw import contact_sheet as draw_sheet

    if contact_sheet is not None:
        check_suffix(contact_sheet)
    symmetries.check_pair(models_info, object_id)
    loaded = meshes.load_mesh(mesh, unit, albedo, ignore_colors, max_faces, allow_outside)
    entries = {} if models_info is None or object_id is None else {loaded.name: (models_info, object_id)}
    found = symmetries.symmetries_of(loaded.name, entries, loaded, unit.value)
    rendering: dict[str, Any] = {
        "renderer": functools.partial(make_renderer, renderer.value),
        "supersample": supersample,
    }
    with Estimator.from_engines(engines, device="cpu") as estimator:
        bundle, start = estimator.bundle, working_time()
        if size is None or size == bundle.input_size:
            templates = estimator.onboard(loaded, symmetries=found, **rendering)
        else:  # of other engines than these, whose networks cannot describe views for them
            look: dict[str, Any] = {"margin": bundle.template.margin, "field_of_view": bundle.template.field_of_view}
            templates = TemplateSet.render(loaded, size, symmetries=found, **look, **rendering)
        seconds = working_time() - start
    templates.save(output)
    if contact_sheet is not None:
        write_image(contact_sheet, draw_sheet(templates.rgb))
    report = {
        "templates": str(output),
        "contact_sheet": str(contact_sheet) if contact_sheet else None,
        "views": len(templates.rgb),
        "size": templates.size,
        "renderer": renderer.value,
        "views_described": templates.view_descriptors is not None,
        "seconds": round(seconds, 3),
        **meshes.describe(loaded),
        "mesh_hash": templates.mesh_hash,
        "hash": templates.hash,
    }
    print_values(report, as_json)
