"""Finds for each query patch the template patch that shows the same surface, or none (Co-op, stage 1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from coop_edge.errors import InputError
from export.networks.config import CoarseNetConfig
from export.networks.trunk import Matcher, OffsetHead, Trunk, grid_of, start_small


class CoarseOutput(NamedTuple):
    """Raw outputs, for training; what the head does not have is None."""

    logits: Tensor | None  # float32 [N,T,T+1], the last class is no match ("hybrid", "classification")
    offset: Tensor | None  # float32 [N,T,2] patch units ("hybrid")
    position: Tensor | None  # float32 [N,T,2] template position in patch units, column and row ("regression")
    matched: Tensor | None  # float32 [N,T] logit of being matched ("regression")


class CoarseNet(nn.Module):
    """The coarse network: ``encode`` each image once, ``decode`` each pair.

    Pixels follow ``export.data.batch``: match x = 16 (column + 1/2 + U_x) - 1/2.
    """

    role = "coarse"

    def __init__(self, config: CoarseNetConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or CoarseNetConfig()
        dim = c.trunk.decoder_dim
        self.trunk = Trunk(c.trunk)
        if c.head == "regression":
            self.regression = nn.Linear(dim, 3)
            return
        if c.logits == "dot":
            self.matcher = Matcher(dim, c.match_dim)
            self.no_match = nn.Linear(dim, 1)
            start_small(self.no_match)
        else:
            self.classes = nn.Linear(dim, c.trunk.grid**2 + 1)
        if c.head == "hybrid":
            self.offset = OffsetHead(dim)

    def encode(self, image: Tensor) -> Tensor:
        """Turn images [N,3,S,S], float32 RGB in [0, 1], into tokens [N,T,D]: the bundle's ``coarse_encoder``."""
        return self.trunk.encode(image)

    def forward(
        self, query: Tensor, template: Tensor, match_index: Tensor, which: Tensor | None = None
    ) -> CoarseOutput:
        """Compare templates [N,3,S,S] with queries [M,3,S,S] in training.

        Args:
            query, template: float32 RGB in [0, 1].
            match_index: int64 [N,T], the true classes (T = no match), whose offset is returned.
            which: int64 [N], the query of each template; None: template i with query i.

        Raises:
            InputError: the images' shapes differ.
        """
        if query.shape[1:] != template.shape[1:]:
            raise InputError(f"template: wanted the query's shape {list(query.shape)}, got {list(template.shape)}")
        tokens = self.trunk.encode(torch.cat([query, template]))
        of_queries, of_templates = tokens.split([len(query), len(template)])
        return self.compare(of_queries if which is None else of_queries[which], of_templates, match_index)

    def compare(self, query: Tensor, template: Tensor, match_index: Tensor | None = None) -> CoarseOutput:
        """Compare tokens [N,T,D]; the offset is that of ``match_index``, or of the best class without it."""
        decoded = self.trunk.decode(query, template, grid_of(query))[-1]
        if self.config.head == "regression":
            raw = self.regression(decoded).float()
            return CoarseOutput(None, None, raw[..., :2].sigmoid() * grid_of(query)[1], raw[..., 2])
        logits = self._logits(decoded, template)
        if self.config.head == "classification":
            return CoarseOutput(logits, None, None, None)
        count = template.shape[1]
        if match_index is None:
            match_index = logits[..., :count].argmax(dim=-1)
        # Patches without a match read token T-1; the loss and ``decode`` leave them out.
        index = match_index.clamp(max=count - 1)[..., None].expand(-1, -1, template.shape[-1])
        return CoarseOutput(logits, self.offset(decoded, template.gather(1, index)), None, None)

    def decode(self, query: Tensor, template: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Match the tokens [N,T,D] of queries with those of templates: the bundle's ``coarse_decoder``.

        Returns probability [N,T] of the best template patch, 0 where *no match* wins; index [N,T] int32 of that patch;
        offset [N,T,2] in [-0.5, 0.5], patch units.
        """
        out = self.compare(query, template)
        if out.position is not None and out.matched is not None:
            return self._decode_regression(out.position, out.matched)
        assert out.logits is not None
        probability = functional.softmax(out.logits, dim=-1)
        best, index = probability[..., :-1].max(dim=-1)
        best = torch.where(best > probability[..., -1], best, torch.zeros_like(best))
        offset = torch.zeros_like(best)[..., None].expand(-1, -1, 2) if out.offset is None else out.offset
        return best, index.to(torch.int32), offset.clamp(-0.5, 0.5)

    def _logits(self, decoded: Tensor, template: Tensor) -> Tensor:
        if self.config.logits == "dot":
            return torch.cat([self.matcher(decoded, template), self.no_match(decoded).float()], dim=-1)
        logits = self.classes(decoded).float()
        if logits.shape[-1] != template.shape[1] + 1:
            raise InputError(
                f"the linear head was made for T = {logits.shape[-1] - 1} patches, got {template.shape[1]}; "
                "logits='dot' works at any resolution"
            )
        return logits

    def _decode_regression(self, position: Tensor, matched: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        side = grid_of(position)[1]
        cell = position.floor().clamp(0, side - 1)
        index = (cell[..., 1] * side + cell[..., 0]).to(torch.int32)
        probability = matched.sigmoid()
        probability = torch.where(probability > 0.5, probability, torch.zeros_like(probability))
        return probability, index, (position - cell - 0.5).clamp(-0.5, 0.5)
