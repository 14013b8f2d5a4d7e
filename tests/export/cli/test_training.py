"""`python -m export train`, `options`, `evaluate` and `profile`: from the command to what it leaves or says."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from PIL import Image

from export.networks import CONFIGS, build, preset
from export.train.checkpoint import load_state, save_network
from export.train.learner import Learner
from export.train.options import TrainOptions
from export.train.provenance import Provenance
from export.train.throughput import LabelCost, cost_table
from tests.export.cli.command import run
from tests.export.small_nets import NET, TRUNK

TINY = [f"network.trunk.{name}={value}" for name, value in TRUNK.items()]


def settings(*pairs):
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["coarse", "--minutes", "-1"], "TrainOptions.minutes = -1.0: wanted a number in"),
        (["coarse", "--set", "minute=1"], "TrainOptions has no option 'minute'; did you mean 'minutes'?"),
        (["refiner", "--set", "network.head=hybrid"], "RefinerNetConfig has no option 'head'"),
        (["refiner", "--set", "no_match=false"], "an option of the coarse network, not of the refiner"),
        (["coarse", "--set", "minutes"], "setting 'minutes': wanted NAME=VALUE"),
        (["coarse", "--resume", "nowhere"], "nowhere: holds no training_state.pt"),
        (["coarse", "--resume", "nowhere", "--init", "x"], "wanted neither --init nor --out with it"),
        (["coarse", "--init", "nowhere.safetensors", "--out", "x"], "nowhere.safetensors: no such file"),
        (["coarse", "--pack", "nowhere.npz", "--set", "max_steps=1"], "nowhere.npz' does not exist"),
    ],
)
def test_wrong_use_is_said_in_one_line(arguments, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert wanted in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_role_or_option_that_does_not_exist_is_refused():
    assert run("train", "finder").exit_code == 2
    assert run("train", "coarse", "--minute", "1").exit_code == 2


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_real_pairs_from_the_command_to_the_report(role, tmp_path):
    """Rendering, training, evaluation with iterations, report: as a user starts it, with few of everything."""
    few = settings("batch_size=2", "workers=0", "threads=1", "evaluate_samples=1", "device=cpu")
    result = run("train", role, "--out", tmp_path / role, *few, "--set", "max_steps=2")
    assert result.exit_code == 0, result.output
    assert load_state(tmp_path / role)["counters"]["step"] == 2
    report = (tmp_path / role / "report.json").read_text()
    names = {"coarse": ("class_accuracy", "within_5px"), "refiner": ("error_before", "error_after_5")}[role]
    for name in names:
        assert f'"{name}":' in report
        assert f'"easy_{name}":' in report
    figures = json.loads(report)["final"]

    checkpoint = tmp_path / role / f"{role}.safetensors"
    again = run("evaluate", checkpoint, "--samples", 1, "--device", "cpu", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.output) == pytest.approx(figures, nan_ok=False)


def test_a_command_goes_on_with_the_options_of_its_run(tmp_path):
    few = settings("batch_size=2", "workers=0", "threads=1", "evaluate_samples=0", "device=cpu", "max_steps=1", *TINY)
    assert run("train", "coarse", "--out", tmp_path, *few).exit_code == 0
    result = run("train", "coarse", "--resume", tmp_path, "--set", "max_steps=2")
    assert result.exit_code == 0, result.output
    state = load_state(tmp_path)
    assert state["counters"]["step"] == 3
    assert (state["options"]["batch_size"], state["options"]["max_steps"]) == (2, 2)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_a_signal_ended_is_not_a_success(number, code, tmp_path, monkeypatch):
    few = settings("batch_size=2", "workers=0", "threads=1", "evaluate_samples=0", "device=cpu", "max_steps=9", *TINY)
    step = Learner.step

    def interrupted(self, *arguments):
        os.kill(os.getpid(), number)
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "step", interrupted)
    result = run("train", "coarse", "--out", tmp_path, *few)
    assert result.exit_code == code, result.output
    assert f"{number.name} ended the run before its time; --resume {tmp_path} goes on" in result.output
    assert load_state(tmp_path)["counters"]["step"] == 1
    monkeypatch.undo()
    assert run("train", "coarse", "--resume", tmp_path, "--set", "max_steps=1").exit_code == 0


def test_figures_are_those_of_both_hardnesses_and_of_the_photographs_given(tmp_path):
    """Of both roles; a folder of other backgrounds is drawn from, one that is not there is refused."""
    Image.new("RGB", (300, 300), (255, 0, 255)).save(tmp_path / "retina.jpg")  # a name of the held-out split
    for role, figure in (("coarse", "class_accuracy"), ("refiner", "flow_epe")):
        torch.manual_seed(0)
        save_network(tmp_path / "n.safetensors", build(CONFIGS[role].from_dict(NET[role])), Provenance())
        few = [tmp_path / "n.safetensors", "--samples", 1, "--device", "cpu", "--json"]
        plain, other = (run("evaluate", *few, *more) for more in ([], ["--photos", tmp_path]))
        assert plain.exit_code == other.exit_code == 0, plain.output + other.output
        plain, other = json.loads(plain.output), json.loads(other.output)
        assert {figure, f"easy_{figure}"} <= set(plain) & set(other)
        assert plain != other
    refused = run("evaluate", *few, "--photos", tmp_path / "nowhere")
    assert refused.exit_code == 2
    assert "nowhere" in refused.output


def test_figures_are_printed_a_line_each(tmp_path):
    net = build(CONFIGS["coarse"].from_dict(NET["coarse"]))
    save_network(tmp_path / "c.safetensors", net, Provenance())
    result = run("evaluate", tmp_path / "c.safetensors", "--samples", 1, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "class_accuracy" in [line.split()[0] for line in result.output.splitlines()]
    assert run("evaluate", tmp_path / "nowhere.safetensors").exit_code == 2


def test_every_option_is_listed_with_its_default():
    result = run("options", "refiner", "--size", "s")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    wanted = [*TrainOptions(size="s").described(), *preset("refiner", "s").described("network.")]
    assert lines[::2] == [f"{name}={value}" for name, value, _ in wanted]
    assert all(line.strip().endswith(".") for line in lines[1::2])


def test_labels_per_cpu_second_are_compared():
    few = settings("batch_size=3", "workers=0", "threads=1", "device=cpu", *TINY)
    result = run("throughput", "coarse", "--seconds", 0, "--json", *few)
    assert result.exit_code == 0, result.output
    before, after = json.loads(result.output)
    assert (before["name"], after["name"]) == ("one label a photograph", "6 labels a photograph")
    assert (before["labels"], after["labels"]) == (16, 3)
    for cost in (before, after):
        assert cost["drawing"] > 0
        assert cost["step"] > 0
        whole = cost["drawing"] + cost["step"]
        assert cost["labels_per_cpu_second"] == pytest.approx(cost["labels"] / whole)
    table = cost_table([LabelCost("a", 10, 1.0, 1.0), LabelCost("b", 40, 1.0, 1.0)])
    assert table.splitlines()[-1] == "4.00 times as many labels per CPU second"
    assert [line.split() for line in table.splitlines()[1:3]] == [
        ["a", "5.00", "100.00", "100.00"],
        ["b", "20.00", "25.00", "25.00"],
    ]


def test_stages_are_timed():
    few = settings("batch_size=2", "workers=0", "threads=1", "device=cpu", *TINY)
    result = run("profile", "coarse", "--seconds", 0, *few)
    assert result.exit_code == 0, result.output
    stages = [line.split()[0] for line in result.output.splitlines()]
    assert stages[0] == "stage"
    assert {"waiting", "forward", "backward", "update", "all"} <= set(stages)
