"""Symmetries: BOP's form, discretisation, and the nearest equivalent pose against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.mesh import Symmetries, nearest_symmetric

X, Y, Z = np.eye(3)


def turn(axis, degrees, offset=(0.0, 0.0, 0.0)) -> np.ndarray:
    R = se3.so3_exp(np.radians(degrees) * np.asarray(axis, float))
    return se3.from_rt(R, np.asarray(offset) - R @ offset)


OFFSET = np.array([0.01, -0.02, 0.03])
CASES = {
    "none": Symmetries(),
    "flip": Symmetries((turn(X, 180, OFFSET),)),
    "box": Symmetries((turn(X, 180, OFFSET), turn(Y, 180, OFFSET))),
    "four-fold": Symmetries((turn(Z, 90, OFFSET),)),
    "cube": Symmetries((turn(Z, 90, OFFSET), turn(X, 90, OFFSET))),
    "bowl": Symmetries(continuous=((Z, OFFSET),)),
    "tilted bowl": Symmetries(continuous=((np.array([0.6, 0.0, 0.8]), OFFSET),)),
    "can": Symmetries((turn(X, 180, OFFSET),), ((Z, OFFSET),)),
    "ball": Symmetries(continuous=((Z, OFFSET), (X, OFFSET))),
}
ORDERS = {"none": 1, "flip": 2, "box": 4, "four-fold": 4, "cube": 24, "bowl": 1, "tilted bowl": 1, "can": 2, "ball": 1}


def random_poses(rng, n):
    return se3.from_rt(se3.random_rotation(rng, (n,)), rng.normal(size=(n, 3)) * 0.1 + (0, 0, 0.7))


@pytest.mark.parametrize("case", CASES)
def test_group(case):
    symmetries = CASES[case]
    group = symmetries.group
    assert len(group) == ORDERS[case]
    np.testing.assert_array_equal(group[0], np.eye(4))
    assert symmetries.trivial == (case == "none")
    assert symmetries.nearest_symmetric(np.zeros((0, 4, 4)), np.zeros((0, 4, 4))).shape == (0, 4, 4)


@pytest.mark.parametrize("case", CASES)
def test_nearest_is_equivalent_nearest_and_idempotent(case):
    symmetries, rng = CASES[case], np.random.default_rng(3)
    T, reference = random_poses(rng, 60), random_poses(rng, 60)
    got = symmetries.nearest_symmetric(T, reference)
    relative = se3.invert(T) @ got  # must be a symmetry: the identity, or what the case allows
    if case == "ball":
        np.testing.assert_allclose(se3.transform(relative, OFFSET[None])[:, 0], np.tile(OFFSET, (60, 1)), atol=1e-9)
    elif symmetries.continuous:
        axis, offset = symmetries.continuous[0]
        moved = relative[:, :3, :3] @ axis
        np.testing.assert_allclose(np.abs(moved @ axis), 1, atol=1e-9)
        assert case == "can" or (moved @ axis > 0).all()
        np.testing.assert_allclose(se3.transform(relative, offset[None])[:, 0], np.tile(offset, (60, 1)), atol=1e-9)
    else:
        errors = np.abs(relative[:, None] - symmetries.group[None]).max((-1, -2)).min(1)
        assert errors.max() < 1e-9
    angle = se3.rotation_angle(got[:, :3, :3], reference[:, :3, :3])
    every = T[:, None] @ symmetries.transforms(0.01)[None]
    brute = se3.rotation_angle(every[..., :3, :3], reference[:, None, :3, :3]).min(axis=1)
    assert (angle <= brute + 1e-7).all()
    if case != "ball":  # whose finite set does not fill SO(3)
        assert (angle >= brute - np.pi * 0.011).all()
    again = symmetries.nearest_symmetric(got, reference)
    np.testing.assert_allclose(again, got, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(CASES)))
def test_equivalent_poses_have_one_nearest(seed, case):
    """Applying a symmetry first changes nothing, unless several are equally near."""
    symmetries, rng = CASES[case], np.random.default_rng(seed)
    T, reference = random_poses(rng, 1), random_poses(rng, 1)
    S = symmetries.transforms(0.3)
    S = S[rng.integers(len(S))]
    a, b = (symmetries.nearest_symmetric(P, reference) for P in (T, T @ S))
    angles = [se3.rotation_angle(P[:, :3, :3], reference[:, :3, :3]) for P in (a, b)]
    np.testing.assert_allclose(angles[0], angles[1], atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_symmetric_copy_of_the_reference_comes_back_to_it(case):
    symmetries, rng = CASES[case], np.random.default_rng(1)
    reference = random_poses(rng, 5)
    copies = reference[:, None] @ symmetries.transforms(0.05)[None]
    got = symmetries.nearest_symmetric(copies, reference[:, None])
    np.testing.assert_allclose(got, np.broadcast_to(reference[:, None], got.shape), atol=1e-7)


def test_opposite_axes_are_decided_by_translation():
    """Axes exactly opposed: every turn is 180 degrees away, and the turn with the nearest translation is taken."""
    axis_offset = np.array([0.05, 0.0, 0.0])
    symmetries = Symmetries(continuous=((Z, axis_offset),))
    reference = se3.from_rt(np.eye(3), (0, 0, 1.0))
    T = se3.from_rt(np.diag([1.0, -1.0, -1.0]), (0.02, 0.01, 1.0))
    got = symmetries.nearest_symmetric(T, reference)
    every = T @ np.stack([turn(Z, d, axis_offset) for d in np.linspace(0, 360, 7201)])
    brute = np.linalg.norm(every[:, :3, 3] - reference[:3, 3], axis=1).min()
    assert se3.rotation_angle(got[:3, :3], reference[:3, :3]) == pytest.approx(np.pi)
    assert np.linalg.norm(got[:3, 3] - reference[:3, 3]) <= brute + 1e-12


def test_shapes_broadcast_and_function_form():
    rng = np.random.default_rng(0)
    T = random_poses(rng, 6).reshape(2, 3, 4, 4)
    reference = random_poses(rng, 1)[0]
    got = nearest_symmetric(T, reference, CASES["can"])
    assert got.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(got[1, 2], nearest_symmetric(T[1, 2], reference, CASES["can"]), atol=1e-12)
    np.testing.assert_array_equal(nearest_symmetric(T, reference, None), T)
    with pytest.raises(InputError, match="T_reference"):
        nearest_symmetric(T, np.zeros((4, 4)), None)


@pytest.mark.parametrize("case", CASES)
def test_transforms(case):
    symmetries = CASES[case]
    S = symmetries.transforms(0.1)
    turns = 1 + 31 * len(symmetries.continuous)  # ceil(pi / 0.1) = 32, the identity counted once
    assert len(S) == turns * ORDERS[case]
    np.testing.assert_array_equal(S[0], np.eye(4))
    se3.check_transform(S)
    np.testing.assert_allclose(se3.transform(S, OFFSET[None])[:, 0], np.tile(OFFSET, (len(S), 1)), atol=1e-12)


@pytest.mark.parametrize("step", [0.5, 0.1, 0.013])
def test_steps_move_a_surface_point_by_at_most_the_given_share(step):
    S = Symmetries(continuous=((Z, np.zeros(3)),)).transforms(step)
    rim = se3.transform(S, np.array([[0.5, 0.0, 0.0]]))[:, 0]  # an object of diameter 1
    moved = np.linalg.norm(np.roll(rim, -1, axis=0) - rim, axis=1)
    assert moved.max() <= step
    assert moved.max() > 0.8 * step


@pytest.mark.parametrize("step", [0.0, -1.0, 2.0, np.nan, "fine"])
def test_step_is_checked(step):
    with pytest.raises(InputError, match="max_step"):
        CASES["can"].transforms(step)


def test_from_bop():
    entry = {
        "diameter": 100.0,
        "symmetries_discrete": [[-1, 0, 0, 20, 0, -1, 0, -40, 0, 0, 1, 0, 0, 0, 0, 1]],
        "symmetries_continuous": [{"axis": [0, 0, 1], "offset": [10, -20, 0]}],
    }
    symmetries = Symmetries.from_bop(entry)
    np.testing.assert_allclose(symmetries.discrete[0], turn(Z, 180, (0.01, -0.02, 0)), atol=1e-12)
    np.testing.assert_allclose(symmetries.continuous[0][1], (0.01, -0.02, 0))
    assert Symmetries.from_bop({"diameter": 1}).trivial
    np.testing.assert_allclose(Symmetries.from_bop(entry, unit="m").discrete[0][:3, 3], (20, -40, 0))


def test_rounded_matrices_are_made_rigid_and_still_close():
    """Files round to a few digits: 6 decimals, 60 turns of 6 degrees given by a generator alone."""
    rounded = np.round(turn(np.array([0.48, 0.6, 0.64]), 6, OFFSET), 6)
    symmetries = Symmetries((rounded,))
    assert len(symmetries.group) == 60
    se3.check_transform(symmetries.group, tolerance=1e-12)
    again = Symmetries(symmetries.discrete)  # and keeping them changes no bit, so that stored hashes hold
    np.testing.assert_array_equal(again.discrete[0], symmetries.discrete[0])


@pytest.mark.parametrize(
    ("discrete", "continuous", "message"),
    [
        ((np.diag([2.0, 1, 1, 1]),), (), r"discrete\[0\].*orthonormal"),
        ((np.diag([-1.0, 1, 1, 1]),), (), r"discrete\[0\].*reflection"),
        ((np.eye(3),), (), r"discrete\[0\]"),
        ((np.full((4, 4), np.nan),), (), r"discrete\[0\].*NaN"),
        ((turn(Z, 0.7),), (), "without closing"),
        ((), ((2 * Z, np.zeros(3)),), r"continuous\[0\].axis.*length 2"),
        ((), ((Z, (0, np.nan, 0)),), r"continuous\[0\].offset"),
        ((), ((Z,),), r"continuous\[0\].*wanted \(axis, offset\)"),
        ((), ((Z, np.zeros(3)), (X, (0, 0.5, 0))), "beside the others"),
        ((), ((Z, np.zeros(3)), (Z, (0, 0.5, 0))), "beside the others"),
        ((turn(X, 45),), ((Z, np.zeros(3)),), r"discrete\[0\]: does not map"),
        ((turn(X, 180, (0, 0.1, 0)),), ((Z, np.zeros(3)),), r"discrete\[0\]: does not map"),
        ("none", (), "wanted a sequence"),
    ],
)
def test_bad_symmetries(discrete, continuous, message):
    with pytest.raises(InputError, match=message):
        Symmetries(discrete, continuous)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "wanted a mapping"),
        ({"symmetries_discrete": [[1, 2, 3]]}, r"symmetries_discrete\[0\]: wanted 16"),
        ({"symmetries_discrete": [["a"] * 16]}, r"symmetries_discrete\[0\]: wanted numbers"),
        ({"symmetries_continuous": [{"axis": [0, 0, 1]}]}, r"symmetries_continuous\[0\].*'offset'"),
    ],
)
def test_bad_bop_entries(entry, message):
    with pytest.raises(InputError, match=message):
        Symmetries.from_bop(entry)


@pytest.mark.parametrize("key", ["symmetries_discrete", "symmetries_continuous"])
@pytest.mark.parametrize("value", [None, "z", 3, {"axis": 1}])
def test_bop_entries_of_another_form(key, value):
    with pytest.raises(InputError, match=key):
        Symmetries.from_bop({key: value})
