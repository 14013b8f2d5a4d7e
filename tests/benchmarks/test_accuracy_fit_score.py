"""The map from evidence to probability, on tables whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit

from benchmarks.accuracy.fit_score import auroc_within, choose, fit_score, main, read_tables
from coop_edge import InputError

WEIGHTS, INTERCEPT = {"shape": 3.0, "colour": 1.0}, -2.0


def table(groups: int, seed: int, *, per_group: int = 4, objects: int = 8):
    """Evidence, right, group, object: right with the probability that ``WEIGHTS`` say; "noise" says nothing."""
    rng = np.random.default_rng(seed)
    count = groups * per_group
    evidence = {name: rng.uniform(size=count) for name in (*WEIGHTS, "noise")}
    logit = INTERCEPT + sum(weight * evidence[name] for name, weight in WEIGHTS.items())
    group = np.repeat(np.arange(groups), per_group)
    return evidence, rng.uniform(size=count) < expit(logit), group, group % objects


def test_the_truth_is_found():
    rows = table(5_000, 0)
    fit = fit_score(*rows, penalty=1e-6)
    assert fit.weights["shape"] == pytest.approx(3.0, abs=0.15)
    assert fit.weights["colour"] == pytest.approx(1.0, abs=0.15)
    assert fit.weights["noise"] == pytest.approx(0.0, abs=0.15)
    assert fit.intercept == pytest.approx(-2.0, abs=0.15)
    assert (fit.every.count, fit.every.right, fit.chosen.count) == (20_000, rows[1].sum(), 5_000)
    assert fit.every.ece_interval[0] == 0
    assert fit.every.ece < 0.02
    expected = expit(-2.0 + 3.0 * 0.5 + 1.0 * 0.25)
    assert fit.probability({"noise": [0.0], "colour": [0.25], "shape": [0.5]}) == pytest.approx([expected], abs=0.02)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_unit_of_the_evidence_does_not_matter(scale):
    evidence, *rest = table(500, 1)
    plain = fit_score(evidence, *rest)
    scaled = fit_score({**evidence, "shape": evidence["shape"] * scale + 7}, *rest)
    assert scaled.weights["shape"] * scale == pytest.approx(plain.weights["shape"], rel=1e-4)
    assert scaled.top1 == plain.top1
    assert scaled.every.auroc == pytest.approx(plain.every.auroc, abs=1e-5)


def test_evidence_against_a_pose_and_constant_evidence_get_no_weight():
    evidence, right, *rest = table(500, 2)
    fit = fit_score(
        {"shape": evidence["shape"], "upside down": -evidence["colour"], "same": np.ones(2000)}, right, *rest
    )
    assert fit.weights["upside down"] == fit.weights["same"] == 0
    assert fit.weights["shape"] > 1


def test_a_penalty_makes_weights_smaller():
    rows = table(300, 3)
    sums = [sum(fit_score(*rows, penalty=penalty).weights.values()) for penalty in (1e-6, 1e-1, 10.0)]
    assert sums[0] > sums[1] > sums[2] > 0


def test_figures_are_those_of_objects_that_the_map_has_not_seen():
    """Evidence that tells right from wrong for each object alone, the other way round for every second one."""
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(400), 5)
    of_object, right = group % 2, rng.uniform(size=2000) < 0.5
    mark = np.where(of_object == 0, right, ~right) + 0.1 * rng.uniform(size=2000)
    fit = fit_score({"mark": mark}, right, group, of_object)
    assert fit.every.auroc < 0.55
    alone = fit_score(
        {"mark": mark[of_object == 0]}, right[of_object == 0], group[of_object == 0], group[of_object == 0]
    )
    assert alone.every.auroc == 1.0


def test_an_oracle_chooses_what_there_is():
    rng = np.random.default_rng(5)
    right, group = rng.uniform(size=1200) < 0.2, np.repeat(np.arange(300), 4)
    fit = fit_score({"oracle": right + 0.01 * rng.uniform(size=1200)}, right, group, group % 5)
    possible = right.reshape(300, 4).any(axis=1).mean()
    assert fit.top1 == fit.top1_possible == pytest.approx(possible)
    assert fit.auroc_within == 1
    chance = fit_score({"noise": rng.uniform(size=1200)}, right, group, group % 5)
    assert chance.top1 < possible - 0.2
    assert chance.top1_possible == pytest.approx(possible)


def test_the_probability_can_be_made_that_of_the_pose_chosen():
    """One pose of each target is right or none, so that the best of four is right less often than its evidence says."""
    rng = np.random.default_rng(6)
    found, place = rng.uniform(size=2000) < 0.7, rng.integers(0, 4, 2000)
    right = (found[:, None] & (np.arange(4) == place[:, None])).reshape(-1)
    group = np.repeat(np.arange(2000), 4)
    evidence = {"fit": right + rng.normal(size=8_000)}
    plain, chosen = (fit_score(evidence, right, group, group % 7, for_chosen=each) for each in (False, True))
    assert plain.chosen.ece > 0.05
    assert plain.chosen.ece_interval[0] > 0.02
    assert chosen.chosen.ece_interval[0] == 0
    assert chosen.chosen.ece < 0.04
    assert chosen.top1 == plain.top1
    assert plain.every.ece < 0.02


def test_choice_within_groups():
    score, group = np.array([0.1, 0.9, 0.9, 0.3, 0.2]), np.array([7, 3, 3, 7, 5])
    assert choose(score, group).tolist() == [1, 4, 3]
    assert choose(score[:0], group[:0]).tolist() == []


def test_auroc_within_counts_pairs_of_one_group():
    score = np.array([0.1, 0.2, 0.9, 0.5, 0.5, 0.8])
    right = np.array([True, False, False, True, False, False])
    group = np.array([0, 0, 1, 2, 2, 2])
    assert auroc_within(score, right, group) == pytest.approx((0 + 0.5 + 0) / 3)
    assert auroc_within(score, ~right, group) == pytest.approx((1 + 0.5 + 1) / 3)
    assert auroc_within(score, np.ones(6, bool), group) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda e, r, g, o: ({}, r, g, o), "evidence: wanted at least one kind"),
        (lambda e, r, g, o: ({"a": e["shape"][1:]}, r, g, o), r"wanted \[40\] each"),
        (lambda e, r, g, o: (e, r.astype(int), g, o), "right: wanted bool, got int"),
        (lambda e, r, g, o: ({"a": np.where(g == 2, np.nan, 1.0)}, r, g, o), "evidence a: .* row 8 is not"),
        (lambda e, r, g, o: (e, r, g, o * 0), "object: wanted at least two for the cross-validation, got 1"),
        (lambda e, r, g, o: (e, r, g * 0, o), "group: wanted the hypotheses of one target"),
        (lambda e, r, g, o: (e, r | True, g, o), "right: wanted right and wrong hypotheses to fit, got .* right of"),
        (lambda e, r, g, o: (e, o == 0, g, o), "right: wanted right and wrong hypotheses to fit, got 0 right of"),
    ],
)
def test_tables_that_are_refused(change, says):
    with pytest.raises(InputError, match=says):
        fit_score(*change(*table(10, 0)))


def test_a_map_wants_the_evidence_it_was_fitted_to():
    with pytest.raises(InputError, match="evidence: wanted shape, colour, noise, got shape"):
        fit_score(*table(100, 0)).probability({"shape": [1.0]})


def saved(path, rows):
    evidence, right, group, of_object = rows
    kinds = [*((name, "f4") for name in evidence), ("right", "?"), ("group", "i4"), ("object", "i4")]
    out = np.empty(len(right), kinds)
    for name, column in {**evidence, "right": right, "group": group, "object": of_object}.items():
        out[name] = column
    np.save(path, out)
    return path


class TestProgram:
    def test_tables_of_several_files(self, tmp_path, capsys):
        files = [saved(tmp_path / f"{seed}.npy", table(200, seed)) for seed in (0, 1)]
        evidence, right, group, of_object = read_tables(files)
        assert list(evidence) == ["shape", "colour", "noise"]
        assert len(right) == 1600
        assert (len(np.unique(group)), len(np.unique(of_object))) == (400, 16)
        out = tmp_path / "fit.json"
        assert main([*map(str, files), "--evidence", "shape", "--evidence", "colour", "--json", str(out)]) == 0
        fit = fit_score({name: evidence[name] for name in WEIGHTS}, right, group, of_object)
        result = json.loads(out.read_text())
        assert result["weights"] == fit.weights
        assert result["every"]["ece"] == fit.every.ece
        assert result["chosen"]["count"] == 400
        printed = capsys.readouterr().out
        assert "all hypotheses" in printed
        assert f"{fit.top1:.3f} of the targets right" in printed

    @pytest.mark.parametrize(
        ("make", "options", "says"),
        [
            (lambda path: path.write_text("a"), [], "not a table that NumPy reads"),
            (lambda path: np.save(path, np.ones(3)), [], "wanted fields right, group, object and evidence, got none"),
            (
                lambda path: np.save(path, np.zeros(3, [("right", "?"), ("group", "i4"), ("object", "i4")])),
                [],
                "evidence",
            ),
            (lambda path: saved(path, table(20, 0)), ["--evidence", "size"], "--evidence size: the tables have shape"),
        ],
    )
    def test_wrong_use_is_one_line(self, tmp_path, capsys, make, options, says):
        make(tmp_path / "a.npy")
        assert main([str(tmp_path / "a.npy"), *options]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.startswith("error: InputError: ")
        assert error.count("\n") == 1

    def test_unlike_fields(self, tmp_path, capsys):
        evidence, *rest = table(20, 0)
        files = [
            saved(tmp_path / "a.npy", (evidence, *rest)),
            saved(tmp_path / "b.npy", ({"shape": evidence["shape"]}, *rest)),
        ]
        assert main([*map(str, files)]) == 2
        assert "b.npy: wanted the fields of" in capsys.readouterr().err
