"""Decodes the pictures that textures are made of, within bounds."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coop_edge.errors import MeshError
from coop_edge.mesh.limits import LoadLimits
from coop_edge.mesh.parts import CLAMP, REPEAT, Texture

_KINDS = ("PNG", "JPEG", "BMP", "TGA", "TIFF", "WEBP", "AVIF", "GIF", "DDS", "PPM", "JPEG2000", "QOI", "PCX", "SGI")
"""Formats of Pillow that are tried; others run programs (EPS), or hold no picture."""
MAX_TEXTURE_SIDE = 4096
"""Textures with a longer side are shrunk to it when loaded."""


class ImageDecoder:
    """Decodes the pictures of one mesh; their sizes are compared with the limits before they are unpacked."""

    def __init__(self, limits: LoadLimits, notes: list[str]) -> None:
        self._limits, self._notes, self._pixels = limits, notes, 0

    def decode(self, data: bytes, label: str) -> NDArray[np.uint8]:
        """Return a picture as uint8 [h,w,3].

        Raises:
            MeshError: it cannot be decoded, or is too large.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                Image.init()
                kinds = [kind for kind in _KINDS if kind in Image.OPEN]
                with Image.open(io.BytesIO(data), formats=kinds) as image:
                    return self.convert(image, label)
        except MeshError:
            raise
        except Image.DecompressionBombError as error:
            raise MeshError(f"{label} has more pixels than Pillow opens ({error}); make it smaller") from None
        except MemoryError:
            raise MeshError(f"{label} does not fit into memory; make it smaller") from None
        except Exception as error:  # decoders meet any kind of bytes, and fail in any kind of way
            raise MeshError(f"{label} cannot be decoded as an image ({error}); save it again as PNG or JPEG") from error

    def convert(self, image: Any, label: str) -> NDArray[np.uint8]:
        """Return a PIL image as uint8 [h,w,3], shrunk if it is large.

        Raises:
            MeshError: the pixels cannot be decoded, or are floating-point numbers.
        """
        width, height = image.size
        self._limits.check("texture_pixels", width * height, f"{label} has {width} x {height} pixels")
        self._pixels += width * height
        self._limits.check("all_texture_pixels", self._pixels, f"the textures have {self._pixels} pixels")
        return self._shrink(to_rgb(image, label))

    def _shrink(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = rgb.shape[:2]
        if max(height, width) <= MAX_TEXTURE_SIDE:
            return rgb
        scale = MAX_TEXTURE_SIDE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self._notes.append(f"texture {width} x {height} shrunk to {size[0]} x {size[1]}")
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def to_rgb(image: Any, label: str = "an image of the mesh") -> NDArray[np.uint8]:
    """Convert a PIL image to uint8 [h,w,3]; 16-bit greys keep their upper byte.

    Raises:
        MeshError: if that fails.
    """
    try:
        if image.mode.startswith("I"):
            grey = np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        if image.mode == "F":
            raise MeshError(f"{label} holds floating-point numbers, which are not read; save it as an 8-bit PNG")
        return np.array(image.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        name = image.info.get("file_path", label)
        raise MeshError(f"{name} cannot be decoded as an image ({error}); save it again as PNG or JPEG") from error


Range = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Smallest and largest texture coordinate [2]."""


def unroll(
    texture: Texture, reach: Range, charge: Callable[[int], None], notes: list[str]
) -> tuple[NDArray[np.uint8], Range]:
    """Return an image that, repeated, shows what the texture shows within ``reach``; and how to look it up.

    A texture that is clamped or mirrored is written out as far as the coordinates reach, with one texel more on each
    side for interpolation. Coordinates become (uv - shift) * scale; (shift, scale) is what is returned.

    Args:
        charge: is given the number of pixels of each picture before it is made.
    """
    image = texture.image
    shift, scale = np.zeros(2), np.ones(2)
    if not np.abs(reach).max() < 1e9:  # or NaN
        return image, (shift, scale)
    for axis, (wrap, along) in enumerate(zip(texture.wrap, (1, 0), strict=True)):
        n = texture.image.shape[along]
        first, last = reach[0][axis] * n, reach[1][axis] * n
        if wrap == REPEAT or (first >= 0.5 and last <= n - 0.5):
            continue
        texels = (np.floor(last) - np.floor(first) + 3) * image.shape[1 - along]
        if texels > 4 * max(texture.image.shape[0] * texture.image.shape[1], 1 << 20):
            notes.append(f"a texture that is to be continued as {wrap!r}, {(last - first) / n:.0f} times, is repeated")
            continue
        low, high = int(np.floor(first)) - 1, int(np.floor(last)) + 2
        charge((high - low) * image.shape[1 - along])
        index = np.arange(low, high)
        index = np.clip(index, 0, n - 1) if wrap == CLAMP else _mirrored(index, n)
        image = image[:, index] if along == 1 else image[::-1][index][::-1]  # v counts from the bottom row
        shift[axis], scale[axis] = low / n, n / (high - low)
    return np.ascontiguousarray(image), (shift, scale)


def _mirrored(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    back = index % (2 * n)
    return np.where(back < n, back, 2 * n - 1 - back)
