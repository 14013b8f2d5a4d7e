"""Turns tokens into a dense map: the DPT head (Ranftl et al., Vision transformers for dense prediction, ICCV 2021)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

LEVELS = 4
"""Token maps that are read, from shallow to deep; level i is brought to stride 4, 8, 16, 32."""

FOUND = 1
"""The level that what was found elsewhere is added to: that of stride 8."""


class ResidualUnit(nn.Module):
    """Two 3 x 3 convolutions around a skip connection, [N,C,H,W] -> [N,C,H,W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


class DptHead(nn.Module):
    """Four token maps [N,T,D] of stride 16 -> one map [N,channels_out,S/stride,S/stride]; stride 4, 8 or 16.

    A level finer than the output's stride is left out: at stride 8 and 16 there are three and two of them.
    """

    def __init__(self, dims: tuple[int, ...], channels: int, channels_out: int, stride: int) -> None:
        super().__init__()
        skipped = {4: 0, 8: 1, 16: 2}[stride]
        self.used = range(skipped, LEVELS)
        self.project = nn.ModuleList(nn.Conv2d(dims[i], channels, 1) for i in self.used)
        self.resample = nn.ModuleList(_resampling(i, channels) for i in self.used)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in self.used)
        self.units = nn.ModuleList(ResidualUnit(channels) for _ in self.used)
        # The deepest level has nothing to be added to.
        self.lateral = nn.ModuleList(ResidualUnit(channels) for _ in list(self.used)[:-1])
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels_out, 1)
        )

    def forward(self, levels: list[Tensor], grid: tuple[int, int], found: Tensor | None = None) -> Tensor:
        """Fuse the levels into one map.

        Args:
            levels: LEVELS token maps [N,T,D], shallow first.
            grid: (rows, columns) of their tokens.
            found: [N,C,S/8,S/8], added to the level of stride 8; not at an output of stride 16.
        """
        maps = []
        for n, i in enumerate(self.used):
            x = levels[i].transpose(1, 2).unflatten(2, grid)
            x = self.smooth[n](self.resample[n](self.project[n](x)))
            maps.append(x + found if found is not None and i == FOUND else x)
        x = self.units[-1](maps[-1])
        for n in range(len(maps) - 2, -1, -1):
            size = cast("tuple[int, int]", tuple(maps[n].shape[2:]))
            x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
            x = self.units[n](x + self.lateral[n](maps[n]))
        return self.head(x)


def _resampling(level: int, channels: int) -> nn.Module:
    """From stride 16 to stride 4, 8, 16, 32."""
    if level < 2:
        scale = 4 >> level
        return nn.ConvTranspose2d(channels, channels, scale, stride=scale)
    return nn.Identity() if level == 2 else nn.Conv2d(channels, channels, 3, stride=2, padding=1)
