"""The reliability curve, against SciPy, brute force, and scores whose reliability is known."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy import reliability as module
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.reliability import reliability, write_png
from benchmarks.accuracy.results import write_rows
from coop_edge.errors import InputError
from tests.benchmarks.bop import DIAMETERS, scene_of, truth_rows, write_dataset


def drawn(n: int, seed: int, probability=lambda s: s) -> tuple[np.ndarray, np.ndarray]:
    """n scores, uniform, and errors that are right with the given probability."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(size=n)
    right = rng.uniform(size=n) < probability(scores)
    return scores, np.where(right, rng.uniform(0.0, 0.0999, n), rng.uniform(0.1, 3.0, n))


def test_no_pose_at_all():
    found = reliability([], [])
    assert (found.count, found.right, found.bins, found.auroc, found.rank_correlation) == (0, 0, (), None, None)
    assert (found.ece, found.ece_interval, found.auroc_interval) == (None, None, None)
    assert found.monotone


def test_one_pose():
    found = reliability([0.7], [0.05])
    assert [(b.count, b.right, b.low, b.high) for b in found.bins] == [(1, 1, 0.7, 0.7)]
    assert found.auroc is None
    assert found.rank_correlation is None
    assert found.ece == pytest.approx(0.3)


def test_bins_have_equal_counts_and_cover_all():
    scores, errors = drawn(1003, 2)
    bins = reliability(scores, errors).bins
    assert len(bins) == 10
    assert {b.count for b in bins} <= {100, 101}
    assert sum(b.count for b in bins) == 1003
    assert sum(b.right for b in bins) == (errors < 0.1).sum()
    assert all(a.high < b.low for a, b in itertools.pairwise(bins))


def test_equal_scores_stay_together():
    scores = np.repeat([0.1, 0.2, 0.9], (50, 3, 47))
    bins = reliability(scores, np.zeros(100)).bins
    assert next((b.low, b.high) for b in bins) == (0.1, 0.1)
    assert sum(b.count for b in bins) == 100
    for value in (0.1, 0.2, 0.9):
        assert sum(b.low <= value <= b.high for b in bins) == 1


def test_the_order_of_the_poses_does_not_matter():
    scores, errors = drawn(200, 3)
    turned = np.random.default_rng(0).permutation(200)
    a, b = reliability(scores, errors), reliability(scores[turned], errors[turned])
    assert [(x.low, x.high, x.count, x.right) for x in a.bins] == [(x.low, x.high, x.count, x.right) for x in b.bins]
    assert a.auroc == pytest.approx(b.auroc)


def test_a_calibrated_score_lies_on_the_diagonal():
    found = reliability(*drawn(20000, 4))
    assert sum(b.lower <= b.mean_score <= b.upper for b in found.bins) >= 8  # 95 % intervals, 10 of them
    assert found.monotone
    # Of a uniform score that is the probability itself: P(s > t) = 5/6 for s ~ 2x and t ~ 2 (1 - x).
    assert found.auroc == pytest.approx(5 / 6, abs=0.01)
    assert found.auroc_interval[0] < 5 / 6 < found.auroc_interval[1]
    assert found.ece < 0.015


def test_a_score_that_says_nothing():
    found = reliability(*drawn(5000, 5, lambda s: np.full_like(s, 0.5)))
    assert found.auroc == pytest.approx(0.5, abs=0.03)
    assert abs(found.rank_correlation) < 0.05
    assert found.clear_falls == 0


def test_a_score_that_is_upside_down():
    found = reliability(*drawn(5000, 6, lambda s: 1 - s))
    assert found.falls == 9
    assert found.clear_falls > 3
    assert not found.monotone
    assert found.auroc < 0.2


def test_the_bound_is_a_tenth_and_infinite_errors_are_wrong():
    found = reliability([0.1, 0.2, 0.3], [0.1, np.nextafter(0.1, 0), np.inf])
    assert found.right == 1


@pytest.mark.parametrize(("correct", "right"), [(0.05, 0), (0.1, 1), (0.2, 2), (1e9, 3)])
def test_another_bound(correct, right):
    found = reliability([0.1, 0.2, 0.3, 0.4], [0.05, 0.1, 0.2, np.inf], correct=correct)
    assert (found.right, found.correct) == (right, correct)
    assert sum(b.right for b in found.bins) == right
    assert found.rank_correlation == reliability([0.1, 0.2, 0.3, 0.4], [0.05, 0.1, 0.2, np.inf]).rank_correlation


@pytest.mark.parametrize("correct", [0.0, -0.1, np.nan, np.inf])
def test_bounds_that_nothing_can_meet_or_miss(correct):
    with pytest.raises(InputError, match="correct: wanted a share of the diameter above 0"):
        reliability([], [], correct=correct)


@pytest.mark.parametrize(
    ("scores", "errors", "bins"),
    [([0.1], [], 10), ([np.nan], [0.1], 10), ([0.1], [np.nan], 10), ([0.1], [-0.1], 10), ([0.1], [0.1], 0)],
)
def test_what_cannot_be_meant(scores, errors, bins):
    with pytest.raises(InputError, match="wanted"):
        reliability(scores, errors, bins=bins)


def test_plain_data():
    found = reliability(*drawn(100, 7))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["monotone"] == found.monotone
    assert len(plain["bins"]) == len(found.bins)


def test_png(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "curve.png"
    write_png(path, {"one": reliability(*drawn(300, 8)), "none": reliability([], [])})
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # curves, bars and text in several colours


def test_the_command_takes_the_bound(tmp_path, capsys):
    dataset = BopDataset(write_dataset(tmp_path / "boxes", {(1, 0): scene_of(0)}))
    rows = [replace(r, t=r.t + [0.15e-3 * DIAMETERS[r.obj_id], 0, 0]) for r in truth_rows(dataset)]
    write_rows(tmp_path / "a.csv", rows)
    for share, right in (("0.1", 0), ("0.2", 2)):
        assert module.main([str(dataset.root), f"mine={tmp_path / 'a.csv'}", "--correct", share]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"mine: 2 poses, {right} right (MSSD < {share} d)" in said
    assert module.main([str(dataset.root), str(tmp_path / "a.csv"), "--correct", "0"]) == 2
    assert "correct: wanted" in capsys.readouterr().err


def test_errors_of_the_command_are_one_line(tmp_path, capsys):
    assert module.main([str(tmp_path / "nowhere"), "x.csv"]) == 2
    assert "no such folder" in capsys.readouterr().err
