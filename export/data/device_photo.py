"""What a camera does to a batch of pictures, and how CAD models look, as tensors: ``augment``, and backdrops.

Blur and low resolution are linear along each axis: one matrix per picture, applied from both sides. What few pictures
have (motion blur, JPEG) is worked out for a fixed number of rows, chosen at random, so that nothing waits to be told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from coop_edge.render.base import Shading
from export.data.augment import _LUMA, GREY_SHARE, HUE_SHARE
from export.data.device_geometry import Draw
from export.data.device_jpeg import jpeg
from export.data.device_render import Layers, Lights, Rasterizer
from export.data.scenes_light import GAMMA

MOTION_SHARE, JPEG_SHARE = 0.12, 0.5
_SHARPEST, _SOFTEST = 0.2, 1.7
_LONGEST = 8.0


@dataclass(frozen=True, eq=False)
class Looks:
    """``augment.Look`` of N templates; their supersampling is the caller's choice."""

    lights: Lights
    matrix: Tensor  # float64 [N,3,3] on RGB

    def render(
        self, rasterizer: Rasterizer, slots: Tensor, T: Tensor, K: Tensor, size: int, samples: int
    ) -> tuple[Tensor, Layers]:
        """Objects as their models show them, uint8 [N,size,size,3], and the renders behind them."""
        seen = rasterizer.lit(slots, T, K, size, self.lights, samples)
        rgb = (seen.rgb.float().flatten(1, 2) @ self.matrix.float().mT).round().clamp(0, 255)
        return rgb.to(torch.uint8).view_as(seen.rgb), seen

    def rows(self, low: int, high: int) -> Looks:
        """Those of templates low .. high - 1."""
        lights = (self.lights.ambient, self.lights.diffuse, self.lights.plain)
        return Looks(Lights(*(t[low:high] for t in lights)), self.matrix[low:high])


def draw_looks(draw: Draw, hardness: Tensor) -> Looks:
    """``augment.draw_look`` of N templates; hardness [N]."""
    n, h = len(hardness), hardness
    kind = draw.uniform(0.0, 1.0, n)
    plain = kind < h * GREY_SHARE
    hue = ~plain & (kind < h * (GREY_SHARE + HUE_SHARE))
    grey = draw.uniform(100.0, 235.0, n) / 255.0
    other = torch.exp(0.35 * draw.normal(n, 1) + 0.1 * draw.normal(n, 3))
    near = torch.exp(h[:, None] * (0.15 * draw.normal(n, 1) + 0.05 * draw.normal(n, 3)))
    gain = torch.where(hue[:, None], other, near)
    angle = torch.where(hue, draw.uniform(-math.pi, math.pi, n), 0.15 * h * draw.normal(n))
    saturation = torch.where(hue, draw.uniform(0.0, 1.5, n), torch.exp(0.2 * h * draw.normal(n)))
    eye = torch.eye(3, dtype=torch.float64, device=draw.device)
    colors = gain[..., None] * color_matrix(angle, saturation)
    matrix = torch.where(plain[:, None, None], grey[:, None, None] * eye, colors)
    lit = draw.chance(0.5 * h, n)
    ambient = draw.uniform(0.1, 0.9, n)
    diffuse = (1.0 - ambient) * draw.uniform(0.8, 1.2, n)
    default = Shading()
    lights = Lights(
        torch.where(lit, ambient, default.ambient), torch.where(lit, diffuse, default.diffuse), plain
    )  # fmt: skip
    return Looks(lights, matrix)


def color_matrix(angle: Tensor, saturation: Tensor) -> Tensor:
    """``augment.color_matrix`` of many, float64 [N,3,3]."""
    eye = torch.eye(3, dtype=torch.float64, device=angle.device)
    luma = sum(value * eye[i] for i, value in enumerate(_LUMA.tolist()))
    assert isinstance(luma, Tensor)
    grey = luma.expand(3, 3)
    saturate = grey + saturation[:, None, None] * (eye - grey)
    c, s = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None] / math.sqrt(3.0)
    cycle = eye.roll(1, 0)  # x -> y -> z -> x
    return (c * eye + (1.0 - c) / 3.0 + s * (cycle - cycle.mT)) @ saturate


