"""Accuracy against OpenCV and PoseLib on the same problems: not worse than the better of the two by more than 5 %.

``benchmarks.pnp_accuracy`` says what the peers are given and what counts as a failure.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pnp_accuracy import compare, figures, ours, poselib
from benchmarks.pnp_peers import opencv_refine_lm
from benchmarks.pnp_problems import make_problems, perturbed
from coop_edge.config import LmConfig
from coop_edge.pnp.cpu import CpuPnpSolver

MARGIN = 1.05


def assert_not_worse(ours, *peers, names=("rotation", "translation", "failures")):
    for i, name in enumerate(names):
        best = min(peer[i] for peer in peers)
        assert ours[i] <= MARGIN * best, f"{name}: ours {ours[i]:.4g}, the better peer {best:.4g}"


@pytest.fixture(scope="module")
def solver():
    return CpuPnpSolver(threads=1)


def test_ransac_against_opencv_and_poselib(solver):
    """1,200 problems of 80 points: boxes, planes, spheres; noise 0 to 4 px, outliers 0 to 80 %."""
    result = compare(solver)
    assert_not_worse(result["ours"], result["opencv_epnp"], result["poselib"])


@pytest.mark.parametrize("shape", ["box", "plane", "sphere"])
def test_ransac_against_poselib_by_shape(solver, shape):
    """1,000 problems of each shape against the stronger peer: medians; failures are too few here to compare shares."""
    problems = make_problems(
        1000, 100, shape=shape, noise_px=(0.0, 4.0), outliers=(0.0, 0.6), weights="unknown", seed=7
    )
    own, peer = ours(solver, problems), poselib(problems)
    assert_not_worse(own, peer, names=("rotation", "translation"))
    # Two shares of 1,000 differ by chance by up to three standard deviations.
    assert own[2] <= peer[2] + 3 * np.sqrt(2 * max(peer[2], 1e-3) / 1000)


def test_lm_against_opencv(solver):
    """1,000 problems from 10 degrees and 5 % off: the same least-squares problem, so the same minimum."""
    problems = make_problems(1000, 60, shape="mixed", noise_px=(0.0, 4.0), weights="unknown", seed=11)
    T_init = perturbed(problems.T_camera_object, np.deg2rad(10.0), 0.05)
    result = solver.weighted_lm(
        problems.points_object, problems.points_image, problems.weights, problems.K, T_init, LmConfig(iterations=30)
    )
    peer = opencv_refine_lm(problems, T_init, iterations=30)
    truth = problems.T_camera_object
    assert_not_worse(figures(result.T_camera_object, truth), figures(peer, truth))
