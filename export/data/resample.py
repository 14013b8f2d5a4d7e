"""Blurs, reduces, enlarges and warps batches of pictures.

Blur and other resolutions are linear along each axis: on a GPU one matrix per picture, applied from both sides; on a
CPU OpenCV does the same.
"""

from __future__ import annotations

import cv2
import torch
from torch import Tensor
from torch.nn import functional

from export.data.geometry import on_gpu


def blurred(image: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur pictures float32 [N,3,n,n] by Gaussians of standard deviations ``sigma`` [N], pixels, 0 to ``largest``."""
    if on_gpu(image):
        soften = blur_matrix(image.shape[-1], sigma, largest)
        return soften[:, None] @ image @ soften.mT[:, None]
    out = torch.empty_like(image)
    for i, s in enumerate(sigma.tolist()):
        for channel in range(3):
            plane = image[i, channel].numpy()
            out[i, channel].numpy()[:] = cv2.GaussianBlur(plane, (0, 0), s) if s > 0 else plane
    return out


def reduced(image: Tensor, cells: Tensor) -> Tensor:
    """Average pictures float32 [N,3,n,n] into ``cells`` [N] pixels a side, in the first corner; edges go on beside."""
    size = image.shape[-1]
    if on_gpu(image):
        average = reduction_matrix(size, cells)
        return average[:, None] @ image @ average.mT[:, None]
    out = image.clone()
    for i, m in enumerate(cells.long().tolist()):
        for channel in range(3) if m < size else ():
            small = cv2.resize(image[i, channel].numpy(), (m, m), interpolation=cv2.INTER_AREA)
            beside = (0, size - m, 0, size - m)
            out[i, channel].numpy()[:] = cv2.copyMakeBorder(small, *beside, cv2.BORDER_REPLICATE)
    return out


def enlarged(picture: Tensor, cells: Tensor) -> Tensor:
    """Interpolate the first ``cells`` [N] pixels a side of pictures uint8 [N,n,n,3] to whole pictures."""
    size = picture.shape[1]
    if on_gpu(picture):
        spread = enlargement_matrix(size, cells)[:, None]
        planes = spread @ picture.permute(0, 3, 1, 2).float() @ spread.mT
        return planes.add_(0.5).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    out = picture.clone()
    for i, m in enumerate(cells.long().tolist()):
        if m < size:
            small = picture[i, :m, :m].contiguous().numpy()
            out[i].numpy()[:] = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    return out


def blur_matrix(size: int, sigma: Tensor, largest: float) -> Tensor:
    """Return matrices float32 [M,size,size] that blur lines of ``size`` pixels, mirrored about their end pixels.

    sigma [M] pixels, 0 to ``largest``. Cut off as OpenCV does for floats: at round(8 sigma + 1) | 1 pixels.
    """
    reach = int(4 * largest + 1.5)
    step = torch.arange(-reach, reach + 1, device=sigma.device)
    s = sigma[:, None].double().clamp(min=1e-3)
    radius = (8 * s + 1).round().div(2, rounding_mode="floor")
    weight = torch.where(step.abs() <= radius, torch.exp(-0.5 * (step / s) ** 2), 0.0)
    weight = (weight / weight.sum(dim=1, keepdim=True)).float()
    period = max(2 * (size - 1), 1)
    place = (torch.arange(size, device=sigma.device)[:, None] + step) % period
    place = torch.minimum(place, period - place)
    matrix = torch.zeros((len(sigma), size, size), device=sigma.device)
    return matrix.scatter_add_(2, place.expand(len(sigma), -1, -1), weight[:, None].expand(-1, size, -1))


def reduction_matrix(size: int, cells: Tensor) -> Tensor:
    """Return matrices that average lines of ``size`` pixels into ``cells`` [M], which the last one is repeated behind.

    float32 [M,size,size]; cells are whole numbers up to size, where the matrix is the identity.
    """
    m = cells.double()[:, None, None]
    pixel = torch.arange(size, dtype=torch.float64, device=cells.device)
    width = size / m
    low = torch.minimum(pixel[:, None], m - 1) * width
    overlap = (torch.minimum(low + width, pixel + 1) - torch.maximum(low, pixel)).clamp(min=0)
    return (overlap / width).float()


def enlargement_matrix(size: int, cells: Tensor) -> Tensor:
    """Return matrices float32 [M,size,size] that interpolate the first ``cells`` [M] pixels of lines to ``size``."""
    m = cells.double()[:, None, None]
    pixel = torch.arange(size, dtype=torch.float64, device=cells.device)
    source = torch.minimum(((pixel[:, None] + 0.5) * m / size - 0.5).clamp(min=0), m - 1)
    return ((1.0 - (source - pixel).abs()).clamp(min=0) * (pixel < m)).float()


def warped_planes(image: Tensor, which: Tensor, theta: Tensor, size: int) -> Tensor:
    """Return ``grid_sample`` of images [B,3,m,m] at ``which`` over ``affine_grid`` of theta [N,2,3], by OpenCV."""
    m = image.shape[-1]
    # Pixel x is at (2 x + 1) / size - 1 on the way in, and pixel (1 + place) m / 2 - 1 / 2 on the way out.
    linear = theta[:, :, :2] * (m / size)
    shift = 0.5 * m * (theta[:, :, 2] + 1.0 + theta[:, :, :2].sum(dim=2) * (1.0 / size - 1.0)) - 0.5
    maps = torch.cat([linear, shift[..., None]], dim=2).double().numpy()
    out = torch.empty((len(maps), 3, size, size))
    options = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    for i, source in enumerate(which.tolist()):
        for channel in range(3):
            cv2.warpAffine(image[source, channel].numpy(), maps[i], (size, size), out[i, channel].numpy(), **options)
    return out


def warped(picture: Tensor, which: Tensor, H: Tensor, size: int) -> Tensor:
    """Resample crops uint8 [L,size,size,3] from pictures uint8 [N,m,m,3]: bilinear, 0 outside.

    which: int64 [L], of the pictures. H: float64 [L,3,3], crop pixel -> picture pixel.
    """
    n, m = len(H), picture.shape[1]
    if not on_gpu(picture):
        out = torch.empty((n, size, size, 3), dtype=torch.uint8)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        for i, source in enumerate(which.tolist()):
            cv2.warpPerspective(picture[source].numpy(), H[i].numpy(), (size, size), out[i].numpy(), flags=flags)
        return out
    at = torch.arange(size, dtype=torch.float64, device=H.device)
    seen = H[:, :, 0, None, None] * at + H[:, :, 1, None, None] * at[:, None] + H[:, :, 2, None, None]
    grid = (seen[:, :2] / seen[:, 2:]).permute(0, 2, 3, 1) * (2.0 / (m - 1)) - 1.0
    source = picture[which].permute(0, 3, 1, 2).float()
    crop = functional.grid_sample(source, grid.float(), mode="bilinear", padding_mode="zeros", align_corners=True)
    return crop.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
