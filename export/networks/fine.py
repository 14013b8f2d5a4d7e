"""Fine matching: where in the query each rendered cell lies, among all of the query's cells of four pixels.

Tokens of 16 pixels tell a match to a few pixels, and a head that regresses the rest from them learns next to nothing.
Similarities generalise: so the render's features, one per 8 pixels, are compared with the query's, one per 4, and
taught by cross-entropy as the tokens' similarities are, from coarse to fine (LoFTR: Sun et al., CVPR 2021). Where the
tokens expect the match is the prior; the flow is the mean position in a window around the best cell.

Cell (i, j) stands for the rendered pixel (x, y) = (8 j + 4, 8 i + 4); feature (i, j) is centred on (4 j, 4 i), as the
edges in it are; what is resized from coarser maps lies 2 px off, in both images alike.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

CELL, STEP = 8, 4
"""Pixels per cell of the render, and per feature of an image."""
REACH = 2
"""Features on each side of the best one that its window holds."""
PRIOR_PX, PRIOR_POWER = 6.0, 1.5
"""Start values of the prior (1 + (d / s)^2)^-p, d: distance from where the tokens expect the match."""


class FineMatch(NamedTuple):
    """float32; ``found`` as the convolution makes it, which is half precision under autocast."""

    flow: Tensor  # [N,2,S/8,S/8] pixels (x, y), rendered -> query
    logits: Tensor  # [N,cells,features], cells and features row by row
    found: Tensor  # [N,C,S/8,S/8], what the dense head is told of it


class FineFeatures(nn.Module):
    """What an image shows around its pixels, told apart by what its patches are: [N,features,C], each of unit variance.

    The maps of the patch embedding at stride 4 and 8, the tokens, and, of the render, what its tokens read in the
    query.
    """

    def __init__(self, stem_channels: int, dim: int, channels: int) -> None:
        super().__init__()
        self.edges = nn.Conv2d(2 * stem_channels, channels, 3, padding=1)
        self.parts = nn.Conv2d(4 * stem_channels, channels, 1)
        self.tokens = nn.Linear(dim, channels)
        self.decoded = nn.Linear(dim, channels)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: list[Tensor], tokens: Tensor, grid: tuple[int, int], decoded: Tensor | None) -> Tensor:
        """Describe an image by features [N,features,C].

        maps: of stride 4 and 8, [N,.,S/4,S/4] and [N,.,S/8,S/8]; tokens and decoded [N,T,D] on ``grid``.
        """
        patches = self.tokens(tokens) if decoded is None else self.tokens(tokens) + self.decoded(decoded)
        x = self.parts(maps[1])
        x = x + _resized(patches.transpose(1, 2).unflatten(2, grid), x)
        edges = self.edges(maps[0])
        x = edges + _resized(x, edges)
        x = x + self.mix(functional.relu(x))
        x = self.out(functional.relu(x)).flatten(2).transpose(1, 2)
        return functional.layer_norm(x.float(), (self.out.out_channels,))


class FineMatcher(nn.Module):
    """Flow per cell, and what a dense head should know of how it was found."""

    def __init__(self, stem_channels: int, dim: int, channels: int, channels_out: int) -> None:
        super().__init__()
        self.features = FineFeatures(stem_channels, dim, channels)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.log_prior_px = nn.Parameter(torch.tensor(math.log(PRIOR_PX)))
        self.log_prior_power = nn.Parameter(torch.tensor(math.log(PRIOR_POWER)))
        self.found = nn.Conv2d(4, channels_out, 3, padding=1)
        # A head that this is added to loses nothing at first.
        nn.init.zeros_(self.found.weight)
        assert self.found.bias is not None
        nn.init.zeros_(self.found.bias)

    def forward(
        self, render: Tensor, query: Tensor, flow: Tensor, patches: int, chosen: Tensor | None = None
    ) -> FineMatch:
        """Match the features [N,(S/4)^2,C] of a render with those of a query.

        flow: what the tokens expect, [N,2,patches,patches], pixels. chosen: see ``expected_match``.
        """
        side, half = 4 * patches, 2 * patches
        expected = functional.interpolate(flow, size=(half, half), mode="bilinear", align_corners=False)
        cells = render.unflatten(1, (side, side))[:, 1::2, 1::2].flatten(1, 2)
        here = _pixels(half, CELL, CELL // 2, query)
        logits = self._logits(cells, query, here + expected.flatten(2).transpose(1, 2), side)
        match, share, spread = expected_match(logits, side, chosen)
        known = torch.cat([match - here, share, spread], dim=2).transpose(1, 2).unflatten(2, (half, half))
        fine = known[:, :2]
        told = torch.cat([(fine - expected) / CELL, known[:, 2:3], known[:, 3:] / CELL], dim=1)
        return FineMatch(fine, logits, self.found(told))

    def _logits(self, cells: Tensor, query: Tensor, around: Tensor, side: int) -> Tensor:
        """Similarity plus the logarithm of the prior, [N,cells,side^2]; around [N,cells,2], pixels."""
        scale = self.log_temperature.exp() / query.shape[2] ** 0.5
        with torch.autocast(query.device.type, enabled=False):  # rounded, near similarities would be the same
            similar = (cells * scale) @ query.transpose(1, 2)
        # Differences, not |a|^2 - 2ab + |b|^2: half precision could not hold those.
        line = STEP * torch.arange(side, device=query.device, dtype=torch.float32)
        x, y = around[..., 0:1] - line, around[..., 1:2] - line
        narrow = (-2.0 * self.log_prior_px).exp()
        near = ((y * y * narrow)[..., :, None] + (x * x * narrow)[..., None, :]).flatten(2)
        return similar - self.log_prior_power.exp() * torch.log1p(near)


def expected_match(logits: Tensor, side: int, chosen: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean position [N,cells,2] in a window around the best of side^2 features, pixels.

    Also the window's share of the probability [N,cells,1], and the standard deviation within it [N,cells,1], pixels.
    A mean over everything would lie between two candidates, and nearer to the middle than to any. chosen: int64
    [N,cells], the features that windows are put around instead of the best.
    """
    best = logits.argmax(dim=2) if chosen is None else chosen
    step = torch.arange(-REACH, REACH + 1, device=logits.device)
    row = torch.div(best, side, rounding_mode="floor")[..., None] + step.repeat_interleave(len(step))
    column = (best % side)[..., None] + step.repeat(len(step))
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    at = row.clamp(0, side - 1) * side + column.clamp(0, side - 1)
    probability = torch.softmax(logits, dim=2).gather(2, at) * inside
    share = probability.sum(dim=2, keepdim=True)
    probability = probability / share
    # Sums, not matrix products: autocast would round positions to a fraction of a pixel.
    px, py = STEP * column.float(), STEP * row.float()
    x = (probability * px).sum(dim=2, keepdim=True)
    y = (probability * py).sum(dim=2, keepdim=True)
    dx, dy = px - x.detach(), py - y.detach()
    spread = ((probability * (dx * dx + dy * dy)).sum(dim=2, keepdim=True) + 1e-6).sqrt()
    return torch.cat([x, y], dim=2), share, spread


def _pixels(side: int, step: int, first: int, like: Tensor) -> Tensor:
    """Pixels (x, y) of a square grid, row by row, [side * side,2], float32."""
    line = first + step * torch.arange(side, device=like.device, dtype=torch.float32)
    return torch.stack([line.repeat(side), line.repeat_interleave(side)], dim=1)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    size = cast("tuple[int, int]", tuple(like.shape[2:]))
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
