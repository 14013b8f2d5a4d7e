"""Builds glTF files piece by piece: any accessor, any primitive; the JSON stays open to what a test wants to change."""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COMPONENTS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Glb:
    """A scene of one node per mesh, unless ``header["nodes"]`` is changed."""

    def __init__(self) -> None:
        self.header: dict[str, Any] = {"asset": {"version": "2.0", "generator": "a test"}}
        self.blob = b""

    def view(self, data: bytes, **more: Any) -> int:
        self.blob += b"\0" * (-len(self.blob) % 4)
        entry = {"buffer": 0, "byteOffset": len(self.blob), "byteLength": len(data), **more}
        self.blob += data
        return self.add("bufferViews", entry)

    def add(self, section: str, entry: dict[str, Any]) -> int:
        self.header.setdefault(section, []).append(entry)
        return len(self.header[section]) - 1

    def accessor(self, values: Any, dtype: str = "f4", **more: Any) -> int:
        array = np.atleast_2d(np.asarray(values, "<" + dtype))
        array = array.T if np.ndim(values) == 1 else array
        entry = {"componentType": COMPONENTS[dtype], "count": len(array), "type": KINDS[array.shape[1]], **more}
        return self.add("accessors", {"bufferView": self.view(array.tobytes()), **entry})

    def mesh(self, *primitives: dict[str, Any], **more: Any) -> int:
        return self.add("meshes", {"primitives": list(primitives), **more})

    def image(self, pixels: np.ndarray | bytes, **options: Any) -> int:
        """A texture of these pixels; returns its number."""
        if not isinstance(pixels, bytes):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            pixels = stream.getvalue()
        source = self.add("images", {"bufferView": self.view(pixels), "mimeType": "image/png"})
        return self.add("textures", {"source": source, **options})

    def write(self, path: Path) -> Path:
        header = dict(self.header)
        header.setdefault("nodes", [{"mesh": i} for i in range(len(header.get("meshes", ())))])
        inner = {c for node in header["nodes"] for c in node.get("children", ())}
        header.setdefault("scenes", [{"nodes": [i for i in range(len(header["nodes"])) if i not in inner]}])
        header.setdefault("scene", 0)
        header["buffers"] = [{"byteLength": len(self.blob)}]
        if path.suffix == ".gltf":
            header["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(self.blob).decode()
            path.write_text(json.dumps(header))
            return path
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 4)
        blob = self.blob + b"\0" * (-len(self.blob) % 4)
        body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(blob), 0x004E4942) + blob
        path.write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body)
        return path