def camera(draw: Draw, light: Tensor, unit: float, hardness: Tensor, motion: int, compressed: int) -> Tensor:
    """Photographs uint8 [N,n,n,3] of linear light float32 [N,3,n,n]: ``augment.camera``.

    unit: pixels that a blur of one pixel in 128 amounts to. hardness [N]: share of the photographs that show any of
    that. motion, compressed: how many of them are blurred by motion and stored as JPEG.
    """
    n, size = len(light), light.shape[-1]
    ideal = light.clamp(min=0.0) ** (1.0 / GAMMA)
    warm = 1.0 - torch.arange(3, dtype=torch.float64, device=light.device)
    cast = 0.3 * draw.normal(n, 1) + 0.07 * draw.normal(n, 3) + 0.1 * draw.normal(n, 1) * warm
    image = light * torch.exp(cast).float()[..., None, None]
    soften = draw_blur(draw, n, size, unit)
    image = soften[:, None] @ image @ soften.mT[:, None]
    image = _moved(draw, image, unit, motion).clamp(min=0.0)
    image = image ** (1.0 / (GAMMA * torch.exp(0.1 * draw.normal(n)))).float()[:, None, None, None]
    saturation = torch.where(draw.chance(0.5, n), draw.uniform(0.4, 1.3, n), 1.0)
    matrix = color_matrix(torch.zeros_like(saturation), saturation).float()
    image = (matrix @ image.flatten(2)).view_as(image)
    contrast = draw.chance(0.4, n)
    gain = torch.where(contrast, torch.exp(0.15 * draw.normal(n)), 1.0).float()[:, None, None, None]
    shift = torch.where(contrast, 0.04 * draw.normal(n), 0.0).float()[:, None, None, None]
    image = (image - 0.5) * gain + 0.5 + shift
    image = image + _noise(draw, n, size)
    picture = _bytes(image)
    rows = draw.permutation(n)[:compressed]
    quality = 25 + draw.integers(71, compressed)
    picture = picture.index_copy(0, rows, jpeg(picture[rows], quality))
    perfect = ~draw.chance(hardness, n)
    picture = torch.where(perfect[:, None, None, None], _bytes(ideal), picture)
    return picture.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def draw_blur(draw: Draw, n: int, size: int, unit: float) -> Tensor:
    """The lens's softness, at times defocus or low resolution, as matrices float32 [n,size,size]."""
    defocus = draw.chance(0.2, n)
    sigma = torch.where(defocus, draw.uniform(0.8, _SOFTEST, n), draw.uniform(_SHARPEST, 0.7, n)) * unit
    cells = torch.where(draw.chance(0.25, n), (size * draw.uniform(0.4, 0.9, n)).floor().clamp(min=8), float(size))
    return blur_matrix(size, sigma, _SOFTEST * unit) @ resolution_matrix(size, cells)


def blur_matrix(size: int, sigma: Tensor, largest: float) -> Tensor:
    """Gaussian blur of lines of ``size`` pixels, mirrored about their end pixels, float32 [M,size,size].

    sigma [M] pixels, at most ``largest``. Cut off as OpenCV does for floats: at round(8 sigma + 1) | 1 pixels.
    """
    reach = int(4 * largest + 1.5)
    step = torch.arange(-reach, reach + 1, device=sigma.device)
    s = sigma[:, None].double()
    radius = (8 * s + 1).round().div(2, rounding_mode="floor")
    weight = torch.where(step.abs() <= radius, torch.exp(-0.5 * (step / s) ** 2), 0.0)
    weight = (weight / weight.sum(dim=1, keepdim=True)).float()
    period = max(2 * (size - 1), 1)
    place = (torch.arange(size, device=sigma.device)[:, None] + step) % period
    place = torch.minimum(place, period - place)
    matrix = torch.zeros((len(sigma), size, size), device=sigma.device)
    return matrix.scatter_add_(2, place.expand(len(sigma), -1, -1), weight[:, None].expand(-1, size, -1))


def resolution_matrix(size: int, cells: Tensor) -> Tensor:
    """Lines of ``size`` pixels averaged into ``cells`` [M] (whole numbers up to size), and interpolated back.

    float32 [M,size,size]; the identity where they are as many.
    """
    m = cells.double()[:, None, None]
    at = torch.arange(size, dtype=torch.float64, device=cells.device)
    width = size / m
    low, pixel = at[:, None] * width, at[None, :]
    overlap = (torch.minimum(low + width, pixel + 1) - torch.maximum(low, pixel)).clamp(min=0)
    average = overlap / width * (at[:, None] < m)
    source = ((at[:, None] + 0.5) / width - 0.5).clamp(min=0)
    source = torch.minimum(source, m - 1)
    spread = (1.0 - (source - pixel).abs()).clamp(min=0) * (pixel < m)
    return (spread @ average).float()


