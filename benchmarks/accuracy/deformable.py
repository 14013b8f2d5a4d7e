"""Deformable convolution (Dai et al., ICCV 2017; with a mask Zhu et al., CVPR 2019) in plain PyTorch, and what of
torchvision ALIKED wants, where torchvision itself cannot be had."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import nn


def deform_conv2d(
    input: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve with samples that are moved, read bilinearly, with zeros around the input; without groups.

    With s and d the stride and the dilation, p the padding,

        out[n,o,y,x] = bias[o] + sum_{c,i,j} weight[o,c,i,j] mask[n,k,y,x]
                       input[n,c, s y - p + d i + offset[n,2k,y,x], s x - p + d j + offset[n,2k+1,y,x]],  k = i w + j

    The names and the layout are torchvision's. Tensors [N,C,H,W], [N,2hw,H',W'], [O,C,h,w], [O], [N,hw,H',W'] ->
    [N,O,H',W'].
    """
    (sy, sx), (py, px), (dy, dx) = _pair(stride), _pair(padding), _pair(dilation)
    n, channels, height, width = input.shape
    rows, columns = weight.shape[2:]
    taps, (out_y, out_x) = rows * columns, offset.shape[2:]
    moves = offset.reshape(n, taps, 2, out_y, out_x)
    i = torch.arange(taps, device=input.device) // columns
    j = torch.arange(taps, device=input.device) % columns
    y = (torch.arange(out_y, device=input.device) * sy - py)[None, :, None] + (dy * i)[:, None, None]
    x = (torch.arange(out_x, device=input.device) * sx - px)[None, None, :] + (dx * j)[:, None, None]
    # grid_sample wants -1 and 1 at the first and the last pixel.
    grid = torch.stack(
        [
            2.0 * (x + moves[:, :, 1]) / max(width - 1, 1) - 1.0,
            2.0 * (y + moves[:, :, 0]) / max(height - 1, 1) - 1.0,
        ],
        dim=-1,
    )
    samples = nn.functional.grid_sample(
        input, grid.reshape(n, taps * out_y, out_x, 2), padding_mode="zeros", align_corners=True
    ).reshape(n, channels, taps, out_y, out_x)
    if mask is not None:
        samples = samples * mask[:, None]
    out = torch.einsum("nckyx,ock->noyx", samples, weight.flatten(2))
    return out if bias is None else out + bias[:, None, None]


@contextlib.contextmanager
def torchvision_or_stand_in() -> Iterator[None]:
    """Let ``import torchvision`` work within the block: the real one where it loads, else what ALIKED uses of it.

    Afterwards the stand-in is gone again, so that nobody else takes it for the real one.
    """
    try:
        importlib.import_module("torchvision.ops")
        importlib.import_module("torchvision.models.resnet")
    except (ImportError, RuntimeError):  # a build for another PyTorch raises RuntimeError: its operators do not exist
        stand_in = _stand_in()
    else:
        stand_in = {}
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchvision" and stand_in}
    for name in before:
        del sys.modules[name]
    sys.modules.update(stand_in)
    try:
        yield
    finally:
        for name in stand_in:
            del sys.modules[name]
        sys.modules.update(before)


def _stand_in() -> dict[str, ModuleType]:
    names = ("torchvision", "torchvision.ops", "torchvision.models", "torchvision.models.resnet")
    modules = {name: ModuleType(name) for name in names}
    root, ops, models, resnet = modules.values()
    root.ops, root.models, models.resnet = ops, models, resnet  # type: ignore[attr-defined]
    ops.deform_conv2d = deform_conv2d  # type: ignore[attr-defined]
    resnet.conv1x1, resnet.conv3x3 = _conv(1), _conv(3)  # type: ignore[attr-defined]
    for module in (root, models):
        module.__path__ = []  # a package
    return modules


def _conv(kernel: int):  # type: ignore[no-untyped-def]
    """What makes a convolution that keeps the size at stride 1, without bias."""

    def make(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
        return nn.Conv2d(in_planes, out_planes, kernel, stride=stride, padding=kernel // 2, bias=False)

    return make


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
