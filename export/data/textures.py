"""Textures of procedural objects and backgrounds of scenes: drawn, not loaded, apart from photographs.

All images are RGB uint8. A texture's content is random but structured: what a network has to match are marks that can
be told apart (print, stripes, blotches) as well as surfaces that have none.
"""

from __future__ import annotations

import colorsys
import hashlib
import string
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from coop_edge.errors import InputError

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

GAMMA = 2.2
"""Exponent from sRGB values to linear light, nearly."""
LINEAR = ((np.arange(256) / 255.0) ** GAMMA).astype(np.float32)
"""Linear light of the 256 levels of an image."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in brightness."""
HELD_OUT_SHARE = 0.1
"""Of assets (meshes of a pack, photographs) kept for evaluation."""
_PHOTOS = (
    "astronaut", "brick", "cell", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field", "ihc", "logo",
    "moon", "motorcycle_left", "page", "retina", "rocket", "text",
)  # fmt: skip
"""Pictures of scikit-image's sample data, without suffixes."""


def is_held_out(name: str) -> bool:
    """Tell whether the asset of this name belongs to the held-out split: by a hash, so that it stays there for ever."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < HELD_OUT_SHARE * 2**32


def random_color(rng: Rng) -> Array:
    """Draw an sRGB colour, float64 [3] in 0..255: hues of things, many of them dull, some black, white or grey."""
    if rng.random() < 0.25:
        return np.full(3, 20.0 + 230.0 * rng.beta(0.9, 0.8))
    value, saturation = 0.15 + 0.85 * rng.beta(2.0, 1.3), rng.beta(1.5, 1.5)
    return 255.0 * np.array(colorsys.hsv_to_rgb(rng.random(), saturation, value))


def _color_bases() -> Array:
    """float64 [3,2,3,3]: turns (constant, cosine and sine part) times saturations (constant and linear part)."""
    grey, eye = np.tile(LUMA, (3, 1)), np.eye(3)
    third, cycle = np.full((3, 3), 1.0 / 3.0), np.roll(eye, 1, axis=0)
    turn = np.stack([third, eye - third, (cycle - cycle.T) / np.sqrt(3.0)])
    return turn[:, None] @ np.stack([grey, eye - grey])


COLOR_BASES = _color_bases()
"""See ``color_matrix``: sum over k, l of (1, cos, sin)_k (1, saturation)_l COLOR_BASES[k, l]."""


def color_matrix(angle: float, saturation: float) -> Array:
    """Return a change of RGB colours, float64 [3,3]: of saturation, then a turn of the hue by ``angle`` radians."""
    turn = np.array([1.0, np.cos(angle), np.sin(angle)])
    return np.einsum("k,l,klij->ij", turn, [1.0, saturation], COLOR_BASES)


def noise(rng: Rng, size: int, octaves: int = 4, coarsest: int = 3) -> Array:
    """Draw band-limited noise, float32 [size,size] in about [-1, 1].

    Its octaves go from ``coarsest`` cells a side, each half as strong as the one before.
    """
    out = np.zeros((size, size), np.float32)
    stretch = rng.choice((1, 1, 1, 4))  # now and then a grain
    for k in range(octaves):
        cells = coarsest * 2**k
        if cells > size:
            break
        grid = rng.uniform(-1, 1, (cells, min(size, cells * stretch))).astype(np.float32)
        out += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * 0.6**k
    return out


def texture(rng: Rng, size: int, split: str, photos: str | None = None) -> Array:
    """Draw a texture uint8 [size,size,3] of a random kind. ``split`` and ``photos`` as in ``photographs``."""
    kinds = (_gradient, _checker, _stripes, _mottled, _mottled, _label, _label, _label)
    kind = int(rng.integers(len(kinds) + 2))
    if kind >= len(kinds):
        image = photo_crop(rng, size, split, photos)
        return image if rng.random() < 0.5 else _print(rng, image)
    return kinds[kind](rng, size)


def background(rng: Rng, size: int, split: str, photos: str | None = None) -> Array:
    """Draw what stands behind a scene, uint8 [size,size,3]: photograph, noise, gradient or a jumble of shapes."""
    kind = rng.random()
    if kind < 0.45:
        image = photo_crop(rng, size, split, photos)
    elif kind < 0.6:
        image = _mottled(rng, size)
    elif kind < 0.7:
        image = _gradient(rng, size)
    else:
        image = texture(rng, size, split, photos)
    if rng.random() < 0.5:
        image = _jumble(rng, image.copy())
    return image


@lru_cache(maxsize=4)
def photographs(split: str, folder: str | None = None) -> tuple[Path, ...]:
    """Return the files of a split's photographs; none where there are none.

    They come from ``folder`` (any JPEG or PNG below it), else from scikit-image's sample data where that is installed.

    Raises:
        InputError: ``folder`` is not a folder.
    """
    if folder is not None:
        root = Path(folder)
        if not root.is_dir():
            raise InputError(f"photos: {folder!r} is not a folder; wanted one that holds JPEG or PNG files")
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    else:
        try:
            import skimage
        except ImportError:
            return ()
        data = Path(skimage.__file__).parent / "data"
        files = sorted(p for p in data.iterdir() if p.stem in _PHOTOS and p.suffix in (".png", ".jpg"))
    return tuple(path for path in files if is_held_out(path.name) == (split == "heldout"))


@lru_cache(maxsize=64)
def photograph(path: Path) -> Array:
    """Read a photograph as RGB uint8 [H,W,3], at most 512 pixels a side."""
    with Image.open(path) as file:
        image = np.asarray(file.convert("RGB"))
    scale = min(1.0, 512.0 / max(image.shape[:2]))
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def photo_crop(rng: Rng, size: int, split: str, folder: str | None = None) -> Array:
    """Draw a random square of a photograph at a random scale and turn, colours swapped half of the time."""
    files = photographs(split, folder)
    if not files:
        return _mottled(rng, size)
    image = photograph(files[int(rng.integers(len(files)))])
    side = int(min(image.shape[:2]) * rng.uniform(0.25, 1.0))
    y, x = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
    crop = np.rot90(image[y : y + side, x : x + side], int(rng.integers(4)))
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    out = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        out = np.ascontiguousarray(out[..., rng.permutation(3)])
    return out


def _gradient(rng: Rng, size: int) -> Array:
    a, b, angle = random_color(rng), random_color(rng), rng.uniform(0, 2 * np.pi)
    t = np.linspace(-0.7, 0.7, size, dtype=np.float32)
    ramp = np.clip(np.cos(angle) * t[None] + np.sin(angle) * t[:, None] + 0.5, 0, 1)[..., None]
    return (a * (1 - ramp) + b * ramp).astype(np.uint8)


def _checker(rng: Rng, size: int) -> Array:
    n, m = rng.integers(2, 13, 2)
    field = (np.arange(size)[:, None] * n // size + np.arange(size) * m // size) % 2
    return np.where(field[..., None] > 0, random_color(rng), random_color(rng)).astype(np.uint8)


def _stripes(rng: Rng, size: int) -> Array:
    edges = np.sort(rng.integers(0, size, int(rng.integers(2, 16))))
    colors = np.stack([random_color(rng) for _ in range(min(len(edges) + 1, int(rng.integers(2, 6))))])
    line = colors[np.searchsorted(edges, np.arange(size)) % len(colors)].astype(np.uint8)
    image = np.repeat(line[None], size, axis=0)
    return image if rng.random() < 0.5 else np.ascontiguousarray(image.swapaxes(0, 1))


def _mottled(rng: Rng, size: int) -> Array:
    """Noise between two or three colours."""
    base, span = random_color(rng), rng.uniform(0.05, 1.0)
    field = noise(rng, size, int(rng.integers(2, 6)), int(rng.integers(2, 9)))
    if rng.random() < 0.3:
        field = np.tanh(6 * field)  # blotches
    image = base + (random_color(rng) - base) * (span * (0.5 + 0.5 * field))[..., None]
    if rng.random() < 0.3:
        image += rng.normal(0, 60, 3) * noise(rng, size, 3, 4)[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def _label(rng: Rng, size: int) -> Array:
    """A plain or mottled ground with print on it."""
    if rng.random() < 0.6:
        ground = np.broadcast_to(random_color(rng).astype(np.uint8), (size, size, 3)).copy()
    else:
        ground = _mottled(rng, size)
    return _print(rng, ground)


def _print(rng: Rng, image: Array) -> Array:
    """Patches, bars and text-like marks."""
    image = np.ascontiguousarray(image).copy()
    size = len(image)
    for _ in range(int(rng.integers(1, 4))):
        color, ink = random_color(rng).tolist(), random_color(rng).tolist()
        x0, y0 = (int(v) for v in rng.integers(-size // 8, size * 3 // 4, 2))
        w, h = (int(v) for v in rng.integers(size // 8, size * 2 // 3, 2))
        kind = rng.random()
        if kind < 0.55:
            cv2.rectangle(image, (x0, y0), (x0 + w, y0 + h), color, -1)
        elif kind < 0.75:
            cv2.ellipse(image, (x0 + w // 2, y0 + h // 2), (w // 2, h // 2), 0, 0, 360, color, -1, cv2.LINE_AA)
        if rng.random() < 0.2:
            for x in range(x0, x0 + w, int(rng.integers(3, 8))):
                cv2.line(image, (x, y0), (x, y0 + h // 2), ink, int(rng.integers(1, 4)))
            continue
        _text(rng, image, (x0 + 3, y0), w, h, ink)
    return image


def _text(rng: Rng, image: Array, corner: tuple[int, int], width: int, height: int, ink: list[float]) -> None:
    letters = np.array(list(string.ascii_letters + string.digits))
    scale = float(np.exp(rng.uniform(np.log(0.35), np.log(2.2)))) * len(image) / 256
    step = max(6, int(32 * scale))
    count = max(2, int(width / (18 * scale)))
    font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX]))
    for row in range(1, max(2, min(height // step, 8))):
        text = "".join(rng.choice(letters, int(rng.integers(1, count + 1))))
        cv2.putText(
            image, text, (corner[0], corner[1] + row * step), font, scale, ink, max(1, round(2 * scale)), cv2.LINE_AA
        )


def _jumble(rng: Rng, image: Array) -> Array:
    """Filled shapes in front of a background: clutter with sharp edges."""
    size = len(image)
    for _ in range(int(rng.integers(3, 20))):
        color = random_color(rng).tolist()
        centre, radius = rng.uniform(0, size, 2), size * np.exp(rng.uniform(np.log(0.03), np.log(0.35)))
        angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        corners = centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(0.3, 1.0, 2)
        if rng.random() < 0.3:
            axes = (int(radius), max(1, int(radius * rng.uniform(0.2, 1))))
            cv2.ellipse(image, tuple(int(c) for c in centre), axes, rng.uniform(0, 180), 0, 360, color, -1, cv2.LINE_AA)
        else:
            cv2.fillPoly(image, [corners.astype(np.int32)], color, cv2.LINE_AA)
    return image
