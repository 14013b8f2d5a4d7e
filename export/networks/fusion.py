"""Early fusion: render and query as one image of six channels, so that convolutions see how far their edges are apart.

Once a pose is nearly right, what is left are a few pixels: a scale that is off by a percent, an outline that stands
beside the other. Tokens of 16 pixels, each from one image alone, have to remember that; a convolution over both images
sees it at once. (DeepIM: Li et al., ECCV 2018; MegaPose: Labbe et al., CoRL 2022: both compare in no other way.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS = 3
"""Residual blocks at stride 8: an output cell sees 127 pixels."""


class FusionBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip connection, normalised over the batch, [N,C,H,W] -> [N,C,H,W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(y)))


class Fusion(nn.Module):
    """Normalised images, each [N,3,S,S] -> what their difference tells, [N,channels_out,S/8,S/8].

    The output is zero at first: a head that it is added to loses nothing.
    """

    def __init__(self, channels: int, channels_out: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = 6
        for width in (channels // 4, channels // 2, channels):
            stages += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.stages = nn.Sequential(*stages, *(FusionBlock(channels) for _ in range(BLOCKS)))
        self.out = nn.Conv2d(channels, channels_out, 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, query: Tensor, render: Tensor) -> Tensor:
        both = torch.cat([render, query], dim=1).contiguous(memory_format=torch.channels_last)
        return self.out(self.stages(both))
