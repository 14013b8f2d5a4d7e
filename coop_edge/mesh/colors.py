"""Settles one colour source per face.

Precedence within a part: a texture (where there are texture coordinates), else the file's vertex or face colours, else
the material's colour, else the albedo. Colours are sRGB as they stand in the file, except for glTF, whose vertex
colours and factors are linear light (glTF 2.0, sections 3.9.2 and 3.7.2.1) and are encoded to sRGB here. In glTF a
factor also multiplies its texture or vertex colours; in MTL files Kd is taken as the colour of untextured faces only,
and so is a factor of trimesh's own, in memory or in a file that it wrote: it may be the Kd of where it came from.
Alpha is ignored, with a note.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.images import Range, unroll
from coop_edge.mesh.limits import LoadLimits
from coop_edge.mesh.parts import TRANSPARENCY, Material, Part, Texture

_ROUNDED = 2.0  # float colours up to here count as 0..1: brighter than white, or rounded; a larger one as 0..255


class Corners(NamedTuple):
    """The colours of F faces, as in ``Mesh``; and which faces have a colour of their own."""

    colors: NDArray[np.uint8]  # [F,3,3]
    uv: NDArray[np.float32]  # [F,3,2]
    texture: NDArray[np.int32]  # [F]
    colored: NDArray[np.bool_]  # [F]


class TextureTable:
    """Collects the distinct textures of a mesh as RGB arrays, in order of first use.

    Args:
        parts: all of the mesh; a texture that does not repeat is written out as far as their coordinates reach
            together.
    """

    def __init__(self, parts: list[Part], limits: LoadLimits, notes: list[str]) -> None:
        self.images: list[NDArray[np.uint8]] = []
        self._limits, self._notes = limits, notes
        self._index: dict[tuple[int, tuple[str, str], tuple[float, ...] | None], int] = {}
        self._unrolled: dict[tuple[int, tuple[str, str]], tuple[NDArray[np.uint8], Range]] = {}
        self._reach: dict[tuple[int, tuple[str, str]], Range] = {}
        files, tinted = {}, {}
        for part in parts:
            material = part.material
            texture = None if material is None else material.texture
            if material is None or texture is None:
                continue
            files[id(texture.image)] = texture.image
            if part.uv is not None and _tint(material) is not None:
                tinted[_key(texture), _tint(material)] = texture.image
            if part.uv is not None and part.uv.size:
                low, high = part.uv.min(axis=(0, 1)), part.uv.max(axis=(0, 1))
                before = self._reach.get(_key(texture), (low, high))
                self._reach[_key(texture)] = np.minimum(low, before[0]), np.maximum(high, before[1])
        self._pixels = sum(image.shape[0] * image.shape[1] for image in [*files.values(), *tinted.values()])
        self._check()  # before the first is made
        self._pixels -= sum(image.shape[0] * image.shape[1] for image in tinted.values())

    def add(
        self, texture: Texture, uv: NDArray[np.float64], factor: tuple[float, ...] | None
    ) -> tuple[int, NDArray[np.float64]]:
        """Return the index of a texture times a linear-light ``factor`` [3], None for 1, and the coordinates [F,3,2].

        Raises:
            MeshError: the pictures of the file and those made of them exceed the limits.
        """
        key = _key(texture)
        if key not in self._unrolled:
            self._unrolled[key] = unroll(
                texture, self._reach.get(key, (np.zeros(2), np.zeros(2))), self._charge, self._notes
            )
        image, (shift, scale) = self._unrolled[key]
        entry = (*key, factor)
        if entry not in self._index:
            if factor is not None:
                image = self._tinted(image, np.asarray(factor))
            self._index[entry] = len(self.images)
            image = np.ascontiguousarray(image)
            image.setflags(write=False)  # or the Mesh would copy it
            self.images.append(image)
        plain = not shift.any() and (scale == 1.0).all()
        return self._index[entry], uv if plain else (uv - shift) * scale

    def _tinted(self, image: NDArray[np.uint8], factor: NDArray[np.float64]) -> NDArray[np.uint8]:
        self._charge(image.shape[0] * image.shape[1])
        levels = to_bytes(linear_to_srgb(srgb_to_linear(np.arange(256) / 255.0)[:, None] * factor))
        made = np.empty_like(image)
        for c in range(3):
            made[..., c] = levels[:, c][image[..., c]]
        return made

    def _charge(self, pixels: int) -> None:
        """Count the pixels of a picture that is about to be made."""
        self._pixels += pixels
        self._check()

    def _check(self) -> None:
        what = f"the textures have {self._pixels} pixels, with the tinted and continued copies"
        self._limits.check("all_texture_pixels", self._pixels, what)


def _key(texture: Texture) -> tuple[int, tuple[str, str]]:
    return id(texture.image), texture.wrap  # the parts keep the images alive, so ids stay unique


def _tint(material: Material) -> tuple[float, ...] | None:
    """Return what a material multiplies its texture by, None if that changes nothing."""
    changes = material.tints and material.color is not None and any(c != 1.0 for c in material.color)
    return material.color if changes else None


def paint(part: Part, albedo: NDArray[np.uint8], table: TextureTable, notes: list[str]) -> Corners:
    """Return the colours of a part's F faces."""
    f = len(part.faces)
    colors = np.broadcast_to(albedo, (f, 3, 3)).copy()
    uv = np.zeros((f, 3, 2), np.float32)
    texture = np.full(f, -1, np.int32)
    material, own = part.material, part.colors
    has_own = np.zeros(f, bool) if own is None else np.asarray(~np.isnan(own).any(axis=(1, 2)))
    tint = None if material is None else material.color
    if material is not None and material.texture is not None and part.uv is not None:
        index, coordinates = table.add(material.texture, part.uv, _tint(material))
        with np.errstate(over="ignore"):  # infinity is refused later
            texture[:], uv[:] = index, coordinates
        if own is not None and not np.all(own[has_own] == 1.0):
            notes.append("vertex colours beside a texture are not used")
        return Corners(colors, uv, texture, np.ones(f, bool))
    if material is not None and material.texture is not None:
        notes.append(f"material {material.name!r} has a texture, but faces without coordinates")
    encode = linear_to_srgb if part.linear else np.asarray
    if tint is not None:
        colors[~has_own] = to_bytes(encode(np.asarray(tint)))
    if own is not None:
        factor = np.asarray(tint) if tint is not None and material is not None and material.tints else 1.0
        colors[has_own] = to_bytes(encode(own[has_own] * factor))
    return Corners(colors, uv, texture, has_own | (tint is not None))


