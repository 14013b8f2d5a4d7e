"""The command of a trip, as a rehearsal: two trips on rendered pairs, then a bundle that is verified."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shlex
from pathlib import Path

import cv2
import pytest
import torch
import typer
from typer.testing import CliRunner

from coop_edge.runtime.bundle import Bundle
from export.campaign.luggage import LOG, PICTURE
from export.cli import main as cli
from export.verify import bundle as verify

assert torch  # the conftest leaves files out by this import

PAGE = (Path(__file__).parents[2] / "docs/gpu.md").read_text()


def test_the_command_runs_two_trips_and_what_comes_of_them_is_exported_and_verified(tmp_path, monkeypatch):
    """Rendered pairs, evaluation and picture included; the verification draws few pairs and is judged by outputs."""
    run = lambda *arguments: CliRunner().invoke(cli.app, [*map(str, arguments)])  # noqa: E731
    quick = ("--rehearsal", "--device", "cpu", "--threads", 1, "--workers", 0, "--batch-size", 2, "--max-steps", 1)
    trip = ("campaign", *quick, "--minutes", 60, "--evaluate-samples", 2)
    one, two, bundle = tmp_path / "one", tmp_path / "two", tmp_path / "coop-rehearsal"
    done = run(*trip, "--out", one)
    assert done.exit_code == 0, done.output
    done = run(*trip, "--brought", one, "--out", two, "--last")
    assert done.exit_code == 0, done.output
    figures = json.loads((two / LOG).read_text())["trips"][1]["roles"]
    assert 0 <= figures["coarse"]["figures"]["class_accuracy"] <= 1
    assert figures["refiner"]["figures"]["error_before"] > 0
    picture = cv2.imread(str(two / PICTURE))
    assert picture.shape == (8 * (3 * 64 + 6), 2 * 3 * 64, 3)

    monkeypatch.setattr(verify, "draw_pairs", functools.partial(verify.draw_pairs, most=4))
    monkeypatch.setitem(verify.verify_bundle.__kwdefaults__, "samples", 4)
    done = run("onnx", "--checkpoint", two, "--name", bundle.name, "--precision", "fp32", "-o", bundle,
               "--allow-few-poses")  # fmt: skip
    assert done.exit_code == 0, done.output
    made = Bundle.load(bundle)
    assert made.verification["verdict"]
    for role in ("coarse", "refiner"):
        training = made.training[role]
        assert (training["samples"], training["steps"]) == (4, 2)
        assert training["licences"]
        assert "cores of" in training["hardware"]
    assert run("verify", bundle, "--checkpoint", two, "--samples", 4, "--allow-few-poses").exit_code == 0


def test_the_command_says_what_is_wrong(tmp_path):
    done = CliRunner().invoke(cli.app, ["campaign", "--out", str(tmp_path), "--minutes", "1"])
    assert done.exit_code == 2
    assert "coarse gets 0.5 of them" in " ".join(done.output.split())


@pytest.mark.parametrize("line", re.findall(r"^python -m export (.*)$", PAGE, re.MULTILINE))
def test_the_pages_commands_have_the_options_they_are_given(line):
    name, *arguments = shlex.split(line)
    command = typer.main.get_command(cli.app).commands[name]
    assert command.make_context(name, arguments).params  # raises on what it does not know


@pytest.mark.parametrize("module", sorted(set(re.findall(r"^python -m (benchmarks[.\w]+)", PAGE, re.MULTILINE))))
def test_the_pages_benchmarks_exist(module):
    assert importlib.util.find_spec(module)
