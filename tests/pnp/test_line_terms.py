"""A line's share of the normal equations, of both backends, against numerical derivatives through the step."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pnp_problems import make_problems, perturbed, project
from coop_edge.pnp.normal_equations import LOSSES, SUMS, add_lines
from tests.oracles import pnp_lm
from tests.pnp.test_prior_terms import UPPER, math  # noqa: F401

SCALE = 2.0


@pytest.fixture(scope="module")
def line_terms(math):  # noqa: F811
    """Sums [n,28] of single lines X, u, n, w [n,8] at poses [n,4,4], by one camera."""

    def cpu(T, K, lines, loss):
        sums = np.zeros((len(T), SUMS))
        for i in range(len(T)):
            S = lines[i, [0, 1, 2, 3, 4, 7, 5, 6], None].copy()
            S[5] **= 2
            add_lines(S, T[i, :3, :3].copy(), T[i, :3, 3].copy(), K, LOSSES[loss], SCALE, sums[i])
        return sums

    def gpu(T, K, lines, loss):
        sums, origin = np.zeros((len(T), SUMS)), T[:, :2, 3] / T[:, 2:3, 3]
        pose = np.concatenate([T[:, :3, :3].reshape(-1, 9), T[:, :3, 3]], axis=1)
        camera = np.array([K[0, 0], K[0, 1], K[0, 2], K[1, 1], K[1, 2]])
        arrays = (np.ascontiguousarray(a) for a in (pose, origin, camera, lines))
        math("line_terms", 1, 64, *arrays, np.int32(LOSSES[loss]), np.float64(SCALE), np.int32(len(T)), sums)
        return sums

    return gpu if math else cpu


@pytest.mark.parametrize("loss", LOSSES)
def test_sums_are_those_of_the_residual_and_its_numerical_derivative(line_terms, loss):
    p = make_problems(40, 1, noise_px=0, skew=0.05, seed=1)
    rng, K, T = np.random.default_rng(2), p.K[0], perturbed(p.T_camera_object, 0.1, 0.03)
    X, angle, w = p.points_object[:, 0], rng.uniform(0, 2 * np.pi, 40), rng.uniform(0.2, 2, 40)
    n = np.column_stack([np.cos(angle), np.sin(angle)])
    u = project(X[:, None], T, K)[:, 0] + rng.normal(0, 3, (40, 2))

    def residual(i, xi):
        return w[i] * n[i] @ (project(X[i : i + 1], pnp_lm.step(T[i], xi), K)[0] - u[i])

    sums = line_terms(T, K, np.column_stack([X, u, n, w]), loss)
    for i in range(40):
        h = 1e-6 * np.array([*[np.linalg.norm(T[i, :3, 3])] * 3, 1, 1, 1])
        J = np.array(
            [(residual(i, row) - residual(i, -row)) / (2 * step) for step, row in zip(h, np.diag(h), strict=True)]
        )
        r = residual(i, np.zeros(6))
        cost, slope = pnp_lm.robust(np.array([r**2]), loss, SCALE)
        size = np.abs(J)
        np.testing.assert_allclose(
            sums[i, :21], slope[0] * np.outer(J, J)[UPPER], atol=1e-6 * slope[0] * np.outer(size, size).max()
        )
        np.testing.assert_allclose(sums[i, 21:27], slope[0] * J * r, atol=1e-6 * slope[0] * size.max() * abs(r))
        np.testing.assert_allclose(sums[i, 27], cost[0], rtol=1e-9)


def test_a_line_behind_makes_the_cost_infinite():
    S, sums = np.ones((8, 1)), np.zeros(SUMS)
    add_lines(S, np.eye(3), np.array([0.0, 0.0, -1.0]), np.eye(3), 0, SCALE, sums)
    assert sums[27] == np.inf
