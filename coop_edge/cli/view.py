"""The command `coop-edge view`: a local page to see poses, correct them, and keep them as labels."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from coop_edge.cli import options
from coop_edge.cli.output import print_address, print_line, what_ran


def view(
    source: Annotated[Path, typer.Argument(metavar="IMAGE|FOLDER|VIDEO", help="What to look at.")],
    camera: options.Camera,
    object_: options.Objects,
    depth: options.Depth = None,
    depth_unit: options.DepthUnit = None,
    labels: Annotated[Path, typer.Option("--labels", "-o", help="Folder for the labels that are accepted.")] = Path(
        "labels"
    ),
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    templates: options.Templates = None,
    ignore_colors: options.IgnoreColors = False,
    allow_outside: options.AllowOutside = False,
    engines: options.Engines = "coop-xs",
    device: options.Device = options.DeviceName.auto,
    threads: options.Threads = 0,
    effort: options.Effort = None,
    settings: options.Settings = None,
) -> None:
    """Open a page on this machine: draw boxes, see poses, correct and accept them as BOP and COCO labels.

    Draw a box with the mouse (or shift and drag), refine, move the object by its handles, accept. Labels are written to
    the folder at once; the page begins at the first image without any.
    """
    from coop_edge.cli import inputs
    from coop_edge.cli.depth import depth_unit as unit_of
    from coop_edge.cli.depth import depths_by_number
    from coop_edge.cli.image_list import first_image, list_pictures
    from coop_edge.estimator import Estimator
    from coop_edge.labels.store import LabelStore
    from coop_edge.view.page import Page, make_server
    from coop_edge.view.session import Session

    config = options.configured(settings, {"effort": effort})
    objects = inputs.parse_objects(object_, templates or [])
    pictures = list_pictures(source)
    unit = unit_of(depth_unit, camera, depth)
    depths = None if depth is None else depths_by_number(depth, unit, source, [each.name for each in pictures])
    inputs.read_camera(camera, first_image(pictures))  # wrong input ends here, before anything is loaded
    server = make_server(host, port)  # before what takes long: viser may be missing
    try:
        with Estimator.from_engines(engines, device=device.value, config=config, threads=threads) as estimator:
            inputs.add_objects(estimator, objects, ignore_colors=ignore_colors, allow_outside=allow_outside)
            estimator.warmup()

            def renderer(name: str):  # type: ignore[no-untyped-def]
                return estimator.backend.renderer(estimator.objects[name])

            store = LabelStore(labels, [each.name for each in objects], renderer=renderer)
            named = [(each.name, each.read) for each in pictures]
            paths = [each.path for each in pictures]
            session = Session(estimator, named, lambda image: inputs.read_camera(camera, image), store, depths, paths)
            Page(server, session)
            ran = what_ran(estimator)
            print_line(f"{ran['engines']} {ran['version']} on {ran['backend']['name']}; labels go to {labels}")
            print_address(host, server.get_port(), "use the page and write labels")
            try:
                while True:
                    time.sleep(3600.0)
            except KeyboardInterrupt:
                print_line(f"{session.labelled} of {len(pictures)} images have labels in {labels}")
                for name, count in session.unaccepted().items():
                    print_line(f"{name}: {count} poses were not accepted")
    finally:
        server.stop()
