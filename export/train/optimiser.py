"""Provides AdamW with weight decay on matrices alone, the learning rate's schedule, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def adamw(net: nn.Module, weight_decay: float = 0.05) -> torch.optim.AdamW:
    """Make AdamW (Loshchilov, Hutter, ICLR 2019); biases, norms and scalars are not decayed."""
    matrices = [p for p in net.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in net.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=_fused(net))


def learning_rate(peak: float, progress: float, warmup: float, floor: float = 0.01) -> float:
    """Rise linearly over the share ``warmup`` of the run, then fall along half a cosine to ``floor * peak``.

    progress: share of the time that has passed, in [0, 1].
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * (progress + 1e-3) / (warmup + 1e-3)
    phase = (progress - warmup) / max(1.0 - warmup, 1e-9)
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * phase)))


class Ema:
    """Exponential moving average of the weights; these are what is evaluated and published.

    The decay starts low, (1 + n) / (10 + n) after n updates, so that a short run is not held back by its first weights.
    """

    def __init__(self, net: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.updates = 0
        self.weights: dict[str, Tensor] = {k: v.detach().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = net.state_dict()
        names = [k for k, v in self.weights.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.weights[k] for k in names], [current[k] for k in names], 1.0 - keep)
        for k, v in self.weights.items():
            if not v.is_floating_point():
                v.copy_(current[k])

    def state(self) -> dict[str, object]:
        return {"decay": self.decay, "updates": self.updates, "weights": self.weights}

    def load(self, state: Mapping[str, object]) -> None:
        weights = state["weights"]
        assert isinstance(weights, dict)
        for k, v in self.weights.items():
            v.copy_(weights[k])
        updates = state["updates"]
        assert isinstance(updates, int)
        self.updates = updates


def _fused(net: nn.Module) -> bool:
    return all(p.device.type in ("cuda", "cpu") and p.is_floating_point() for p in net.parameters())
