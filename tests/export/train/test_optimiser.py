"""Learning rate, weight decay and average of the weights, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.train.optimiser import Ema, adamw, learning_rate


def test_the_rate_rises_then_falls():
    rates = [learning_rate(1.0, p, 0.1) for p in np.linspace(0, 1, 101)]
    assert rates[0] < 0.02
    assert np.argmax(rates) == 10
    assert rates[10] == 1.0
    assert np.all(np.diff(rates[:11]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[-1] == pytest.approx(0.01)
    assert learning_rate(1.0, 1.7, 0.1) == pytest.approx(0.01)


def test_matrices_alone_decay():
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    decayed = {id(p) for g in adamw(net).param_groups if g["weight_decay"] > 0 for p in g["params"]}
    assert decayed == {id(net[0].weight)}


def test_the_average_follows_the_weights():
    """By hand: w_n = keep_n w_(n-1) + (1 - keep_n) x_n with keep_n = min(decay, (1 + n) / (10 + n))."""
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 2.0)
    ema = Ema(net, decay=0.25)
    wanted = 2.0
    for n, value in enumerate([1.0, -3.0, 5.0], start=1):
        torch.nn.init.constant_(net.weight, value)
        ema.update(net)
        keep = min(0.25, (1 + n) / (10 + n))
        wanted = keep * wanted + (1 - keep) * value
    assert ema.weights["weight"].item() == pytest.approx(wanted)
    other = Ema(net)
    other.load(ema.state())
    assert other.updates == 3
    assert torch.equal(other.weights["weight"], ema.weights["weight"])
