"""The ablations: plan, results and table; the trainings are played by a function that writes what they would leave."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import numpy as np
import pytest

from benchmarks.ablations import run
from benchmarks.ablations.cli import main, parse, settings_of
from benchmarks.ablations.plan import QUESTIONS, VARIANTS, Settings, chosen
from benchmarks.ablations.report import FIGURES, SETS, Figure, difference, markdown, summary
from benchmarks.ablations.store import Store, read_runs
from coop_edge.errors import InputError

PERCENT = Figure("x", "x")


@pytest.fixture
def init(tmp_path):
    path = tmp_path / "coarse.safetensors"
    path.write_bytes(b"weights")
    return path


class Trainings:
    """Stands in for the processes: notes the arguments, writes the report of a run; ``fate`` may spoil one."""

    def __init__(self, monkeypatch, fate=None):
        self.done = []
        self.fate = fate or (lambda name, steps: (0, steps))
        monkeypatch.setattr(run, "_train", self)
        monkeypatch.setattr(run, "ranking_figures", lambda checkpoint, settings: {"template_auroc": 0.75})
        monkeypatch.setattr(run, "free_figures", lambda checkpoint, settings: {"free_error_after_5": 0.25})

    def __call__(self, arguments, log):
        options = dict(word.split("=") for word in arguments[3::2] if "=" in word)
        folder = log.parent
        assert not (folder / run.STATE).exists(), "a killed run's state would be refused"
        (folder / run.STATE).write_bytes(b"state")
        self.done.append(folder.name)
        status, steps = self.fate(folder.name, int(options["max_steps"]))
        log.write_text("first\nlast words\n")
        if status == 0:
            final = {f"{p}{f.name}": 0.5 + 0.01 * int(options["seed"]) for _, p in SETS for f in FIGURES[arguments[1]]}
            report = {
                "steps": steps, "samples": steps * int(options["batch_size"]), "minutes": 1.5, "parameters": 10**6,
                "device": "cpu", "hardware": {"cpu": "abacus", "cores": 2}, "code": "1", "data": "procedural objects",
                "final": final,
            }  # fmt: skip
            (folder / "report.json").write_text(json.dumps(report))
        return status


def go(tmp_path, *arguments, only=("head",)):
    names = [word for name in only for word in ("--only", name)]
    return main([*names, "--json", str(tmp_path / "r.json"), "--out", str(tmp_path / "out"), *map(str, arguments)])


def test_every_variant_trains_what_its_name_says(tmp_path, init):
    """By the training's own command: the options exist, the samples are equal, and variants differ in one thing."""
    app = pytest.importorskip("export.cli.main", reason="PyTorch is not installed (extra export)").app
    run = pytest.importorskip("export.train.run", reason="PyTorch is not installed (extra export)")
    import typer

    settings = Settings(init, coarse_steps=7, refiner_steps=5, batch_size=3)
    command = typer.main.get_command(app).commands["train"]
    parsed = {}
    for v in VARIANTS.values():
        words = settings.command(v, 2, tmp_path / v.name)
        assert words[0] == "train"
        given = command.make_context("train", words[1:]).params
        assert str(getattr(given["role"], "value", given["role"])) == v.role
        assert given["out"] == tmp_path / v.name
        assert (given["init"] is not None) == (v.role == "refiner")
        options, network = run.options_from(v.role, given["setting"])
        assert (options.max_steps, options.batch_size, options.seed) == (settings.steps(v.role), 3, 2)
        parsed[v.name] = {name: value for name, value, _ in [*options.described(), *network.described()]}
    for name, found in parsed.items():
        ours = name in ("frozen", "no_small_starts")  # compared with the refiner that matches finely
        base = parsed["hybrid" if VARIANTS[name].role == "coarse" else "fine" if ours else "laplace"]
        changed = {k for k in found if found[k] != base[k]}
        wanted = {
            "classification": {"head"}, "regression": {"head"}, "object_only": {"no_match"},
            "deterministic": {"flow"}, "no_pose_loss": {"sensitivity"}, "fine": {"fine_channels"},
            "unranked": {"ranking"}, "as_rendered": {"appearance"},
            "frozen": {"trunk.features"}, "no_small_starts": {"small_starts"},
        }  # fmt: skip
        assert changed == wanted.get(name, set())
        if VARIANTS[name].role == "refiner":  # what the paper claims without fine matching
            assert (found["fine_channels"] > 0) == (name in ("fine", "frozen", "no_small_starts"))


def test_a_refiner_of_the_ablations_size_matches_finely_unless_told_not_to(init):
    networks = pytest.importorskip("export.networks", reason="PyTorch is not installed (extra export)")
    assert networks.preset("refiner", Settings(init).size).fine_channels > 0


