"""Runs are started, killed and resumed; what they leave behind, and what is refused."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coop_edge.errors import ConfigError, InputError
from export.networks import preset
from export.train import loop
from export.train.checkpoint import load_network, load_state
from export.train.options import TrainOptions
from export.train.report import Table
from export.train.run import options_from
from tests.export.small_nets import TRUNK, Repeated
from tests.export.train.runs import resume, start

ROOT = Path(__file__).parents[3]


def test_settings_are_of_the_run_or_of_the_network():
    options, config = options_from("refiner", ["minutes=5", "network.stride=8", "size=s", "network.trunk.mlp_ratio=2"])
    assert options == TrainOptions(minutes=5.0, size="s")
    wanted = preset("refiner", "s").updated(["stride=8", "trunk.mlp_ratio=2"])
    assert config == wanted
    assert (config.trunk.encoder_dim, config.trunk.mlp_ratio) == (320, 2.0), "the rest of the preset stays"


@pytest.mark.parametrize(
    ("role", "setting", "message"),
    [
        ("refiner", "network.head=hybrid", r"RefinerNetConfig has no option 'head'"),
        ("coarse", "network.flow=laplace", r"CoarseNetConfig has no option 'flow'"),
        ("coarse", "minute=1", r"TrainOptions has no option 'minute'; did you mean 'minutes'"),
        ("coarse", "minutes=0", r"TrainOptions.minutes = 0"),
        ("finder", "minutes=1", r"role: wanted one of coarse, refiner, got"),
        ("coarse", "size=m", r"setting 'size=m': wanted one of xs, s, b, l, got 'm'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(role, setting, message):
    with pytest.raises(ConfigError, match=message):
        options_from(role, [setting])


def test_two_halves_are_one_run(tmp_path, monkeypatch):
    """Weights, optimiser, average, data position and counters: all of them, or the second half would differ."""
    monkeypatch.setattr(loop, "learning_rate", lambda peak, progress, warmup: peak)
    monkeypatch.setattr(loop, "LOG_SECONDS", 0.0)
    streams = functools.partial(Repeated, kinds=6)
    start("coarse", tmp_path / "one", 6, streams=streams)
    start("coarse", tmp_path / "two", 3, streams=streams)
    halfway = load_state(tmp_path / "two")
    assert halfway["counters"]["step"] == 3
    assert halfway["counters"]["position"] == 12
    resume("coarse", tmp_path / "two", 3, streams=streams)
    one, two = load_state(tmp_path / "one"), load_state(tmp_path / "two")
    assert two["counters"]["step"] == 6
    assert two["counters"]["samples"] == 24
    for key in ("net", "ema"):
        a, b = (s[key] if key == "net" else s[key]["weights"] for s in (one, two))
        for name in a:
            torch.testing.assert_close(a[name], b[name], atol=1e-7, rtol=1e-5)
    assert Table(tmp_path / "two" / "metrics.csv", 99).column("step").tolist() == [1, 2, 3, 4, 5, 6]
    assert two["counters"]["minutes"] > halfway["counters"]["minutes"]


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path):
    """SIGKILL, at any moment after a checkpoint; by the command, on rendered pairs."""
    small = [f"network.trunk.{name}={value}" for name, value in TRUNK.items()]
    options = ["batch_size=1", "workers=0", "evaluate_samples=0", "device=cpu", "threads=1", "ramp=1"]
    settings = [word for s in [*options, *small, "checkpoint_minutes=0.001"] for word in ("--set", s)]
    command = [sys.executable, "-m", "export", "train", "coarse"]
    child = subprocess.Popen([*command, "--out", str(tmp_path / "run"), *settings], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 300
        while not (tmp_path / "run" / "training_state.pt").exists():
            assert child.poll() is None, "it ended by itself"
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    before = load_state(tmp_path / "run")["counters"]["step"]
    assert before > 0
    command += ["--resume", str(tmp_path / "run"), "--set", "max_steps=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_state(tmp_path / "run")["counters"]["step"] == before + 2
    assert load_network(tmp_path / "run" / "coarse.safetensors", "coarse")[1].provenance.step == before + 2


def test_the_network_file_is_plain_safetensors_of_the_averaged_weights_and_says_what_they_are(tmp_path):
    start("refiner", tmp_path, 4, seed=5)
    net, info = load_network(tmp_path / "refiner.safetensors", "refiner")
    state = load_state(tmp_path)
    assert (info.provenance.step, info.provenance.samples, info.provenance.seed) == (4, 16, 5)
    stored = load_file(tmp_path / "refiner.safetensors")
    assert stored.keys() == state["ema"]["weights"].keys()
    assert all(torch.equal(v, state["ema"]["weights"][k]) for k, v in stored.items())
    assert all(torch.equal(v, stored[k]) for k, v in net.state_dict().items())
    assert any(not torch.equal(v, state["net"][k]) for k, v in net.state_dict().items())
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["role"], report["samples"], report["steps"]) == ("refiner", 16, 4)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_starts_from_the_weights_of_an_earlier_one(tmp_path):
    """A refiner has the coarse network's trunk before its first step, a coarse network all of it."""
    start("coarse", tmp_path / "c", 2)
    file = tmp_path / "c" / "coarse.safetensors"
    theirs = load_file(file)
    for role, shared in (("refiner", "trunk."), ("coarse", "")):
        start(role, tmp_path / role, 1, init=file, learning_rate=1e-9, seed=1)
        own = load_state(tmp_path / role)["net"]
        names = [k for k in theirs if k.startswith(shared) and theirs[k].dtype.is_floating_point and "running" not in k]
        assert names
        for name in names:
            torch.testing.assert_close(own[name], theirs[name], atol=1e-6, rtol=0)


def test_what_cannot_be_meant_is_refused(tmp_path):
    start("coarse", tmp_path / "c", 1)
    with pytest.raises(InputError, match="holds a run already: --resume"):
        start("coarse", tmp_path / "c", 1)
    with pytest.raises(InputError, match="holds a coarse run, wanted a refiner one"):
        resume("refiner", tmp_path / "c", 1)
    with pytest.raises(ConfigError, match=r"its size cannot change \(it is 'xs'\)"):
        resume("coarse", tmp_path / "c", 1, "size=s")
    with pytest.raises(ConfigError, match=r"its no_match cannot change \(it is True\)"):
        resume("coarse", tmp_path / "c", 1, "no_match=false")
    with pytest.raises(ConfigError, match="its network cannot change; asked for head=regression"):
        resume("coarse", tmp_path / "c", 1, "network.head=regression")
    with pytest.raises(ConfigError, match="no_match = False: an option of the coarse network, not of the refiner"):
        start("refiner", tmp_path / "r", 1, no_match=False)
    with pytest.raises(ConfigError, match="small_starts = False: an option of the refiner, not of the coarse network"):
        start("coarse", tmp_path / "s", 1, small_starts=False)
    with pytest.raises(InputError, match=r"nowhere\.safetensors: no such file"):
        start("refiner", tmp_path / "r", 1, init=tmp_path / "nowhere.safetensors")
    resume("coarse", tmp_path / "c", 1, "network.head=hybrid")  # as it is
