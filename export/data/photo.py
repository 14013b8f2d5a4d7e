"""What a camera does to a batch of pictures, and the colours that CAD models are shown in: no pixel moves.

What few pictures have (motion blur, JPEG) is worked out for a fixed number of rows, chosen at random, so that nothing
waits for a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import torch
from torch import Tensor
from torch.nn import functional

from coop_edge.render.base import Shading
from export.data.geometry import Random, on_gpu
from export.data.jpeg import jpeg
from export.data.render import Lights
from export.data.resample import blurred, enlarged, reduced, warped_planes
from export.data.textures import COLOR_BASES, GAMMA

GREY_SHARE = 0.25
"""Share of templates that are rendered in plain grey, as CAD models without colours are, at appearance 1."""
HUE_SHARE = 0.15
"""Share of templates whose hues are turned altogether, as where a product comes in several colours, at appearance 1."""
SUPERSAMPLE = 3
"""Samples per pixel side of half of the templates; the others have one."""
MOTION_SHARE, JPEG_SHARE = 0.12, 0.5
_SHARPEST, _SOFTEST = 0.2, 1.7
COARSE_SHARE, COARSEST = 0.6, 0.3
"""Share of photographs of a sensor with fewer pixels than the picture has, and their least share per side: most objects
are smaller in a camera's image than in the crop that a network sees."""
_LONGEST = 8.0


@dataclass(frozen=True, eq=False)
class Looks:
    """How N CAD models show their objects: a renderer's light, and a change of colours after it."""

    lights: Lights
    matrix: Tensor  # float64 [N,3,3] on RGB

    def rows(self, which: Tensor) -> Looks:
        """Return the looks of models ``which``, int64 [M]."""
        lights = (self.lights.ambient, self.lights.diffuse, self.lights.plain)
        return Looks(Lights(*(t[which] for t in lights)), self.matrix[which])

    def recolored(self, rgb: Tensor) -> Tensor:
        """Apply the change of colours to renders uint8 [N,n,n,3]."""
        colors = (rgb.float().flatten(1, 2) @ self.matrix.float().mT).round_().clamp_(0, 255)
        return colors.to(torch.uint8).view_as(rgb)


def draw_looks(random: Random, appearance: Tensor) -> Looks:
    """Draw plain grey, colours near to the truth, or another hue; half of them lit as the renderer does by default.

    appearance [N]: scales the shares of plain grey and of other hues, and all other changes of colour and light, 0 to
    1.
    """
    n, h = len(appearance), appearance
    kind = random.uniform(0.0, 1.0, n)
    plain = kind < h * GREY_SHARE
    hue = ~plain & (kind < h * (GREY_SHARE + HUE_SHARE))
    grey = random.uniform(100.0, 235.0, n) / 255.0
    other = torch.exp(0.35 * random.normal(n, 1) + 0.1 * random.normal(n, 3))
    near = torch.exp(h[:, None] * (0.15 * random.normal(n, 1) + 0.05 * random.normal(n, 3)))
    gain = torch.where(hue[:, None], other, near)
    angle = torch.where(hue, random.uniform(-math.pi, math.pi, n), 0.15 * h * random.normal(n))
    saturation = torch.where(hue, random.uniform(0.0, 1.5, n), torch.exp(0.2 * h * random.normal(n)))
    eye = torch.eye(3, dtype=torch.float64, device=random.device)
    colors = gain[..., None] * color_matrices(angle, saturation)
    matrix = torch.where(plain[:, None, None], grey[:, None, None] * eye, colors)
    lit = random.chance(0.5 * h, n)
    ambient = random.uniform(0.1, 0.9, n)
    diffuse = (1.0 - ambient) * random.uniform(0.8, 1.2, n)
    default = Shading()
    lights = Lights(torch.where(lit, ambient, default.ambient), torch.where(lit, diffuse, default.diffuse), plain)
    return Looks(lights, matrix)


