"""The command `coop-edge live`: find, follow and find again in a camera's images, on a page."""

from __future__ import annotations

import functools
import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from coop_edge.cli import options
from coop_edge.cli.output import print_line, with_poses


def live(
    camera: options.Camera,
    object_: options.Objects,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Camera's number, stream or video.")] = "0",
    every: Annotated[int, typer.Option(min=1, help="Look for what is lost in every so many frames.")] = 10,
    rerun: Annotated[Path | None, typer.Option(help="Recording for the Rerun viewer to write (.rrd).")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; others than 127.0.0.1 let others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    templates: options.Templates = None,
    engines: options.Engines = "coop-xs",
    device: options.Device = options.DeviceName.auto,
    threads: options.Threads = 0,
    effort: options.Effort = None,
    settings: options.Settings = None,
) -> None:
    """Find objects in a camera's images, follow them, find them again when lost, on a local page. Ctrl-C ends it."""
    from coop_edge.cli import inputs
    from coop_edge.cli.frames import open_frames
    from coop_edge.estimator import Estimator
    from coop_edge.view.live import LiveDisplay, watch
    from coop_edge.view.page import make_server
    from coop_edge.visual.rerun_log import RerunLog

    config = options.configured(settings, {"effort": effort})
    objects = inputs.parse_objects(object_, templates or [])
    frames = open_frames(source)
    first = next(frames)
    intrinsics = inputs.read_camera(camera, first[1])
    with ExitStack() as stack:
        estimator = stack.enter_context(
            Estimator.from_engines(engines, device=device.value, config=config, threads=threads)
        )
        inputs.add_objects(estimator, objects)
        estimator.warmup()
        log = None if rerun is None else stack.enter_context(RerunLog(rerun, estimator.objects))
        server = make_server(host, port)
        stack.callback(server.stop)
        display = LiveDisplay(server)
        print_line(f"open http://{'localhost' if host in ('0.0.0.0', '127.0.0.1') else host}:{server.get_port()}")
        renderer = functools.cache(functools.partial(estimator.backend.renderer, threads=threads))

        try:
            for number, frame in enumerate(watch(estimator, intrinsics, itertools.chain([first], frames), every)):
                nothing = [None] * len(frame.results)
                drawn = with_poses(frame.image, intrinsics, estimator, frame.results, nothing, renderer=renderer)
                display.show(drawn, frame.results, frame.ms)
                if log is not None:
                    log.frame(number, frame.image, intrinsics, frame.results, nothing)
                texts = [f"{r.object} {r.score:.2f} {r.reason or 'found'}" for r in frame.results]
                print_line(f"{frame.name}  {'; '.join(texts)}  {frame.ms:.0f} ms")
        except KeyboardInterrupt:
            return
