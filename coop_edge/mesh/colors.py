"""Turns trimesh's visuals into one colour source per face.

Precedence within a part: a texture (where there are texture coordinates), else the file's vertex or face colours, else
the material's diffuse colour, else the albedo. Colours are sRGB as they stand in the file, except for glTF, whose
vertex colours and factors are linear light (glTF 2.0, sections 3.9.2 and 3.7.2.1) and are encoded to sRGB here. In glTF
a factor also multiplies its texture or vertex colours; in MTL files Kd is taken as the colour of untextured faces only,
and so is a factor of trimesh's own, in memory or in a file that it wrote: it may be the Kd of where it came from.
Alpha is ignored.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from trimesh.visual.material import MultiMaterial, PBRMaterial, empty_material

from coop_edge.errors import MeshError
from coop_edge.mesh.parts import Part

MAX_TEXTURE_SIDE = 4096
"""Textures with a longer side are shrunk to it when loaded."""

_TRIMESH_DEFAULT_DIFFUSE = (102, 102, 102)  # what trimesh fills in where a material states no colour

Corners = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32]]


class TextureTable:
    """Collects the distinct textures of a mesh as RGB arrays, in order of first use."""

    def __init__(self) -> None:
        self.images: list[NDArray[np.uint8]] = []
        self.notes: list[str] = []
        self._index: dict[tuple[int, tuple[float, ...] | None], int] = {}
        self._alive: list[Any] = []  # ids stay unique only while their images live

    def add(self, image: Any, factor: NDArray[np.float64] | None = None) -> int:
        """Return the index of ``image`` (PIL) times a linear-light ``factor`` [3]. Raises MeshError if it is broken."""
        scale = None if factor is None or np.all(factor == 1.0) else tuple(float(f) for f in factor)
        key = (id(image), scale)
        if key not in self._index:
            rgb = self._shrink(to_rgb(image))
            if scale is not None:
                levels = srgb_to_linear(np.arange(256) / 255.0)[:, None] * np.asarray(scale)
                rgb = np.stack([to_bytes(linear_to_srgb(levels))[rgb[..., c], c] for c in range(3)], axis=-1)
            self._index[key] = len(self.images)
            self._alive.append(image)
            self.images.append(np.ascontiguousarray(rgb))
        return self._index[key]

    def _shrink(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = rgb.shape[:2]
        if max(height, width) <= MAX_TEXTURE_SIDE:
            return rgb
        scale = MAX_TEXTURE_SIDE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self.notes.append(f"texture {width} x {height} shrunk to {size[0]} x {size[1]}")
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def paint(part: Part, albedo: NDArray[np.uint8], table: TextureTable, notes: list[str]) -> Corners:
    """Return the colours of a part's F faces.

    These are corner_colors uint8 [F,3,3], corner_uv float32 [F,3,2] and face_texture int32 [F], as in ``Mesh``.
    """
    f = len(part.faces)
    colors = np.broadcast_to(albedo, (f, 3, 3)).copy()
    uv = np.zeros((f, 3, 2), np.float32)
    texture = np.full(f, -1, np.int32)
    own = _own_colors(part)
    if own is not None:
        colors[:] = to_bytes(linear_to_srgb(own) if part.linear else own)
    for faces, material in _materials(part):
        image, tint = material_texture(material), material_color(material)
        factor = tint if isinstance(material, PBRMaterial) and part.linear else None
        coordinates = getattr(part.visual, "uv", None)
        if image is not None and coordinates is not None and len(coordinates) == len(part.vertices):
            texture[faces] = table.add(image, factor)
            uv[faces] = np.asarray(coordinates, np.float64)[part.faces[faces], :2]
            if factor is None and isinstance(material, PBRMaterial) and _states_tint(tint):
                notes.append("the colour that trimesh keeps in a material beside its texture is not used")
            if own is not None and not np.all(own[faces] == 1.0):
                notes.append("vertex colours beside a texture are not used")
            continue
        if image is not None:
            notes.append(f"material {getattr(material, 'name', '')!r} has a texture, but faces without coordinates")
        if own is None and tint is not None:
            colors[faces] = to_bytes(linear_to_srgb(tint) if part.linear else tint)
        elif own is not None and factor is not None:
            colors[faces] = to_bytes(linear_to_srgb(own[faces] * factor))
    return colors, uv, texture


def material_texture(material: Any) -> Any:
    """Return the colour texture (PIL image) of a trimesh material, or None."""
    image = material.baseColorTexture if isinstance(material, PBRMaterial) else getattr(material, "image", None)
    if image is None:
        return None
    # Texture coordinates without any material: trimesh puts a tiny grey image in its place.
    filler = empty_material().image
    return None if image.size == filler.size and image.tobytes() == filler.tobytes() else image


def material_color(material: Any) -> NDArray[np.float64] | None:
    """Return the diffuse colour [3] in 0..1 that a trimesh material states itself, or None."""
    if isinstance(material, PBRMaterial):
        color = material.baseColorFactor
    else:
        color = getattr(material, "diffuse", None)
        stated = "kd" in (getattr(material, "kwargs", None) or {})
        if color is not None and not stated and tuple(color[:3]) == _TRIMESH_DEFAULT_DIFFUSE:
            color = None
    return None if color is None else unit_colors(np.asarray(color)[None])[0]


def _states_tint(color: NDArray[np.float64] | None) -> bool:
    """Return whether a colour is neither white nor what trimesh fills in."""
    filler = np.array(_TRIMESH_DEFAULT_DIFFUSE) / 255.0
    return color is not None and not np.all(color == 1.0) and not np.allclose(color, filler, atol=1 / 255)


def to_rgb(image: Any) -> NDArray[np.uint8]:
    """Decode a PIL image to uint8 [h,w,3]; 16-bit greys keep their upper byte. Raises MeshError if that fails."""
    try:
        if image.mode.startswith("I"):
            grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        return np.array(image.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        name = image.info.get("file_path", "an image of the mesh")
        raise MeshError(f"texture {name}: cannot be decoded ({error}); save it again as PNG or JPEG") from error


def unit_colors(colors: Any) -> NDArray[np.float64]:
    """Convert colours [N,3] or [N,4] of any numeric type to [N,3] in 0..1.

    uint16 counts as 0..65535, other integers as 0..255; floats as 0..1, or as 0..255 where any of them exceeds 1.
    """
    array = np.asarray(colors)
    array = array[:, :3] if array.ndim == 2 else array.reshape(-1, array.shape[-1])[:, :3]
    if array.dtype == np.uint16:
        values = array / 65535.0
    elif array.dtype.kind in "iu":
        values = array / 255.0
    else:
        values = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0)
        values = values / 255.0 if values.size and values.max() > 1.0 else values
    return np.clip(values, 0.0, 1.0)


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


def _own_colors(part: Part) -> NDArray[np.float64] | None:
    """Return vertex or face colours as [F,3,3] in 0..1; vertex colours win where a file has both."""
    if part.vertex_colors is not None and len(part.vertex_colors):
        return np.asarray(unit_colors(part.vertex_colors)[part.faces])
    if part.face_colors is not None and len(part.face_colors):
        return np.repeat(unit_colors(part.face_colors)[:, None], 3, axis=1)
    return None


def _materials(part: Part) -> list[tuple[NDArray[np.int64], Any]]:
    """Return (face indices, material) pairs of a part; several for a trimesh MultiMaterial."""
    material = getattr(part.visual, "material", None)
    everything = np.arange(len(part.faces))
    if material is None:
        return []
    if not isinstance(material, MultiMaterial):
        return [(everything, material)]
    which = np.asarray(part.visual.face_materials if part.visual.face_materials is not None else [])
    if which.shape != everything.shape:
        raise MeshError(f"MultiMaterial: {which.size} face materials for {everything.size} faces")
    return [(everything[which == i], m) for i, m in enumerate(material.materials)]
