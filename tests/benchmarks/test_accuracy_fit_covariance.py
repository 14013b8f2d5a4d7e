"""Covariances are fitted to errors that are drawn from known ones."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy import fit_covariance
from benchmarks.accuracy.fit_covariance import Errors, Truthfulness, cross_validated, distance, error_of, fit
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.runtime.covariance_map import CovarianceMap

TRUE = CovarianceMap((3.0, 2.0, 4.0), (0.01, 0.03, 0.05), 0.8)


def drawn(count, seed=0):
    """Right poses whose errors have the covariances that ``TRUE`` makes of what was stated."""
    rng = np.random.default_rng(seed)
    T = se3.from_rt(se3.random_rotation(rng, (count,)), rng.normal(0, 0.2, (count, 3)) + [0, 0, 1.0])
    d = rng.uniform(0.05, 0.3, count)
    size = np.exp(rng.normal(0, 0.7, count))[:, None]
    sigma = size * np.concatenate([d[:, None] * [0.004, 0.004, 0.02], np.tile([0.02, 0.02, 0.02], (count, 1))], axis=1)
    stated = (sigma**2)[:, :, None] * np.eye(6)
    score = rng.uniform(0.3, 1.0, count)
    actual = TRUE.apply(stated, T, d, score)
    error = np.einsum("mij,mj->mi", np.linalg.cholesky(actual), rng.normal(size=(count, 6)))
    return Errors(error, stated, T, d, score, rng.integers(12, size=count))


def test_the_map_is_found():
    found = fit(drawn(4000))
    np.testing.assert_allclose(found.factor, TRUE.factor, rtol=0.15)
    np.testing.assert_allclose(found.floor, TRUE.floor, rtol=0.15)
    assert abs(found.score_power - TRUE.score_power) < 0.1


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
