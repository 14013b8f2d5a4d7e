"""What a camera does to a picture, and what a CAD model's colours lack: appearance only, no pixel moves.

``camera`` turns linear light into an 8-bit photograph; ``Look`` renders an object with the colours its CAD model has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from coop_edge.render.base import RenderResult, Shading
from coop_edge.render.cpu import CpuRenderer
from export.data.objects import TrainingObject
from export.data.scenes_light import GAMMA

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

GREY_SHARE = 0.2
"""Of templates that are rendered in plain grey, as CAD models without colours are."""
HUE_SHARE = 0.15
"""Of templates whose hues are turned altogether, as where a product comes in several colours."""
SUPERSAMPLE = 3
"""Of half of the templates; the others have one sample per pixel."""
_LUMA = np.array([0.299, 0.587, 0.114])


def camera(rng: Rng, image: Array, blur_unit: float | None = None, hardness: float = 1.0) -> Array:
    """Photograph uint8 [n,n,3] of linear light float32 [n,n,3]: exposure, white balance, blur, noise, JPEG.

    blur_unit: pixels that a blur of one pixel in 128 amounts to; n / 128 if None. hardness: share of the photographs
    that show any of that, 0 to 1; the others come from a perfect camera.
    """
    if rng.random() >= hardness:
        return np.clip(cv2.pow(cv2.max(image, 0.0), 1.0 / GAMMA) * 255.0 + 0.5, 0, 255).astype(np.uint8)
    unit = len(image) / 128.0 if blur_unit is None else blur_unit
    warmth = rng.normal(0, 0.07, 3) + rng.normal(0, 0.1) * np.array([1.0, 0.0, -1.0])
    image = image * np.exp(rng.normal(0.0, 0.3) + warmth).astype(np.float32)
    image = _blur(rng, image, unit)
    cv2.max(image, 0.0, image)
    image = cv2.pow(image, 1.0 / (GAMMA * np.exp(rng.normal(0, 0.1))))
    if rng.random() < 0.5:
        image = cv2.transform(image, color_matrix(0.0, rng.uniform(0.4, 1.3)))
    if rng.random() < 0.4:
        image = (image - 0.5) * np.float32(np.exp(rng.normal(0, 0.15))) + np.float32(0.5 + rng.normal(0, 0.04))
    if rng.random() < 0.8:
        image = image + _noise(rng, len(image), np.exp(rng.uniform(np.log(0.003), np.log(0.06))))
    picture = np.clip(image * 255.0 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        picture = _jpeg(picture, int(rng.integers(25, 96)))
    return picture


@dataclass(frozen=True, eq=False)
class Look:
    """How a CAD model shows its object: a renderer's settings, and a change of colours after it."""

    plain: bool  # rendered in white instead of its own colours
    matrix: Array  # float64 [3,3] on RGB
    shading: Shading
    supersample: int

    def render(self, thing: TrainingObject, T: Array, K: Array, size: int) -> tuple[Array, RenderResult]:
        """The object at T [4,4] through K [3,3], uint8 [size,size,3], and the render behind it."""
        mesh = thing.grey if self.plain else thing.mesh
        renderer = CpuRenderer(mesh, shading=self.shading, supersample=self.supersample, threads=1)
        seen = renderer.render(T[None], K, size)
        return cv2.transform(seen.rgb[0], self.matrix), seen