def test_questions_name_variants_of_one_role_and_figures_that_exist():
    for question in QUESTIONS:
        roles = {VARIANTS[name].role for name in question.variants}
        assert len(roles) == 1
        assert question.key in {f.name for f in FIGURES[roles.pop()]}
    assert {name for q in QUESTIONS for name in q.variants} == set(VARIANTS)


def test_names_choose_variants_or_questions():
    assert [v.name for v in chosen([])] == list(VARIANTS)
    assert [v.name for v in chosen(["no_match", "hybrid", "deterministic"])] == [
        "hybrid",
        "object_only",
        "deterministic",
    ]
    with pytest.raises(InputError, match=r"--only heads: wanted a variant or a question, one of hybrid, .*pose_loss"):
        chosen(["heads"])


def test_runs_go_seed_by_seed_and_what_is_done_is_not_done_again(tmp_path, monkeypatch, init):
    trainings = Trainings(monkeypatch)
    assert go(tmp_path, "--seeds", 2, "--init", init, only=("no_match", "laplace")) == 0
    names = ["hybrid", "object_only", "laplace"]
    assert trainings.done == [f"{n}_seed{s}" for s in (0, 1) for n in names]
    runs = read_runs(tmp_path / "r.json")
    assert {(r["variant"], r["seed"]) for r in runs} == {(n, s) for n in names for s in (0, 1)}
    assert {r["samples"] for r in runs if r["role"] == "coarse"} == {750 * 16}
    assert all(("template_auroc" in r["figures"]) == (r["role"] == "coarse") for r in runs)
    assert not list(tmp_path.rglob(run.STATE)), "nothing goes on from a finished run"
    assert str(tmp_path) not in (tmp_path / "r.json").read_text(), "results name no folder of this machine"
    trainings.done.clear()
    assert go(tmp_path, "--seeds", 3, "--init", init, only=("no_match", "laplace")) == 0
    assert trainings.done == [f"{n}_seed2" for n in names]


def test_runs_of_other_options_are_not_mixed(tmp_path, monkeypatch, init, capsys):
    trainings = Trainings(monkeypatch)
    assert go(tmp_path, "--seeds", 1) == 0
    trainings.done.clear()
    assert go(tmp_path, "--seeds", 1, "--coarse-steps", 100) == 2
    assert "with steps = 750, asked for 100; give --json another file" in capsys.readouterr().err
    other = init.with_name("other.npz")
    other.write_bytes(b"pack")
    assert go(tmp_path, "--seeds", 1, "--pack", other) == 2
    assert go(tmp_path, "--seeds", 1, "--refiner-steps", 100, "--threads", 2) == 0, "no matter for what is there"
    assert trainings.done == []


@pytest.mark.parametrize(("fate", "said"), [((3, 0), "status 3 after 0"), ((0, 400), "status 0 after 400 of 750")])
def test_a_run_that_fails_or_stops_early_leaves_no_figures_and_the_others_go_on(
    tmp_path, monkeypatch, capsys, fate, said
):
    trainings = Trainings(monkeypatch, lambda name, steps: fate if name.startswith("class") else (0, steps))
    assert go(tmp_path, "--seeds", 1) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "last words" in error
    assert "failed: classification_seed0" in error
    assert [r["variant"] for r in read_runs(tmp_path / "r.json")] == ["hybrid", "regression"]
    trainings.fate = lambda name, steps: (0, steps)
    trainings.done.clear()
    assert go(tmp_path, "--seeds", 1) == 0
    assert trainings.done == ["classification_seed0"], "anew, over what was left"


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path, monkeypatch):
    trainings = Trainings(monkeypatch)
    with Store(tmp_path / "r.json", tmp_path / "out").claim("regression_seed0") as mine:
        assert mine
        assert go(tmp_path, "--seeds", 1) == 0
    assert trainings.done == ["hybrid_seed0", "classification_seed0"]
    assert go(tmp_path, "--seeds", 1) == 0
    assert trainings.done[2:] == ["regression_seed0"]


def test_a_training_ends_with_what_waits_for_it(tmp_path, monkeypatch):
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    monkeypatch.setattr(run, "COMMAND", (sys.executable, "-c", script))

    def interrupt(number, frame):
        if log.exists() and log.read_text().strip():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    log = tmp_path / "log"
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            run._train([], log)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--seeds", "0"], "--seeds 0: wanted at least 1"),
        (["--coarse-steps", "0"], "--coarse-steps 0: wanted at least 1"),
        (["--pack", "nowhere.npz"], "--pack nowhere.npz: no such file"),
        (["--only", "flow"], "refiners start from a coarse checkpoint: --init FILE"),
        (["report"], "no finished runs"),
    ],
)
def test_wrong_use_is_said_in_one_line(tmp_path, monkeypatch, capsys, arguments, wanted):
    trainings = Trainings(monkeypatch)
    assert go(tmp_path, *arguments) == 2
    assert wanted in capsys.readouterr().err
    assert not trainings.done


