"""Trains the coarse network: its losses, its held-out pairs."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from export.data.batch import CoarseBatch
from export.networks import CoarseNet, Net
from export.train.evaluate_coarse import evaluate_coarse
from export.train.losses import coarse_loss
from export.train.ranking import evidence, ranking_loss
from export.train.task import Task

BATCH = 32
"""Number of pairs that an evaluation decodes at once."""


class CoarseTask(Task):
    """Cross-entropy over the template's patches and *no match*, L1 on the offset (Co-op, stage 1), and ranking.

    Figures named ``easy_...`` are those of pairs of hardness 0: whole objects, colours as modelled, nearest template.
    """

    role = "coarse"
    stream_role = "coarse"

    def losses(self, model: nn.Module, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        first, which = _photographs(batch["query_index"])
        out = model(batch["query"][first], batch["template"], batch["match_index"], which)
        labelled = None if self.options.no_match else batch["on_target"]
        parts = coarse_loss(out, batch["match_index"], batch["offset"], labelled)
        if self.options.ranking:
            ranked = ranking_loss(evidence(out), batch["match_index"], batch["on_target"], which)
            parts["ranking"] = self.options.ranking * ranked
        return parts

    def evaluate(self, net: Net, device: torch.device) -> dict[str, float]:
        assert isinstance(net, CoarseNet)
        figures = evaluate_coarse(net, self._held_out[0], device)
        easy = evaluate_coarse(net, self._held_out[1], device)
        return figures | {f"easy_{name}": value for name, value in easy.items()}

    @cached_property
    def _held_out(self) -> list[list[CoarseBatch]]:
        """Draw pairs as hard as they get, and easy ones; once, so that every evaluation has the same."""
        drawn = []
        for hardness in (1.0, 0.0):
            with self.held_out_stream(BATCH, hardness=hardness) as stream:
                drawn.append([next(stream) for _ in range(-(-self.options.evaluate_samples // BATCH))])
        return drawn


def _photographs(index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first row of each photograph, int64 [M], and the number of each row's photograph, int64 [N].

    index: int64 [N], the photographs' numbers; rows of one photograph follow one another.
    """
    begins = torch.cat([torch.ones_like(index[:1]), (index[1:] != index[:-1]).to(index.dtype)])
    return begins.nonzero()[:, 0], begins.cumsum(0) - 1
