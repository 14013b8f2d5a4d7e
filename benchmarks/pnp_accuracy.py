"""Measures the accuracy of RANSAC beside OpenCV's and PoseLib's: ``python -m benchmarks.pnp_accuracy [--json FILE]``.

1,200 problems of 80 points: boxes, planes and spheres, noise 0 to 4 px, outliers 0 to 80 %. All get the same threshold,
confidence and bound on the iterations. A failure is no pose, or one that is off by more than 5 degrees or 5 % of the
distance. The problems are fixed by their seed, and so are OpenCV's and our samples. ``tests/pnp/test_accuracy.py``
holds the same figures to their bounds.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.common import print_table, versions, write_json
from benchmarks.pnp_peers import opencv_ransac, poselib_ransac
from benchmarks.pnp_problems import PnpProblems, make_problems, pose_errors
from coop_edge.base.hardware import hardware
from coop_edge.config import RansacConfig, RansacSearchConfig
from coop_edge.pnp.cpu import CpuPnpSolver

LIMITS: dict[str, Any] = {"threshold_px": 8.0, "iterations": 2000, "confidence": 0.999}
POSELIB_MIN_ITERATIONS = 100

Figures = tuple[float, float, float]


def figures(T: np.ndarray, truth: np.ndarray) -> Figures:
    """Return median rotation error (degrees), median translation error (of the distance), failure rate.

    T, truth: [B,4,4].
    """
    rotation, translation = pose_errors(T, truth)
    # No pose counts as the worst pose.
    rotation, translation = np.nan_to_num(rotation, nan=180.0), np.nan_to_num(translation, nan=np.inf)
    failed = (rotation > 5.0) | (translation > 0.05)
    return float(np.median(rotation)), float(np.median(translation)), float(failed.mean())


def ours(solver: CpuPnpSolver, problems: PnpProblems) -> Figures:
    """Return the figures of our RANSAC."""
    given = problems.points_object, problems.points_image, problems.valid, problems.K
    search = RansacSearchConfig(hypotheses=int(LIMITS["iterations"]), confidence=LIMITS["confidence"])
    result = solver.ransac_epnp(*given, RansacConfig(threshold_px=LIMITS["threshold_px"]), search=search)
    return figures(result.T_camera_object, problems.T_camera_object)


def poselib(problems: PnpProblems) -> Figures:
    """Return the figures of PoseLib's."""
    T = poselib_ransac(problems, **LIMITS, min_iterations=POSELIB_MIN_ITERATIONS)
    return figures(T, problems.T_camera_object)


def compare(solver: CpuPnpSolver) -> dict[str, Figures]:
    """Return the figures of all three on the 1,200 problems."""
    problems = make_problems(
        1200, 80, shape="mixed", noise_px=(0.0, 4.0), outliers=(0.0, 0.8), weights="unknown", padding=8, seed=2024
    )
    return {
        "ours": ours(solver, problems),
        "opencv_epnp": figures(opencv_ransac(problems, **LIMITS), problems.T_camera_object),
        "poselib": poselib(problems),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    arguments = parser.parse_args()
    result = compare(CpuPnpSolver())
    columns = ["rotation_deg", "translation_share", "failures"]
    print_table(
        "1,200 problems of 80 points", [(name, *row) for name, row in result.items()], columns=["solver", *columns]
    )
    if arguments.json:
        data = {name: dict(zip(columns, row, strict=True)) for name, row in result.items()}
        peers = versions("numpy", "opencv-python-headless", "poselib")
        write_json(arguments.json, {**data, "limits": LIMITS, "hardware": hardware(), "versions": peers})


if __name__ == "__main__":
    main()
