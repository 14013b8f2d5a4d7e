"""The training step on a faster memory layout against the plain network: the same losses and gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from export.networks import build
from export.train.distributed import Group
from export.train.learner import Learner
from export.train.run import TASKS
from export.train.task import to_tensors
from tests.export.small_nets import coarse_batch, refiner_batch
from tests.export.train.runs import QUICK, config_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_a_step_is_that_of_the_plain_network(role):
    """Losses, gradients and batch statistics before the step, from the same weights and pairs, in float32."""
    torch.manual_seed(0)
    config = config_of(role)
    plain = build(config).train()
    learner = Learner(TASKS[role](config, QUICK), copy.deepcopy(plain), QUICK, Group(0, 1, CPU))
    kernels = [p for p in learner.net.parameters() if p.ndim == 4 and p.shape[2] > 1 and p.shape[1] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    batch = (coarse_batch if role == "coarse" else refiner_batch)(np.random.default_rng(0), 4, 32)
    tensors = to_tensors(batch, CPU)
    found = learner.task.losses(learner.net, tensors, 0.5)
    sum(found.values()).backward()
    wanted = TASKS[role](config, QUICK).losses(plain, tensors, 0.5)
    sum(wanted.values()).backward()
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-4, msg=name)
    norm = torch.stack([p.grad.norm() for p in plain.parameters() if p.grad is not None]).norm()
    for (name, p), q in zip(plain.named_parameters(), learner.net.parameters(), strict=True):
        if p.grad is not None:
            assert (p.grad - q.grad).norm() < 1e-3 * norm, name
    for (name, p), q in zip(plain.named_buffers(), learner.net.buffers(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4, msg=name)
