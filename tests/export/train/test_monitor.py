"""The guard against losses that are not finite, on batches of arrays and of tensors."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from export.train.monitor import LossMonitor, TrainingDivergedError
from tests.export.small_nets import refiner_batch


def tensors_of(batch, device):
    """As a GPU's stream draws them; one is part of a graph, as nothing forbids."""
    values = {f.name: torch.from_numpy(getattr(batch, f.name)).to(device) for f in fields(batch)}
    return replace(batch, **values | {"flow": values["flow"].requires_grad_()})


@pytest.mark.parametrize("kind", ["arrays", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_pairs_of_the_first_bad_step_are_saved_wherever_they_lie(kind, tmp_path):
    monitor = LossMonitor(tmp_path, 0)
    one = torch.tensor(1.0)
    batches = [refiner_batch(np.random.default_rng(seed), 2, 32) for seed in range(3)]
    for step, (batch, loss) in enumerate(zip(batches, (one, math.nan * one, math.inf * one), strict=True), 6):
        given = batch if kind == "arrays" else tensors_of(batch, kind)
        monitor.add(step, given, {"loss": loss, "gradient_norm": one, "flow": loss})
    with pytest.raises(TrainingDivergedError, match=r"step 7: not finite: loss, flow; the pairs are in .*npz"):
        monitor.check()
    saved = np.load(tmp_path / "diverged_step7_rank0.npz")
    for field in fields(batches[1]):
        np.testing.assert_array_equal(saved[field.name], getattr(batches[1], field.name))


def test_finite_figures_are_averaged_once_checked_and_nothing_is_written(tmp_path):
    monitor = LossMonitor(tmp_path, 0)
    monitor.check()
    assert monitor.means() == {}
    for value in (1.0, 3.0):
        figures = {"loss": value, "gradient_norm": 2 * value, "flow": -value}
        monitor.add(0, None, {name: torch.tensor(number) for name, number in figures.items()})
    assert monitor.means() == {}, "not looked at yet"
    monitor.check()
    assert monitor.means() == {"loss": 2.0, "gradient_norm": 4.0, "flow": -2.0}
    assert monitor.means() == {}
    assert not list(tmp_path.iterdir())
