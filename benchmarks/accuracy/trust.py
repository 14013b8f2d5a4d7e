"""Do score and covariance say how far a pose is off? ``python -m benchmarks.accuracy.trust DATASET --json FILE``.

Every target is estimated in its box of the truth, whatever its score. The score is to be the probability that a pose is
right, its MSSD below a tenth of the diameter: ``reliability`` has the curve. A right pose's covariance is to have its
error: 95 % lie inside their 95 % ellipsoid, and where more error is stated there is more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import chi2

from benchmarks.accuracy import metrics
from benchmarks.accuracy.boxes import read_boxes
from benchmarks.accuracy.calibration import rank_correlation
from benchmarks.accuracy.dataset import DEPTH_HELP, SENSOR_DEPTH, BopDataset
from benchmarks.accuracy.measure import progress
from benchmarks.accuracy.methods import MethodOptions, OursMethod
from benchmarks.accuracy.reliability import RIGHT, print_curve, reliability, write_png
from benchmarks.common import command, print_table, write_json
from coop_edge.base.hardware import hardware
from coop_edge.config import EFFORTS
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.covariance_map import CovarianceMap

LEVEL = 0.95
SURE = (0.7, 0.9)
"""Scores above which the share of poses that are far off is told: by more than ``FAR`` diameters."""
FAR = 0.25


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
    stated and the actual distance, None if it is undefined."""

    count: int
    inside: float
    inside_translation: float
    rank_correlation: float | None

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
            rank_correlation(stated, actual),
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


@dataclass(frozen=True, eq=False)
class Poses:
    """N poses that were given, and of the right ones among them the ``Errors``."""

    score: np.ndarray  # [N]
    far: np.ndarray  # [N] MSSD in diameters
    errors: Errors


def gather(method: OursMethod, dataset: BopDataset, depth: str | None = None) -> Poses:
    """Estimate every target in boxes of the truth, and return the poses; covariances are as solved, without a map.

    depth: folder of depth images to give, as ``--depth`` says; then only poses that it bore on are returned.
    """
    pipeline = method.estimator._pipeline
    bare = replace(pipeline.bundle, covariance_map=None, depth_covariance_map=None)
    method.estimator._pipeline = replace(pipeline, bundle=bare)
    given: list[tuple[float, float]] = []
    right: list[tuple[np.ndarray, np.ndarray, int]] = []
    boxes = read_boxes(dataset, "visib")
    with progress("images", len(dataset.images)) as advance:
        for image in dataset.images:
            truths = dataset.truth(*image)
            seen = dataset.image(*image), dataset.camera(*image), boxes[image]
            poses = method.estimate(*seen, None if depth is None else dataset.depth(*image, folder=depth))
            for box, pose in zip(boxes[image], poses, strict=True):
                if pose.T_camera_object is None or pose.used_depth != (depth is not None):
                    continue
                truth = next(t for t in truths if (t.obj_id, t.bbox_visib) == (box.obj_id, box.bbox))
                model, T = dataset.models[box.obj_id], pose.T_camera_object
                far = metrics.mssd(T[None], truth.T_camera_object[None], model.T_symmetries, model.vertices)[0]
                given.append((pose.score, far / model.diameter))
                if pose.covariance is not None and far < RIGHT * model.diameter:
                    some = model.vertices[:: 1 + len(model.vertices) // 200]
                    error = error_of(T, truth.T_camera_object, model.T_symmetries, some)
                    right.append((error, pose.covariance, box.obj_id))
            advance()
    if not right:
        raise InputError(f"{dataset.name}: no right pose: nothing to compare covariances with")
    score, share = (np.array(column) for column in zip(*given, strict=True))
    return Poses(score, share, Errors(*(np.array(column) for column in zip(*right, strict=True))))


def far_off(poses: Poses) -> list[tuple[float, int, float]]:
    """Return, of each score in ``SURE``, (score, poses above it, the share of them that are ``FAR`` off)."""
    above = [(least, poses.far[poses.score > least]) for least in SURE]
    return [(least, len(far), float(np.mean(far > FAR)) if len(far) else 0.0) for least, far in above]


def report(poses: Poses, covariance_map: CovarianceMap | None, png: str | None, name: str) -> dict[str, Any]:
    """Print the figures, draw the curve if asked to, and return them as plain data."""
    curve = reliability(poses.score.tolist(), poses.far.tolist())
    print_curve(name, curve)
    sure = far_off(poses)
    print_table(f"Off by more than {FAR:g} diameters", sure, ("score above", "poses", "share"))
    covariance = Truthfulness.of(poses.errors, poses.errors.mapped(covariance_map))
    row = covariance.count, covariance.inside, covariance.inside_translation, covariance.rank_correlation
    print_table("Covariances of right poses", [row], ("poses", "inside", "translation", "rank correlation"))
    if png:
        write_png(png, {name: curve})
    return {"score": curve.to_dict(), "far_off": [list(each) for each in sure], "covariance": asdict(covariance)}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 with one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.trust", description=__doc__)
    parser.add_argument("dataset", metavar="DATASET", help="folder of the data set, in BOP layout")
    parser.add_argument("--engines", metavar="NAME", default="coop-xs", help="a bundle (default coop-xs)")
    parser.add_argument("--split", default="test", help="its folder of scenes (default test)")
    parser.add_argument("--targets", metavar="FILE", help="targets file (default DATASET/test_targets_bop19.json)")
    parser.add_argument("--effort", choices=tuple(EFFORTS), default="fast", help="how poses are found (default fast)")
    parser.add_argument("--depth", nargs="?", const=SENSOR_DEPTH, metavar="FOLDER", help=DEPTH_HELP)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU (default 0, all cores)")
    parser.add_argument("--json", metavar="JSON", help="all figures")
    parser.add_argument("--png", metavar="PNG", help="the reliability curve as a picture")
    options = parser.parse_args(arguments)
    bundle = Bundle.load(options.engines)
    dataset = BopDataset(options.dataset, options.split, targets=options.targets, limit=options.limit)
    method = OursMethod(
        MethodOptions(engines=options.engines, threads=options.threads, config={"effort": options.effort})
    )
    try:
        method.add_objects(dataset)
        poses = gather(method, dataset, options.depth)
    finally:
        method.close()
    name = f"{dataset.name}, {options.effort}{', with depth' if options.depth else ''}"
    found = report(poses, bundle.covariance_maps[options.depth is not None], options.png, name)
    if options.json:
        said = {"dataset": dataset.name, "engines": f"{bundle.name} {bundle.version}", "effort": options.effort}
        said["depth"] = options.depth
        write_json(options.json, {**said, "hardware": hardware(), **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
