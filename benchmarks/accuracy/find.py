"""Finding without boxes, measured: the objects of each image, and others, looked for in it; see ``searched``."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import metrics
from benchmarks.accuracy.checkout import commit
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.journal import ImageJournal, journal_path
from benchmarks.accuracy.measure import progress
from benchmarks.accuracy.methods import MethodOptions, object_name
from benchmarks.accuracy.records import ImageKey, Truth
from benchmarks.accuracy.searched import Searched, SearchedImage, figures, times
from benchmarks.common import print_table, write_json
from coop_edge import Camera, Detection, Estimator, EstimatorConfig, PoseEstimate
from coop_edge.base.hardware import hardware
from coop_edge.errors import InputError


def measure_search(options: argparse.Namespace, method: MethodOptions) -> dict[str, Any]:
    """Do what the options of ``cli.parse`` say with ``--detect``: search, print the figures and write them.

    Raises:
        CoopEdgeError: the data set, the engines or the options cannot be used.
        OSError: a file cannot be written.
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
        about: dict[str, Any] = {"engines": estimator.bundle.name, "version": estimator.bundle.version}
        about |= {"config": config.to_dict(), "absent_per_image": options.absent, "seed": method.seed}
        searched = _search_all(dataset, estimator, options, method.seed, about)
    result = figures([each for image in searched for each in image.objects], dataset)
    result |= {"time": times(searched), **about, "commit": commit(), "hardware": hardware()}
    shown = [(name, value) for name, value in result.items() if isinstance(value, float)]
    print_table(f"Search in {dataset.name}", [*shown, *result["counts"].items(), *result["time"].items()])
    if options.json:
        write_into(options.json, options.name or dataset.name, result)
        journal_path(options.json).unlink(missing_ok=True)
    return result


def search_image(
    dataset: BopDataset, estimator: Estimator, image: ImageKey, absent: int | None, seed: int
) -> SearchedImage:
    """Look for objects in an image: those that are there, and ``absent`` others, drawn by ``seed`` (None: all)."""
    sought = {t.obj_id: tuple(dataset.sought(t)) for t in dataset.targets_of(*image)}
    there = {truth.obj_id for truth in dataset.truth(*image)}  # hidden ones are neither sought nor absent
    others = [obj_id for obj_id in dataset.object_ids if obj_id not in there]
    if absent is not None:
        others = sorted(np.random.default_rng([seed, *image]).permutation(others)[:absent].tolist())
    picture, camera = dataset.image(*image), dataset.camera(*image)
    wanted = [*sought, *others]
    start = time.process_time()
    results, boxes = estimator.find_with_boxes(picture, camera, [object_name(obj_id) for obj_id in wanted])
    cpu = time.process_time() - start
    oracle = _with_boxes(estimator, picture, camera, sought)
    objects = []
    for obj_id in wanted:
        name = object_name(obj_id)
        result = next(each for each in results if each.object == name)
        own = [each for each in boxes if each.object == name]
        objects.append(_searched(dataset, image, obj_id, sought.get(obj_id, ()), result, own, oracle.get(obj_id)))
    return SearchedImage(image, cpu, tuple(objects))


def write_into(path: str | Path, name: str, content: dict[str, Any]) -> None:
    """Write ``content`` under ``name`` into a JSON file that may hold other data sets'."""
    path = Path(path)
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, earlier | {name: content})


def _search_all(
    dataset: BopDataset, estimator: Estimator, options: argparse.Namespace, seed: int, about: dict[str, Any]
) -> list[SearchedImage]:
    """Search each image, with a record beside ``options.json`` by which a run that was stopped goes on."""
    done: dict[ImageKey, SearchedImage] = {}
    with contextlib.ExitStack() as stack:
        journal = None
        if options.json:
            targets = hashlib.sha256(dataset.targets_file.read_bytes()).hexdigest()
            identity = {"dataset": dataset.name, "targets_sha256": targets, "limit": dataset.limit, **about}
            journal = stack.enter_context(
                ImageJournal(
                    journal_path(options.json),
                    identity,
                    to_plain=SearchedImage.to_plain,
                    from_plain=lambda plain: SearchedImage.from_plain(plain, dataset),
                )
            )
            done = journal.done
        advance = stack.enter_context(progress(f"search in {dataset.name}", len(dataset.images), len(done)))
        for image in dataset.images:
            if image not in done:
                found = search_image(dataset, estimator, image, options.absent, seed)
                if journal is None:
                    done[image] = found
                else:
                    journal.append(found)
                advance()
    return [done[image] for image in dataset.images]


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
        result.reason,
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