def draw_look(rng: Rng, hardness: float = 1.0) -> Look:
    """Plain grey, colours near to the truth, or another hue; the renderer's default lights in half of the cases.

    hardness: scales the shares of plain grey and of other hues, and all other changes of colour and light, 0 to 1.
    """
    grey, hue = hardness * GREY_SHARE, hardness * HUE_SHARE
    kind = rng.random()
    if kind < grey:
        matrix = np.eye(3) * rng.uniform(100.0, 235.0) / 255.0
    elif kind < grey + hue:
        gain = np.exp(rng.normal(0, 0.35) + rng.normal(0, 0.1, 3))
        matrix = gain[:, None] * color_matrix(rng.uniform(-np.pi, np.pi), rng.uniform(0.0, 1.5))
    else:
        gain = np.exp(hardness * (rng.normal(0, 0.15) + rng.normal(0, 0.05, 3)))
        matrix = gain[:, None] * color_matrix(hardness * rng.normal(0, 0.15), np.exp(hardness * rng.normal(0, 0.2)))
    shading = Shading()
    if rng.random() < 0.5 * hardness:
        ambient = float(rng.uniform(0.1, 0.9))
        shading = Shading(ambient=ambient, diffuse=float((1.0 - ambient) * rng.uniform(0.8, 1.2)))
    return Look(kind < grey, matrix, shading, SUPERSAMPLE if rng.random() < 0.5 else 1)


def color_matrix(angle: float, saturation: float) -> Array:
    """Turn of the hue about the grey axis by ``angle`` radians after a change of saturation, float64 [3,3]."""
    grey_part = np.tile(_LUMA, (3, 1))
    saturate = grey_part + saturation * (np.eye(3) - grey_part)
    c, s = np.cos(angle), np.sin(angle) / np.sqrt(3.0)
    third = (1.0 - c) / 3.0
    turn = np.array(
        [
            [c + third, third - s, third + s],
            [third + s, c + third, third - s],
            [third - s, third + s, c + third],
        ]
    )
    return turn @ saturate


def _blur(rng: Rng, image: Array, unit: float) -> Array:
    """The lens's own softness; besides, at times, low resolution, defocus, motion."""
    n = len(image)
    if rng.random() < 0.25:
        m = max(8, int(n * rng.uniform(0.4, 0.9)))
        image = cv2.resize(image, (m, m), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (n, n), interpolation=cv2.INTER_LINEAR)
    sigma = rng.uniform(0.8, 1.7) if rng.random() < 0.2 else rng.uniform(0.2, 0.7)
    image = cv2.GaussianBlur(image, (0, 0), sigma * unit)
    if rng.random() < 0.12:
        length = unit * rng.uniform(2.0, 8.0)
        image = cv2.filter2D(image, -1, _motion(length, rng.uniform(0, np.pi)), borderType=cv2.BORDER_REPLICATE)
    return image


def _motion(length: float, angle: float) -> Array:
    """A centred line of this length in pixels as a convolution kernel, float32, sum 1."""
    side = 2 * int(np.ceil(length / 2)) + 3
    kernel = np.zeros((side, side), np.float32)
    t = np.linspace(-length / 2, length / 2, 4 * side)
    x, y = side / 2 - 0.5 + t * np.cos(angle), side / 2 - 0.5 + t * np.sin(angle)
    np.add.at(kernel, (np.rint(y).astype(int), np.rint(x).astype(int)), 1.0)
    kernel += kernel[::-1, ::-1]  # rounding must not move the picture
    return kernel / kernel.sum()


@lru_cache(maxsize=1)
def _noise_bank() -> Array:
    """Unit Gaussian noise float32 [640,640,3], used in pieces: drawing it anew would take longer than all else."""
    return np.random.default_rng(20240229).standard_normal((640, 640, 3), np.float32)


def _noise(rng: Rng, n: int, sigma: float) -> Array:
    """Sensor noise float32 [n,n,3], a random piece of the bank; in half of the cases in brightness alone."""
    bank = _noise_bank()
    if n > len(bank):
        return rng.standard_normal((n, n, 3), np.float32) * np.float32(sigma)
    y, x = rng.integers(len(bank) - n + 1, size=2)
    piece = bank[y : y + n, x : x + n]
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    return (piece if rng.random() < 0.5 else piece[..., :1]) * np.float32(sigma)


def _jpeg(picture: Array, quality: int) -> Array:
    done, code = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError("OpenCV cannot encode JPEG here")
    return cv2.imdecode(code, cv2.IMREAD_COLOR)
