"""Fits a bundle's covariances: ``python -m benchmarks.accuracy.fit_covariance BUNDLE --dataset FOLDER --write``.

A pose's covariance is to have its errors: 95 % of right poses lie inside their 95 % ellipsoid, and where more error is
stated there is more. Without ``--write`` it says how far that holds, of any data set. Errors are those of right poses
(MSSD below a tenth of the diameter, symmetries counted). ``runtime.covariance_map`` has the map.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2, spearmanr

from benchmarks.accuracy import metrics
from benchmarks.accuracy.boxes import read_boxes
from benchmarks.accuracy.dataset import DEPTH_HELP, SENSOR_DEPTH, BopDataset
from benchmarks.accuracy.measure import progress
from benchmarks.accuracy.methods import MethodOptions, OursMethod
from benchmarks.accuracy.reliability import RIGHT
from benchmarks.common import command, print_table, write_json
from coop_edge.base.hardware import hardware
from coop_edge.config import EFFORTS
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.runtime.bundle import Bundle, write_manifest
from coop_edge.runtime.covariance_map import CovarianceMap

LEVEL = 0.95
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Errors:
    """M right poses: how far each is off, and what it said of that."""

    error: np.ndarray  # [M,6] (translation m, rotation rad) from the pose to the truth, camera axes
    covariance: np.ndarray  # [M,6,6], as the solver gives it
    object: np.ndarray  # int [M]

    def rows(self, which: np.ndarray) -> Errors:
        """Return those at ``which``."""
        return Errors(*(value[which] for value in vars(self).values()))

    def mapped(self, found: CovarianceMap | None) -> np.ndarray:
        """Return the covariances by a map; as they are without one."""
        if found is None:
            return self.covariance
        return found.apply(self.covariance)


@dataclass(frozen=True)
class Truthfulness:
    """How far covariances are true: shares of poses inside the 95 % ellipsoid, and Spearman's rank correlation of the
    stated and the actual distance."""

    count: int
    inside: float
    inside_translation: float
    rank_correlation: float

    @classmethod
    def of(cls, errors: Errors, covariance: np.ndarray) -> Truthfulness:
        """Measure M covariances [M,6,6] of poses in camera axes; M is at least 3."""
        if len(covariance) < 3:
            raise InputError(f"covariance: wanted at least 3 right poses, got {len(covariance)}")
        stated = np.sqrt(np.trace(covariance[:, :3, :3], axis1=1, axis2=2))
        actual = np.linalg.norm(errors.error[:, :3], axis=1)
        return cls(
            len(covariance),
            float(np.mean(distance(errors.error, covariance) <= chi2.ppf(LEVEL, 6))),
            float(np.mean(distance(errors.error[:, :3], covariance[:, :3, :3]) <= chi2.ppf(LEVEL, 3))),
            float(spearmanr(stated, actual).statistic),
        )


def distance(error: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return squared Mahalanobis distances [M] of errors [M,D] under covariances [M,D,D]."""
    return np.asarray(np.einsum("mi,mi->m", error, np.linalg.solve(covariance, error[..., None])[..., 0]))


