"""Training of the coarse network."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from export.losses import coarse_loss
from export.networks import CoarseNet, Net
from export.training.batch import CoarseBatch
from export.training.evaluate_coarse import evaluate_coarse
from export.training.task import Task

BATCH = 32
"""Pairs that an evaluation decodes at once."""


class CoarseTask(Task):
    """Cross-entropy over the template's patches and *no match*, L1 on the offset (Co-op, stage 1)."""

    role = "coarse"
    stream_role = "coarse"
    key_metric = "class_accuracy"

    def losses(self, model: nn.Module, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        out = model(batch["query"], batch["template"], batch["match_index"])
        return coarse_loss(out, batch["match_index"], batch["offset"])

    def evaluate(self, net: Net, device: torch.device) -> dict[str, float]:
        assert isinstance(net, CoarseNet)
        return evaluate_coarse(net, self._held_out, device)

    @cached_property
    def _held_out(self) -> list[CoarseBatch]:
        """Drawn once: the same pairs at every evaluation."""
        with self.held_out_stream(BATCH) as stream:
            return [next(stream) for _ in range(-(-self.options.evaluate_samples // BATCH))]
