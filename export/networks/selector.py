"""Scores a refined hypothesis from the query and the render at its pose (Co-op, stage 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from coop_edge.errors import InputError
from export.networks.config import SelectorNetConfig
from export.networks.trunk import Trunk, grid_of


class SelectorNet(nn.Module):
    """The trunk, attention pooling over the rendered image's decoded tokens, and a perceptron with one output."""

    role = "selector"

    def __init__(self, config: SelectorNetConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or SelectorNetConfig()
        dim = c.trunk.decoder_dim
        self.trunk = Trunk(c.trunk)
        # Background tokens say nothing about the pose: which tokens count is learned.
        self.attention = nn.Linear(dim, 1)
        self.hidden = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, 1)

    def forward(self, query: Tensor, render: Tensor) -> Tensor:
        """Return the logits [N] of crops of the image and renders, both [N,3,S,S] float32 RGB in [0, 1]."""
        if query.shape != render.shape:
            raise InputError(f"render: wanted the query's shape {list(query.shape)}, got {list(render.shape)}")
        memory, tokens = self.trunk.encode(torch.cat([query, render])).chunk(2)
        decoded = self.trunk.decode(tokens, memory, grid_of(tokens))[-1]
        share = functional.softmax(self.attention(decoded).float(), dim=1)
        pooled = (share.to(decoded.dtype) * decoded).sum(dim=1)
        return self.out(functional.gelu(self.hidden(pooled)))[:, 0].float()

    def export_outputs(self, query: Tensor, render: Tensor) -> Tensor:
        """Return the scores [N] in [0, 1]: the bundle's ``selector``."""
        return self(query, render).sigmoid()
