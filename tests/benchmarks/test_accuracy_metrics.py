"""BOP's errors against cases with known answers, and against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy import metrics
from coop_edge import Symmetries
from coop_edge.geometry import se3

K = np.array([[500.0, 0.0, 320.0], [0.0, 400.0, 240.0], [0.0, 0.0, 1.0]])
NONE = np.eye(4)[None]
PAIR = np.array([[-0.05, 0.0, 0.0], [0.05, 0.0, 0.0]])
AHEAD = se3.from_rt(np.eye(3), (0.0, 0.0, 1.0))


def turned(angle: float, axis=(0.0, 0.0, 1.0)) -> np.ndarray:
    return se3.from_rt(se3.so3_exp(angle * np.asarray(axis)), (0.0, 0.0, 1.0))


def shifted(*by: float) -> np.ndarray:
    return se3.from_rt(np.eye(3), np.array([0.0, 0.0, 1.0]) + by)


def half_turn() -> np.ndarray:
    return np.stack([np.eye(4), se3.from_rt(se3.so3_exp(np.array([0.0, 0.0, np.pi])), np.zeros(3))])


@pytest.mark.parametrize("by", [(0.0, 0.0, 0.0), (0.03, 0.0, 0.0), (0.0, -0.02, 0.0), (0.01, 0.02, -0.02)])
def test_a_shift_is_its_own_length(by):
    T, truth = shifted(*by)[None], AHEAD[None]
    assert metrics.mssd(T, truth, NONE, PAIR) == pytest.approx(np.linalg.norm(by), abs=1e-15)
    assert metrics.add(T, truth, PAIR) == pytest.approx(np.linalg.norm(by), abs=1e-15)


def test_a_shift_across_the_view_is_focal_length_times_shift_over_depth():
    T = np.stack([shifted(0.03, 0.0, 0.0), shifted(0.0, 0.03, 0.0)])
    assert metrics.mspd(T, np.stack([AHEAD, AHEAD]), K, NONE, PAIR) == pytest.approx([15.0, 12.0])


def test_a_shift_along_the_view_moves_what_is_off_the_axis():
    # x = 0.05 m at 1 m and at 2 m: 25 px and 12.5 px from the principal point.
    assert metrics.mspd(shifted(0.0, 0.0, 1.0)[None], AHEAD[None], K, NONE, PAIR) == pytest.approx([12.5])


@pytest.mark.parametrize("degrees", [0.0, 10.0, 60.0, 90.0, 120.0, 180.0])
def test_a_turn_of_two_points_is_the_chord(degrees):
    angle = np.deg2rad(degrees)
    T, truth = turned(angle)[None], AHEAD[None]
    chord = 0.1 * np.sin(angle / 2)
    assert metrics.mssd(T, truth, NONE, PAIR) == pytest.approx(chord, abs=1e-12)
    assert metrics.add(T, truth, PAIR) == pytest.approx(chord, abs=1e-12)
    shorter = 0.1 * np.sin(min(angle, np.pi - angle) / 2)
    assert metrics.mssd(T, truth, half_turn(), PAIR) == pytest.approx(shorter, abs=1e-12)
    assert metrics.adi(T, truth, PAIR) == pytest.approx(shorter, abs=1e-12)


def test_a_turn_in_the_image_plane_in_pixels():
    # (25, 0) px turned by a quarter is (0, 20) px, the vertical focal length being 400.
    quarter = turned(np.pi / 2)[None]
    assert metrics.mspd(quarter, AHEAD[None], K, NONE, PAIR) == pytest.approx([np.hypot(25.0, 20.0)])
    assert metrics.mspd(turned(np.pi)[None], AHEAD[None], K, half_turn(), PAIR) == pytest.approx([0.0], abs=1e-9)


def test_a_continuous_symmetry_leaves_half_a_step_at_most():
    """315 turns of 2 pi / 315: a point on the rim is at most half a step from the next one."""
    symmetries = Symmetries(continuous=((np.array([0.0, 0.0, 1.0]), np.zeros(3)),)).transforms(0.01)
    assert len(symmetries) == 315
    step = 2 * np.pi / 315
    T = np.stack([turned(7 * step), turned(7.5 * step)])
    expected = [0.0, 0.1 * np.sin(step / 4)]
    assert metrics.mssd(T, np.stack([AHEAD, AHEAD]), symmetries, PAIR) == pytest.approx(expected, abs=1e-9)


def test_add_s_asks_from_the_truth_to_the_estimate():
    points = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [1.0, 0.0, 0.0]])
    # Estimate at 0.9, 1.0 and 1.9. Nearest to the truth's 0, 0.1, 1.0: 0.9, 0.8 and 0 away (the other way 0.1, 0, 0.9).
    assert metrics.adi(shifted(0.9, 0.0, 0.0)[None], AHEAD[None], points) == pytest.approx([1.7 / 3])


def test_against_the_definitions_written_out():
    rng = np.random.default_rng(3)
    points = rng.uniform(-0.1, 0.1, (17, 3))
    symmetries = np.stack([np.eye(4), *(se3.from_rt(R, 0.01 * t) for R, t in _motions(rng, 3))])
    T = np.stack([se3.from_rt(R, t + (0, 0, 2)) for R, t in _motions(rng, 4)])
    truth = np.stack([se3.from_rt(R, t + (0, 0, 2)) for R, t in _motions(rng, 4)])
    mssd, mspd = [], []
    for A, B in zip(T, truth, strict=True):
        worst_m, worst_px = [], []
        for S in symmetries:
            pairs = [(A @ [*x, 1.0], B @ S @ [*x, 1.0]) for x in points]
            worst_m.append(max(np.linalg.norm(a - b) for a, b in pairs))
            pixels = [(K @ a[:3] / a[2], K @ b[:3] / b[2]) for a, b in pairs]
            worst_px.append(max(np.linalg.norm(a - b) for a, b in pixels))
        mssd.append(min(worst_m))
        mspd.append(min(worst_px))
    assert metrics.mssd(T, truth, symmetries, points) == pytest.approx(mssd)
    assert metrics.mspd(T, truth, K, symmetries, points) == pytest.approx(mspd)


def test_symmetries_in_several_runs_give_the_same(monkeypatch):
    rng = np.random.default_rng(4)
    points, T = rng.uniform(-0.1, 0.1, (5, 3)), turned(1.0)[None]
    symmetries = Symmetries(continuous=((np.array([0.0, 0.0, 1.0]), np.zeros(3)),)).transforms(0.05)
    at_once = metrics.mssd(T, AHEAD[None], symmetries, points), metrics.mspd(T, AHEAD[None], K, symmetries, points)
    monkeypatch.setattr(metrics, "_MOST_POINTS", 12)
    assert metrics.mssd(T, AHEAD[None], symmetries, points) == at_once[0]
    assert metrics.mspd(T, AHEAD[None], K, symmetries, points) == at_once[1]


def test_behind_the_camera_is_infinitely_far_off():
    assert metrics.mspd(shifted(0.0, 0.0, -2.0)[None], AHEAD[None], K, half_turn(), PAIR) == [np.inf]
    assert metrics.mssd(shifted(0.0, 0.0, -2.0)[None], AHEAD[None], half_turn(), PAIR) == pytest.approx([2.0])


def test_no_poses():
    none = np.zeros((0, 4, 4))
    assert metrics.mssd(none, none, NONE, PAIR).shape == (0,)
    assert metrics.mspd(none, none, K, NONE, PAIR).shape == (0,)
    assert metrics.add(none, none, PAIR).shape == (0,)
    assert metrics.adi(none, none, PAIR).shape == (0,)


def test_range_is_depth_along_the_ray():
    depth = np.full((480, 640), 2.0)
    depth[0, 0] = 0.0
    distance = metrics.depth_to_range(depth, K)
    assert distance[240, 320] == pytest.approx(2.0)
    assert distance[240, 570] == pytest.approx(2.0 * np.hypot(1.0, 250 / 500))
    assert distance[40, 320] == pytest.approx(2.0 * np.hypot(1.0, 200 / 400))
    assert distance[0, 0] == 0.0


TAUS = np.array([0.01, 0.03])


def square(first: int, last: int, distance: float) -> np.ndarray:
    """Columns first to last of 4 x 10 pixels at a distance."""
    image = np.zeros((4, 10))
    image[:, first:last] = distance
    return image


@pytest.mark.parametrize(
    ("estimate", "truth", "scene", "expected"),
    [
        pytest.param(square(2, 6, 1.0), square(2, 6, 1.0), square(0, 10, 1.0), [0, 0], id="the same"),
        pytest.param(square(2, 6, 1.02), square(2, 6, 1.0), square(0, 10, 1.0), [1, 0], id="2 cm behind"),
        pytest.param(square(4, 8, 1.0), square(2, 6, 1.0), square(0, 10, 1.0), [2 / 3, 2 / 3], id="half beside"),
        pytest.param(square(2, 6, 1.0), square(2, 6, 1.0), square(0, 4, 0.5), [0, 0], id="half hidden, half unknown"),
        pytest.param(square(2, 6, 1.0), square(2, 6, 1.0), square(0, 10, 0.5), [1, 1], id="hidden altogether"),
        pytest.param(square(0, 0, 1.0), square(2, 6, 1.0), square(0, 10, 1.0), [1, 1], id="out of sight"),
        pytest.param(square(2, 8, 1.02), square(2, 6, 1.0), square(0, 10, 1.0), [1, 0], id="behind what is beside"),
        pytest.param(square(2, 6, 1.0), square(2, 6, 1.0), np.zeros((4, 10)), [0, 0], id="nothing known"),
    ],
)
def test_vsd(estimate, truth, scene, expected):
    assert metrics.vsd(estimate, truth, scene, TAUS) == pytest.approx(expected)


def test_what_is_within_delta_behind_the_scene_is_visible():
    """Two of six columns lie beside the truth, 1 cm behind the scene; the other four are 1 cm off."""
    errors = metrics.vsd(square(2, 8, 1.01), square(2, 6, 1.0), square(0, 10, 1.0), np.array([0.009, 0.011]))
    assert errors == pytest.approx([1.0, 1 / 3])


def test_vsd_counts_a_gap_of_tau_as_too_far():
    assert metrics.vsd(
        square(2, 6, 1.5), square(2, 6, 1.0), square(0, 10, 1.0), np.array([0.5, 0.5 + 1e-9])
    ).tolist() == [
        1.0,
        0.0,
    ]


@pytest.mark.parametrize(
    ("errors", "threshold", "expected"),
    [
        pytest.param(np.zeros((0, 2)), 1.0, [False, False], id="no estimates"),
        pytest.param(np.zeros((2, 0)), 1.0, [], id="no instances"),
        pytest.param([[0.5, 0.2]], 1.0, [False, True], id="the nearer one"),
        pytest.param([[0.5, 0.2], [0.9, 0.1]], 1.0, [True, True], id="the best score chooses first"),
        pytest.param([[0.5, 0.2], [1.1, 0.1]], 1.0, [False, True], id="what is left is too far"),
        pytest.param([[1.0, 2.0]], 1.0, [False, False], id="at the threshold"),
        pytest.param([[np.inf]], np.inf, [False], id="infinite"),
    ],
)
def test_matching(errors, threshold, expected):
    assert metrics.matched(np.asarray(errors), threshold).tolist() == expected


def test_assignment_without_a_threshold():
    assert metrics.assigned(np.array([[0.5, 0.2], [9.0, 0.1]])).tolist() == [1, 0]
    assert metrics.assigned(np.array([[0.5, 0.2]])).tolist() == [-1, 0]
    assert metrics.assigned(np.zeros((0, 2))).tolist() == [-1, -1]
    assert metrics.assigned(np.array([[np.inf]])).tolist() == [0]


def test_thresholds_of_the_challenge():
    assert metrics.SHARES.tolist() == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
    assert metrics.PIXELS.tolist() == [5, 10, 15, 20, 25, 30, 35, 40, 45, 50]
    assert (metrics.VSD_DELTA, metrics.ADD_SHARE) == (0.015, 0.1)


def _motions(rng: np.random.Generator, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(se3.random_rotation(rng), rng.uniform(-0.2, 0.2, 3)) for _ in range(count)]