def color_matrices(angle: Tensor, saturation: Tensor) -> Tensor:
    """Return ``textures.color_matrix`` of many, float64 [N,3,3]."""
    one = torch.ones_like(angle)
    turn, saturate = torch.stack([one, angle.cos(), angle.sin()], dim=1), torch.stack([one, saturation], dim=1)
    return torch.einsum("nk,nl,klij->nij", turn, saturate, _color_bases(angle.device))


@lru_cache(maxsize=8)
def _color_bases(device: torch.device) -> Tensor:
    return torch.from_numpy(COLOR_BASES).to(device)


def camera(random: Random, light: Tensor, unit: float, appearance: Tensor, motion: int, compressed: int) -> Tensor:
    """Turn linear light float32 [N,3,n,n] into photographs uint8 [N,n,n,3]: exposure, white balance, blur, noise, JPEG.

    A sensor may have fewer pixels than the picture: noise and JPEG are of its pixels, which are interpolated at last.

    Args:
        random: where numbers are drawn from.
        light: float32 [N,3,n,n].
        unit: pixels that a blur of one pixel in 128 amounts to.
        appearance: [N], share of the photographs that show any of that, 0 to 1; the others come from a perfect camera.
        motion, compressed: how many may be blurred by motion and stored as JPEG.
    """
    n, size = len(light), light.shape[-1]
    real = random.chance(appearance, n)

    def of_real(values: Tensor, perfect: float) -> Tensor:
        """Float32, with the other photographs' values in place."""
        chosen = real.view(-1, *[1] * (values.dim() - 1))
        return torch.where(chosen, values, perfect).float()

    warm = 1.0 - torch.arange(3, dtype=torch.float64, device=light.device)
    cast = 0.3 * random.normal(n, 1) + 0.07 * random.normal(n, 3) + 0.1 * random.normal(n, 1) * warm
    image = light * of_real(torch.exp(cast), 1.0)[..., None, None]
    image = blurred(image, of_real(draw_blur(random, n, unit), 0.0), _SOFTEST * unit)
    image = _moved(random, image, unit, motion, real)
    cells = of_real(draw_cells(random, n, size), float(size))
    image = reduced(image, cells)
    gamma = of_real(1.0 / (GAMMA * torch.exp(0.1 * random.normal(n))), 1.0 / GAMMA)
    image = image.clamp(min=0.0).log_().mul_(gamma[:, None, None, None]).exp_()
    saturation = of_real(torch.where(random.chance(0.5, n), random.uniform(0.4, 1.3, n), 1.0), 1.0).double()
    contrast = random.chance(0.4, n)
    gain = of_real(torch.where(contrast, torch.exp(0.15 * random.normal(n)), 1.0), 1.0)[:, None, None]
    shift = of_real(torch.where(contrast, 0.04 * random.normal(n), 0.0), 0.0)[:, None, None]
    matrix = gain * color_matrices(torch.zeros_like(saturation), saturation).float()
    image = torch.baddbmm(0.5 + shift - 0.5 * gain, matrix, image.flatten(2)).view_as(image)
    strength = torch.exp(random.uniform(math.log(0.003), math.log(0.06), n)) * random.chance(0.8, n)
    image = _noisy(random, image, of_real(strength, 0.0))
    picture = image.mul_(255.0).add_(0.5).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    rows = random.permutation(n)[:compressed]
    coded = jpeg(picture[rows], 25 + random.integers(71, compressed))
    picture = picture.index_copy(0, rows, torch.where(real[rows, None, None, None], coded, picture[rows]))
    return enlarged(picture, cells)


def draw_blur(random: Random, n: int, unit: float) -> Tensor:
    """Draw the lens's softness, at times defocus: standard deviations [N] in pixels."""
    defocus = random.chance(0.2, n)
    return torch.where(defocus, random.uniform(0.8, _SOFTEST, n), random.uniform(_SHARPEST, 0.7, n)) * unit


def draw_cells(random: Random, n: int, size: int) -> Tensor:
    """Draw how many pixels [N] a sensor has along a side of ``size`` pixels, float64."""
    share = torch.exp(random.uniform(math.log(COARSEST), 0.0, n))
    return torch.where(random.chance(COARSE_SHARE, n), (size * share).floor().clamp(min=min(8, size)), float(size))


