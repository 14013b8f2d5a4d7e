"""Reads from the JSON header of a glTF file what trimesh does not tell about it.

trimesh leaves out, without a word, textures it cannot decode and extensions it does not know; here that is an error.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from coop_edge.errors import MeshError

_JSON_CHUNK = 0x4E4F534A
_COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")
_EXPORT_ANEW = "export the mesh again without it"


def read_header(path: Path) -> dict[str, Any]:
    """Read the JSON part of a .gltf or .glb file. Raises MeshError if it is truncated or something else."""
    data = path.read_bytes()
    if path.suffix.lower() == ".glb":
        if len(data) < 20 or data[:4] != b"glTF":
            raise MeshError(f"{path}: not a binary glTF file (its first bytes are {data[:4]!r}, not b'glTF')")
        declared, length, kind = struct.unpack("<I", data[8:12])[0], *struct.unpack("<II", data[12:20])
        if len(data) < declared:
            raise MeshError(f"{path}: truncated, {len(data)} of {declared} bytes; copy or export it again")
        if kind != _JSON_CHUNK:
            raise MeshError(f"{path}: its first chunk is not JSON; wanted glTF 2.0")
        data = data[20 : 20 + length]
    try:
        header = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise MeshError(f"{path}: its glTF header is not valid JSON ({error}); copy or export it again") from error
    if not isinstance(header, dict):
        raise MeshError(f"{path}: its glTF header is not a JSON object")
    return header


def check_header(header: dict[str, Any], path: Path) -> None:
    """Raise MeshError for what would be misread: compressed geometry, transformed or second texture coordinates."""
    used = {*header.get("extensionsUsed", ()), *header.get("extensionsRequired", ())}
    for extension in _COMPRESSED:
        if extension in used:
            raise MeshError(f"{path}: geometry is compressed with {extension}, which is not read; {_EXPORT_ANEW}")
    for material in header.get("materials", ()):
        texture = _color_texture(material)
        name = material.get("name", "without a name")
        if texture is None:
            continue
        moved = texture.get("extensions", {}).get("KHR_texture_transform", {})
        if any(moved.get(key, default) != default for key, default in _IDENTITY.items()):
            raise MeshError(f"{path}: material {name} uses KHR_texture_transform, which is not read; {_EXPORT_ANEW}")
        if moved.get("texCoord", texture.get("texCoord", 0)) != 0:
            raise MeshError(f"{path}: material {name} uses its second texture coordinates, which are not read")


_IDENTITY: dict[str, Any] = {"offset": [0, 0], "scale": [1, 1], "rotation": 0}


def textured_materials(header: dict[str, Any]) -> set[str | None]:
    """Return the names of the materials that state a colour texture; None for one without a name."""
    return {m.get("name") for m in header.get("materials", ()) if _color_texture(m) is not None}


def colors_are_linear(header: dict[str, Any]) -> bool:
    """Return whether colours are linear light, as specified; trimesh's exporter writes its sRGB colours as they are."""
    return "mikedh/trimesh" not in str(header.get("asset", {}).get("generator", ""))


def _color_texture(material: dict[str, Any]) -> dict[str, Any] | None:
    texture = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
    return texture if isinstance(texture, dict) else None
