"""Comparisons solved together: matches of earlier crops in later ones, and what they add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coop_edge.config import EstimatorConfig
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.stages.comparison import Matches, refine_step
from coop_edge.stages.refine import TURN
from tests.stages.chain import Chain
from tests.stages.test_depth import TRUTH, maker_of, scene_depth
from tests.stages.test_refine import errors_px, starts


def outputs_of(pairs, flow, stride=4):
    """What a network that is sure of ``flow`` [M,2,H,W] puts out."""
    ones = np.ones_like(flow[:, :1])
    return {"flow": flow, "scale": 0.25 * ones, "certainty": ones, "sensitivity": ones}


def true_flow(pairs, T_true, points, cells, side):
    """From the cells of pairs to where the points are at T_true [4,4] of the camera, worked out anew."""
    flow = np.zeros((len(pairs), 2, side, side), np.float32)
    for one, K, T, p in zip(flow, *placed(pairs, T_true), points, strict=True):
        one[...] = np.nan_to_num(project(K, se3.transform(T, p)) - cells).T.reshape(2, side, side)
    return flow


def placed(pairs, T_true):
    return pairs.crop.K, pairs.crop.to_crop(np.repeat(T_true[None], len(pairs), 0))


def compared(maker, T, roll, noise=0.0, seed=0, **options):
    """One comparison of poses [M,4,4] in crops turned by ``roll``, whose flow is right but for noise, pixels."""
    pairs = maker.make(T, np.zeros(len(T), int), roll)
    points, cells = pairs.cells(4)
    side = maker.size // 4
    flow = true_flow(pairs, TRUTH, points, cells, side)
    flow += np.random.default_rng(seed).normal(0.0, noise, flow.shape).astype(np.float32)
    parts = {"solver": CpuPnpSolver(threads=1), "config": EstimatorConfig(), "radius_px": 1.0, **options}
    return pairs, refine_step(pairs, points, cells, outputs_of(pairs, flow), T, **parts)


def beside(degrees, seed=0):
    """The true pose, turned and moved."""
    rng = np.random.default_rng(seed)
    turn = se3.so3_exp(np.radians(degrees) * rng.normal(size=3) / np.sqrt(3))
    return se3.from_rt(turn @ TRUTH[:3, :3], TRUTH[:3, 3] * (1.0, 1.0, 1.05))


@pytest.mark.parametrize("depth", [None, scene_depth()])
def test_matches_keep_their_place_in_other_crops(depth):
    """Seen by the crop of another pose, turned, they are where the points are at the true pose; so are places."""
    maker = maker_of(depth)
    _, found = compared(maker, beside(12.0)[None], 0.0)
    later = maker.make(beside(3.0, seed=1)[None], np.zeros(1, int), 2.1)
    points, pixels, weight, depths = found.matches.within(later)
    on = weight[0] > 0
    assert on.sum() > 50
    K, T = placed(later, TRUTH)
    np.testing.assert_allclose(pixels[0, on], project(K[0], se3.transform(T[0], points[0, on])), atol=2e-3)
    assert (depths is None) == (depth is None)
    if depths is not None:
        counted = depths.weights[0] > 0
        assert counted.sum() > 50
        off = depths.places[0, counted] - se3.transform(T[0], depths.points[0, counted])
        along = (depths.normals[0, counted] * off).sum(axis=1)
        assert np.median(np.abs(along)) < 2e-3
        turned = found.matches.depths.normals[0, counted] @ later.crop.R_crop_camera[0].T
        np.testing.assert_allclose(depths.normals[0, counted], turned, atol=1e-6)


@pytest.mark.parametrize("depth", [None, scene_depth()])
def test_the_same_comparison_twice_says_as_much_as_once(depth):
    maker = maker_of(depth)
    _, once = compared(maker, beside(8.0)[None], 0.0, noise=0.5)
    _, twice = compared(maker, beside(8.0)[None], 0.0, noise=0.5, earlier=[once.matches])
    _, thrice = compared(maker, beside(8.0)[None], 0.0, noise=0.5, earlier=[once.matches, twice.matches])
    for again in (twice, thrice):
        np.testing.assert_allclose(again.T_camera_object, once.T_camera_object, atol=1e-6)
        np.testing.assert_allclose(again.covariance, once.covariance, rtol=1e-3, atol=1e-12)
        np.testing.assert_array_equal(again.found.weight, once.found.weight)  # judged by what it found itself


def test_weights_are_of_pixels_as_the_later_crop_has_them():
    """A crop that shows everything larger has more pixels to a match's error."""
    maker = maker_of(None, size=128)
    far = TRUTH.copy()
    far[:3, 3] *= 1.3
    pairs, found = compared(maker, far[None], 0.0)
    near = maker.make(TRUTH[None], np.zeros(1, int))
    zoom = near.crop.K[0, 0, 0] / pairs.crop.K[0, 0, 0]
    assert zoom < 0.9
    _, _, weight, _ = found.matches.within(near)
    np.testing.assert_allclose(weight, found.matches.weight / zoom, rtol=1e-5)


