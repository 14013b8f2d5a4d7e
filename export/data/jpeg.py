"""What JPEG does to pictures: by OpenCV's codec on a CPU, as tensors on a GPU.

As tensors: baseline coding, 4:2:0, without the entropy coder, which loses nothing. ITU-T T.81 (1992), annexes A and K,
with the colour conversion of JFIF 1.02; qualities scale the tables of annex K as the Independent JPEG Group's library
does. The order of channels is the codec's, blue, green, red, though pictures are RGB: no network is to rely on either.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import torch
from torch import Tensor
from torch.nn import functional

from export.data.geometry import on_gpu

_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99),
)  # fmt: skip
_TO_YCC = ((0.114, 0.587, 0.299), (0.5, -0.331264, -0.168736), (-0.081312, -0.418688, 0.5))
"""Rows Y, Cb, Cr; columns blue, green, red."""


def jpeg(picture: Tensor, quality: Tensor) -> Tensor:
    """Encode pictures uint8 [N,n,n,3] as JPEG at qualities int64 [N] in 1..100, and decode them."""
    if on_gpu(picture):
        coded = jpeg_of_tensors(picture.permute(0, 3, 1, 2).float(), quality)
        return coded.to(torch.uint8).permute(0, 2, 3, 1)
    out = torch.empty_like(picture)
    for i, q in enumerate(quality.tolist()):
        done, code = cv2.imencode(".jpg", picture[i].numpy(), [cv2.IMWRITE_JPEG_QUALITY, q])
        if not done:
            raise RuntimeError("OpenCV cannot encode JPEG here")
        out[i] = torch.from_numpy(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return out


def jpeg_of_tensors(picture: Tensor, quality: Tensor) -> Tensor:
    """Do what ``jpeg`` does in tensors: pictures float32 [N,3,n,n] of whole grey levels 0..255, qualities [N]."""
    if not len(picture):
        return picture
    n = picture.shape[-1]
    padding = -n % 16
    padded = functional.pad(picture, (0, padding, 0, padding), "replicate")
    luminance, chrominance, to_ycc, to_bgr, basis = _tables(picture.device)
    ycc = torch.einsum("ij,njhw->nihw", to_ycc, padded).round()
    quality = quality.float()
    scale = torch.where(quality < 50, (5000.0 / quality).floor(), 200.0 - 2.0 * quality)[:, None, None]
    tables = [((t * scale + 50.0) / 100.0).floor().clamp(1, 255) for t in (luminance, chrominance)]
    bright = _coded(ycc[:, :1] - 128.0, tables[0], basis)
    # Means of four are rounded down and up in turn, as the library does, so that halves do not all go one way.
    half = 0.25 + 0.25 * (torch.arange((n + padding) // 2, device=picture.device) % 2)
    color = _coded((functional.avg_pool2d(ycc[:, 1:], 2) + half).floor(), tables[1], basis)
    color = functional.interpolate(color, scale_factor=2, mode="bilinear", align_corners=False).round()
    restored = torch.einsum("ij,njhw->nihw", to_bgr, torch.cat([bright, color], dim=1)) + 128.0
    return restored.round().clamp(0, 255)[..., :n, :n]


def _coded(plane: Tensor, table: Tensor, basis: Tensor) -> Tensor:
    """Planes [N,c,h,w] about 0 through the quantised transform of 8 x 8 blocks; table [N,8,8]."""
    blocks = plane.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # [N,c,rows,columns,8,8]
    steps = table[:, None, None, None]
    quantised = (basis @ blocks @ basis.mT / steps).round() * steps
    return (basis.mT @ quantised @ basis).transpose(3, 4).flatten(4, 5).flatten(2, 3).round().clamp(-128, 127)


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Both tables, both conversions of colour, and the orthonormal 8-point DCT, on a device."""
    to_ycc = torch.tensor(_TO_YCC, dtype=torch.float64)
    k, i = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(8.0, dtype=torch.float64)
    basis = 0.5 * torch.cos((2 * i + 1) * k * math.pi / 16)
    basis[0] *= math.sqrt(0.5)
    every = (torch.tensor(_LUMINANCE), torch.tensor(_CHROMINANCE), to_ycc, torch.linalg.inv(to_ycc), basis)
    first, second, third, fourth, fifth = (t.float().to(device) for t in every)
    return first, second, third, fourth, fifth
