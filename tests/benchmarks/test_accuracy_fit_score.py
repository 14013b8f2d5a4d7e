"""The map from evidence to probability, on tables whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit

from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.evidence import ROW, gather, is_right, sought_in
from benchmarks.accuracy.fit_score import accepted_and_kept, columns_of, main, read_tables
from benchmarks.accuracy.methods import MethodOptions, OursMethod, object_name
from benchmarks.accuracy.score_fit import FINISHED, auroc_within, choose, fit_score
from coop_edge import Detection, EstimatorConfig, InputError
from coop_edge.config import EFFORTS
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.score_map import EVIDENCE
from tests.benchmarks.bop import DIAMETERS, scene_of, write_dataset
from tests.runtime.networks import tiny_bundle

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
    assert (fit.every.count, fit.every.right, fit.chosen[FINISHED].count) == (20_000, rows[1].sum(), 5_000)
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


def test_how_near_an_object_is_bears_on_its_probability_and_not_on_the_choice():
    evidence, _, group, of_object = table(1_000, 4)
    near = np.random.default_rng(5).uniform(size=len(group))
    right = np.random.default_rng(6).uniform(size=len(group)) < expit(-6 + 3 * evidence["shape"] + 8 * near)
    fit = fit_score({"shape": evidence["shape"], "nearness": near}, right, group, of_object)
    assert fit.weights["nearness"] == pytest.approx(8, abs=0.8)
    assert fit.auroc_within == pytest.approx(auroc_within(evidence["shape"], right, group))
    best = choose(evidence["shape"], group)
    assert fit.top1[FINISHED] == right[best].mean()
    order = np.argsort(fit.presence, kind="stable")
    same = of_object[order] % 10 == 0  # of one fold, hence of one map
    assert (np.diff(evidence["shape"][order][same]) >= 0).all()
    assert fit.chosen[FINISHED].auroc > 0.8


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
    assert fit.top1 == fit.top1_possible == {FINISHED: pytest.approx(possible)}
    assert fit.auroc_within == 1
    chance = fit_score({"noise": rng.uniform(size=1200)}, right, group, group % 5)
    assert chance.top1[FINISHED] < possible - 0.2
    assert chance.top1_possible[FINISHED] == pytest.approx(possible)


def test_the_probability_can_be_made_that_of_the_pose_chosen():
    """One pose of each target is right or none, so that the best of four is right less often than its evidence says."""
    rng = np.random.default_rng(6)
    found, place = rng.uniform(size=2000) < 0.7, rng.integers(0, 4, 2000)
    right = (found[:, None] & (np.arange(4) == place[:, None])).reshape(-1)
    group = np.repeat(np.arange(2000), 4)
    evidence = {"fit": right + rng.normal(size=8_000)}
    plain = fit_score(evidence, right, group, group % 7)
    twice = {"fit": np.tile(evidence["fit"], 2)}, np.tile(right, 2), np.tile(group, 2), np.tile(group % 7, 2)
    chosen = fit_score(*twice, effort=np.repeat([FINISHED, "best"], 8_000))
    assert plain.chosen[FINISHED].ece > 0.05
    assert plain.chosen[FINISHED].ece_interval[0] > 0.02
    assert chosen.chosen["best"].ece_interval[0] == 0
    assert chosen.chosen["best"].ece < 0.04
    assert chosen.chosen["best"].count == 2_000
    assert chosen.top1["best"] == plain.top1[FINISHED]
    assert plain.every.ece < 0.02


def test_only_accepted_hypotheses_of_what_is_there_are_fitted_to_and_chosen():
    rows = table(400, 8)
    evidence, right, group, of_object = rows
    count = len(right)
    more = {name: np.concatenate([column, column + 5.0, column]) for name, column in evidence.items()}
    accepted = np.repeat([True, False, True], count)
    absent = np.repeat([False, False, True], count)
    groups = np.concatenate([group, group, group + 400])
    found = fit_score(
        more, np.concatenate([right, ~right, right & False]), groups, np.tile(of_object, 3),
        accepted=accepted, absent=absent,
    )  # fmt: skip
    alone = fit_score(*rows)
    assert found.weights == alone.weights
    assert found.every == alone.every
    assert found.chosen == alone.chosen
    assert found.top1 == alone.top1
    assert np.array_equal(found.cross_validated[:count], alone.cross_validated)
    assert np.array_equal(found.cross_validated[2 * count :], alone.cross_validated)


def test_a_target_without_an_accepted_hypothesis_is_missed():
    evidence, right, group, of_object = table(100, 9)
    fit = fit_score(evidence, right, group, of_object, accepted=group >= 25)
    assert fit.chosen[FINISHED].count == 75
    assert fit.top1[FINISHED] == pytest.approx(fit.chosen[FINISHED].right / 100)


def test_presence_counts_what_a_threshold_accepts():
    """100 absent objects with scores 0.00 to 0.99, each beside a worse pose and a better one that is not accepted."""
    absent = np.arange(100) / 100
    score = np.concatenate([absent, absent / 2, np.ones(100), [0.975, 0.5, 0.99, 0.2]])
    columns = {
        "effort": np.array(["best"] * 304),
        "absent": np.arange(304) < 300,
        "accepted": (np.arange(304) < 200) | (np.arange(304) >= 300),
        "group": np.concatenate([np.arange(100), np.arange(100), np.arange(100), [100, 100, 101, 102]]),
        "right": np.concatenate([np.zeros(300, bool), [True, False, False, True]]),
    }
    found = accepted_and_kept(columns, score, "best")
    assert (found["absent"], found["right"]) == (100, 2)
    assert [0.5, 0.5, 0.5] in found["thresholds"]
    assert [0.1, 0.9, 1.0] in found["thresholds"]
    threshold, accepted, kept = found["wanted"]
    assert 0.96 < threshold <= 0.97
    assert (accepted, kept) == (0.03, 0.5)


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
    columns = {"right": right, "group": group, "object": of_object, "accepted": True, "absent": False, "effort": ""}
    kinds = [*((name, "f8") for name in evidence), *((name, ROW[name]) for name in columns)]
    out = np.empty(len(right), kinds)
    for name, column in {**evidence, **columns}.items():
        out[name] = column
    np.save(path, out)
    return path


class TestTables:
    def test_tables_of_several_files(self, tmp_path, capsys):
        files = [saved(tmp_path / f"{seed}.npy", table(200, seed)) for seed in (0, 1)]
        columns = columns_of(read_tables(files))
        assert [name for name in columns if name not in ROW.names] == ["shape", "colour", "noise"]
        assert len(columns["right"]) == 1600
        assert (len(np.unique(columns["group"])), len(np.unique(columns["object"]))) == (400, 16)
        out = tmp_path / "fit.json"
        tables = [f"--table={file}" for file in files]
        assert main(["any", *tables, "--evidence", "shape", "--evidence", "colour", "--json", str(out)]) == 0
        fit = fit_score(
            {name: columns[name] for name in WEIGHTS}, columns["right"], columns["group"], columns["object"]
        )
        result = json.loads(out.read_text())
        assert result["weights"] == fit.weights
        assert result["every"]["ece"] == fit.every.ece
        assert result["chosen"][FINISHED]["count"] == 400
        printed = capsys.readouterr().out
        assert "all hypotheses" in printed
        assert f"{fit.top1[FINISHED]:.3f} of the targets right" in printed

    @pytest.mark.parametrize(
        ("make", "options", "says"),
        [
            (lambda path: path.write_text("a"), [], "not a table that NumPy reads"),
            (lambda path: np.save(path, np.ones(3)), [], "wanted fields right, accepted, "),
            (lambda path: np.save(path, np.zeros(3, [(n, ROW[n]) for n in ROW.names[:6]])), [], "and evidence, got"),
            (lambda path: saved(path, table(20, 0)), ["--evidence", "size"], "--evidence size: the tables have shape"),
            (lambda path: None, ["--dataset", "a", "--table", "b"], "--table: wanted files to read without --dataset"),
        ],
    )
    def test_wrong_use_is_one_line(self, tmp_path, capsys, make, options, says):
        make(tmp_path / "a.npy")
        assert main(["any", "--table", str(tmp_path / "a.npy"), *options]) == 2
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
        assert main(["any", *(f"--table={file}" for file in files)]) == 2
        assert "b.npy: wanted the fields of" in capsys.readouterr().err


LENIENT = ["select.min_inlier_ratio=0", "select.min_inliers=0", "refine.iterations=2", "coarse.hypotheses=3"]
"""Of the tiny networks, whose weights are random, poses then pass."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    images = {(1, 0): scene_of(1), (1, 3): scene_of(0)}
    return write_dataset(tmp_path_factory.mktemp("bop") / "boxes", images)


