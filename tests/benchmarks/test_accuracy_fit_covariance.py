"""Covariances are fitted to errors that are drawn from known ones."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy import fit_covariance
from benchmarks.accuracy.fit_covariance import Errors, Truthfulness, cross_validated, distance, error_of, fit
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.runtime.covariance_map import CovarianceMap

TRUE = CovarianceMap(2.5)


def drawn(count, seed=0):
    """Right poses whose errors have the covariances that ``TRUE`` makes of what was stated."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(count, 6, 6)) * [4e-4, 4e-4, 2e-3, 0.02, 0.02, 0.02]
    stated = np.exp(rng.normal(0, 0.7, count))[:, None, None] * np.swapaxes(A, 1, 2) @ A
    error = np.einsum("mij,mj->mi", np.linalg.cholesky(TRUE.apply(stated)), rng.normal(size=(count, 6)))
    return Errors(error, stated, rng.integers(12, size=count))


def test_the_map_is_found():
    assert fit(drawn(4000)).scale == pytest.approx(TRUE.scale, rel=0.05)


def test_the_stated_share_lies_inside_objects_that_were_not_fitted():
    errors = drawn(600, seed=1)
    before, after = Truthfulness.of(errors, errors.covariance), cross_validated(errors)
    assert before.inside < 0.5
    assert 0.92 < after.inside < 0.98
    assert 0.92 < after.inside_translation < 0.98
    assert after.rank_correlation > 0.3


def test_distances_are_those_of_the_inverse():
    errors = drawn(5)
    wanted = [e @ np.linalg.inv(C) @ e for e, C in zip(errors.error, errors.covariance, strict=True)]
    np.testing.assert_allclose(distance(errors.error, errors.covariance), wanted, rtol=1e-9)


def test_an_error_is_to_the_nearest_pose_that_looks_the_same():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(30, 3))
    half = np.eye(4)
    half[:2, :2] *= -1
    T = se3.from_rt(se3.random_rotation(rng, (1,)), np.array([[0.1, 0.2, 1.0]]))[0]
    xi = np.array([0.01, -0.02, 0.03, 0.02, 0.01, -0.03])
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = se3.so3_exp(xi[3:]) @ T[:3, :3], T[:3, 3] + xi[:3]
    for symmetry in (np.eye(4), half):
        found = error_of(T, truth @ symmetry, np.stack([np.eye(4), half]), points)
        np.testing.assert_allclose(found, xi, atol=1e-9)


def test_too_few_poses_are_refused():
    with pytest.raises(InputError, match="at least 3 right poses, got 2"):
        Truthfulness.of(drawn(2), drawn(2).covariance)


def test_wrong_use_is_said_in_one_line(tmp_path, capsys):
    assert fit_covariance.main([str(tmp_path), "--dataset", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
