"""Finding without boxes, measured: recall and AP of boxes, AP of poses, absent objects accepted, and time."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import metrics
from benchmarks.accuracy.average_precision import Answers, mean_average_precision
from benchmarks.accuracy.checkout import commit
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.measure import progress
from benchmarks.accuracy.methods import MethodOptions, object_name
from benchmarks.accuracy.records import ImageKey, Truth
from benchmarks.common import print_table, write_json
from coop_edge import Camera, Detection, Estimator, EstimatorConfig, PoseEstimate
from coop_edge.base.hardware import hardware
from coop_edge.errors import InputError
from coop_edge.stages.boxes import overlaps

AMONG = (1, 5, 10)
"""Numbers of boxes per object among which a right one is sought."""
VISIBLE = 0.6
"""Share of an object that is visible in what counts for the recall of boxes."""
IOU = 0.5
IOUS = np.arange(0.5, 1.0, 0.05)
"""Intersections over union from which on a box is right: for recall; for AP, as COCO has them."""
FOUND = 0.1
"""Largest MSSD of a pose that counts as found, diameters."""


@dataclass(frozen=True, eq=False)
class Searched:
    """One object looked for in one image."""

    image: ImageKey
    obj_id: int
    truth: tuple[Truth, ...]  # its instances that are sought; none: it is absent
    boxes: np.ndarray  # [B,4], best first
    box_scores: np.ndarray  # [B]
    accepted: bool
    score: float
    mssd: float  # of the accepted pose, diameters; infinite without one or without an instance
    mspd: float  # pixels of an image 640 wide
    oracle_mssd: float  # the same of estimate() in the box of the truth; infinite for absent objects
    oracle_mspd: float


def measure_search(options: argparse.Namespace, method: MethodOptions) -> dict[str, Any]:
    """Do what the options of ``cli.parse`` say with ``--detect``: search, print the figures and write them.

    Raises CoopEdgeError, OSError.
    """
    dataset = BopDataset(options.dataset, options.split, targets=options.targets, limit=options.limit)
    if not dataset.targets:
        raise InputError(f"{dataset.targets_file}: no targets in it" + (" (--limit 0)" if options.limit == 0 else ""))
    several = [target for target in dataset.targets if target.inst_count > 1]
    if several:
        raise InputError(
            f"{dataset.targets_file}: wants {several[0].inst_count} instances of object {several[0].obj_id} in one "
            "image; --detect measures one per object"
        )
    config = EstimatorConfig.from_dict(method.config)
    with Estimator.from_engines(
        method.engines, device=method.device, config=config, threads=method.threads
    ) as estimator:
        for obj_id in dataset.object_ids:
            model = dataset.models[obj_id]
            estimator.add_object(object_name(obj_id), model.load_mesh(), symmetries=model.symmetries)
        estimator.warmup()
        with progress(f"search in {dataset.name}", len(dataset.images)) as advance:
            searched, seconds = search_all(dataset, estimator, options.absent, method.seed, advance)
        about: dict[str, Any] = {"engines": estimator.bundle.name, "version": estimator.bundle.version}
    about |= {"config": config.to_dict(), "absent_per_image": options.absent, "seed": method.seed, "commit": commit()}
    result = figures(searched, dataset) | {"time": seconds, **about, "hardware": hardware()}
    shown = [(name, value) for name, value in result.items() if isinstance(value, float)]
    print_table(f"Search in {dataset.name}", [*shown, *result["counts"].items(), *seconds.items()])
    if options.json:
        write_into(options.json, options.name or dataset.name, result)
    return result


def search_all(
    dataset: BopDataset, estimator: Estimator, absent: int | None, seed: int, advance: Callable[[], object]
) -> tuple[list[Searched], dict[str, float]]:
    """Look for objects in all images: those that are there, and ``absent`` others, drawn by ``seed`` (None: all).

    Returns what was found, and seconds of the processor per image and per object.
    """
    rng, out, cpu, looked = np.random.default_rng(seed), [], 0.0, 0
    for image in dataset.images:
        sought = {t.obj_id: tuple(dataset.sought(t)) for t in dataset.targets_of(*image)}
        there = {truth.obj_id for truth in dataset.truth(*image)}  # hidden ones are neither sought nor absent
        others = [obj_id for obj_id in dataset.object_ids if obj_id not in there]
        if absent is not None:
            others = sorted(rng.permutation(others)[:absent].tolist())
        picture, camera = dataset.image(*image), dataset.camera(*image)
        wanted = [*sought, *others]
        start = time.process_time()
        results, boxes = estimator.find_with_boxes(picture, camera, [object_name(obj_id) for obj_id in wanted])
        cpu, looked = cpu + time.process_time() - start, looked + len(wanted)
        oracle = _with_boxes(estimator, picture, camera, sought)
        for obj_id in wanted:
            name = object_name(obj_id)
            result = next(each for each in results if each.object == name)
            own = [each for each in boxes if each.object == name]
            out.append(_searched(dataset, image, obj_id, sought.get(obj_id, ()), result, own, oracle.get(obj_id)))
        advance()
    count = max(len(dataset.images), 1)
    return out, {"cpu_s_per_image": cpu / count, "cpu_s_per_object": cpu / max(looked, 1)}


def figures(searched: Sequence[Searched], dataset: BopDataset) -> dict[str, Any]:
    """Sum up: everything that goes into the JSON file."""
    present, gone = ([each for each in searched if bool(each.truth) == wanted] for wanted in (True, False))
    clear = [each for each in present if (each.truth[0].visib_fract or 0.0) >= VISIBLE]
    ranks = np.array([_rank(each) for each in clear])
    ar, oracle = (
        _mean([_ar(getattr(each, f"{whose}mssd"), getattr(each, f"{whose}mspd")) for each in present])
        for whose in ("", "oracle_")
    )
    return {
        **{f"recall_{k}": _mean(ranks < k) for k in AMONG},
        "absent_accepted": _mean([each.accepted for each in gone]),
        "ap_boxes": _ap_boxes(searched, dataset),
        **_ap_poses(searched, dataset),
        "ar": ar,
        "oracle_boxes_ar": oracle,
        "of_oracle_boxes": ar / oracle if oracle else 0.0,
        "found": _mean([each.mssd < FOUND for each in present]),
        "oracle_boxes_found": _mean([each.oracle_mssd < FOUND for each in present]),
        "accepted": _mean([each.accepted for each in present]),
        "counts": {"images": len(dataset.images), "targets": len(present), "visible": len(clear), "absent": len(gone)},
    }


def write_into(path: str | Path, name: str, content: dict[str, Any]) -> None:
    """Write ``content`` under ``name`` into a JSON file that may hold other data sets'. Raises OSError."""
    path = Path(path)
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, earlier | {name: content})


