"""A minimal glTF 2.0 writer: by the specification, not by the exporter of the library that reads it back."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from tests.mesh.assets import QUAD, QUAD_FACES, QUAD_UV


def write(
    path: Path,
    *,
    image: np.ndarray | None = None,
    image_bytes: bytes | None = None,
    factor=None,
    colors=None,
    nodes=None,
    texture_extra=None,
    header_extra=None,
) -> Path:
    """The quad as .glb, or as .gltf with its buffer and image beside it. Texture origin: top left, as glTF has it."""
    buffers: list[bytes] = []
    views, accessors = [], []

    def add(data: bytes) -> int:
        start = sum(map(len, buffers))
        buffers.append(data + b"\0" * (-len(data) % 4))
        views.append({"buffer": 0, "byteOffset": start, "byteLength": len(data)})
        return len(views) - 1

    def accessor(array: np.ndarray, component: int, kind: str) -> int:
        entry = {"bufferView": add(array.tobytes()), "componentType": component, "count": len(array), "type": kind}
        if kind == "VEC3" and component == 5126:
            entry |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        accessors.append(entry)
        return len(accessors) - 1

    attributes = {"POSITION": accessor(QUAD.astype("<f4"), 5126, "VEC3")}
    material: dict = {}
    primitive = {"attributes": attributes, "indices": accessor(QUAD_FACES.astype("<u2").reshape(-1), 5123, "SCALAR")}
    header: dict = {"asset": {"version": "2.0", "generator": "a test"}, "scene": 0}
    if image is not None:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        image_bytes = stream.getvalue()
    if image_bytes is not None:
        uv = np.stack([QUAD_UV[:, 0], 1.0 - QUAD_UV[:, 1]], axis=1)
        attributes["TEXCOORD_0"] = accessor(uv.astype("<f4"), 5126, "VEC2")
        if path.suffix == ".gltf":
            (path.parent / "skin.png").write_bytes(image_bytes)
            header["images"] = [{"uri": "skin.png"}]
        else:
            header["images"] = [{"bufferView": add(image_bytes), "mimeType": "image/png"}]
        header["textures"] = [{"source": 0}]
        material["baseColorTexture"] = {"index": 0, **(texture_extra or {})}
    if factor is not None:
        material["baseColorFactor"] = [*factor, 1.0]
    if colors is not None:
        attributes["COLOR_0"] = accessor(np.asarray(colors, "<f4"), 5126, "VEC3")
    if material:
        header["materials"] = [{"name": "skin", "pbrMetallicRoughness": material}]
        primitive["material"] = 0
    header |= {"meshes": [{"primitives": [primitive]}], "accessors": accessors, "bufferViews": views}
    header["nodes"] = nodes or [{"mesh": 0}]
    children = {c for node in header["nodes"] for c in node.get("children", ())}
    header["scenes"] = [{"nodes": [i for i in range(len(header["nodes"])) if i not in children]}]
    header |= header_extra or {}
    blob = b"".join(buffers)
    header["buffers"] = [{"byteLength": len(blob)}]
    if path.suffix == ".gltf":
        (path.parent / "data.bin").write_bytes(blob)
        header["buffers"][0]["uri"] = "data.bin"
        path.write_text(json.dumps(header))
        return path
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(blob), 0x004E4942) + blob
    path.write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body)
    return path
