"""Covariances are fitted to errors that are drawn from known ones."""

from __future__ import annotations

import pytest

from benchmarks.accuracy import fit_covariance
from benchmarks.accuracy.fit_covariance import cross_validated, fit
from benchmarks.accuracy.trust import Truthfulness
from tests.benchmarks.poses import TRUE, drawn


def test_the_map_is_found():
    assert fit(drawn(4000)).scale == pytest.approx(TRUE.scale, rel=0.05)


def test_the_stated_share_lies_inside_objects_that_were_not_fitted():
    errors = drawn(600, seed=1)
    before, after = Truthfulness.of(errors, errors.covariance), cross_validated(errors)
    assert before.inside < 0.5
    assert 0.92 < after.inside < 0.98
    assert 0.92 < after.inside_translation < 0.98
    assert after.rank_correlation > 0.3


def test_wrong_use_is_said_in_one_line(tmp_path, capsys):
    assert fit_covariance.main([str(tmp_path), "--dataset", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
