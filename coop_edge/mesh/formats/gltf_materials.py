"""Reads the materials of a glTF file: base colour, texture with its transform and sampler, and what stands in for them.

Materials are told apart by their number: names may repeat. A material without a base colour of its own that shines
(emissive) shows that colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.formats.gltf_file import GltfFile, data_uri
from coop_edge.mesh.parts import CLAMP, MIRROR, REPEAT, Material, Texture

_WRAPS = {10497: REPEAT, 33071: CLAMP, 33648: MIRROR}
_NEAREST = 9728
_IMAGE_EXTENSIONS = ("EXT_texture_webp", "EXT_texture_avif", "MSFT_texture_dds", "KHR_texture_basisu")
_WHITE = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class GltfMaterial:
    """A material, which texture coordinates its texture uses, and how they are moved: (u, v) becomes M (u, v, 1)."""

    material: Material
    coordinates: int = 0
    transform: NDArray[np.float64] | None = None  # [2,3]; glTF's v counts downwards
    transparent: bool = False

    def moved(self, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return coordinates [...,2] as the texture wants them, v downwards."""
        if self.transform is None:
            return uv
        return np.asarray(uv @ self.transform[:, :2].T + self.transform[:, 2])


class GltfMaterials:
    """Makes the materials of a file, each once."""

    def __init__(self, file: GltfFile, *, linear: bool) -> None:
        self._file, self._linear = file, linear
        self._made: dict[int | None, GltfMaterial] = {}
        self._images: dict[int, NDArray[np.uint8]] = {}

    def get(self, index: Any) -> GltfMaterial:
        """Return the material of this number; None stands for the default one, white.

        Raises:
            MeshError: damaged, or it holds what is not read.
        """
        if index is None:
            # White is what the specification gives where there is no material; here that is "no colour of its own".
            return GltfMaterial(Material())
        if index not in self._made:
            entry = self._file.entry("materials", index)
            self._made[index] = replace(self._make(entry, index), transparent=_is_transparent(self._file, entry))
        return self._made[index]

    def _make(self, entry: dict[str, Any], index: int) -> GltfMaterial:
        label = repr(entry["name"]) if entry.get("name") else f"number {index}"
        look = _look(self._file, entry, label)
        color = tuple(float(c) for c in np.clip(look.factor, 0.0, 1.0)) if look.factor is not None else None
        if color is not None and look.factor is not None and (look.factor > 1.01).any():
            self._file.source.note(f"the colour of material {label} is brighter than white: cut")
        if look.texture is None:
            return GltfMaterial(Material(label, _three(color), tints=self._linear))
        texture, coordinates, transform = self._texture(look.texture, label)
        if not self._linear and color is not None and _states_tint(color):
            self._file.source.note("the colour that trimesh keeps in a material beside its texture is not used")
        tint = _three(color) if color is not None else (_WHITE if self._linear else None)
        return GltfMaterial(Material(label, tint, texture, tints=self._linear), coordinates, transform)

    def _texture(self, info: dict[str, Any], label: str) -> tuple[Texture, int, NDArray[np.float64] | None]:
        """Return a texture, the number of its coordinates, and their transform."""
        file = self._file
        entry = file.entry("textures", info.get("index"))
        moved = file.section(file.section(info, "extensions", dict), "KHR_texture_transform", dict)
        coordinates = file.integer(info, "texCoord", "texture", 0)
        coordinates = file.integer(moved, "texCoord", "KHR_texture_transform", coordinates)
        transform = None
        if moved:
            offset = file.numbers(moved.get("offset", [0, 0]), 2, "KHR_texture_transform.offset")
            scale = file.numbers(moved.get("scale", [1, 1]), 2, "KHR_texture_transform.scale")
            (turn,) = file.numbers([moved.get("rotation", 0)], 1, "KHR_texture_transform.rotation")
            c, s = math.cos(turn), math.sin(turn)
            transform = np.array([[c * scale[0], s * scale[1], offset[0]], [-s * scale[0], c * scale[1], offset[1]]])
        wrap = (REPEAT, REPEAT)
        if "sampler" in entry:
            sampler = file.entry("samplers", entry["sampler"])
            wrap = _wrap(sampler, "wrapS"), _wrap(sampler, "wrapT")
            if sampler.get("magFilter") == _NEAREST:
                file.source.note("a sampler asks for the nearest texel: textures are interpolated")
        return Texture(self._image(entry, label), wrap), coordinates, transform

    def _image(self, texture: dict[str, Any], label: str) -> NDArray[np.uint8]:
        file = self._file
        index = texture.get("source")
        extensions = file.section(texture, "extensions", dict)
        for name in _IMAGE_EXTENSIONS:
            if index is None and name in extensions:
                index = file.section(extensions, name, dict).get("source")
                if name == "KHR_texture_basisu":
                    raise MeshError(
                        f"the texture of material {label} cannot be decoded (Basis); save it as PNG or JPEG"
                    )
        if index is None:
            raise MeshError(f"the texture of material {label} names no image that is read; save it as PNG or JPEG")
        if index not in self._images:
            entry = file.entry("images", index)
            uri = entry.get("uri")
            if isinstance(uri, str) and data_uri(uri) is None:
                self._images[index] = file.source.assets.image(uri)
            else:
                data = file.uri_bytes(uri) if uri is not None else file.view_bytes(entry.get("bufferView"))
                self._images[index] = file.source.assets.decode(data, f"the texture of material {label}")
        return self._images[index]