def unit_colors(colors: Any, notes: list[str] | None = None) -> NDArray[np.float64]:
    """Convert colours [N,3] or [N,4] of any numeric type to [N,3] in 0..1.

    Bytes count as 0..255, other integers as 0..255 where none exceeds it, else as 0..65535; floats as 0..1, or as
    0..255 where one is clearly above 1. What had to be guessed or cut is said in ``notes``.

    Raises:
        MeshError: the array is not of numbers, has another shape, or holds integers beyond 65535.
    """
    array = np.asarray(colors)
    if array.ndim != 2 or array.shape[1] not in (3, 4) or array.dtype.kind not in "iufb":
        raise MeshError(f"colours: wanted numbers [N,3] or [N,4], got {array.dtype} {list(array.shape)}")
    notes = [] if notes is None else notes
    if array.shape[1] == 4:
        check_alpha(array[:, 3], array[:, :3], notes)
    array = array[:, :3]
    if array.dtype.kind in "iub":
        return _from_integers(array.view(np.uint8) if array.dtype == np.int8 else array, notes)
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        notes.append(f"{int((~np.isfinite(values)).any(axis=1).sum())} colours are NaN or infinite: taken as black")
        values = np.where(np.isfinite(values), values, 0.0)
    high = float(values.max(initial=0.0))
    if high > _ROUNDED:
        small = values.max(axis=1)
        if ((small < 1.0) & (small > 0.0)).any():
            notes.append("colours below 1 beside others up to 255: all of them are taken as 0..255")
        values, high = values / 255.0, high / 255.0
    if high > 1.01 or values.min(initial=0.0) < -0.01:
        notes.append(f"colours between {values.min(initial=0.0):.3g} and {high:.3g} of white are cut to 0..1")
    return np.clip(values, 0.0, 1.0)


def are_normals(numbers: NDArray[np.float64], notes: list[str]) -> bool:
    """Tell whether numbers [N,3] behind positions, which nothing says to be colours, are normals: some are negative.

    That they are so, or may be (all of length 1), is noted.
    """
    if (numbers < -0.02).any():
        notes.append("the numbers behind the positions of its vertices look like normals: not used as colours")
        return True
    plain = np.isin(numbers, (0.0, 1.0)).all()
    if len(numbers) and not plain and (np.abs(np.linalg.norm(numbers, axis=1) - 1.0) < 1e-3).all():
        notes.append(
            "the numbers behind the positions of its vertices, of length 1 as normals are, are taken as colours"
        )
    return False


def check_alpha(alpha: NDArray[Any], colors: NDArray[Any], notes: list[str]) -> None:
    """Note transparency, if one of the values [N] beside colours [N,3] is less than full."""
    high = max(alpha.max(initial=0), colors.max(initial=0))
    full = 65535.0 if high > 255 else 255.0
    if alpha.dtype.kind == "b" or (alpha.dtype.kind == "f" and high <= _ROUNDED):
        full = 1.0
    if (alpha < 0.998 * full).any():
        notes.append(TRANSPARENCY)


def _from_integers(array: NDArray[Any], notes: list[str]) -> NDArray[np.float64]:
    high = int(array.max(initial=0))
    if array.dtype == np.uint8 or array.dtype.kind == "b":
        return array / 255.0
    if high <= 255 and array.dtype == np.uint16 and high > 0:
        notes.append("16-bit colours that do not exceed 255 are taken as 0..255")
    if high > 65535 or int(array.min(initial=0)) < 0:
        raise MeshError(f"colours are integers up to {high}; wanted 0..255 or 0..65535")
    return array / (255.0 if high <= 255 else 65535.0)


def to_bytes(colors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Convert colours in 0..1 to bytes 0..255, rounded to nearest."""
    return np.asarray(np.rint(np.clip(colors, 0.0, 1.0) * 255.0), np.uint8)


def linear_to_srgb(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Encode linear light in 0..1 as sRGB (IEC 61966-2-1)."""
    low = linear <= 0.0031308
    return np.where(low, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def srgb_to_linear(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Decode sRGB in 0..1 to linear light; inverse of ``linear_to_srgb``."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