def _with_boxes(
    estimator: Estimator, picture: np.ndarray, camera: Camera, sought: dict[int, tuple[Truth, ...]]
) -> dict[int, PoseEstimate]:
    """Estimate in the boxes of the truth what is sought, its most visible instance each."""
    boxed = {obj_id: truths[0].bbox_visib for obj_id, truths in sought.items() if truths[0].bbox_visib is not None}
    detections = [Detection(object_name(obj_id), box) for obj_id, box in boxed.items()]
    return dict(zip(boxed, estimator.estimate(picture, camera, detections), strict=True))


def _searched(
    dataset: BopDataset,
    image: ImageKey,
    obj_id: int,
    truth: tuple[Truth, ...],
    result: PoseEstimate,
    boxes: Sequence[Detection],
    oracle: PoseEstimate | None,
) -> Searched:
    mssd, mspd = _errors(dataset, image, obj_id, truth, result)
    oracle_mssd, oracle_mspd = _errors(dataset, image, obj_id, truth, oracle)
    return Searched(
        image,
        obj_id,
        truth,
        np.array([each.bbox for each in boxes], np.float64).reshape(-1, 4),
        np.array([each.score for each in boxes]),
        result.success,
        result.score,
        mssd,
        mspd,
        oracle_mssd,
        oracle_mspd,
    )


def _errors(
    dataset: BopDataset, image: ImageKey, obj_id: int, truth: Sequence[Truth], result: PoseEstimate | None
) -> tuple[float, float]:
    """MSSD in diameters and MSPD in pixels of an image 640 wide, of the nearest instance; infinite without a pose."""
    if result is None or result.T_camera_object is None or not truth:
        return np.inf, np.inf
    model, camera = dataset.models[obj_id], dataset.camera(*image)
    T = np.repeat(result.T_camera_object[None], len(truth), axis=0)
    true = np.array([each.T_camera_object for each in truth])
    mssd = metrics.mssd(T, true, model.T_symmetries, model.vertices).min() / model.diameter
    mspd = metrics.mspd(T, true, camera.K, model.T_symmetries, model.vertices).min()
    return float(mssd), float(mspd * metrics.REFERENCE_WIDTH / camera.width)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _rank(each: Searched) -> int:
    """Place of the first right box, from 0; a large number if there is none."""
    truth = np.array([t.bbox_obj for t in each.truth if t.bbox_obj is not None], np.float64).reshape(-1, 4)
    right = (overlaps(each.boxes, truth) >= IOU).any(axis=1)
    return int(right.argmax()) if right.any() else 1 << 30


def _ar(mssd: float, mspd: float) -> float:
    return float((np.mean(mssd < metrics.SHARES) + np.mean(mspd < metrics.PIXELS)) / 2)


def _ap_boxes(searched: Sequence[Searched], dataset: BopDataset) -> float:
    def answers(each: Searched) -> Answers:
        truth = np.array([t.bbox_obj for t in each.truth if t.bbox_obj is not None], np.float64).reshape(-1, 4)
        return Answers(each.box_scores, 1.0 - overlaps(each.boxes, truth))

    objects = [[answers(each) for each in searched if each.obj_id == obj_id] for obj_id in dataset.object_ids]
    return mean_average_precision(objects, [1.0 - IOUS + 1e-9] * len(objects))


def _ap_poses(searched: Sequence[Searched], dataset: BopDataset) -> dict[str, float]:
    """AP of accepted poses as BOP has it for 6D detection: over the thresholds of MSSD and of MSPD, and their mean."""

    def of(name: str) -> float:
        def answers(each: Searched) -> Answers:
            error = np.full((1, len(each.truth)), getattr(each, name))
            return Answers(np.array([each.score])[: each.accepted], error[: each.accepted])

        objects = [[answers(each) for each in searched if each.obj_id == obj_id] for obj_id in dataset.object_ids]
        return mean_average_precision(objects, [metrics.SHARES if name == "mssd" else metrics.PIXELS] * len(objects))

    mssd, mspd = of("mssd"), of("mspd")
    return {"ap": (mssd + mspd) / 2, "ap_mssd": mssd, "ap_mspd": mspd}
