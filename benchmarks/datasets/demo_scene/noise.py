"""Smooth random fields and the two table textures made of them. Images are RGB uint8 [h,w,3], sRGB."""

from __future__ import annotations

import cv2
import numpy as np


def value_noise(shape: tuple[int, int], cells: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Draw smooth noise in [0, 1], float32 [h,w], with about ``cells`` = (rows, columns) bumps."""
    rows, columns = (max(2, round(c)) + 3 for c in cells)
    lattice = rng.random((rows, columns), dtype=np.float32)
    field = cv2.resize(lattice, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.clip(field, 0.0, 1.0)


def fractal_noise(
    shape: tuple[int, int], cells: tuple[float, float], octaves: int, rng: np.random.Generator
) -> np.ndarray:
    """Sum of octaves of ``value_noise``, each twice as fine and half as strong, in [0, 1]."""
    total, weight = np.zeros(shape, np.float32), 0.0
    for octave in range(octaves):
        share = 0.5**octave
        total += share * value_noise(shape, (cells[0] * 2**octave, cells[1] * 2**octave), rng)
        weight += share
    return total / weight


def wood(width: int, height: int, planks: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw oak boards along the rows: (colour uint8 [h,w,3], roughness uint8 [h,w]).

    Each board is a cut through bent annual rings at its own place, with fine pores along the grain and a dark joint.
    """
    rng = np.random.default_rng(seed)
    board = height // planks
    color = np.zeros((height, width, 3), np.float32)
    rough = np.full((height, width), 0.42, np.float32)
    light, dark = np.array([196, 152, 104], np.float32), np.array([128, 84, 50], np.float32)
    for p in range(planks):
        rows = slice(p * board, height if p == planks - 1 else (p + 1) * board)
        shape = (rows.stop - rows.start, width)
        y = np.linspace(-0.5, 0.5, shape[0], dtype=np.float32)[:, None]
        bend = fractal_noise(shape, (1.5, 5), 3, rng) - 0.5
        radius = np.hypot(y + rng.uniform(-0.9, 0.9), 0.55 + 0.9 * bend) * rng.uniform(16, 26)
        ring = radius - np.floor(radius)
        grain = ring**3 * (1.0 - np.clip((ring - 0.92) / 0.08, 0.0, 1.0))
        pores = value_noise(shape, (shape[0] / 2.2, width / 60), rng)
        fibre = fractal_noise(shape, (shape[0] / 5, width / 140), 2, rng)
        share = np.clip(0.55 * grain + 0.45 * (fibre - 0.35) + 0.9 * np.clip(pores - 0.78, 0, 1), 0.0, 1.0)
        tone = rng.uniform(0.86, 1.08) * np.array([1.0, rng.uniform(0.97, 1.02), rng.uniform(0.93, 1.03)])
        color[rows] = (light + (dark - light) * share[..., None]) * tone
        rough[rows] += 0.2 * (fibre - 0.5) + 0.15 * share
        joint = max(1, board // 90)
        color[rows][:joint] *= 0.35
        for seam in rng.integers(0, width, 1):
            color[rows][:, seam : seam + joint] *= 0.4
    stain = fractal_noise((height, width), (4, 5), 4, rng)
    color *= (0.9 + 0.2 * stain)[..., None]
    return np.clip(color, 0, 255).astype(np.uint8), np.clip(rough * 255, 60, 230).astype(np.uint8)


def linen(width: int, height: int, threads: int, seed: int = 1) -> np.ndarray:
    """Draw a woven cloth in blue and cream checks, uint8 [h,w,3]: threads over and under each other."""
    rng = np.random.default_rng(seed)
    pitch = width / threads
    y, x = np.mgrid[:height, :width].astype(np.float32) / pitch
    x += 0.5 * (fractal_noise((height, width), (9, 9), 3, rng) - 0.5)
    y += 0.5 * (fractal_noise((height, width), (9, 9), 3, rng) - 0.5)
    warp, weft = np.floor(x).astype(int), np.floor(y).astype(int)
    cream, blue, rust = np.array([226, 219, 203]), np.array([52, 84, 122]), np.array([178, 84, 60])

    def yarn(index: np.ndarray) -> np.ndarray:
        phase = index % 40
        out = np.where((phase < 14)[..., None], blue, cream).astype(np.float32)
        out[(phase == 26) | (phase == 27)] = rust
        return out * (0.9 + 0.2 * rng.random(4096, dtype=np.float32))[index % 4096][..., None]

    over = ((warp + weft) % 2 == 0)[..., None]
    across = np.where(over, np.abs(x - warp - 0.5)[..., None], np.abs(y - weft - 0.5)[..., None])
    color = np.where(over, yarn(warp), yarn(weft)) * (1.0 - 0.75 * across**2 * 2)
    color *= 0.92 + 0.16 * rng.random((height, width, 1), dtype=np.float32)
    return np.clip(color, 0, 255).astype(np.uint8)
