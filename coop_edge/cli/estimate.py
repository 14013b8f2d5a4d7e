"""The command `coop-edge estimate`: poses in one image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coop_edge.cli import options, symmetries
from coop_edge.cli.output import draw_poses, print_hints, print_poses, what_ran
from coop_edge.cli.search import MaxInstances, Region, search_limits, searching

if TYPE_CHECKING:
    from coop_edge.types import Detection


def estimate(
    camera: options.Camera,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE] [MESH:UNIT]...", help="Picture to search, then objects as MESH:UNIT, such as cup.ply:mm."
        ),
    ] = None,
    boxes: options.Boxes = None,
    image: Annotated[Path | None, typer.Option(help="Picture, in place of the first argument.")] = None,
    object_: options.MoreObjects = None,
    detections: options.Detections = None,
    depth: options.Depth = None,
    depth_unit: options.DepthUnit = None,
    recover: Annotated[
        bool, typer.Option("--recover", help="Search around a box for an object that is not found in it.")
    ] = False,
    max_instances: MaxInstances = None,
    region: Region = None,
    overlay: Annotated[Path | None, typer.Option(help="Picture to write: the poses drawn over the image.")] = None,
    rerun: options.Rerun = None,
    templates: options.Templates = None,
    ignore_colors: options.IgnoreColors = False,
    allow_outside: options.AllowOutside = False,
    models_info: symmetries.ModelsInfo = None,
    object_id: symmetries.ObjectIds = None,
    engines: options.Engines = "coop-xs",
    device: options.Device = options.DeviceName.auto,
    threads: options.Threads = 0,
    effort: options.Effort = None,
    hypotheses: options.Hypotheses = None,
    iterations: options.Iterations = None,
    min_score: options.MinScore = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Find the poses of objects in one image, in boxes or, without any, in the whole image.

    coop-edge estimate scene.png cup.ply:mm --box 120,80,200,150 --camera 600,600,319.5,239.5

    Exit code 1: an object was not found.
    """
    from coop_edge.cli import inputs
    from coop_edge.cli.depth import depth_of_image
    from coop_edge.cli.depth import depth_unit as unit_of
    from coop_edge.estimator import Estimator
    from coop_edge.visual.draw import check_suffix
    from coop_edge.visual.rerun_log import import_rerun, recording

    if overlay is not None:
        check_suffix(overlay)
    import_rerun(rerun)
    boxed = detections is not None or bool(boxes)
    limits = search_limits(max_instances, region, recover=recover, boxed=boxed)
    flags = {
        "effort": effort,
        "coarse.hypotheses": hypotheses,
        "refine.iterations": iterations,
        "select.min_score": min_score,
    }
    config = options.configured(settings, flags)
    source, meshes = inputs.source_and_objects(image, what, object_, "IMAGE")
    objects = inputs.parse_objects(meshes, templates or [])
    entries = symmetries.read_object_ids(models_info, object_id, [each.name for each in objects])
    pixels = inputs.read_image(Path(source))
    intrinsics = inputs.read_camera(camera, pixels)
    wanted = inputs.wanted_detections(detections, boxes, objects) if boxed else None
    unit = unit_of(depth_unit, camera, depth)
    more: dict[str, Any] = {"recover": True} if recover else {}
    measured: dict[str, Any] = {}
    if depth is not None:
        measured = {"depth": depth_of_image(depth, Path(source)), "depth_unit": unit}
    with Estimator.from_engines(engines, device=device.value, config=config, threads=threads) as estimator:
        known = inputs.add_objects(
            estimator, objects, entries, ignore_colors=ignore_colors, allow_outside=allow_outside
        )
        estimator.warmup()  # else the times were those of a first call
        if wanted is None:
            with searching() as progress:
                results = estimator.find(pixels, intrinsics, progress=progress, **limits, **measured)
        else:
            results = estimator.estimate(pixels, intrinsics, wanted, **more, **measured)
        shown: list[Detection | None] = [None] * len(results) if wanted is None else [*wanted]
        with recording(rerun, estimator.objects) as log:
            if log is not None:
                log.frame(0, pixels, intrinsics, results, shown)
        if overlay is not None:
            renderer = estimator.backend.renderer
            draw_poses(overlay, pixels, intrinsics, estimator, results, shown, renderer=renderer)
        report = {
            "image": source,
            "overlay": str(overlay) if overlay else None,
            **what_ran(estimator),
            "objects": known,
            "results": [result.to_dict() for result in results],
        }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_poses(report, results)
        print_hints(results, boxed=boxed)
    raise typer.Exit(0 if all(result.success for result in results) else 1)
