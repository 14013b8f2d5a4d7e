"""Rigid motions against SciPy's matrix functions and the group's laws."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from coop_edge.errors import InputError
from coop_edge.geometry import se3

TWISTS = arrays(np.float64, (3, 6), elements=st.floats(-2.0, 2.0))
ANGLES = [0.0, 1e-14, 1e-10, 1e-7, 1e-4, 9.9e-3, 1.01e-2, 0.5, 3.0, np.pi - 1e-9, np.pi]


def _twist_matrix(xi):
    out = np.zeros((4, 4))
    out[:3, :3], out[:3, 3] = se3.hat(xi[3:]), xi[:3]
    return out


@settings(deadline=None)
@given(TWISTS)
def test_exp_is_the_matrix_exponential(xi):
    expected = np.stack([scipy.linalg.expm(_twist_matrix(x)) for x in xi])
    np.testing.assert_allclose(se3.exp(xi), expected, atol=1e-12)


@pytest.mark.parametrize("angle", ANGLES)
def test_log_inverts_exp_at_every_angle(angle):
    rng = np.random.default_rng(1)
    phi = rng.normal(size=(200, 3))
    phi *= angle / np.linalg.norm(phi, axis=1, keepdims=True)
    xi = np.concatenate([rng.normal(size=(200, 3)), phi], axis=1)
    T = se3.exp(xi)
    np.testing.assert_allclose(se3.exp(se3.log(T)), T, atol=1e-12)
    if angle < np.pi - 1e-6:  # at pi the axis has two signs
        np.testing.assert_allclose(se3.log(T), xi, atol=1e-12)


@settings(deadline=None)
@given(TWISTS)
def test_so3_agrees_with_scipy(xi):
    np.testing.assert_allclose(se3.so3_exp(xi[:, 3:]), Rotation.from_rotvec(xi[:, 3:]).as_matrix(), atol=1e-12)


@settings(deadline=None)
@given(TWISTS)
def test_compose_invert_transform(xi):
    T = se3.exp(xi)
    np.testing.assert_allclose(se3.compose(T, se3.invert(T)), np.broadcast_to(np.eye(4), (3, 4, 4)), atol=1e-12)
    points = np.arange(15.0).reshape(5, 3)
    np.testing.assert_allclose(
        se3.transform(se3.compose(T, T), points), se3.transform(T, se3.transform(T, points)), atol=1e-10
    )


@pytest.mark.parametrize("angle", ANGLES)
def test_rotation_angle(angle):
    R = se3.random_rotation(np.random.default_rng(0), (50,))
    axis = np.array([1.0, -2.0, 2.0]) / 3.0
    np.testing.assert_allclose(se3.rotation_angle(R, R @ se3.so3_exp(axis * angle)), angle, atol=1e-12)


def test_random_rotations_are_uniform():
    R = se3.random_rotation(np.random.default_rng(0), (20000,))
    np.testing.assert_allclose(np.linalg.det(R), 1.0, atol=1e-12)
    # Under the uniform (Haar) measure every entry has mean 0 and variance 1/3, and the angle density is (1-cos a)/pi.
    assert np.abs(R.mean(axis=0)).max() < 4 * np.sqrt(1 / 3 / 20000)
    assert np.abs((R**2).mean(axis=0) - 1 / 3).max() < 0.01
    angle = se3.rotation_angle(R, np.eye(3))
    assert abs((angle < np.pi / 2).mean() - (0.5 - 1 / np.pi)) < 0.015


def test_empty_batches():
    assert se3.exp(np.zeros((0, 6))).shape == (0, 4, 4)
    assert se3.log(np.zeros((0, 4, 4))).shape == (0, 6)
    assert se3.invert(np.zeros((0, 4, 4))).shape == (0, 4, 4)
    assert se3.transform(np.eye(4), np.zeros((0, 3))).shape == (0, 3)
    assert se3.check_transform(np.zeros((0, 4, 4))).shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("T", "says"),
    [
        (np.eye(3), "wanted shape [...,4,4], got [3, 3]"),
        ("pose", "wanted numbers"),
        (np.full((4, 4), np.nan), "NaN"),
        (se3.exp([1.0, 2, 3, 0, 0, 0]).T, "transposed"),
        (np.diag([1.0, 1, -1, 1]), "reflection"),
        (np.diag([1.1, 1, 1, 1]), "orthonormal"),
    ],
)
def test_check_transform_refuses(T, says):
    with pytest.raises(InputError) as error:
        se3.check_transform(T)
    assert says in str(error.value)
