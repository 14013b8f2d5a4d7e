"""Starts and resumes training runs that are small enough for a test."""

from __future__ import annotations

from dataclasses import replace

from export.networks import CONFIGS
from export.train import run
from export.train.options import TrainOptions
from tests.export.small_nets import NET, Repeated

QUICK = TrainOptions(
    batch_size=4, workers=0, evaluate_samples=0, learning_rate=3e-3, precision="float32", device="cpu", threads=1
)


def config_of(role, **network):
    fine = {"fine_channels": 8} if role == "refiner" else {}
    return CONFIGS[role].from_dict({**NET[role], **fine, **network})


def start(role, folder, steps, *, streams=Repeated, init=None, network=None, **options):
    """Train ``steps`` steps on pairs that are learnt by heart."""
    options = replace(QUICK, max_steps=steps, **options)
    return run.start(role, options, config_of(role, **(network or {})), folder, init, streams)


def resume(role, folder, steps, *settings, streams=Repeated):
    """Go on for ``steps`` more."""
    return run.resume(role, folder, [f"max_steps={steps}", *settings], streams)