@pytest.mark.parametrize("settings", ["advanced.lm.loss=huber", "advanced.lm.loss=cauchy", "free"])
def test_other_losses_and_no_prior_say_as_much_too(settings):
    free = [f"advanced.refine.prior_{name}=0" for name in ("sideways", "depth", "rotation")]
    config = EstimatorConfig().updated(free if settings == "free" else [settings])
    maker = maker_of(None, size=128)
    _, once = compared(maker, beside(8.0)[None], 0.0, noise=1.5, config=config)
    _, twice = compared(maker, beside(8.0)[None], 0.0, noise=1.5, config=config, earlier=[once.matches])
    np.testing.assert_allclose(twice.T_camera_object, once.T_camera_object, atol=1e-5)
    np.testing.assert_allclose(twice.covariance, once.covariance, rtol=0.03, atol=1e-12)


def test_errors_that_differ_average_out():
    maker, errors = maker_of(None, size=128), []
    for seed in range(12):
        T = beside(6.0, seed)[None]
        _, before = compared(maker, T, 0.0, noise=3.0, seed=2 * seed)
        _, alone = compared(maker, T, TURN, noise=3.0, seed=2 * seed + 1)
        _, both = compared(maker, T, TURN, noise=3.0, seed=2 * seed + 1, earlier=[before.matches])
        errors.append([np.abs(c.T_camera_object[0, :3, 3] - TRUTH[:3, 3]).max() for c in (alone, both)])
    alone, both = np.mean(errors, axis=0)
    assert both < 0.85 * alone  # 0.71 is the expectation


def test_matches_behind_a_crops_camera_weigh_nothing():
    maker = maker_of(None)
    pairs, found = compared(maker, TRUTH[None], 0.0)
    away = replace(pairs.crop, H=pairs.crop.K @ np.diag([1.0, -1.0, -1.0]) @ np.linalg.inv(pairs.crop.K) @ pairs.crop.H)
    _, _, weight, _ = found.matches.within(replace(pairs, crop=away))
    assert (weight == 0).all()


def test_rows_are_taken_together():
    maker = maker_of(scene_depth())
    poses = np.array([beside(3.0, 1), beside(9.0, 2), beside(6.0, 3)])
    _, all_of_them = compared(maker, poses, 0.3)
    taken = all_of_them.matches.take(np.array([2, 0]), np)
    for row, i in enumerate((2, 0)):
        _, alone = compared(maker, poses[i : i + 1], 0.3)
        for name in ("points", "image", "weight"):
            np.testing.assert_array_equal(getattr(taken, name)[row], getattr(alone.matches, name)[0])
        np.testing.assert_array_equal(taken.depths.weights[row], alone.matches.depths.weights[0])


class Telling(CpuPnpSolver):
    """Keeps how many matches each of its problems had."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.sizes = []

    def weighted_lm(self, points, *arguments, **options):
        self.sizes.append(points.shape[:2])
        return super().weighted_lm(points, *arguments, **options)


@pytest.mark.parametrize("together", [1, 2, 3])
def test_iterations_turn_their_crops_and_keep_the_last_matches(two, together, monkeypatch):
    settings = [f"advanced.refine.joint_iterations={together}", "advanced.refine.stop_px=0", "refine.iterations=4"]
    chain = Chain.of(two, config=EstimatorConfig().updated(settings))
    chain.solver, rolls = Telling(), []
    maker = type(chain.maker())
    make = maker.make

    def telling(self, T, index, roll=0.0):
        rolls.append(roll)
        return make(self, T, index, roll)

    monkeypatch.setattr(maker, "make", telling)
    T, index = starts(two, [0])
    refined = chain.refine(T, index)
    cells = (chain.oracle.size // 4) ** 2
    assert chain.solver.sizes == [(2, cells * min(together, i + 1)) for i in range(4)]
    np.testing.assert_allclose(rolls, [0.0] * 4 if together == 1 else np.arange(4) * np.pi / 2)
    assert refined.weight.shape == (2, cells)
    assert errors_px(two, refined.T_camera_object, [0]).max() < 0.1


def test_matches_of_hypotheses_that_end_go_with_them(two):
    """One is at the truth and stops at once; the others' results are what they are without it."""
    T, index = starts(two, [0, 1])
    T[1] = two.placed[1].T
    chain = Chain.of(two)
    among = chain.refine(T, index)
    assert among.iterations[1] < among.iterations.max()
    left = np.array([0, 2, 3])
    alone = chain.refine(T[left], index[left])
    np.testing.assert_array_equal(alone.T_camera_object, among.T_camera_object[left])


def test_no_pairs():
    maker = maker_of(scene_depth())
    _, none = compared(maker, np.zeros((0, 4, 4)), 0.0)
    _, again = compared(maker, np.zeros((0, 4, 4)), TURN, earlier=[none.matches])
    assert isinstance(again.matches, Matches)
    assert again.T_camera_object.shape == (0, 4, 4)
