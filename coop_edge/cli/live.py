"""The command `coop-edge live`: find, follow and find again in a camera's images, on a page."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from coop_edge.cli import options
from coop_edge.cli.output import print_address, print_line, with_poses
from coop_edge.errors import InputError

if TYPE_CHECKING:
    from coop_edge.cli.frames import Shot
    from coop_edge.types import Camera


def live(
    object_: options.Objects,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Camera's number, stream, video, `realsense` or realsense:SERIAL.")
    ] = "0",
    camera: Annotated[str | None, typer.Option(help="As for `estimate`; a RealSense brings its own.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Search for lost objects in every so many frames.")] = 10,
    rerun: options.Rerun = None,
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
    """Find and track objects in a camera's images, and show them on a local page. Ctrl-C ends it.

    A RealSense gives colour, depth aligned to it, and its own intrinsics; its depth goes into the poses.
    """
    from coop_edge.cli import inputs
    from coop_edge.estimator import Estimator
    from coop_edge.view.live import LiveDisplay, watch
    from coop_edge.view.page import make_server
    from coop_edge.visual.rerun_log import import_rerun, recording

    import_rerun(rerun)
    config = options.configured(settings, {"effort": effort})
    objects = inputs.parse_objects(object_, templates or [])
    with ExitStack() as stack:
        intrinsics, shots = _open(source, camera, stack)
        server = make_server(host, port)  # before what takes long: viser may be missing
        stack.callback(server.stop)
        estimator = stack.enter_context(
            Estimator.from_engines(engines, device=device.value, config=config, threads=threads)
        )
        inputs.add_objects(estimator, objects, ignore_colors=ignore_colors, allow_outside=allow_outside)
        estimator.warmup()
        log = stack.enter_context(recording(rerun, estimator.objects))
        display = LiveDisplay(server)
        print_address(host, server.get_port(), "see the page")
        renderer = functools.cache(functools.partial(estimator.backend.renderer, threads=threads))

        try:
            for number, frame in enumerate(watch(estimator, intrinsics, shots, every)):
                image, nothing = frame.shot.image, [None] * len(frame.results)
                drawn = with_poses(image, intrinsics, estimator, frame.results, nothing, renderer=renderer)
                display.show(drawn, frame.results, frame.ms)
                if log is not None:
                    log.frame(number, image, intrinsics, frame.results, nothing)
                texts = [f"{r.object} {r.score:.2f} {r.reason or 'found'}" for r in frame.results]
                print_line(f"{frame.shot.name}  {'; '.join(texts)}  {frame.ms:.0f} ms")
        except KeyboardInterrupt:
            return


def _open(source: str, camera: str | None, stack: ExitStack) -> tuple[Camera, Iterator[Shot]]:
    """Return the camera of a source and its frames, the first of which has been read. Raises InputError."""
    from coop_edge.cli import inputs
    from coop_edge.cli.frames import Shot, open_frames
    from coop_edge.cli.realsense import RealSense, is_realsense

    intrinsics: Camera | None = None
    if is_realsense(source):
        device = stack.enter_context(RealSense(source))
        intrinsics, shots = device.camera, iter(device)
    elif camera is None:
        raise InputError("--camera is missing: FX,FY,CX,CY or a calibration file; only a RealSense brings its own")
    else:
        shots = (Shot(*frame) for frame in open_frames(source))
    first = next(shots, None)
    if first is None:
        raise InputError(f"{source}: gives no picture; is it connected, and free of other programs?")
    if camera is not None:
        intrinsics = inputs.read_camera(camera, first.image)
    assert intrinsics is not None
    return intrinsics, itertools.chain([first], shots)
