"""Small dense linear algebra against numpy.linalg."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.geometry import se3
from coop_edge.pnp import linalg


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 12])
@pytest.mark.parametrize("rank", ["full", "deficient", 1, 0])
def test_symmetric_eigen(n, rank):
    rng = np.random.default_rng(n)
    rows = {"full": n, "deficient": max(1, n - 4)}.get(rank, rank)
    for scale in (1e-8, 1.0, 1e8):
        B = rng.normal(size=(rows, n))
        A = scale * (B.T @ B) if rows else np.zeros((n, n))
        V, values = A.copy(), np.empty(n)
        assert linalg.symmetric_eigen(V, values)
        tolerance = 1e-13 * n * max(np.abs(A).max(), 1e-300)
        np.testing.assert_allclose(values, np.linalg.eigvalsh(A), rtol=0, atol=tolerance)
        np.testing.assert_allclose(V @ np.diag(values) @ V.T, A, rtol=0, atol=tolerance)
        np.testing.assert_allclose(V.T @ V, np.eye(n), rtol=0, atol=1e-13)


def test_symmetric_eigen_of_a_diagonal_matrix_sorts():
    V, values = np.diag([3.0, -1.0, 2.0, 2.0]), np.empty(4)
    assert linalg.symmetric_eigen(V, values)
    np.testing.assert_array_equal(values, [-1, 2, 2, 3])


def test_symmetric_eigen_reports_nan():
    assert not linalg.symmetric_eigen(np.full((4, 4), np.nan), np.empty(4))


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (6, 1), (6, 3), (6, 4), (6, 6)])
def test_least_squares(rows, columns):
    rng = np.random.default_rng(rows * 10 + columns)
    for _ in range(20):
        A, b, x = rng.normal(size=(rows, columns)), rng.normal(size=rows), np.empty(columns)
        assert linalg.least_squares(A.copy(), b.copy(), rows, columns, x)
        # The residual is orthogonal to the columns: that is what a minimum means.
        np.testing.assert_allclose(A.T @ (A @ x - b), 0, atol=1e-10 * max(1, np.abs(x).max()))


def test_least_squares_reports_a_singular_matrix():
    A = np.ones((6, 2))
    assert not linalg.least_squares(A, np.ones(6), 6, 2, np.empty(2))


def test_cholesky_and_solve():
    rng = np.random.default_rng(0)
    B = rng.normal(size=(8, 6))
    A, L, x, b = B.T @ B, np.zeros((6, 6)), np.empty(6), rng.normal(size=6)
    assert linalg.cholesky(A, L, 0.0)
    np.testing.assert_allclose(L, np.linalg.cholesky(A), atol=1e-12)
    linalg.cholesky_solve(L, b, x)
    np.testing.assert_allclose(A @ x, b, atol=1e-11)


@pytest.mark.parametrize("A", [np.diag([1.0, 0.0]), np.array([[1.0, 2.0], [2.0, 1.0]]), np.full((2, 2), np.nan)])
def test_cholesky_refuses_what_is_not_positive_definite(A):
    assert not linalg.cholesky(A, np.zeros((2, 2)), 0.0)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_rotation_from_correlation(dimensions):
    """Exact for space and for coplanar points; a reflection of the points never comes out as one."""
    rng = np.random.default_rng(dimensions)
    for _ in range(20):
        R, out = se3.random_rotation(rng), np.empty((3, 3))
        X = rng.normal(size=(10, 3))
        X[:, dimensions:] = 0
        assert linalg.rotation_from_correlation((X @ R.T).T @ X, out)
        np.testing.assert_allclose(out, R, atol=1e-12)
        assert linalg.rotation_from_correlation(-(X @ R.T).T @ X, out)
        np.testing.assert_allclose(np.linalg.det(out), 1.0, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.9e-4, 1.1e-4, 0.5, 3.1, 6.0])
def test_rotate_left(angle):
    rng = np.random.default_rng(0)
    axis, R, out = rng.normal(size=3), se3.random_rotation(rng), np.empty((3, 3))
    phi = angle * axis / np.linalg.norm(axis)
    linalg.rotate_left(phi, R, out)
    np.testing.assert_allclose(out, se3.so3_exp(phi) @ R, atol=1e-15)


def test_small_helpers():
    rng = np.random.default_rng(1)
    R, c, t, out, T = se3.random_rotation(rng), rng.normal(size=3), rng.normal(size=3), np.empty(3), np.empty((4, 4))
    linalg.shifted(R, c, t, -1.0, out)
    np.testing.assert_allclose(out, t - R @ c, atol=1e-15)
    linalg.write_transform(R, t, T)
    np.testing.assert_array_equal(T, se3.from_rt(R, t))
    assert linalg.all_finite(T)
    assert not linalg.all_finite(np.array([[1.0, np.inf]]))
    assert linalg.all_finite(np.empty((3, 0)))
