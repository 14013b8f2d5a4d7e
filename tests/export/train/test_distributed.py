"""Two processes under torchrun, on CPUs with gloo: the same steps as one process with both halves of the batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from export.train.checkpoint import load_state

ROOT = Path(__file__).parents[3]


def _run(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def test_two_processes_take_the_steps_of_one(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    _run(*torchrun, "-m", "tests.export.train.ddp_worker", tmp_path / "two", 4)
    _run("-m", "tests.export.train.ddp_worker", tmp_path / "one", 8)
    one, two = load_state(tmp_path / "one"), load_state(tmp_path / "two")
    assert two["counters"]["step"] == one["counters"]["step"] == 3
    assert two["counters"]["samples"] == one["counters"]["samples"] == 24
    for name, value in one["net"].items():
        torch.testing.assert_close(two["net"][name], value, atol=2e-5, rtol=1e-4)


def test_the_command_runs_under_torchrun_on_real_pairs(tmp_path):
    done = _run(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "export", "train", "coarse"),
        *("--minutes", 5, "--out", tmp_path / "run", "--set", "max_steps=2", "--set", "batch_size=2"),
        *("--set", "workers=0", "--set", "evaluate_samples=0", "--set", "device=cpu"),
    )
    counters = load_state(tmp_path / "run")["counters"]
    assert (counters["step"], counters["samples"], counters["position"]) == (2, 8, 4)
    assert "2 process(es)" in done.stderr
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"coarse.safetensors", "training_state.pt", "metrics.csv", "evaluation.csv", "report.json"} <= names
