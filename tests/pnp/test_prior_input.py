"""Priors that are empty, wrong or not numbers, of both backends."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import InputError
from coop_edge.pnp import PosePrior, weighted_lm
from coop_edge.pnp.base import PnpStatus
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.cuda import CudaPnpSolver
from tests.cuda_host.host_device import HostDevice
from tests.pnp.cuda_support import assert_same_bits
from tests.pnp.test_prior import one, problem, solve  # noqa: F401


@pytest.mark.parametrize(("B", "P"), [(0, 0), (0, 5), (3, 0)])
def test_nothing_to_see(solve, B, P):  # noqa: F811
    T = np.tile(np.eye(4), (B, 1, 1))
    T[:, 2, 3] = 1.0
    prior = PosePrior.from_sigmas(T, np.zeros((B, 3)), np.ones((B, 6)))
    result = solve(np.zeros((B, P, 3)), np.zeros((B, P, 2)), np.ones((B, P)), np.eye(3), T, None, prior)
    np.testing.assert_allclose(result.T_camera_object, T, atol=1e-12)
    assert result.covariance.shape == (B, 6, 6)
    assert (result.statistics.status == PnpStatus.SOLVED).all()


def test_not_a_number_is_told_by_the_status(solve):  # noqa: F811
    given, prior = problem(5, seed=13)
    prior.T_anchor[1, 0, 3] = np.nan
    prior.centre[2, 1] = np.inf
    prior.information[3, 4, 4] = np.nan
    result = solve(*given, None, prior)
    bad = PnpStatus.NON_FINITE
    assert result.statistics.status.tolist() == [0, bad, bad, bad, 0]
    assert np.isnan(result.T_camera_object[1:4]).all()
    alone = solve(*(a[4:] for a in given), None, one(prior, 4))
    np.testing.assert_array_equal(alone.T_camera_object[0], result.T_camera_object[4])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("T_anchor", lambda a: a[:2], r"prior.T_anchor: wanted \[5,4,4\] to go with points_object, got \[2, 4, 4\]"),
        ("T_anchor", lambda a: a[:, :3], r"prior.T_anchor: wanted an array \[B,4,4\]"),
        ("centre", lambda a: a[0], r"prior.centre: wanted an array \[B,3\], got shape \(3,\)"),
        ("information", lambda a: a[:, :3], r"prior.information: wanted an array \[B,6,6\]"),
        ("information", lambda a: a[:1], r"prior.information: wanted \[5,6,6\]"),
        ("information", lambda a: a.astype(complex), "prior.information: wanted real numbers, got dtype complex128"),
    ],
)
def test_wrong_shapes_say_what_was_wanted(solve, name, change, message):  # noqa: F811
    given, prior = problem(seed=14)
    with pytest.raises(InputError, match=message):
        solve(*given, None, prior._replace(**{name: change(getattr(prior, name))}))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("information", lambda a: -a, "prior.information: wanted symmetric matrices without negative eigenvalues"),
        ("information", lambda a: a + 1e-3 * a[0, 3, 3] * np.eye(6, k=1), "prior.information: wanted symmetric"),
        ("information", lambda a: a + 1e9 * (np.eye(6, k=1) + np.eye(6, k=-1)), "prior.information: wanted symmetric"),
        ("T_anchor", lambda a: 2 * a, "prior.T_anchor: last row"),
        ("T_anchor", lambda a: a * [[1], [1], [-1], [1]], "prior.T_anchor: rotation part is a reflection"),
    ],
)
def test_what_cannot_be_meant_raises_on_the_cpu_and_fails_on_the_gpu(solve, name, change, message):  # noqa: F811
    given, prior = problem(seed=15)
    wrong = prior._replace(**{name: change(getattr(prior, name))})
    if solve.exact:
        with pytest.raises(InputError, match=message):
            solve(*given, None, wrong)
    else:
        assert (solve(*given, None, wrong).statistics.status == PnpStatus.NON_FINITE).all()


def test_something_else_than_a_prior_is_refused(solve):  # noqa: F811
    given, _ = problem(seed=16)
    with pytest.raises(InputError, match="prior: wanted a PosePrior or None, got dict"):
        solve.solver.weighted_lm(*map(solve.put, given), None, prior={"sigma": 1})


def test_host_arrays_are_refused_by_a_device_that_has_its_own():
    given, prior = problem(seed=17)
    solver = CudaPnpSolver(HostDevice())
    with pytest.raises(InputError, match=r"prior\.centre: the CUDA solver takes .* got builtins\.list"):
        solver.weighted_lm(*given, prior=prior._replace(centre=prior.centre.tolist()))


def test_the_modules_function_takes_it_and_nothing_is_written_to():
    given, prior = problem(seed=18)
    kept = [a.copy() for a in (*given, *prior)]
    for a in (*given, *prior):
        a.flags.writeable = False
    result = weighted_lm(*given, prior=prior)
    assert_same_bits(result, CpuPnpSolver(1).weighted_lm(*given, prior=prior))
    for a, b in zip((*given, *prior), kept, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (np.zeros((5, 6)), "sigma: wanted positive standard deviations, infinite where an axis is free"),
        (-np.ones((5, 6)), "sigma: wanted positive"),
        (np.ones((5, 3)), r"sigma: wanted an array \[B,6\], got shape \(5, 3\)"),
    ],
)
def test_sigmas_that_are_none_are_refused(sigma, message):
    _, prior = problem(seed=15)
    with pytest.raises(InputError, match=message):
        PosePrior.from_sigmas(prior.T_anchor, prior.centre, sigma)


def test_sigmas_make_a_diagonal_information():
    _, prior = problem(1, seed=15)
    sigma = np.array([[0.1, 0.2, np.inf, 1.0, 2.0, np.nan]])
    information = PosePrior.from_sigmas(prior.T_anchor, prior.centre, sigma).information
    np.testing.assert_allclose(np.diagonal(information[0])[:5], [100.0, 25.0, 0.0, 1.0, 0.25], rtol=1e-12)
    assert np.isnan(information[0, 5, 5])  # the problem's status will say so
    assert (information[0][np.triu_indices(5, 1)] == 0).all()