def error_of(T: np.ndarray, truth: np.ndarray, T_symmetries: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return (translation, rotation) [6] from a pose [4,4] to the nearest of those that look like the truth [4,4]."""
    same = truth @ T_symmetries
    far = [np.linalg.norm(se3.transform(S, points) - se3.transform(T, points), axis=1).max() for S in same]
    nearest = same[int(np.argmin(far))]
    turn = se3.so3_log(nearest[:3, :3] @ T[:3, :3].T)
    return np.concatenate([nearest[:3, 3] - T[:3, 3], turn])


def gather(method: OursMethod, dataset: BopDataset, depth: str | None = None) -> Errors:
    """Estimate every target in boxes of the truth, and return the right poses with their covariances as solved.

    depth: folder of depth images to give, as ``--depth`` says; then only poses that it bore on are returned.
    """
    pipeline = method.estimator._pipeline
    bare = replace(pipeline.bundle, covariance_map=None, depth_covariance_map=None)
    method.estimator._pipeline = replace(pipeline, bundle=bare)
    found: list[tuple[np.ndarray, np.ndarray, int]] = []
    boxes = read_boxes(dataset, "visib")
    with progress("images", len(dataset.images)) as advance:
        for image in dataset.images:
            truths = dataset.truth(*image)
            seen = dataset.image(*image), dataset.camera(*image), boxes[image]
            poses = method.estimate(*seen, None if depth is None else dataset.depth(*image, folder=depth))
            for box, pose in zip(boxes[image], poses, strict=True):
                if pose.T_camera_object is None or pose.covariance is None or pose.used_depth != (depth is not None):
                    continue
                truth = next(t for t in truths if (t.obj_id, t.bbox_visib) == (box.obj_id, box.bbox))
                model, T = dataset.models[box.obj_id], pose.T_camera_object
                far = metrics.mssd(T[None], truth.T_camera_object[None], model.T_symmetries, model.vertices)[0]
                if far < RIGHT * model.diameter:
                    some = model.vertices[:: 1 + len(model.vertices) // 200]
                    error = error_of(T, truth.T_camera_object, model.T_symmetries, some)
                    found.append((error, pose.covariance, box.obj_id))
            advance()
    if not found:
        raise InputError(f"{dataset.name}: no right pose: nothing to fit covariances to")
    return Errors(*(np.array(column) for column in zip(*found, strict=True)))


def fit(errors: Errors) -> CovarianceMap:
    """Fit the scale so that ``LEVEL`` of the poses lie inside."""
    far = np.quantile(distance(errors.error, errors.covariance), LEVEL)
    return CovarianceMap(round(float(np.sqrt(far / chi2.ppf(LEVEL, 6))), 6))


def cross_validated(errors: Errors) -> Truthfulness:
    """Measure covariances that are mapped, each object's by a map fitted without it."""
    objects = np.unique(errors.object)
    covariance = np.empty_like(errors.covariance)
    for fold in range(min(FOLDS, len(objects))):
        out = np.isin(errors.object, objects[fold::FOLDS])
        if out.all():
            raise InputError("covariance: wanted right poses of at least two objects to validate across objects")
        covariance[out] = errors.rows(out).mapped(fit(errors.rows(~out)))
    return Truthfulness.of(errors, covariance)


def report(present: CovarianceMap | None, errors: Errors) -> tuple[CovarianceMap, dict[str, Any]]:
    """Fit, and return the map and the figures: as solved, as the bundle has it (``present``), as fitted."""
    found = fit(errors)
    figures = {
        "as solved": Truthfulness.of(errors, errors.covariance),
        "by the bundle's map": Truthfulness.of(errors, errors.mapped(present)),
        "fitted, cross-validated over objects": cross_validated(errors),
    }
    rows = [(name, f.count, f.inside, f.inside_translation, f.rank_correlation) for name, f in figures.items()]
    print_table("Right poses and their covariances", rows, ("", "poses", "inside", "translation", "rank correlation"))
    return found, {"map": found.to_dict(), "figures": {name: asdict(f) for name, f in figures.items()}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.fit_covariance", description=__doc__)
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder")
    parser.add_argument("--dataset", required=True, metavar="FOLDER", help="a data set in BOP layout")
    parser.add_argument("--split", default="test", help="its folder of scenes (default test)")
    parser.add_argument("--effort", choices=tuple(EFFORTS), default="fast", help="how poses are found (default fast)")
    parser.add_argument("--depth", nargs="?", const=SENSOR_DEPTH, metavar="FOLDER", help=DEPTH_HELP)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU (default 0, all cores)")
    parser.add_argument("--write", action="store_true", help="put the map into the bundle's manifest")
    parser.add_argument("--json", metavar="JSON", help="write map and figures")
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 with one line on standard error."""
    options = _parser().parse_args(arguments)
    bundle = Bundle.load(options.bundle)
    dataset = BopDataset(options.dataset, options.split, limit=options.limit)
    method = OursMethod(
        MethodOptions(engines=options.bundle, threads=options.threads, config={"effort": options.effort})
    )
    try:
        method.add_objects(dataset)
        errors = gather(method, dataset, options.depth)
    finally:
        method.close()
    found, content = report(bundle.covariance_maps[options.depth is not None], errors)
    if options.json:
        said = {"dataset": dataset.name, "engines": f"{bundle.name} {bundle.version}", "effort": options.effort}
        said["depth"] = options.depth
        write_json(options.json, {**said, "hardware": hardware(), **content})
    if options.write:
        of_depth = options.depth is not None
        path = write_manifest(
            replace(bundle, depth_covariance_map=found) if of_depth else replace(bundle, covariance_map=found)
        )
        print(f"written to {Path(path)}: {found.to_dict()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
