"""The command `coop-edge track`: poses through a video."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from coop_edge.base.compile_time import working_time
from coop_edge.cli import options, symmetries
from coop_edge.cli.output import WHOLE_POSES, print_line, with_poses
from coop_edge.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from coop_edge.cli.depth import Depths
    from coop_edge.cli.drawn_frames import Put
    from coop_edge.cli.frames import Frame
    from coop_edge.estimator import Estimator
    from coop_edge.types import Camera, Detection, PoseEstimate


class Tracked(NamedTuple):
    """One frame and what was found in it.

    Attributes:
        detections: where each object was looked for, None where it was followed.
    """

    name: str
    image: NDArray[np.uint8]
    results: list[PoseEstimate]
    detections: list[Detection | None]
    ms: float


def track(
    camera: options.Camera,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE [MESH:UNIT]...",
            help="Video, folder of pictures, camera's number or stream's address; and objects, such as cup.ply:mm.",
        ),
    ],
    boxes: options.Boxes = None,
    object_: options.MoreObjects = None,
    detections: options.Detections = None,
    depth: options.Depth = None,
    depth_unit: options.DepthUnit = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Folder, or video such as out.mp4, for the frames with the poses drawn.")
    ] = None,
    rerun: options.Rerun = None,
    reregister: Annotated[
        bool,
        typer.Option(
            "--reregister", help="Estimate lost objects anew in every frame, in the box where they were last seen."
        ),
    ] = False,
    relocate: Annotated[
        bool,
        typer.Option(
            "--relocate", help="Search for lost objects: near where they were last seen, then in the whole image."
        ),
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="With --relocate: seconds after the first search of a frame, after which no other begins. Default 1.",
        ),
    ] = None,
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
    track_iterations: options.TrackIterations = None,
    min_score: options.MinScore = None,
    settings: options.Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per frame and line.")] = False,
) -> None:
    """Track objects through a video, from their poses in the first frame. Prints one line per frame.

    Boxes are those of the first frame. Ctrl-C ends a camera or a stream. Exit code 1: an object is lost in the last
    frame.

    coop-edge track 0 cup.ply:mm --box 120,80,200,150 --camera camera.json --overlay out.mp4
    """
    from coop_edge.cli import inputs
    from coop_edge.cli.depth import depth_unit as unit_of
    from coop_edge.cli.depth import open_depths
    from coop_edge.cli.frames import frame_rate, is_live, open_frames
    from coop_edge.estimator import Estimator
    from coop_edge.visual.rerun_log import import_rerun, recording

    import_rerun(rerun)
    source, meshes = inputs.source_and_objects(None, what, object_, "SOURCE")
    if overlay is not None and overlay.resolve() == Path(source).resolve():
        raise InputError(f"--overlay: {overlay} is the folder of the frames themselves; give another one")
    flags = {
        "effort": effort,
        "coarse.hypotheses": hypotheses,
        "refine.iterations": iterations,
        "refine.track_iterations": track_iterations,
        "select.min_score": min_score,
    }
    config = options.configured(settings, flags)
    search = _search_options(relocate, budget, reregister)
    objects = inputs.parse_objects(meshes, templates or [])
    entries = symmetries.read_object_ids(models_info, object_id, [each.name for each in objects])
    wanted = inputs.wanted_detections(detections, boxes, objects)
    frames = open_frames(source)
    unit = unit_of(depth_unit, camera, depth)
    depths = open_depths(depth, unit) if depth else None
    name, picture = next(frames)
    intrinsics = inputs.read_camera(camera, picture)
    found = True
    with Estimator.from_engines(engines, device=device.value, config=config, threads=threads) as estimator:
        inputs.add_objects(estimator, objects, entries, ignore_colors=ignore_colors, allow_outside=allow_outside)
        estimator.warmup()
        renderer = functools.cache(functools.partial(estimator.backend.renderer, threads=threads))
        with (
            _drawing(overlay, frame_rate(source)) as put,
            recording(rerun, estimator.objects) as log,
            _until_interrupted(is_live(source)),
        ):
            given = estimator, intrinsics, (name, picture), frames, wanted
            for number, frame in enumerate(follow(*given, reregister=reregister, depths=depths, **search)):
                _print(frame, as_json)
                found = all(result.success for result in frame.results)
                if log is not None:
                    log.frame(number, frame.image, intrinsics, frame.results, frame.detections)
                if put is not None:
                    looked = (estimator, frame.results, frame.detections)
                    put(frame.name, with_poses(frame.image, intrinsics, *looked, renderer=renderer))
    if not as_json:
        typer.echo(WHOLE_POSES, err=True)
    raise typer.Exit(0 if found else 1)


def follow(
    estimator: Estimator,
    camera: Camera,
    first: Frame,
    frames: Iterator[Frame],
    detections: Sequence[Detection],
    *,
    reregister: bool = False,
    depths: Depths | None = None,
    **search: Any,
) -> Iterator[Tracked]:
    """Estimate the detections in the ``first`` frame, and track them through the others, in order.

    Args:
        reregister: estimate what is lost anew in each frame, in the box around its last trusted pose; without one,
            where it was detected in the first frame. Poses below ``advanced.select.trusted_presence`` are not trusted:
            such a pose says nothing about where to look, and nothing is found again by one.
        depths: of the frames.
        search: options of ``Estimator.track`` by which it looks for what is lost.

    Raises:
        InputError: the message names the frame.
        EngineError: the Estimator is closed, or in use by another thread.
    """
    trusted = estimator.config.advanced.select.trusted_presence
    name, image = first
    start = working_time()
    measured = depths.of(name) if depths else {}
    results = estimator.estimate(image, camera, detections, **measured)
    yield Tracked(name, image, results, list(detections), _since(start))
    places = list(detections)
    for name, image in frames:
        start = working_time()
        if reregister:
            for i, result in enumerate(results):
                if result.presence >= trusted:
                    places[i] = _place(estimator, camera, result, places[i])
        measured = depths.of(name) if depths else {}
        try:
            results = estimator.track(image, camera, results, **measured, **search)
        except InputError as error:
            raise InputError(f"frame {name}: {error}") from None
        lost = [i for i, result in enumerate(results) if reregister and not result.success]
        if lost:
            again = estimator.estimate(image, camera, [places[i] for i in lost], **measured)
            for i, result in zip(lost, again, strict=True):
                if result.success and result.presence >= trusted:  # otherwise the reason stays that of the loss
                    results[i] = result
        looked = [places[i] if i in lost else None for i in range(len(results))]
        yield Tracked(name, image, results, looked, _since(start))


def _search_options(relocate: bool, budget: float | None, reregister: bool) -> dict[str, Any]:
    """Return the options of ``Estimator.track`` by which it looks for what is lost. Raises InputError."""
    if not relocate:
        if budget is not None:
            raise InputError(f"--budget {budget:g}: only with --relocate, which searches the image for what is lost")
        return {}
    if reregister:
        raise InputError("--relocate and --reregister both look for what is lost; leave one of the two out")
    if budget is not None and not budget >= 0:
        raise InputError(f"--budget: wanted seconds >= 0, got {budget:g}")
    return {"relocate": True} if budget is None else {"relocate": True, "budget_s": budget}


def _place(estimator: Estimator, camera: Camera, result: PoseEstimate, before: Detection) -> Detection:
    """Return the box around an object's pose, as far as it is in the image; ``before`` where there is none."""
    import numpy as np

    from coop_edge.geometry import se3
    from coop_edge.types import Detection

    if result.T_camera_object is None:
        return before
    mesh = estimator.objects[result.object]
    points = se3.transform(result.T_camera_object, mesh.vertices.astype(np.float64) + mesh.centre)
    if points[:, 2].min() <= 0:  # reaches behind the camera: no box holds its image
        return before
    pixels = camera.project(points) + 0.5  # from the centres of pixels to columns and rows
    pixels = pixels[np.isfinite(pixels).all(axis=1)]
    if not len(pixels):  # all of it where the lens shows nothing
        return before
    low = np.clip(pixels.min(axis=0), 0.0, camera.size)
    size = np.clip(pixels.max(axis=0), 0.0, camera.size) - low
    if size.min() < 1.0:
        return before
    return Detection(result.object, (float(low[0]), float(low[1]), float(size[0]), float(size[1])))


def _drawing(overlay: Path | None, frames_per_second: float) -> AbstractContextManager[Put | None]:
    if overlay is None:
        return nullcontext()
    from coop_edge.cli.drawn_frames import open_output

    return open_output(overlay, frames_per_second)


@contextmanager
def _until_interrupted(live: bool) -> Iterator[None]:
    """Let Ctrl-C end the block as the end of a video does, where the source has no end of its own."""
    try:
        yield
    except KeyboardInterrupt:
        if not live:
            raise


def _print(frame: Tracked, as_json: bool) -> None:
    if as_json:
        results = [result.to_dict() for result in frame.results]
        typer.echo(json.dumps({"frame": frame.name, "ms": round(frame.ms, 3), "results": results}))
        return
    texts = [f"{each.object} {each.score:.3f} {each.reason or _found(each)}" for each in frame.results]
    print_line(f"{frame.name}  {'; '.join(texts) or 'no detections'}  {frame.ms:.1f} ms")


def _found(result: PoseEstimate) -> str:
    return "found again" if result.recovered else "found"


def _since(start: float) -> float:
    return 1e3 * (working_time() - start)
