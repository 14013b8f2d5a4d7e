"""The guard against losses that are not finite, on batches of arrays and of tensors."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from export.train.watch import TrainingDivergedError, Watch
from tests.export.small_nets import refiner_batch


def tensors_of(batch, device):
    """As ``device_data`` draws them; one is part of a graph, as nothing forbids."""
    values = {f.name: torch.from_numpy(getattr(batch, f.name)).to(device) for f in fields(batch)}
    return replace(batch, **values | {"flow": values["flow"].requires_grad_()})


@pytest.mark.parametrize("kind", ["arrays", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_pairs_of_the_first_bad_step_are_saved_wherever_they_lie(kind, tmp_path):
    watch = Watch(tmp_path, 0)
    one = torch.tensor(1.0)
    batches = [refiner_batch(np.random.default_rng(seed), 2, 32) for seed in range(3)]
    for batch, loss in zip(batches, (one, math.nan * one, math.inf * one), strict=True):
        watch.add(batch if kind == "arrays" else tensors_of(batch, kind), loss, one, {"flow": loss})
    with pytest.raises(TrainingDivergedError, match=r"step 7: not finite: loss, flow; the pairs are in .*npz"):
        watch.check(7)
    saved = np.load(tmp_path / "diverged_step7_rank0.npz")
    for field in fields(batches[1]):
        np.testing.assert_array_equal(saved[field.name], getattr(batches[1], field.name))


def test_finite_figures_are_averaged_once_checked_and_nothing_is_written(tmp_path):
    watch = Watch(tmp_path, 0)
    watch.check(0)
    assert watch.means() == {}
    for value in (1.0, 3.0):
        watch.add(None, torch.tensor(value), torch.tensor(2 * value), {"flow": torch.tensor(-value)})
    assert watch.means() == {}, "not looked at yet"
    watch.check(2)
    assert watch.means() == {"loss": 2.0, "gradient_norm": 4.0, "flow": -2.0}
    assert watch.means() == {}
    assert not list(tmp_path.iterdir())
