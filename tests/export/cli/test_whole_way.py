"""From rendered pairs to a verified bundle by the commands alone: train, resume, export, verify."""

from __future__ import annotations

import functools

from coop_edge.runtime.bundle import Bundle
from export.verify import bundle as verify
from tests.export.cli.command import run
from tests.export.small_nets import TRUNK

QUICK = ["device=cpu", "threads=1", "workers=0", "batch_size=2", "max_steps=1", "evaluate_samples=0"]
TINY = [f"network.trunk.{name}={value}" for name, value in {**TRUNK, "image_size": 64}.items()]
OF_ROLE = {
    "coarse": ["network.match_dim=16"],
    "refiner": [
        "network.match_dim=16",
        "network.dpt_channels=16",
        "network.fine_channels=8",
        "network.radius_px=1",
    ],
}


def train(role, *arguments, settings=()):
    done = run("train", role, *arguments, *(word for setting in settings for word in ("--set", setting)))
    assert done.exit_code == 0, done.output


def test_networks_are_trained_resumed_and_become_a_bundle_that_is_verified(tmp_path, monkeypatch):
    """The verification draws few pairs and is judged by the outputs: after two steps there are hardly any poses."""
    folders = {role: tmp_path / role for role in OF_ROLE}
    for role, folder in folders.items():
        init = () if role == "coarse" else ("--init", folders["coarse"] / "coarse.safetensors")
        train(role, "--out", folder, *init, settings=[*QUICK, *TINY, *OF_ROLE[role]])
        train(role, "--resume", folder, settings=["max_steps=1"])

    monkeypatch.setattr(verify, "draw_pairs", functools.partial(verify.draw_pairs, most=4))
    monkeypatch.setitem(verify.verify_bundle.__kwdefaults__, "samples", 4)
    checkpoints = [word for folder in folders.values() for word in ("--checkpoint", folder)]
    bundle = tmp_path / "coop-tiny"
    done = run("onnx", *checkpoints, "--name", bundle.name, "--precision", "fp32", "-o", bundle, "--allow-few-poses")
    assert done.exit_code == 0, done.output
    made = Bundle.load(bundle)
    assert made.verification["verdict"] == "passed"
    for role in OF_ROLE:
        training = made.training[role]
        assert (training["samples"], training["steps"]) == (4, 2)
        assert training["licences"]
        assert "cores of" in training["hardware"]
    done = run("verify", bundle, *checkpoints, "--samples", 4, "--allow-few-poses")
    assert done.exit_code == 0, done.output
