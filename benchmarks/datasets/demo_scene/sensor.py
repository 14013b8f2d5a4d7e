"""From radiance to the picture of a small camera: lens, colour filter, photons, read-out, tone curve."""

from __future__ import annotations

import cv2
import numpy as np

FULL_WELL = 6000.0  # electrons at white
READ_NOISE = 4.0  # electrons
_GAINS = np.array([1.9, 1.0, 1.6])  # white balance: red and blue sites see less light


def expose(
    radiance: np.ndarray, seed: int = 0, full_well: float = FULL_WELL, white: float = 0.93, lens: float = 0.9
) -> np.ndarray:
    """Turn linear radiance float [2h,2w,3] into the picture, uint8 sRGB [h,w,3].

    The sensor has twice the pixels per side of the picture, behind a Bayer filter; its picture is demosaicked and
    binned, as a webcam does. Pixel centres stay where they are: no step shifts the image. Pixels that are not finite,
    as a path tracer leaves now and then, take the mean of their neighbours.

    Args:
        radiance: linear, float [2h,2w,3].
        seed: of the noise.
        full_well: electrons at white; fewer of them are a noisier picture.
        white: where the 97.5th percentile of the light is brought, of 1.
        lens: its blur (sigma), pixels of the sensor.
    """
    rng = np.random.default_rng(seed)
    height, width = radiance.shape[:2]
    y, x = np.mgrid[:height, :width]
    r2 = ((x - width / 2) ** 2 + (y - height / 2) ** 2) / (width / 2) ** 2
    light = _mended(radiance.astype(np.float64)) / (1.0 + 0.16 * r2)[..., None]  # vignetting
    light *= white / np.percentile(light.max(axis=2), 97.5)  # exposure
    light = cv2.GaussianBlur(np.minimum(light, 2.0), (0, 0), lens)  # the lens, in sensor pixels; without fireflies
    sites = bayer_sites(height, width)
    electrons = np.zeros((height, width))
    for c in range(3):
        electrons[sites[c]] = (light[..., c] / _GAINS[c])[sites[c]] * full_well
    electrons = rng.poisson(np.clip(electrons, 0.0, full_well)) + rng.normal(0.0, READ_NOISE, electrons.shape)
    raw = np.rint(np.clip(electrons / full_well, 0.0, 1.0) * 1023.0) / 1023.0
    rgb = np.stack([_interpolate(raw, sites[c]) * _GAINS[c] for c in range(3)], axis=-1)
    binned = rgb.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    soft = np.where(binned < 0.8, binned, 0.8 + 0.2 * np.tanh((binned - 0.8) / 0.2))  # highlights roll off
    encoded = np.where(soft <= 0.0031308, 12.92 * soft, 1.055 * np.maximum(soft, 0.0031308) ** (1 / 2.4) - 0.055)
    return np.rint(np.clip(encoded, 0.0, 1.0) * 255.0).astype(np.uint8)


def _mended(radiance: np.ndarray) -> np.ndarray:
    finite = np.isfinite(radiance).all(axis=2, keepdims=True)
    if finite.all():
        return radiance
    known = np.where(finite, radiance, 0.0)
    weight = cv2.GaussianBlur(finite.astype(np.float64), (0, 0), 2.0)[..., None]
    return np.where(finite, radiance, cv2.GaussianBlur(known, (0, 0), 2.0) / np.maximum(weight, 1e-6))


def bayer_sites(height: int, width: int) -> np.ndarray:
    """Tell where a site sees red, green, blue (rows RG, GB), bool [3,h,w]."""
    sites = np.zeros((3, height, width), bool)
    sites[0, ::2, ::2] = sites[2, 1::2, 1::2] = True
    sites[1] = ~(sites[0] | sites[2])
    return sites


def _interpolate(raw: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """The channel everywhere, as the weighted mean of its sites in a 3 x 3 window (bilinear demosaicking)."""
    kernel = np.outer((1.0, 2.0, 1.0), (1.0, 2.0, 1.0))
    total = cv2.filter2D(raw * sites, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    weight = cv2.filter2D(sites.astype(np.float64), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return np.where(sites, raw, total / weight)
