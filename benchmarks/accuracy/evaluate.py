"""From poses to average recalls, by the rules of the BOP challenge 2019 (task: localisation).

Of each target the ``inst_count`` best-scoring estimates count, against its ``inst_count`` most visible instances; an
estimate at another instance finds none. A recall is the share of the instances sought that are
found below a threshold; a target without an estimate counts as missed. AR is the mean of the recalls over all
thresholds (for VSD: over all taus and thresholds); "in all" runs over all targets, not over the objects' means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.accuracy import metrics
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.ranges import RangeImages
from benchmarks.accuracy.records import Target, Truth
from benchmarks.accuracy.results import Row


@dataclass(frozen=True, eq=False)
class TargetResult:
    """How well one instance was found. Errors are infinite, VSD 1, where nothing was given for it (``row`` is None)."""

    scene_id: int
    im_id: int
    obj_id: int
    truth: Truth
    row: Row | None
    diameter: float  # metres
    width: int  # of the image, pixels
    mssd: float  # metres
    mspd: float  # pixels of the image
    add: float  # metres; ADD-S of a symmetric object
    vsd: np.ndarray | None  # [10] by tau; None without depth

    @property
    def mspd_640(self) -> float:
        """Return the MSPD in pixels of an image 640 wide, the yardstick of the thresholds."""
        return self.mspd * metrics.REFERENCE_WIDTH / self.width

    @cached_property
    def ar(self) -> float:
        """Return the mean share of the thresholds that this instance alone meets, over its known errors, in [0, 1]."""
        shares = [np.mean(self.mssd < metrics.SHARES * self.diameter), np.mean(self.mspd_640 < metrics.PIXELS)]
        if self.vsd is not None:
            shares.append(np.mean(self.vsd[:, None] < metrics.SHARES))
        return float(np.mean(shares))

    @property
    def add_found(self) -> bool:
        """Tell whether ADD(-S) is below a tenth of the diameter."""
        return self.add < metrics.ADD_SHARE * self.diameter


@dataclass(frozen=True, eq=False)
class Scores:
    """Recalls over ``count`` instances, by threshold; 0 where there are none."""

    count: int
    recall_mssd: np.ndarray  # [10] at metrics.SHARES
    recall_mspd: np.ndarray  # [10] at metrics.PIXELS
    recall_vsd: np.ndarray | None  # [10 taus, 10 thresholds]
    recall_add: float

    @property
    def ar_mssd(self) -> float:
        return float(self.recall_mssd.mean())

    @property
    def ar_mspd(self) -> float:
        return float(self.recall_mspd.mean())

    @property
    def ar_vsd(self) -> float | None:
        return None if self.recall_vsd is None else float(self.recall_vsd.mean())

    @property
    def ar(self) -> float:
        """Return BOP's AR where VSD is known; else the mean of the other two, which is not comparable with it."""
        known = [self.ar_mssd, self.ar_mspd, *([] if self.ar_vsd is None else [self.ar_vsd])]
        return float(np.mean(known))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """targets: one result per instance sought, by scene, image and object. total, per_object: the recalls."""

    targets: tuple[TargetResult, ...]
    total: Scores
    per_object: dict[int, Scores]

    @property
    def has_vsd(self) -> bool:
        return self.total.recall_vsd is not None


@dataclass(frozen=True, eq=False)
class _Found:
    """Hits of the G instances sought of one target."""

    obj_id: int
    mssd: np.ndarray  # bool [G,10]
    mspd: np.ndarray  # bool [G,10]
    vsd: np.ndarray | None  # bool [G,10,10]
    add: np.ndarray  # bool [G]


@dataclass(frozen=True, eq=False)
class _Errors:
    """Of E estimates, best score first, against the G instances sought of a target."""

    mssd: np.ndarray  # [E,G] metres
    mspd: np.ndarray  # [E,G] pixels
    add: np.ndarray  # [E,G] metres
    vsd: np.ndarray | None  # [E,G,10]


