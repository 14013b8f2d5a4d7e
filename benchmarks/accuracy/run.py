"""Running a method over the images of a data set, in one process or several."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, fields

from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.journal import Journal
from benchmarks.accuracy.methods import Method, MethodOptions
from benchmarks.accuracy.records import Box, ImageKey
from benchmarks.accuracy.results import Failure, ImageResult, Row
from coop_edge.base.hardware import available_cores
from coop_edge.base.pool import RETRIES, run_pool
from coop_edge.errors import EngineError, InputError


@dataclass(frozen=True)
class Source:
    """How a process finds the data set again."""

    root: str
    split: str
    targets: str
    limit: int | None

    @classmethod
    def of(cls, dataset: BopDataset) -> Source:
        return cls(str(dataset.root), dataset.split, str(dataset.targets_file), dataset.limit)

    def open(self) -> BopDataset:
        return BopDataset(self.root, self.split, targets=self.targets, limit=self.limit)


def share_cores(processes: int | None, images: int) -> tuple[int, int]:
    """Return (processes, threads of each): a process per core if ``processes`` is None, never more than images.

    The cores are dealt out evenly.

    Raises:
        InputError: ``processes`` is less than 1.
    """
    if processes is not None and processes < 1:
        raise InputError(f"--processes: wanted at least 1, got {processes}")
    cores = available_cores()
    count = max(1, min(cores if processes is None else processes, images))
    return count, max(1, cores // count)


def run(
    dataset: BopDataset,
    options: MethodOptions,
    boxes: Mapping[ImageKey, Sequence[Box]],
    journal: Journal,
    *,
    processes: int = 1,
    advance: Callable[[], object] = lambda: None,
) -> list[ImageResult]:
    """Estimate every image that the journal does not have, and return the results of all, by scene and image.

    options.threads: of each process. advance: called after each image. What the method raises comes out of it; the
    images done by then stay in the journal.

    Raises:
        EngineError: a process was killed.
    """
    left = [image for image in dataset.images if image not in journal.done]
    work = _here if min(processes, len(left)) <= 1 else _in_processes
    results = work(dataset, options, [(image, boxes.get(image, ())) for image in left], processes)
    with contextlib.closing(results):  # an error of ours, or a key, ends the processes at once
        for result in results:
            journal.append(result)
            advance()
    return [journal.done[image] for image in dataset.images]


def estimate_image(
    dataset: BopDataset, method: Method, image: ImageKey, boxes: Sequence[Box], depth: str = ""
) -> ImageResult:
    """Estimate one image, read and timed apart. depth: folder of its depth, "" for none.

    Raises:
        InputError: an estimate or the depth is missing.
    """
    picture, camera = dataset.image(*image), dataset.camera(*image)
    measured = {}
    if depth:
        measured["depth"] = dataset.depth(*image, folder=depth)
        if measured["depth"] is None:
            raise InputError(f"{dataset.scene_folder(image[0]) / depth}: no depth of image {image[1]}")
    start = time.perf_counter()
    estimates = method.estimate(picture, camera, boxes, **measured)
    seconds = time.perf_counter() - start
    if len(estimates) != len(boxes):
        raise InputError(f"method {method.name}: wanted {len(boxes)} estimates, one per box, got {len(estimates)}")
    rows, failures = [], []
    for box, estimate in zip(boxes, estimates, strict=True):
        if estimate.T_camera_object is None:
            failures.append(Failure(box.obj_id, estimate.reason, estimate.score))
        else:
            T = estimate.T_camera_object
            rows.append(Row(*image, box.obj_id, estimate.score, T[:3, :3], T[:3, 3], seconds))
    times = next((e.times for e in estimates if e.times is not None), None)  # one call, one set of times
    stages = {} if times is None else {f.name.removesuffix("_ms"): getattr(times, f.name) for f in fields(times)}
    return ImageResult(*image, seconds, tuple(rows), tuple(failures), stages)


Job = tuple[ImageKey, Sequence[Box]]


def _here(
    dataset: BopDataset, options: MethodOptions, jobs: list[Job], processes: int
) -> Generator[ImageResult, None, None]:
    if not jobs:
        return
    method = options.open()
    try:
        method.add_objects(dataset)
        for image, boxes in jobs:
            yield estimate_image(dataset, method, image, boxes, options.depth)
    finally:
        method.close()


def _in_processes(
    dataset: BopDataset, options: MethodOptions, jobs: list[Job], processes: int
) -> Generator[ImageResult, None, None]:
    setup = Source.of(dataset), options
    return run_pool(jobs, _Worker, setup, processes=processes, threads=options.threads, lost=_lost)


def _lost(job: Job) -> ImageResult:
    raise EngineError(
        f"image {job[0]}: the process that estimated it was killed, {RETRIES + 1} times; if memory ran out, run fewer "
        "with --processes. What is done is kept: the same command goes on from there"
    )


class _Worker:
    """What a process of the pool keeps: the data set, and the method with its objects."""

    def __init__(self, setup: tuple[Source, MethodOptions]) -> None:
        source, self._options = setup
        self._dataset = source.open()
        self._method = self._options.open()
        self._method.add_objects(self._dataset)

    def __call__(self, job: Job) -> ImageResult:
        image, boxes = job
        return estimate_image(self._dataset, self._method, image, boxes, self._options.depth)