@pytest.fixture(scope="module")
def dataset(root):
    return BopDataset(root)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


class TestOnADataset:
    def test_each_box_has_its_truth_and_another_object(self, dataset):
        found = sought_in(dataset, absent=True)
        assert [each.group for image in dataset.images for each in found[image]] == list(range(8))
        for image in dataset.images:
            truth = {t.obj_id: t for t in dataset.truth(*image)}
            for there, gone in zip(found[image][::2], found[image][1::2], strict=True):
                assert np.array_equal(there.T_camera_object, truth[there.box.obj_id].T_camera_object)
                assert there.box.bbox == gone.box.bbox == truth[there.box.obj_id].bbox_visib
                assert (gone.T_camera_object, gone.box.obj_id) == (None, 3 - there.box.obj_id)
        assert [len(each) for each in sought_in(dataset, absent=False).values()] == [2, 2]

    def test_right_is_a_tenth_of_the_diameter_and_symmetries_count(self, dataset):
        _, box = (each for each in sought_in(dataset, absent=False)[dataset.images[0]])
        T, diameter = box.T_camera_object.copy(), DIAMETERS[2] / 1000
        assert is_right(T, box, dataset)
        turned = T @ np.diag([-1.0, -1.0, 1.0, 1.0])
        assert is_right(turned, box, dataset)
        T[2, 3] += 0.099 * diameter
        assert is_right(T, box, dataset)
        T[2, 3] += 0.002 * diameter
        assert not is_right(T, box, dataset)
        assert not is_right(turned, box._replace(T_camera_object=None), dataset)

    def test_hypotheses_of_every_target(self, dataset, tiny):
        config = EstimatorConfig.parse([*LENIENT, "effort=fast"])
        method = OursMethod(MethodOptions("ours", engines=str(tiny), config=config, threads=1))
        try:
            method.add_objects(dataset)
            rows = np.concatenate(list(gather(method.estimator, dataset, ["fast"], absent=True)))
            (answer, *_) = method.estimator.estimate(
                dataset.image(1, 0), dataset.camera(1, 0), method_boxes(dataset, (1, 0))
            )
        finally:
            method.close()
        assert rows.dtype == ROW
        finished, fast = rows[rows["effort"] == FINISHED], rows[rows["effort"] == "fast"]
        assert not finished["absent"].any()
        assert sorted(set(finished["group"].tolist())) == [0, 2, 4, 6]
        tried = 3 + EFFORTS["balanced"].matched  # of LENIENT
        assert np.bincount(finished["group"])[[0, 2, 4, 6]].tolist() == [tried] * 4
        assert np.bincount(fast["group"]).tolist() == [1] * 8  # one survivor each
        assert fast["absent"].tolist() == [False, True] * 4
        assert all(np.isfinite(rows[name]).all() for name in EVIDENCE)
        assert answer.success
        similar, ratio, weight, _, near = (fast[name][0] for name in EVIDENCE)
        # Without a map similarity (1 + ratio x support) / 2, and a support between 0 and 1.
        assert similar / 2 < answer.score <= similar * (1 + ratio) / 2
        assert weight > 0
        assert 0 < near < 1

    def test_the_map_gets_into_the_bundle(self, root, tmp_path, capsys):
        bundle, kept = tiny_bundle(tmp_path / "tiny"), tmp_path / "kept.npy"
        settings = [f"--set={each}" for each in LENIENT]
        command = [str(bundle), "--dataset", str(root), "--table", str(kept), "--effort", "fast", "--limit", "1"]
        assert main([*command, *settings, "--absent", "--threads", "1"]) == 2
        assert "right: wanted right and wrong hypotheses" in capsys.readouterr().err  # random networks find nothing
        assert Bundle.load(bundle).score_map is None
        rows = np.load(kept)
        rows = np.tile(rows, 50)
        rows["group"] += 4 * np.repeat(np.arange(50), len(rows) // 50)
        rows["accepted"] = True
        rows["right"] = ~rows["absent"] & (np.random.default_rng(0).uniform(size=len(rows)) < 0.3)
        rows["similarity"] += rows["right"] + np.random.default_rng(1).normal(size=len(rows))
        np.save(kept, rows)
        out = tmp_path / "fit.json"
        assert main([str(bundle), "--table", str(kept), "--write", "--json", str(out), "--evidence=similarity"]) == 0
        said, score_map = json.loads(out.read_text()), Bundle.load(bundle).score_map
        assert score_map.intercept == said["intercept"]
        assert score_map.weights == {
            "similarity": said["weights"]["similarity"],
            "inlier_ratio": 0.0,
            "inlier_weight": 0.0,
            "outline": 0.0,
            "nearness": 0.0,
        }
        assert score_map.weights["similarity"] > 0.5
        assert said["absent"]["fast"]["absent"] == 100
        assert said["chosen"]["fast"]["count"] == 100
        assert "fast: 100 absent objects" in capsys.readouterr().out
        again = [str(bundle), "--table", str(kept), "--write", "--untextured"]
        assert main([*again, "--evidence=inlier_weight"]) == 0
        both = Bundle.load(bundle)
        assert both.score_map == score_map
        assert both.grey_score_map.weights["similarity"] == 0.0  # another one, of other evidence
        assert main([*again, "--depth", "depth"]) == 2
        assert "there is one map for all models" in capsys.readouterr().err

    def test_grey_models_look_otherwise(self, root, tmp_path):
        bundle, tables = tiny_bundle(tmp_path / "tiny"), []
        settings = [*(f"--set={each}" for each in LENIENT), "--effort", "fast", "--limit", "1", "--threads", "1"]
        for more in ([], ["--untextured"]):
            kept = tmp_path / f"{len(more)}.npy"
            assert main([str(bundle), "--dataset", str(root), "--table", str(kept), *settings, *more]) == 2
            tables.append(np.load(kept))
        assert len(tables[0]) == len(tables[1])
        assert (tables[0]["similarity"] != tables[1]["similarity"]).any()

    def test_a_bundle_without_features_is_refused(self, root, tmp_path, capsys):
        bundle = tiny_bundle(tmp_path / "tiny", features=False)
        assert main([str(bundle), "--dataset", str(root), "--limit", "1", "--threads", "1"]) == 2
        assert "wanted a bundle with features" in capsys.readouterr().err


def method_boxes(dataset, image):
    return [Detection(object_name(each.box.obj_id), each.box.bbox) for each in sought_in(dataset, absent=False)[image]]