def _is_transparent(file: GltfFile, entry: dict[str, Any]) -> bool:
    glass = file.section(file.section(entry, "extensions", dict), "KHR_materials_transmission", dict)
    return entry.get("alphaMode", "OPAQUE") != "OPAQUE" or bool(glass.get("transmissionFactor"))


@dataclass(frozen=True)
class _Look:
    """What a material states: a factor in linear light [3], and a texture's reference."""

    factor: NDArray[np.float64] | None
    texture: dict[str, Any] | None


def _look(file: GltfFile, entry: dict[str, Any], label: str) -> _Look:
    extensions = file.section(entry, "extensions", dict)
    pbr = file.section(entry, "pbrMetallicRoughness", dict)
    gloss = file.section(extensions, "KHR_materials_pbrSpecularGlossiness", dict)
    base = _stated(file, pbr, "baseColorFactor", "baseColorTexture", f"material {label}")
    if gloss:  # where it is known it takes the place of the other, which is for those that do not know it
        diffuse = _stated(file, gloss, "diffuseFactor", "diffuseTexture", f"material {label}")
        if diffuse.texture is not None or diffuse.factor is not None:
            base = diffuse
    emissive = _emissive(file, entry, extensions, label)
    if emissive is None:
        return base
    dark = base.factor is not None and not base.factor.any()
    if dark or (base.factor is None and base.texture is None):
        file.source.note(f"material {label} has no colour but the light that it gives off: taken as its colour")
        return emissive
    file.source.note(f"the light that material {label} gives off (emissive) is not read")
    return base


def _stated(file: GltfFile, holder: dict[str, Any], factor: str, texture: str, where: str) -> _Look:
    color = file.numbers(holder[factor], 4, f"{where}: {factor}")[:3] if factor in holder else None
    return _Look(color, file.section(holder, texture, dict) if texture in holder else None)


def _emissive(file: GltfFile, entry: dict[str, Any], extensions: dict[str, Any], label: str) -> _Look | None:
    where = f"material {label}: emissiveFactor"
    factor = file.numbers(entry.get("emissiveFactor", [0, 0, 0]), 3, where)
    strength = file.section(extensions, "KHR_materials_emissive_strength", dict).get("emissiveStrength", 1.0)
    factor = factor * file.numbers([strength], 1, where)
    if not factor.any():
        return None
    texture = file.section(entry, "emissiveTexture", dict) if "emissiveTexture" in entry else None
    return _Look(np.minimum(factor, 1.0), texture)


def _wrap(sampler: dict[str, Any], key: str) -> str:
    value = sampler.get(key, 10497)
    if value not in _WRAPS:
        raise MeshError(f"glTF: a sampler's {key} is {value!r:.40}; wanted one of {', '.join(map(str, _WRAPS))}")
    return _WRAPS[value]


def _three(color: tuple[float, ...] | None) -> tuple[float, float, float] | None:
    return None if color is None else (color[0], color[1], color[2])


def _states_tint(color: tuple[float, ...]) -> bool:
    """Return whether a colour is neither white nor the grey that trimesh fills in."""
    return color != _WHITE and max(abs(c - 102 / 255) for c in color) > 1 / 255