def evaluate(dataset: BopDataset, rows: Sequence[Row], *, advance: Callable[[], object] = lambda: None) -> Evaluation:
    """Measure ``rows`` against the truth; rows of no target's image and object are left out, as BOP does.

    VSD is measured if every image has depth. advance: called after each target.

    Raises:
        InputError: a file of the data set is missing or damaged.
        MeshError: a mesh cannot be read.
    """
    grouped: dict[tuple[int, int, int], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.scene_id, row.im_id, row.obj_id), []).append(row)
    ranges = RangeImages(dataset) if dataset.has_depth else None
    results: list[TargetResult] = []
    hits: list[_Found] = []
    for target in dataset.targets:
        estimates = sorted(grouped.get((*target.image, target.obj_id), []), key=lambda row: -row.score)
        found, measured = _measure(dataset, target, estimates[: target.inst_count], ranges)
        hits.append(found)
        results += measured
        advance()
    vsd = ranges is not None
    per_object = {o: _scores([hit for hit in hits if hit.obj_id == o], vsd) for o in dataset.object_ids}
    return Evaluation(tuple(results), _scores(hits, vsd), per_object)


def _measure(
    dataset: BopDataset, target: Target, estimates: list[Row], ranges: RangeImages | None
) -> tuple[_Found, list[TargetResult]]:
    sought = dataset.sought(target)
    errors = _errors(dataset, target, estimates, sought, ranges)
    diameter, width = dataset.models[target.obj_id].diameter, dataset.camera(*target.image).width

    def hit(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        return np.stack([metrics.matched(values, threshold) for threshold in thresholds], axis=-1)

    shares = metrics.SHARES * diameter
    pixels = metrics.PIXELS * width / metrics.REFERENCE_WIDTH
    vsd = errors.vsd
    found = _Found(
        target.obj_id,
        hit(errors.mssd, shares),
        hit(errors.mspd, pixels),
        None if vsd is None else np.stack([hit(vsd[..., k], metrics.SHARES) for k in range(vsd.shape[2])], axis=1),
        hit(errors.add, np.array([metrics.ADD_SHARE * diameter]))[:, 0],
    )
    return found, _results(target, sought, estimates, errors, diameter, width)


def _results(
    target: Target, sought: list[Truth], estimates: list[Row], errors: _Errors, diameter: float, width: int
) -> list[TargetResult]:
    """Each instance with the estimate that falls to it."""
    results = []
    for g, (truth, e) in enumerate(zip(sought, metrics.assigned(errors.mssd).tolist(), strict=True)):
        row, vsd = None, None if errors.vsd is None else np.ones(errors.vsd.shape[2])
        distances: dict[str, Any] = dict.fromkeys(("mssd", "mspd", "add"), math.inf)
        if e >= 0:
            row, vsd = estimates[e], None if errors.vsd is None else errors.vsd[e, g]
            distances = {name: float(getattr(errors, name)[e, g]) for name in distances}
        ids = target.scene_id, target.im_id, target.obj_id
        results.append(TargetResult(*ids, truth, row, diameter, width, vsd=vsd, **distances))
    return results


def _errors(
    dataset: BopDataset, target: Target, estimates: list[Row], sought: list[Truth], ranges: RangeImages | None
) -> _Errors:
    """Of all pairs."""
    model, K = dataset.models[target.obj_id], dataset.camera(*target.image).K
    shape = (len(estimates), len(sought))
    T_estimate = np.array([row.T_camera_object for row in estimates for _ in sought]).reshape(-1, 4, 4)
    T_truth = np.array([truth.T_camera_object for _ in estimates for truth in sought]).reshape(-1, 4, 4)
    distance = metrics.adi if model.symmetric else metrics.add
    vsd: np.ndarray | None = None
    if ranges is not None:
        vsd = np.empty((len(T_estimate), len(metrics.SHARES)))
        for i, (T, truth) in enumerate(zip(T_estimate, T_truth, strict=True)):
            vsd[i] = metrics.vsd(*ranges(target, T, truth), metrics.SHARES * model.diameter)
        vsd = vsd.reshape(*shape, len(metrics.SHARES))
    return _Errors(
        metrics.mssd(T_estimate, T_truth, model.T_symmetries, model.vertices).reshape(shape),
        metrics.mspd(T_estimate, T_truth, K, model.T_symmetries, model.vertices).reshape(shape),
        distance(T_estimate, T_truth, model.vertices).reshape(shape),
        vsd,
    )


def _scores(hits: list[_Found], vsd: bool) -> Scores:
    n = len(metrics.SHARES)

    def recall(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        together = np.concatenate([np.zeros((0, *shape), bool), *arrays])
        return together.mean(axis=0) if len(together) else np.zeros(shape)

    return Scores(
        sum(len(hit.add) for hit in hits),
        recall([hit.mssd for hit in hits], (n,)),
        recall([hit.mspd for hit in hits], (n,)),
        recall([hit.vsd for hit in hits if hit.vsd is not None], (n, n)) if vsd else None,
        float(recall([hit.add for hit in hits], ())),
    )
