"""The command `coop-edge detect`: boxes of objects in one image, as a file that other programs read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coop_edge.cli import options
from coop_edge.cli.output import print_line, print_what_ran, what_ran
from coop_edge.cli.search import MaxInstances, Region, search_options, searching

if TYPE_CHECKING:
    from coop_edge.types import Camera, Detection


class Form(str, Enum):
    """Forms of the file."""

    own = "own"
    coco = "coco"
    bop = "bop"


def detect(
    camera: options.Camera,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE] [MESH:UNIT]...", help="Picture to search, then objects as MESH:UNIT, such as cup.ply:mm."
        ),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Picture, in place of the first argument.")] = None,
    object_: options.MoreObjects = None,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="Of the file: own, which `coop-edge estimate --detections` reads; coco; bop, a list of detections as "
            "the BOP challenge has them.",
        ),
    ] = Form.own,
    scene_id: Annotated[int, typer.Option(help="For bop: the scene's number.")] = 0,
    image_id: Annotated[int, typer.Option(help="For coco and bop: the image's number.")] = 0,
    max_instances: MaxInstances = None,
    region: Region = None,
    templates: options.Templates = None,
    ignore_colors: options.IgnoreColors = False,
    allow_outside: options.AllowOutside = False,
    engines: options.Engines = "coop-xs",
    device: options.Device = options.DeviceName.auto,
    threads: options.Threads = 0,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Find boxes of objects in one image, with scores. All are listed: those of absent objects have low scores.

    coop-edge detect scene.png cup.ply:mm --camera 600,600,319.5,239.5 --format coco --output boxes.json

    In coco and bop the number of an object is the one that its name ends with (obj_000005: 5), if all names end with
    different ones; otherwise objects are numbered from 1 in the order of --object.
    """
    from coop_edge.base.files import atomic_write
    from coop_edge.cli import inputs
    from coop_edge.estimator import Estimator

    limits = search_options(max_instances, region)
    source, meshes = inputs.source_and_objects(image, what, object_, "IMAGE")
    objects = inputs.parse_objects(meshes, templates or [])
    picture = inputs.read_image(Path(source))
    intrinsics = inputs.read_camera(camera, picture)
    config = options.configured(settings)
    with Estimator.from_engines(engines, device=device.value, config=config, threads=threads) as estimator:
        inputs.add_objects(estimator, objects, ignore_colors=ignore_colors, allow_outside=allow_outside)
        with searching() as progress:
            found = estimator.detect(picture, intrinsics, progress=progress, **limits)
        report = {"image": source, "output": str(output) if output else None, **what_ran(estimator)}
    numbers = numbered([each.name for each in objects])
    content: Any = [{"object": d.object, "bbox": list(box(d)), "score": d.score} for d in found]
    if form is Form.coco:
        content = coco(found, numbers, image_id, Path(source).name, intrinsics)
    elif form is Form.bop:
        content = bop(found, numbers, scene_id, image_id)
    if output is not None:
        with atomic_write(output) as file:
            file.write(json.dumps(content, indent=1).encode())
    if as_json:
        typer.echo(json.dumps(report | {"detections": content}))
        return
    print_what_ran(report)
    for each in found:
        print_line(f"{each.object}  {each.score:.3f}  " + ", ".join(f"{number:.1f}" for number in box(each)))
    if output is not None:
        print_line(f"written: {output}")


def box(detection: Detection) -> tuple[float, float, float, float]:
    """Return the box of a detection that has one."""
    assert detection.bbox is not None
    return detection.bbox


def numbered(names: Sequence[str]) -> dict[str, int]:
    """Number objects: by the numbers their names end with, if all end with different ones, else from 1 on."""
    ends = [re.search(r"(\d+)$", name) for name in names]
    numbers = [int(end.group(1)) for end in ends if end is not None]
    if len(set(numbers)) == len(names):
        return dict(zip(names, numbers, strict=True))
    return {name: i + 1 for i, name in enumerate(names)}


def bop(found: Sequence[Detection], numbers: dict[str, int], scene_id: int, image_id: int) -> list[dict[str, Any]]:
    """Return detections in the form of the BOP challenge; the time is not known there (-1)."""
    ids = {"scene_id": scene_id, "image_id": image_id}
    return [
        {**ids, "category_id": numbers[d.object], "bbox": list(box(d)), "score": d.score, "time": -1.0} for d in found
    ]


def coco(
    found: Sequence[Detection], numbers: dict[str, int], image_id: int, file_name: str, camera: Camera
) -> dict[str, Any]:
    """Return detections as a COCO data set of one image; annotations have a score besides."""
    size = {"width": camera.width, "height": camera.height}
    annotations = [
        {
            "id": i + 1,
            "image_id": image_id,
            "category_id": numbers[d.object],
            "bbox": list(box(d)),
            "area": box(d)[2] * box(d)[3],
            "iscrowd": 0,
            "score": d.score,
        }
        for i, d in enumerate(found)
    ]
    return {
        "images": [{"id": image_id, "file_name": file_name, **size}],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "annotations": annotations,
    }
