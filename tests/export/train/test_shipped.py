"""The weights in the bundle that ships are those of its graphs, and training goes on from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.onnx import OnnxRunner
from export.cli import main as cli
from export.train.checkpoint import load_network

BUNDLE = Path(__file__).parents[3] / "engines" / "coop-xs"


def test_the_refiners_weights_are_those_of_its_graph():
    net, info = load_network(BUNDLE / "refiner.safetensors", "refiner")
    bundle = Bundle.load(BUNDLE)
    assert info.provenance.samples == bundle.training["refiner"]["samples"]
    images = np.random.default_rng(0).random((2, 1, 3, 8, 8), np.float32).repeat(16, axis=3).repeat(16, axis=4)
    with OnnxRunner(bundle.network("refiner"), threads=1) as runner, torch.no_grad():
        graph = runner.run({"query": images[0], "render": images[1]})
        own = net.export_outputs(torch.from_numpy(images[0]), torch.from_numpy(images[1]))
    for (name, wanted), given in zip(graph.items(), own, strict=True):
        assert np.median(np.abs(given.numpy() - wanted)) < 0.01, name


def test_the_coarse_networks_weights_are_those_of_its_graph():
    net, _ = load_network(BUNDLE / "coarse.safetensors", "coarse")
    image = np.random.default_rng(0).random((1, 3, 8, 8), np.float32).repeat(16, axis=2).repeat(16, axis=3)
    with OnnxRunner(Bundle.load(BUNDLE).network("coarse_encoder"), threads=1) as runner, torch.no_grad():
        wanted = runner.run({"image": image})["tokens"]
        given = net.encode(torch.from_numpy(image)).numpy()
    assert np.abs(given - wanted).mean() < 0.01 * np.abs(wanted).mean()


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_training_goes_on_from_it(role, tmp_path):
    """Two steps on real pairs move the weights a little: far less than weights drawn anew are away."""
    few = [
        "batch_size=2",
        "workers=0",
        "threads=1",
        "evaluate_samples=0",
        "device=cpu",
        "max_steps=2",
        "learning_rate=1e-5",
    ]
    settings = [word for setting in few for word in ("--set", setting)]
    command = ["train", role, "--init", str(BUNDLE), "--out", str(tmp_path / "run"), *settings]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    before, after = load_file(BUNDLE / f"{role}.safetensors"), load_file(tmp_path / "run" / f"{role}.safetensors")
    matrices = [name for name, value in before.items() if value.ndim == 2]
    assert len(matrices) > 30
    for name in matrices:
        moved = (after[name] - before[name].float()).norm() / before[name].float().norm()
        assert moved < 0.01, name
    assert any(not torch.equal(after[name], before[name].float()) for name in matrices)