def motion_kernels(length: Tensor, angle: Tensor, longest: float) -> Tensor:
    """Return centred lines of M lengths, at most ``longest`` pixels, as convolution kernels of sum 1.

    float32 [M,s,s] with the same odd side s.
    """
    side = 2 * math.ceil(longest / 2) + 3
    points = 4 * (2 * torch.ceil(length / 2) + 3)[:, None]
    j = torch.arange(4 * side, device=length.device)
    t = length[:, None] * (j / (points - 1) - 0.5)
    x, y = ((t * f(angle)[:, None]).round().long() + side // 2 for f in (torch.cos, torch.sin))
    kernel = torch.zeros((len(length), side * side), device=length.device)
    kernel.scatter_add_(1, (y * side + x).clamp(0, side * side - 1), (j < points).float())
    kernel = kernel + kernel.flip(1)  # rounding must not move the picture
    return (kernel / kernel.sum(dim=1, keepdim=True)).view(-1, side, side)


def _moved(random: Random, image: Tensor, unit: float, count: int, real: Tensor) -> Tensor:
    """``count`` of the pictures [N,3,n,n] blurred by motion, if their cameras are ``real`` [N]."""
    rows = random.permutation(len(image))[:count]
    length, angle = unit * random.uniform(2.0, _LONGEST, count), random.uniform(0.0, math.pi, count)
    if not count:
        return image
    kernels = motion_kernels(length, angle, unit * _LONGEST)
    chosen, margin = image[rows], kernels.shape[-1] // 2
    if on_gpu(image):
        padded = functional.pad(chosen, (margin,) * 4, "replicate").flatten(0, 1)[None]
        each = kernels[:, None].expand(-1, 3, -1, -1).flatten(0, 1)[:, None]
        blurred = functional.conv2d(padded, each, groups=3 * count)[0].view_as(chosen)
    else:
        planes = [
            torch.from_numpy(cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_REPLICATE))
            for picture, kernel in zip(chosen.numpy(), kernels.numpy(), strict=True)
            for plane in picture
        ]
        blurred = torch.stack(planes).view_as(chosen)
    return image.index_copy(0, rows, torch.where(real[rows, None, None, None], blurred, chosen))


def _noisy(random: Random, image: Tensor, sigma: Tensor) -> Tensor:
    """Pictures [N,3,n,n] with sensor noise of strength sigma [N]; in half of them in brightness alone."""
    grains = random.noise(*image.shape)
    grains = torch.where(random.chance(0.5, len(image))[:, None, None, None], grains, grains[:, :1])
    return torch.addcmul(image, sigma[:, None, None, None], grains)


def draw_backdrops(random: Random, backgrounds: Tensor, n: int, size: int) -> Tensor:
    """Draw pieces of backgrounds [B,3,m,m], each turned, mirrored and enlarged, float32 [n,3,size,size]."""
    m = backgrounds.shape[-1]
    if n == 0:  # which PyTorch refuses
        return backgrounds.new_zeros((0, 3, size, size))
    side = (m * random.uniform(0.4, 1.0, n)).floor()
    corner = (random.uniform(0.0, 1.0, n, 2) * (m - side + 1)[:, None]).floor()
    quarter = random.integers(4, n).double() * (math.pi / 2)
    cosine, sine = quarter.cos().round(), quarter.sin().round()
    mirror = 1.0 - 2.0 * random.chance(0.5, n).double()
    turn = torch.stack([mirror * cosine, -sine, mirror * sine, cosine], dim=1).view(n, 2, 2)
    shift = (2.0 * corner + side[:, None]) / m - 1.0  # in halves of a side, as PyTorch counts
    theta = torch.cat([(side / m)[:, None, None] * turn, shift[..., None]], dim=2).float()
    which = random.integers(len(backgrounds), n)
    if not on_gpu(backgrounds):
        return warped_planes(backgrounds, which, theta, size)
    chosen = backgrounds[which]
    grid = functional.affine_grid(theta, [n, 3, size, size], align_corners=False)
    return functional.grid_sample(chosen, grid, mode="bilinear", padding_mode="border", align_corners=False)
