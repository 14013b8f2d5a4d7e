"""Makes random weights of EfficientNet-Lite0 under the published names, and computes its maps from them, unfolded."""

from __future__ import annotations

import torch
from torch.nn import functional

# kernel, stride, expansion, inputs, outputs of each block up to stride 16, one line a stage, as published.
BLOCKS = [
    (3, 1, 1, 32, 16),
    *[(3, 2, 6, 16, 24), (3, 1, 6, 24, 24)],
    *[(5, 2, 6, 24, 40), (5, 1, 6, 40, 40)],
    *[(3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80)],
    *[(5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112)],
]
ENDS = (2, 4, 10)
"""Blocks whose outputs are the maps of stride 4, 8 and 16."""


def random_state(seed=0):
    """A state dict with statistics that matter, and some of the tensors behind stride 16."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def convolution(name, outputs, inputs, kernel):
        state[f"{name}.weight"] = (
            torch.randn(outputs, inputs, kernel, kernel, generator=generator)
            * (2.0 / (inputs * kernel * kernel)) ** 0.5
        )

    def norm(name, channels):
        for key, low, high in (("weight", 0.5, 1.5), ("bias", -0.5, 0.5), ("running_mean", -0.5, 0.5)):
            state[f"{name}.{key}"] = low + (high - low) * torch.rand(channels, generator=generator)
        state[f"{name}.running_var"] = 0.3 + torch.rand(channels, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for i, (kernel, _, expansion, inputs, outputs) in enumerate(BLOCKS):
        hidden = inputs * expansion
        if expansion > 1:
            convolution(f"_blocks.{i}._expand_conv", hidden, inputs, 1)
            norm(f"_blocks.{i}._bn0", hidden)
        convolution(f"_blocks.{i}._depthwise_conv", hidden, 1, kernel)
        norm(f"_blocks.{i}._bn1", hidden)
        convolution(f"_blocks.{i}._project_conv", outputs, hidden, 1)
        norm(f"_blocks.{i}._bn2", outputs)
    convolution("_blocks.11._expand_conv", 8, 112, 1)
    norm("_bn1", 8)
    state["_fc.weight"] = torch.zeros(3, 8)
    return state


def unfolded(state, image):
    """The maps of images [N,3,S,S] in float64, layer by layer, with TensorFlow's "SAME" padding by its formula."""
    state = {name: value.double() for name, value in state.items()}

    def layer(x, convolution, norm, stride=1, groups=1):
        weight, size = state[f"{convolution}.weight"], x.shape[-1]
        total = max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)
        low, high = total // 2, total - total // 2
        x = functional.conv2d(functional.pad(x, (low, high, low, high)), weight, stride=stride, groups=groups)
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{norm}.{key}"] for key in keys), eps=1e-3)

    x = layer((image.double() - 0.5) / 0.5, "_conv_stem", "_bn0", stride=2).clamp(0, 6)
    maps = []
    for i, (_, stride, expansion, inputs, outputs) in enumerate(BLOCKS):
        name, y = f"_blocks.{i}", x
        if expansion > 1:
            y = layer(y, f"{name}._expand_conv", f"{name}._bn0").clamp(0, 6)
        y = layer(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, groups=inputs * expansion).clamp(0, 6)
        y = layer(y, f"{name}._project_conv", f"{name}._bn2")
        x = x + y if stride == 1 and inputs == outputs else y
        if i in ENDS:
            maps.append(x)
    return maps
