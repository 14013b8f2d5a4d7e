"""The demo objects as files, each in a format and a unit of its own: OBJ in mm, PLY in cm, GLB in m."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.datasets.demo_scene import labels
from benchmarks.datasets.demo_scene.objects import OBJECTS
from benchmarks.datasets.demo_scene.parts import Part

MESHES = {"carton": ("carton.obj", "mm"), "house": ("house.ply", "cm"), "mug": ("mug.glb", "m")}
"""Object -> (file, unit)."""
_JPEG_QUALITY = 90


def jpeg(image: Image.Image) -> bytes:
    """Encode the label as it is shipped; what is rendered is what these bytes decode to."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0, optimize=True)
    return out.getvalue()


def textures() -> dict[str, bytes]:
    """Return every label as JPEG."""
    return {"carton": jpeg(labels.carton()), "mug": jpeg(labels.mug())}


def write_meshes(folder: Path) -> None:
    """Write all objects, with their textures."""
    images = textures()
    folder.mkdir(parents=True, exist_ok=True)
    _write_obj(folder / "carton.obj", OBJECTS["carton"](), images["carton"], scale=1000.0)
    _write_ply(folder / "house.ply", OBJECTS["house"](), scale=100.0)
    _write_glb(folder / "mug.glb", OBJECTS["mug"](), images["mug"])


def _write_obj(path: Path, parts: list[Part], texture: bytes, scale: float) -> None:
    """One material for the texture and one for every plain colour."""
    stem = path.stem
    path.with_suffix(".jpg").write_bytes(texture)
    materials: dict[Any, str] = {}
    lines = [f"# juice carton of the coop_edge demo, millimetres\nmtllib {stem}.mtl"]
    first_v, first_t = 1, 1
    for part in parts:
        lines += [f"v {x:.4f} {y:.4f} {z:.4f}" for x, y, z in part.vertices * scale]
        if part.uv is not None:
            lines += [f"vt {u:.6f} {v:.6f}" for u, v in part.uv]
            lines.append("usemtl print")
            for face in part.faces:
                lines.append("f " + " ".join(f"{i + first_v}/{i + first_t}" for i in face))
            first_t += len(part.uv)
        else:
            face_colors = part.colors[part.faces[:, 0]]
            for color in np.unique(face_colors, axis=0):
                name = materials.setdefault(tuple(color.tolist()), f"plain{len(materials)}")
                lines.append(f"usemtl {name}")
                chosen = part.faces[(face_colors == color).all(axis=1)]
                lines += ["f " + " ".join(str(i + first_v) for i in face) for face in chosen]
        first_v += len(part.vertices)
    path.write_text("\n".join(lines) + "\n")
    mtl = [f"newmtl print\nKd 1 1 1\nmap_Kd {stem}.jpg\n"]
    for color, name in materials.items():
        mtl.append(f"newmtl {name}\nKd " + " ".join(f"{c / 255:.6f}" for c in color) + "\n")
    path.with_suffix(".mtl").write_text("\n".join(mtl))


def _write_ply(path: Path, parts: list[Part], scale: float) -> None:
    """Binary, with vertex colours."""
    count = np.cumsum([0, *(len(p.vertices) for p in parts)])
    vertices = np.concatenate([p.vertices for p in parts]) * scale
    faces = np.concatenate([p.faces + n for p, n in zip(parts, count[:-1], strict=True)])
    rows = np.empty(len(vertices), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"], rows["rgb"] = vertices, np.concatenate([p.colors for p in parts])
    cells = np.empty(len(faces), [("n", "u1"), ("i", "<i4", 3)])
    cells["n"], cells["i"] = 3, faces
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment toy house of the coop_edge demo, centimetres\n"
        f"element vertex {len(rows)}\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {len(cells)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    path.write_bytes(header.encode() + rows.tobytes() + cells.tobytes())


def _write_glb(path: Path, parts: list[Part], texture: bytes) -> None:
    """One primitive per part (glTF 2.0, sections 3.6 and 4.4); plain colours are factors, in linear light."""
    blobs: list[bytes] = []
    views: list[dict[str, int]] = []
    accessors: list[dict[str, object]] = []
    primitives: list[dict[str, Any]] = []
    materials: list[dict[str, Any]] = []

    def view(data: bytes) -> int:
        views.append({"buffer": 0, "byteOffset": sum(map(len, blobs)), "byteLength": len(data)})
        blobs.append(data + b"\0" * (-len(data) % 4))
        return len(views) - 1

    def accessor(array: np.ndarray, kind: str) -> int:
        entry: dict[str, object] = {"bufferView": view(array.tobytes()), "count": len(array), "type": kind}
        entry["componentType"] = 5126 if array.dtype == np.float32 else 5123
        if kind == "VEC3":
            entry |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        accessors.append(entry)
        return len(accessors) - 1

    for part in parts:
        used, faces = np.unique(part.faces, return_inverse=True)
        attributes = {"POSITION": accessor(part.vertices[used].astype(np.float32), "VEC3")}
        surface: dict[str, object] = {"metallicFactor": 0.0, "roughnessFactor": part.roughness}
        if part.uv is not None:
            uv = np.stack([part.uv[used, 0], 1.0 - part.uv[used, 1]], axis=1)  # glTF counts v from the top
            attributes["TEXCOORD_0"] = accessor(uv.astype(np.float32), "VEC2")
            surface["baseColorTexture"] = {"index": 0}
        else:
            surface["baseColorFactor"] = [*linear(part.colors[0]).tolist(), 1.0]
        indices = accessor(faces.reshape(-1).astype(np.uint16), "SCALAR")
        primitives.append({"attributes": attributes, "indices": indices, "material": len(materials)})
        materials.append({"name": part.texture or f"plain{len(materials)}", "pbrMetallicRoughness": surface})
    document = {
        "asset": {"version": "2.0", "generator": "coop_edge demo scene"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": path.stem}],
        "meshes": [{"primitives": primitives}],
        "materials": materials,
        "textures": [{"source": 0}],
        "images": [{"bufferView": view(texture), "mimeType": "image/jpeg"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": sum(map(len, blobs))}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    chunks = ((b"JSON", text + b" " * (-len(text) % 4)), (b"BIN\0", b"".join(blobs)))
    body = b"".join(struct.pack("<I", len(data)) + kind + data for kind, data in chunks)
    path.write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body)


def linear(srgb: np.ndarray) -> np.ndarray:
    """Convert sRGB 0..255 to linear light 0..1 (IEC 61966-2-1)."""
    c = np.asarray(srgb, np.float64) / 255.0
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