def motion_kernels(length: Tensor, angle: Tensor, longest: float) -> Tensor:
    """``augment._motion`` of M lines of at most ``longest`` pixels, float32 [M,s,s] with the same odd side s."""
    side = 2 * math.ceil(longest / 2) + 3
    points = 4 * (2 * torch.ceil(length / 2) + 3)[:, None]
    j = torch.arange(4 * side, device=length.device)
    t = length[:, None] * (j / (points - 1) - 0.5)
    x, y = ((t * f(angle)[:, None]).round().long() + side // 2 for f in (torch.cos, torch.sin))
    kernel = torch.zeros((len(length), side * side), device=length.device)
    kernel.scatter_add_(1, (y * side + x).clamp(0, side * side - 1), (j < points).float())
    kernel = kernel + kernel.flip(1)  # rounding must not move the picture
    return (kernel / kernel.sum(dim=1, keepdim=True)).view(-1, side, side)


def _moved(draw: Draw, image: Tensor, unit: float, count: int) -> Tensor:
    """``count`` of the pictures [N,3,n,n] blurred by motion."""
    rows = draw.permutation(len(image))[:count]
    length, angle = unit * draw.uniform(2.0, _LONGEST, count), draw.uniform(0.0, math.pi, count)
    if not count:
        return image
    kernels = motion_kernels(length, angle, unit * _LONGEST)
    chosen, margin = image[rows], kernels.shape[-1] // 2
    padded = functional.pad(chosen, (margin,) * 4, "replicate").flatten(0, 1)[None]
    each = kernels[:, None].expand(-1, 3, -1, -1).flatten(0, 1)[:, None]
    blurred = functional.conv2d(padded, each, groups=3 * count)
    return image.index_copy(0, rows, blurred[0].view_as(chosen))


def _noise(draw: Draw, n: int, size: int) -> Tensor:
    """Sensor noise float32 [n,3,size,size]; of half of the pictures in brightness alone, of a fifth none."""
    sigma = torch.exp(draw.uniform(math.log(0.003), math.log(0.06), n)) * draw.chance(0.8, n)
    grains = draw.noise(n, 3, size, size)
    grains = torch.where(draw.chance(0.5, n)[:, None, None, None], grains, grains[:, :1])
    return sigma.float()[:, None, None, None] * grains


def backdrops(draw: Draw, plates: Tensor, n: int, size: int) -> Tensor:
    """``pairs.backdrop`` of n pictures: pieces of plates uint8 [P,m,m,3], float32 [n,3,size,size] in 0..255."""
    m = plates.shape[1]
    side = (m * draw.uniform(0.4, 1.0, n)).floor().float()
    corner = (draw.uniform(0.0, 1.0, n, 2).float() * (m - side + 1)[:, None]).floor()
    turn, mirrored = draw.integers(4, n)[:, None, None], draw.chance(0.5, n)[:, None, None]
    last = side[:, None, None] - 1
    at = torch.arange(size, device=plates.device)
    position = ((at + 0.5) * (side / size)[:, None] - 0.5).clamp(min=0)
    position = torch.minimum(position, last[:, 0])
    u, v = (p.expand(n, size, size) for p in (position[:, None, :], position[:, :, None]))
    u = torch.where(mirrored, last - u, u)
    # np.rot90 by quarter turns: [i, j] of the turned is [j, last - i] of the piece, and so on.
    x = torch.where(turn == 0, u, torch.where(turn == 1, last - v, torch.where(turn == 2, last - u, v)))
    y = torch.where(turn == 0, v, torch.where(turn == 1, u, torch.where(turn == 2, last - v, last - u)))
    whole = plates[draw.integers(len(plates), n)].permute(0, 3, 1, 2).float()
    return sample(whole, x + corner[:, 0, None, None], y + corner[:, 1, None, None]).round()


def sample(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values float32 [N,c,h,w] of images [N,c,m,m] at pixels x, y [N,h,w]; 0 outside."""
    m = image.shape[-1]
    grid = torch.stack([x, y], dim=-1) * (2.0 / (m - 1)) - 1.0
    return functional.grid_sample(image, grid.float(), mode="bilinear", padding_mode="zeros", align_corners=True)


def _bytes(image: Tensor) -> Tensor:
    """Grey levels 0..255 of an image in 0..1, whole numbers in float32."""
    return (image * 255.0 + 0.5).clamp(0, 255).floor()