def test_another_file_is_not_taken_for_results(tmp_path):
    for text in ("{", "[]", '{"benchmark": "latency", "runs": []}'):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(InputError, match=r"r\.json"):
            read_runs(tmp_path / "r.json")


def test_the_defaults_are_those_of_the_settings(init):
    assert settings_of(parse(["--init", str(init)])) == Settings(init)


def test_mean_spread_and_differences_by_hand():
    assert summary([], PERCENT) == "–"
    assert summary([0.125], PERCENT) == "12.5"
    assert summary([0.1, 0.2, 0.6], PERCENT) == f"30.0 ± {100 * np.sqrt((0.04 + 0.01 + 0.09) / 2):.1f}"
    base, other = {0: 0.1, 1: 0.2, 2: 0.3}, {1: 0.25, 2: 0.29, 3: 0.9}
    assert difference(base, other, PERCENT) == "+2.0 (1/2)"  # seeds 1 and 2: +5, -1
    assert difference(base, {1: 0.15, 2: 0.2}, Figure("x", "x", 1.0, 3, better=-1)) == "-0.075 (2/2)"
    assert difference(base, {5: 0.1}, PERCENT) == "–"


def test_the_table_holds_what_was_measured(tmp_path, monkeypatch, capsys):
    Trainings(monkeypatch)
    assert go(tmp_path, "--seeds", 2) == 0
    assert go(tmp_path, "report") == 0
    text = (tmp_path / "r.md").read_text()
    assert capsys.readouterr().out.endswith(text + "\n")
    assert "12000 pairs per run (750 steps of 16)" in text
    assert "abacus, 2 cores, on cpu" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2 * 3, "one question: its head, and three variants on hard and on easy pairs"
    assert all(len(row) == len(rows[0]) for row in rows)
    assert rows[1][:3] == ["| hybrid: class and offset", "hard", "50.5 ± 0.7"]
    assert rows[2][2] == "50.5 ± 0.7; +0.0 (0/2)"
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert "Pose loss" not in text, "no runs, no section"
    assert markdown(read_runs(tmp_path / "r.json")) == text


def test_one_real_run_from_the_command_to_the_table(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed (extra export)")
    began = time.time()
    few = ("--seeds", 1, "--coarse-steps", 1, "--batch-size", 1, "--evaluate-samples", 1, "--ranking-queries", 2)
    few += ("--workers", 0, "--no-compile")
    assert go(tmp_path, *few, only=("object_only",)) == 0
    (record,) = read_runs(tmp_path / "r.json")
    assert (record["variant"], record["steps"], record["samples"]) == ("object_only", 1, 1)
    for name in ("within_5px", "easy_within_5px", "template_auroc", "easy_template_auroc"):
        assert 0 <= record["figures"][name] <= 1
    assert (tmp_path / "out" / "object_only_seed0" / "coarse.safetensors").stat().st_mtime >= began - 1
    saved = json.loads((tmp_path / "out" / "object_only_seed0" / "report.json").read_text())
    assert saved["options"]["no_match"] is False


def test_a_refiner_is_also_judged_without_the_prior(tmp_path, init):
    """Its figures have their names, and a change of the sensitivity changes the pose."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra export)")
    from export.networks import CONFIGS, build
    from export.train.checkpoint import save_network
    from export.train.provenance import Provenance
    from tests.export.small_nets import NET

    torch.manual_seed(0)
    net = build(CONFIGS["refiner"].from_dict(NET["refiner"])).eval()
    found = []
    for gain in (0.1, 30.0):
        with torch.no_grad():
            net.dpt.head[-1].weight[-1] *= gain  # the sensitivity's row
        weights = {k: v.clone() for k, v in net.state_dict().items()}
        save_network(tmp_path / "refiner.safetensors", net, Provenance(1, 1, 0, 1.0), weights)
        found.append(run.free_figures(tmp_path / "refiner.safetensors", Settings(init, evaluate_samples=1)))
    names = {f"{p}{n}" for p in ("free_", "easy_free_") for n in run.FREE}
    assert found[0].keys() == names
    assert found[0]["free_error_after_1"] != found[1]["free_error_after_1"]
