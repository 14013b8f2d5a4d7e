"""The command: from options to tables and files, and its answers to wrong use."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accuracy import checkout, methods
from benchmarks.accuracy.cli import main, method_options, parse
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.journal import journal_path
from benchmarks.accuracy.measure import describe
from benchmarks.accuracy.methods import estimator_config
from benchmarks.accuracy.results import read_rows, write_rows
from coop_edge.config import EFFORTS, Schedule
from tests.benchmarks.bop import DIAMETERS, Knowing, read, scene_of, truth_rows, write, write_dataset
from tests.runtime.networks import tiny_bundle

IMAGES = {(1, 3): scene_of(0), (1, 0): scene_of(1, count=2)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("bop") / "boxes", IMAGES)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_bundle(tmp_path_factory.mktemp("tiny"), features=False))


@pytest.fixture
def knowing(monkeypatch):
    monkeypatch.setattr(methods, "_makers", lambda: dict.fromkeys(methods.METHODS, lambda options: Knowing()))


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_a_run_writes_poses_and_figures(root, tiny, knowing, tmp_path, capsys):
    csv, figures = tmp_path / "out" / "a.csv", tmp_path / "out" / "a.json"
    assert run(root, "--engines", tiny, "--processes", 1, "--csv", csv, "--json", figures) == 0
    assert len(read_rows(csv)) == 5
    assert not journal_path(csv).exists()
    result = read(figures)
    assert result["total"]["ar"] == 1
    assert (result["dataset"], result["split"], result["boxes"], result["method"]) == ("boxes", "test", "visib", "ours")
    assert result["engines"]["name"] == "tiny"
    assert set(result["engines"]["networks"]) == {"coarse_encoder", "coarse_decoder", "refiner"}
    assert len(result["engines"]["sha256"]) == 64
    assert result["config"]["refine"]["iterations"] == 5
    assert result["run"] == {"processes": 1, "threads_each": result["hardware"]["cores"], "images_of_earlier_runs": 0}
    assert result["versions"]["numpy"]
    assert result["commit"] == checkout.commit()
    assert result["time"]["object_s"]["p50"] > 0
    assert result["misses"] == []
    assert (result["reliability"]["count"], result["reliability"]["right"]) == (5, 5)
    printed = capsys.readouterr().out
    assert result["effort"] == "balanced"
    assert tuple(result[name] for name in Schedule._fields) == EFFORTS["balanced"]
    assert result["box_noise"] == []
    assert "ours (balanced) on boxes, 2 images" in printed
    assert "no depth, so no VSD" in printed


def test_each_effort_has_files_of_its_own(root, tiny, knowing, tmp_path, capsys):
    files = [option for kind in ("csv", "json", "report") for option in (f"--{kind}", tmp_path / f"a.{kind}")]
    efforts = ("--effort", "fast", "--effort", "best", "--effort", "fast")
    assert run(root, "--engines", tiny, "--processes", 1, *efforts, *files) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"a.{effort}.{kind}" for effort in ("best", "fast") for kind in ("csv", "json", "report")
    ]
    printed = capsys.readouterr().out
    for effort in ("fast", "best"):
        result = read(tmp_path / f"a.{effort}.json")
        assert result["effort"] == effort
        assert tuple(result[name] for name in Schedule._fields) == EFFORTS[effort]
        assert f"tiny, {effort}: " in (tmp_path / f"a.{effort}.report").read_text()
        assert f"ours ({effort}) on boxes" in printed


def test_a_stopped_run_of_two_efforts_goes_on_where_it_was_and_another_effort_is_refused(
    root, tiny, tmp_path, monkeypatch, capsys
):
    made = []

    def make(options):
        made.append(Knowing(fail_after=1 if len(made) == 1 else None))
        return made[-1]

    monkeypatch.setattr(methods, "_makers", lambda: {"ours": make})
    command = (root, "--engines", tiny, "--processes", 1, "--csv", tmp_path / "a.csv")
    two = ("--effort", "fast", "--effort", "best")
    with pytest.raises(RuntimeError, match="struck by lightning"):
        run(*command, *two)
    parts = [journal_path(tmp_path / f"a.{effort}.csv") for effort in ("fast", "best")]
    assert [part.exists() for part in parts] == [True, True]
    assert run(root, "--engines", tiny, "--csv", tmp_path / "a.best.csv", "--effort", "balanced") == 2
    assert 'config.effort was "best", now "balanced"' in capsys.readouterr().err
    assert run(*command, *two) == 0
    assert [len(each.seen) for each in made] == [2, 1, 1]  # nothing of the first is done again
    assert not any(part.exists() for part in parts)


def test_boxes_that_are_off_are_measured_beside_those_given(root, knowing, tmp_path, capsys):
    """The method knows the boxes of the truth alone: whatever moves one costs its pose."""
    csv, noises = tmp_path / "a.csv", ("--box-noise", "shift=0.2", "--box-noise", "shift=0,size=0.9")
    files = ("--csv", csv, "--json", tmp_path / "a.json", "--report", tmp_path / "a.html")
    assert run(root, "--method", "sift", "--processes", 1, *files, *noises) == 0
    result, page, printed = read(tmp_path / "a.json"), (tmp_path / "a.html").read_text(), capsys.readouterr().out
    assert result["total"]["ar"] == 1
    assert [(each["noise"], each["ar"], each["change"]) for each in result["box_noise"]] == [
        ("shift=0.2", 0, -1),
        ("size=0.9", 0, -1),
    ]
    for text in (page, printed):
        assert all(each in text for each in ("as given", "shift=0.2", "size=0.9", "-1.000"))
    assert len(read_rows(csv)) == 5
    assert read_rows(tmp_path / "a.shift=0.2.csv") == read_rows(tmp_path / "a.size=0.9.csv") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.csv",
        "a.html",
        "a.json",
        "a.shift=0.2.csv",
        "a.size=0.9.csv",
    ]


def test_its_own_poses_score_the_same(root, knowing, tmp_path, capsys):
    csv = tmp_path / "a.csv"
    assert run(root, "--method", "sift", "--processes", 1, "--csv", csv, "--json", tmp_path / "a.json") == 0
    assert run(root, "--poses", csv, "--json", tmp_path / "b.json") == 0
    a, b = read(tmp_path / "a.json"), read(tmp_path / "b.json")
    assert (a["total"], a["per_object"]) == (b["total"], b["per_object"])
    assert (b["method"], b["poses_file"]["name"], b["poses"]["count"]) == ("poses", "a.csv", 5)
    assert b["time"] is None
    assert run(root, "--poses", csv, "--limit", 1, "--json", tmp_path / "c.json") == 0
    assert read(tmp_path / "c.json")["targets"] == {"images": 1, "instances": 3}


def test_the_page_names_what_was_measured(root, tiny, knowing, tmp_path):
    page = tmp_path / "out" / "a.html"
    assert run(root, "--engines", tiny, "--processes", 1, "--csv", tmp_path / "a.csv", "--report", page) == 0
    tried, _, kept = EFFORTS["balanced"]
    assert f"tiny, balanced: {tried} hypotheses, {kept} kept, 5 renders each on boxes" in page.read_text()
    assert run(root, "--poses", tmp_path / "a.csv", "--report", page) == 0
    assert "Poses of a.csv on boxes" in page.read_text()


def test_what_counts_as_right_is_an_option(root, tmp_path, capsys):
    """Poses off by 0.15 diameters are wrong at a tenth and right at a fifth; the recalls do not change."""
    dataset = BopDataset(root)
    rows = [replace(r, t=r.t + [0.15e-3 * DIAMETERS[r.obj_id], 0, 0]) for r in truth_rows(dataset)]
    write_rows(tmp_path / "off.csv", rows)
    found = {}
    for share in ("0.1", "0.2"):
        page, figures = tmp_path / "a.html", tmp_path / "a.json"
        options = ("--correct", share, "--json", figures, "--report", page)
        assert run(root, "--poses", tmp_path / "off.csv", *options) == 0
        found[share] = read(figures)
        assert f"(MSSD < {share} d)" in capsys.readouterr().out
        assert f"MSSD below {share} diameters" in page.read_text()
    right = {share: (r["reliability"]["correct"], r["reliability"]["right"]) for share, r in found.items()}
    assert right == {"0.1": (0.1, 0), "0.2": (0.2, 5)}
    assert found["0.1"]["total"] == found["0.2"]["total"]


def test_poses_of_another_data_set_are_refused_and_some_are_counted(root, tmp_path, capsys):
    rows = truth_rows(BopDataset(root))
    strange = replace(rows[0], scene_id=9)
    write_rows(tmp_path / "strange.csv", [strange])
    assert run(root, "--poses", tmp_path / "strange.csv") == 2
    assert "none of its 1 poses is of an image and object among the targets" in capsys.readouterr().err
    write_rows(tmp_path / "some.csv", [*rows, strange])
    assert run(root, "--poses", tmp_path / "some.csv", "--json", tmp_path / "some.json") == 0
    result = read(tmp_path / "some.json")
    assert (result["poses_file"]["rows"], result["poses_file"]["rows_of_no_target"], result["total"]["ar"]) == (6, 1, 1)
    assert "1 of 6 poses are of no target measured here" in capsys.readouterr().out


def test_figures_name_the_commit_of_a_checkout_alone(root, tmp_path):
    assert checkout.commit(tmp_path) is None  # no checkout, or a folder within someone else's
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert checkout.commit(tmp_path) is None  # nothing committed
    (tmp_path / "a.txt").write_text("1")
    subprocess.run([*git, "add", "a.txt"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "a"], check=True)
    clean = checkout.commit(tmp_path)
    assert len(clean["sha"]) == 40
    assert clean["changed"] is False
    (tmp_path / "a.txt").write_text("2")
    assert checkout.commit(tmp_path) == {"sha": clean["sha"], "changed": True}
    (tmp_path / "inner").mkdir()
    assert checkout.commit(tmp_path / "inner") is None


def test_misses_are_printed(root, tmp_path, capsys):
    (tmp_path / "none.csv").write_text("scene_id,im_id,obj_id,score,R,t,time\n")
    assert run(root, "--poses", tmp_path / "none.csv") == 0
    assert "5 of 5 meet no threshold" in capsys.readouterr().out


def test_a_run_with_real_networks(root, tiny, tmp_path):
    assert run(root, "--engines", tiny, "--limit", 1, "--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json") == 0
    result = read(tmp_path / "a.json")
    assert set(result["time"]["stages_ms_per_object"]) == {"crop", "coarse", "refine", "outline", "select"}
    assert sum(result["miss_counts"].values()) == len(result["misses"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"effort": "balanced", "coarse.hypotheses": 0, "refine.iterations": 5, "ransac.seed": 0}),
        (["--effort", "best"], {"effort": "best", "coarse.hypotheses": 0}),
        (["--hypotheses", "5", "--iterations", "2", "--seed", "3"],
         {"coarse.hypotheses": 5, "refine.iterations": 2, "ransac.seed": 3}),
        (["--stage", "coarse"], {"refine.iterations": 0}),
        (["--stage", "refined"], {"refine.iterations": 5}),
        (["--set", "advanced.coarse.min_inliers=9", "--set", "select.min_score=0.5"],
         {"advanced.coarse.min_inliers": 9, "select.min_score": 0.5}),
        (["--set", "advanced.lm.loss=huber"], {"advanced.lm.loss": "huber"}),
    ],
)  # fmt: skip
def test_options_of_the_estimator(arguments, expected):
    config = estimator_config(method_options(parse(["D", "--csv", "a.csv", *arguments]))).to_dict()
    for name, value in expected.items():
        found = config
        for part in name.split("."):
            found = found[part]
        assert found == value


def test_models_in_plain_grey(root, tiny):
    command = ["D", "--csv", "a.csv", "--engines", tiny]
    options = method_options(parse([*command, "--untextured"]))
    assert options.untextured
    assert not method_options(parse(command)).untextured
    dataset = BopDataset(root)
    assert describe(dataset, "visib", options)["untextured"], "a stopped run in colour is not gone on with in grey"
    for model in dataset.models.values():
        assert np.ptp(model.load_mesh().corner_colors) > 0
        assert np.ptp(model.load_mesh(untextured=True).corner_colors) == 0


def test_baselines_take_five_templates():
    assert method_options(parse(["D", "--csv", "a.csv", "--method", "sift"])).hypotheses == 5
    assert method_options(parse(["D", "--csv", "a.csv", "--method", "sift", "--hypotheses", "2"])).hypotheses == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--csv: wanted a file for the poses"),
        (["--csv", "a.csv", "--poses", "b.csv"], "--csv: --poses scores poses that are there"),
        (["--poses", "b.csv", "--method", "sift", "--seed", "0"], "--method, --seed: --poses scores poses"),
        (["--poses", "b.csv", "--stage", "coarse", "--boxes", "obj"], "--boxes, --stage: --poses scores poses"),
        (["--csv", "a.csv", "--method", "sift", "--hypotheses", "0"], "hypotheses: wanted at least 1, got 0"),
        (["--csv", "a.csv", "--method", "sift", "--seed", "-1"], "seed: wanted an integer >= 0, got -1"),
        (["--csv", "a.csv", "--method", "sift", "--set", "a.b=1"], "--set: only for --method ours"),
        (["--csv", "a.csv", "--correct", "0"], "correct: wanted a share of the diameter above 0"),
        (["--csv", "a.csv", "--correct", "nan"], "correct: wanted a share of the diameter above 0"),
        (["--poses", "b.csv"], "b.csv: no such file; wanted results in BOP's form"),
        (["--csv", "a.csv", "--split", "train"], "train: no such split; folders of"),
        (["--csv", "a.csv", "--targets", "t.json"], "t.json: no such file"),
        (["--csv", "a.csv", "--boxes", "seen"], "seen: no such file; wanted 'visib', 'obj'"),
        (["--csv", "a.csv", "--engines", "nowhere"], "BundleError"),
        (["--csv", "a.csv", "--limit", "0"], "no targets in it (--limit 0)"),
        (["--csv", "a.csv", "--limit", "-1"], "wanted a number of images >= 0"),
        (["--csv", "a.csv", "--method", "sift", "--effort", "fast"], "--effort: only for --method ours"),
        (["--csv", "a.csv", "--method", "sift", "--untextured"], "--untextured: only for --method ours"),
        (["--poses", "b.csv", "--untextured"], "--untextured: --poses scores poses"),
        (["--detect", "--untextured"], "--untextured: not with --detect"),
        (["--detect", "--depth"], "--depth: not with --detect"),
        (["--csv", "a.csv", "--effort", "fast", "--set", "effort=fast"], "effort has been given already, as 'fast'"),
        (["--poses", "b.csv", "--effort", "fast", "--box-noise", "all"], "--box-noise, --effort: --poses scores"),
        (["--csv", "a.csv", "--box-noise", "shift"], "--box-noise shift: wanted shift=SHARE, size=FACTOR"),
        (["--csv", "a.csv", "--method", "sift", "--iterations", "3"], "--iterations: only for --method ours"),
        (["--csv", "a.csv", "--method", "sift", "--stage", "coarse"], "--stage: only for --method ours"),
        (["--csv", "a.csv", "--stage", "coarse", "--iterations", "3"], "--iterations 3: --stage coarse does none"),
        (["--csv", "a.csv", "--set", "coarse"], "setting 'coarse': wanted NAME=VALUE"),
        (["--csv", "a.csv", "--set", "coarse.margins=2"], "has no option 'margins'; did you mean 'margin'"),
        (["--csv", "a.csv", "--set", "coarse=2"], "coarse is a group of options; set one of coarse.hypotheses"),
        (["--csv", "a.csv", "--set", "coarse.margin=wide"], "wanted a number, got 'wide'"),
        (["--csv", "a.csv", "--hypotheses", "43"], "hypotheses = 43: wanted an integer in [0, 42]"),
        (
            ["--csv", "a.csv", "--iterations", "2", "--set", "refine.iterations=3"],
            "refine.iterations has been given already, as 2",
        ),
    ],
)
def test_wrong_use_is_one_line(root, tiny, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    engines = [] if "--engines" in arguments or "sift" in arguments or "--poses" in arguments else ["--engines", tiny]
    assert run(root, *engines, *arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*"))


def test_no_truth_is_said_before_the_run(root, knowing, tmp_path, capsys):
    targets = read(root / "test_targets_bop19.json")
    write(tmp_path / "t.json", [*targets, {"scene_id": 1, "im_id": 4, "obj_id": 1, "inst_count": 1}])
    assert run(root, "--method", "sift", "--targets", tmp_path / "t.json", "--csv", tmp_path / "a.csv") == 2
    assert "scene_gt.json: says nothing of image 4, which t.json names" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(root, tmp_path, monkeypatch, capsys):
    class Stopped(Knowing):
        def estimate(self, image, camera, boxes):
            if self.seen:
                raise KeyboardInterrupt
            return super().estimate(image, camera, boxes)

    monkeypatch.setattr(methods, "_makers", lambda: {"sift": lambda options: Stopped()})
    csv = tmp_path / "a.csv"
    arguments = (root, "--method", "sift", "--processes", 1, "--csv", csv)
    assert run(*arguments) == 130
    assert "a.csv.part: the same command goes on" in capsys.readouterr().err
    assert not csv.exists()
    monkeypatch.setattr(methods, "_makers", lambda: {"sift": lambda options: Knowing()})
    assert run(*arguments, "--seed", 5) == 2
    assert "seed was 0, now 5" in capsys.readouterr().err
    assert run(*arguments, "--json", tmp_path / "a.json") == 0
    assert json.loads((tmp_path / "a.json").read_text())["run"]["images_of_earlier_runs"] == 1
    assert len(read_rows(csv)) == 5
