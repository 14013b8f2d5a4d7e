"""Fine matching: a flow on patches made exact by looking around where it points, again and again.

Tokens of 16 pixels tell which patch is where; what is finer they have to remember, and learning that takes more pairs
than there are. So the render's features, one cell per 8 pixels, are compared with the query's, one per 4, all with all;
a small recurrent network reads the similarities around each cell's current match and corrects it (as RAFT does: Teed,
Deng, ECCV 2020).

Cell (i, j) stands for the rendered pixel (x, y) = (8 j + 4, 8 i + 4); feature (i, j) of the query is centred on the
pixel (4 j, 4 i).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

CELL, STEP = 8, 4
"""Pixels per cell of the render, and per feature of the query."""
RADII = (4, 3)
"""How far the network looks around a match, in features of the query and in pairs of them."""


class FineFeatures(nn.Module):
    """What an image shows within its patches, told apart by what the patches are: [N,C,S/4,S/4]."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        # Batch normalisation for the reason the trunk's stem has it.
        stages: list[nn.Module] = []
        for before, after in ((3, channels // 2), (channels // 2, channels)):
            stages += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.stem = nn.Sequential(*stages)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.tokens = nn.Linear(dim, channels)
        self.out = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        # What all places have in common would be most of a dot product.
        self.centre = nn.BatchNorm2d(channels)

    def forward(self, image: Tensor, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Normalised images [N,3,S,S] and their tokens [N,T,D]."""
        x = self.stem(image.contiguous(memory_format=torch.channels_last))
        return self.centre(self.out(functional.relu(self.mix(x) + enlarge(self.tokens(tokens), grid, x))))


class FineMatcher(nn.Module):
    """``iterations`` corrections of the flow, by one and the same small network."""

    def __init__(self, dim: int, channels: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.features = FineFeatures(dim, channels)
        self.cells = nn.Conv2d(channels, channels, 3, stride=2)
        self.decoded = nn.Linear(dim, channels)
        self.hidden = 3 * channels // 2
        self.start = nn.Conv2d(2 * channels, self.hidden, 3, padding=1)
        seen = sum((2 * r + 1) ** 2 for r in RADII)
        self.similar = nn.Conv2d(seen, channels, 1)
        self.log_temperature = nn.Parameter(torch.zeros(len(RADII)))
        known = 2 + 2 * len(RADII)
        self.motion = nn.Conv2d(channels + known, channels, 3, padding=1)
        self.update1 = nn.Conv2d(self.hidden + channels + known, self.hidden, 3, padding=1)
        self.update2 = nn.Conv2d(self.hidden, self.hidden, 3, padding=1)
        # A correction of its own, and how far to follow the expected match of each level.
        self.step = nn.Conv2d(self.hidden, 2 + len(RADII), 3, padding=1)
        # A cell starts as the feature in its middle: what looks alike is similar before any training.
        nn.init.dirac_(self.cells.weight)
        with torch.no_grad():
            assert self.cells.bias is not None
            self.cells.bias.zero_()
            self.step.weight.mul_(0.1)
            assert self.step.bias is not None
            self.step.bias.zero_()

    def forward(
        self, render: Tensor, query: Tensor, decoded: Tensor, grid: tuple[int, int], flow: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Features [N,C,S/4,S/4] of both, the render's decoded tokens [N,T,D], flow per patch [N,2,rows,columns], px.

        Returns the flows [N,2,S/8,S/8], px: the one given, then after each correction; and the hidden state
        [N,3C/2,S/8,S/8]. Each correction learns by itself: no gradient goes back through where it started.
        """
        cells = self.cells(functional.pad(render, (0, 1, 0, 1)))
        size = cast("tuple[int, int]", tuple(cells.shape[2:]))
        context = enlarge(self.decoded(decoded), grid, cells)
        hidden = functional.relu(self.start(torch.cat([functional.relu(cells), context], dim=1))).float()
        flow = functional.interpolate(flow, size=size, mode="bilinear", align_corners=False)
        pyramid = similarities(cells, query)
        here = cell_positions(size, flow)
        flows = [flow]
        for _ in range(self.iterations):
            flow = flow.detach()
            windows = self._around(pyramid, here + flow)
            expected = self._expected(windows)
            seen = functional.relu(self.similar(torch.cat(windows, dim=1)))
            known = torch.cat([flow, *expected], dim=1) / CELL
            motion = functional.relu(self.motion(torch.cat([seen, known.to(seen.dtype)], dim=1)))
            x = torch.cat([hidden.to(motion.dtype), motion, known.to(motion.dtype)], dim=1)
            hidden = hidden + self.update2(functional.relu(self.update1(x))).float()
            step = self.step(functional.relu(hidden)).float()
            follow = step[:, 2:].sigmoid()
            flow = flow + step[:, :2] * CELL + sum(follow[:, n : n + 1] * e for n, e in enumerate(expected))
            flows.append(flow)
        return flows, functional.relu(hidden)

    def _around(self, pyramid: list[Tensor], pixels: Tensor) -> list[Tensor]:
        seen = []
        for level, (volume, radius) in enumerate(zip(pyramid, RADII, strict=True)):
            step = STEP << level
            # The mean of 2 x 2 features is centred between them.
            seen.append(look_up(volume, (pixels - (step - STEP) / 2) / step, radius))
        return seen

    def _expected(self, windows: list[Tensor]) -> list[Tensor]:
        """Where each level's similarities alone expect the match, [N,2,h,w] px from the middle; 0 if anywhere."""
        expected = []
        for level, (window, radius) in enumerate(zip(windows, RADII, strict=True)):
            side = 2 * radius + 1
            probability = torch.softmax(window * self.log_temperature[level].exp(), dim=1).unflatten(1, (side, side))
            offsets = (STEP << level) * torch.arange(-radius, radius + 1, device=window.device, dtype=window.dtype)
            x = (probability.sum(dim=1) * offsets[:, None, None]).sum(dim=1)
            y = (probability.sum(dim=2) * offsets[:, None, None]).sum(dim=1)
            expected.append(torch.stack([x, y], dim=1))
        return expected


def enlarge(tokens: Tensor, grid: tuple[int, int], like: Tensor) -> Tensor:
    """Tokens [N,T,C] as a map of the size of ``like`` [N,.,H,W]."""
    size = cast("tuple[int, int]", tuple(like.shape[2:]))
    x = tokens.transpose(1, 2).unflatten(2, grid)
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def similarities(cells: Tensor, query: Tensor) -> list[Tensor]:
    """Scaled dot products of all cells [N,C,h,w] with all features [N,C,H,W], and with their means over 2 x 2.

    Each [N*h*w,1,...] float32.
    """
    channels, height, width = query.shape[1:]
    volume = cells.flatten(2).transpose(1, 2) @ query.flatten(2) / channels**0.5
    full = volume.float().reshape(-1, 1, height, width)
    return [full, functional.avg_pool2d(full, 2)]


def cell_positions(size: tuple[int, int], like: Tensor) -> Tensor:
    """Pixels (x, y) of the cells, [1,2,h,w]."""
    y = CELL // 2 + CELL * torch.arange(size[0], device=like.device, dtype=like.dtype)
    x = CELL // 2 + CELL * torch.arange(size[1], device=like.device, dtype=like.dtype)
    return torch.stack([x.expand(size[0], -1), y[:, None].expand(-1, size[1])])[None]


def look_up(volume: Tensor, at: Tensor, radius: int) -> Tensor:
    """Similarities [N*h*w,1,H,W] around the positions ``at`` [N,2,h,w] (in features) -> [N,(2r+1)^2,h,w]; 0 outside."""
    n, _, h, w = at.shape
    height, width = volume.shape[2:]
    offsets = torch.arange(-radius, radius + 1, device=at.device, dtype=at.dtype)
    side = len(offsets)
    # Positions as grid_sample takes them: -1 and 1 are the outer edges of the first and the last feature.
    x = (at[:, 0].reshape(-1, 1, 1) + offsets + 0.5) * (2 / width) - 1
    y = (at[:, 1].reshape(-1, 1, 1) + offsets[:, None] + 0.5) * (2 / height) - 1
    grid = torch.stack([x.expand(-1, side, -1), y.expand(-1, -1, side)], dim=-1)
    seen = functional.grid_sample(volume, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return seen.reshape(n, h * w, side * side).transpose(1, 2).reshape(n, side * side, h, w)
