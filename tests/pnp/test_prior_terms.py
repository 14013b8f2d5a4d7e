"""The prior's share of the normal equations, of both backends: rotation vectors, derivatives, sums."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.geometry import se3
from coop_edge.kernels.device import CupyDevice
from coop_edge.pnp.base import PosePrior
from coop_edge.pnp.normal_equations import SUMS
from coop_edge.pnp.prior import about_centroid, add_prior, inverse_left_jacobian, rotation_vector
from tests.cuda_host.host_device import HostDevice
from tests.pnp.cuda_support import MathKernels

ANGLES = (0.0, 1e-12, 1e-8, 1e-4, 0.009, 0.0101, 0.3, 2.0, 3.0, np.pi - 1e-3, np.pi - 1e-8)
UPPER = np.triu_indices(6)


def rotation_terms_cpu(R):
    phi, J = np.empty((len(R), 3)), np.empty((len(R), 3, 3))
    for i in range(len(R)):
        rotation_vector(np.ascontiguousarray(R[i]), phi[i])
        inverse_left_jacobian(phi[i], J[i])
    return phi, J


def prior_terms_cpu(T_anchor, centre, information, centroid, R, t):
    sums = np.zeros((len(R), SUMS))
    for i in range(len(R)):
        prior = about_centroid(PosePrior(T_anchor[i], centre[i], information[i]), centroid[i])
        add_prior(prior, R[i], t[i], sums[i])
    return sums


@pytest.fixture(scope="module", params=["cpu", "host", pytest.param("cupy", marks=pytest.mark.gpu)])
def math(request):
    """The kernels of a device; None for the CPU solver's own functions."""
    if request.param == "cpu":
        return None
    return MathKernels(HostDevice() if request.param == "host" else CupyDevice())


@pytest.fixture(scope="module")
def rotation_terms(math):
    def run(R):
        phi, J = np.zeros((len(R), 3)), np.zeros((len(R), 3, 3))
        math("rotation_terms", -(-len(R) // 64), 64, np.ascontiguousarray(R), np.int32(len(R)), phi, J)
        return phi, J

    return run if math else rotation_terms_cpu


@pytest.fixture(scope="module")
def prior_terms(math):
    def run(T_anchor, centre, information, centroid, R, t):
        sums, pose = np.zeros((len(R), SUMS)), np.concatenate([R.reshape(-1, 9), t], axis=1)
        arrays = (np.ascontiguousarray(a) for a in (T_anchor, centre, information, centroid, pose))
        math("prior_terms", -(-len(R) // 64), 64, *arrays, np.int32(len(R)), sums)
        return sums

    return run if math else prior_terms_cpu


def vectors(angle, count=30, seed=0):
    axis = np.random.default_rng(seed).normal(size=(count, 3))
    axis[:3] = np.eye(3)
    return angle * axis / np.linalg.norm(axis, axis=1, keepdims=True)


@pytest.mark.parametrize("angle", ANGLES)
def test_rotation_vectors(rotation_terms, angle):
    v = vectors(angle)
    phi, _ = rotation_terms(se3.so3_exp(v))
    np.testing.assert_allclose(phi, v, atol=1e-13 if angle < 3 else 1e-11)


def test_half_a_turn_has_a_vector(rotation_terms):
    """Of two that are right; in each of the quaternion's branches."""
    axis = np.concatenate([vectors(1.0), [[0.6, 0.8, 0.0], [0.0, 0.6, -0.8]]])
    R = 2 * axis[:, :, None] * axis[:, None] - np.eye(3)
    phi, _ = rotation_terms(R)
    np.testing.assert_allclose(np.linalg.norm(phi, axis=1), np.pi, rtol=1e-12)
    np.testing.assert_allclose(se3.so3_exp(phi), R, atol=1e-12)


@pytest.mark.parametrize("angle", ANGLES[:-1])
def test_the_jacobian_is_the_derivative_of_the_logarithm(rotation_terms, angle):
    v, h = vectors(angle), 1e-6
    R = se3.so3_exp(v)
    _, J = rotation_terms(R)
    for k in range(3):
        ahead, behind = (se3.so3_log(se3.so3_exp(s * h * np.eye(3)[k]) @ R) for s in (1, -1))
        np.testing.assert_allclose(J[:, :, k], (ahead - behind) / (2 * h), atol=1e-8)


def _random(seed, n=20):
    rng = np.random.default_rng(seed)
    T = se3.from_rt(se3.random_rotation(rng, (n,)), rng.normal(size=(n, 3)) + (0, 0, 3))
    R = se3.so3_exp(rng.normal(0, 0.7, (n, 3))) @ T[:, :3, :3]
    t = T[:, :3, 3] + rng.normal(0, 0.2, (n, 3))
    centre, centroid = rng.normal(0, 0.1, (2, n, 3))
    root = np.eye(6) / rng.uniform(0.05, 0.8, (n, 1, 6)) + rng.normal(size=(n, 6, 6))
    root[:5, :, 2] = 0  # free along the optical axis
    return T, centre, np.swapaxes(root, 1, 2) @ root, centroid, R, t


def _residual(T_anchor, centre, centroid, R, t):
    """e [n,6] of the pose (R, t) of points centred on ``centroid``, from its definition."""
    place = (R @ (centre - centroid)[..., None])[..., 0] + t
    return np.concatenate(
        [
            place - se3.transform(T_anchor, centre[:, None])[:, 0],
            se3.so3_log(R @ np.swapaxes(T_anchor[:, :3, :3], 1, 2)),
        ],
        axis=1,
    )


def test_sums_are_those_of_the_residual_and_its_numerical_derivative(prior_terms):
    T, centre, W, centroid, R, t = _random(0)
    sums = prior_terms(T, centre, W, centroid, R, t)
    e, B, h = _residual(T, centre, centroid, R, t), np.empty((20, 6, 6)), 1e-6
    for k in range(6):
        xi = np.eye(6)[k] * h
        ahead, behind = (_residual(T, centre, centroid, se3.so3_exp(s * xi[3:]) @ R, t + s * xi[:3]) for s in (1, -1))
        B[:, :, k] = (ahead - behind) / (2 * h)
    H = np.einsum("nki,nkl,nlj->nij", B, W, B)
    scale = np.abs(H).max(axis=(1, 2))[:, None]
    np.testing.assert_allclose(sums[:, :21] / scale, H[:, UPPER[0], UPPER[1]] / scale, atol=1e-8)
    g = np.einsum("nki,nkl,nl->ni", B, W, e)
    np.testing.assert_allclose(sums[:, 21:27], g, rtol=1e-7, atol=1e-7 * np.abs(g).max())
    np.testing.assert_allclose(sums[:, 27], np.einsum("nk,nkl,nl->n", e, W, e), rtol=1e-12)


def test_at_the_anchor_there_is_nothing_to_gain(prior_terms):
    T, centre, information, centroid, *_ = _random(1)
    R = np.ascontiguousarray(T[:, :3, :3])
    sums = prior_terms(T, centre, information, centroid, R, (R @ centroid[..., None])[..., 0] + T[:, :3, 3])
    np.testing.assert_allclose(sums[:, 21:28], 0, atol=1e-11)


def test_free_axes_add_exact_zeros(prior_terms):
    T, centre, information, centroid, R, t = _random(2)
    np.testing.assert_array_equal(prior_terms(T, centre, np.zeros_like(information), centroid, R, t), 0)
