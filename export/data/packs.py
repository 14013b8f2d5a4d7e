"""The asset pack: thousands of small meshes in one file, read one at a time.

A pack is a ZIP archive. ``index.json`` lists the objects: name, source, licence, member. A member holds one object of
unit diameter: positions as 16-bit fractions of its bounding cube, corner colours as a palette, texture coordinates as
16-bit fractions of their range, textures as JPEG. Index arrays are stored as differences, which compress.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from coop_edge.base.files import Replacement
from coop_edge.base.plain import parse_json
from coop_edge.errors import InputError, MeshError
from coop_edge.geometry import se3
from coop_edge.mesh.mesh import Mesh
from export.data import objects, textures
from export.data.objects import TrainingObject
from export.data.primitives import Surface

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

SCHEMA = "coop_edge asset pack 1"
JPEG_QUALITY = 82
_STEPS = 65535.0


@dataclass(frozen=True)
class Asset:
    """One line of the index."""

    name: str  # unique; its hash settles the split
    source: str
    licence: str
    member: str
    faces: int
    textures: int


class PackWriter:
    """Writes a pack; nothing is at ``path`` until ``close`` has been reached without an error (``with`` does it)."""

    def __init__(self, path: str | os.PathLike[str], texture: int) -> None:
        self.path = Path(path)
        self._texture = texture
        self._file = Replacement(self.path)
        self._zip = zipfile.ZipFile(self._file.temporary, "w", zipfile.ZIP_LZMA)
        self._index: list[Asset] = []

    def add(self, mesh: Mesh, name: str, source: str, licence: str) -> None:
        """Add a mesh of any size."""
        member = f"{len(self._index):05d}.npz"
        self._zip.writestr(member, _encode(mesh, self._texture))
        self._index.append(Asset(name, source, licence, member, len(mesh.faces), len(mesh.textures)))

    def close(self) -> None:
        index = {"schema": SCHEMA, "objects": [asdict(a) for a in self._index]}
        self._zip.writestr("index.json", json.dumps(index))
        self._zip.close()
        self._file.finish()

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._zip.close()
            self._file.discard()


class Pack:
    """Reads a pack; objects are decoded when asked for.

    Args:
        path: file that ``assets.build_pack`` wrote.
        split: "train", "heldout" (by the hash of an object's name) or None for all.

    Raises:
        InputError: the file is not a pack of this version, is damaged, or has no object of the split.
    """

    def __init__(self, path: str | os.PathLike[str], split: str | None = None) -> None:
        self.path = os.fspath(path)
        self._split = split or "train"
        try:
            self._zip = zipfile.ZipFile(self.path)
            index = parse_json(self._zip.read("index.json"))
        except Exception as error:  # a flipped bit can look like a password, a method or an encoding
            raise InputError(
                f"{self.path}: not an asset pack ({type(error).__name__}: {error}); "
                "python -m export assets SOURCE... -o PACK makes one"
            ) from error
        if not isinstance(index, dict) or index.get("schema") != SCHEMA:
            raise InputError(f"{self.path}: wanted schema {SCHEMA!r}; build the pack again with this version")
        every = self._assets(index.get("objects"))
        self.assets = [a for a in every if split is None or textures.is_held_out(a.name) == (split == "heldout")]
        if not self.assets:
            raise InputError(f"{self.path}: none of its {len(every)} objects belongs to the split {split!r}")

    def _assets(self, entries: Any) -> list[Asset]:
        wanted = {field.name: {"int": int, "str": str}[str(field.type)] for field in fields(Asset)}
        for i, entry in enumerate(entries if isinstance(entries, list) else [None]):
            typed = isinstance(entry, dict) and set(entry) == set(wanted)
            if not typed or not all(type(entry[name]) is kind for name, kind in wanted.items()):
                raise InputError(
                    f"{self.path}: damaged: object {i} of its index is {entry!r:.80}; build the pack again"
                )
        return [Asset(**entry) for entry in entries]

    def __len__(self) -> int:
        return len(self.assets)

    def read(self, i: int) -> Mesh:
        """Return object i as it was added, about its box's centre, of diameter 1 m.

        Raises:
            MeshError: its data is damaged.
        """
        asset = self.assets[i]
        try:
            return _decode(self._zip.read(asset.member), asset.name)
        except Exception as error:  # NumPy, the archive, OpenCV and the mesh's own checks: whatever it is, it is said
            raise MeshError(f"{self.path}: object {asset.name!r} is damaged ({error}); build the pack again") from error

    def draw(self, rng: Rng) -> TrainingObject:
        """Draw an object of random size; some are stretched a little, some have other colours, some a new texture."""
        i = int(rng.integers(len(self)))
        mesh = self.read(i)
        colors: Array = mesh.corner_colors
        images: tuple[Array, ...] = mesh.textures
        uv, face_texture = mesh.corner_uv, mesh.face_texture
        if not images and rng.random() < 0.3:
            images = (textures.texture(rng, 128, self._split),)
            uv = _box_projection(mesh, rng.uniform(0.7, 3.0), rng)
            face_texture = np.zeros_like(face_texture)
        elif rng.random() < 0.4:
            matrix = textures.color_matrix(rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 1.5))
            colors = cv2.transform(colors.reshape(1, -1, 3), matrix).reshape(colors.shape)
            images = tuple(cv2.transform(image, matrix) for image in images)
        if not images and len(np.unique(colors.reshape(-1, 3), axis=0)) == 1:
            colors = np.broadcast_to(textures.random_color(rng).astype(np.uint8), colors.shape).copy()
        surface = Surface(mesh.vertices.astype(np.float64), mesh.faces, uv)
        stretch = np.exp(rng.normal(0, 0.15, 3)) if rng.random() < 0.3 else 1.0
        return objects.finish(surface, colors, face_texture, images, rng, name=mesh.name, stretch=stretch)


def _box_projection(mesh: Mesh, scale: float, rng: Rng) -> Array:
    """Texture coordinates float32 [F,3,2] of a texture laid on from six sides, turned at random."""
    turned = mesh.vertices.astype(np.float64) @ se3.random_rotation(rng)
    corners = turned[mesh.faces]
    normals = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    axis = normals.argmax(axis=1)
    planes = np.stack([np.roll(corners, -k - 1, axis=2)[..., :2] for k in range(3)])
    return (scale * planes[axis, np.arange(len(axis))]).astype(np.float32)


def _encode(mesh: Mesh, texture: int) -> bytes:
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    cube = float((high - low).max())
    palette, color = np.unique(mesh.corner_colors.reshape(-1, 3), axis=0, return_inverse=True)
    arrays: dict[str, Any] = {
        "vertices": np.rint((mesh.vertices - low) / cube * _STEPS).astype(np.uint16),
        "scale": np.float64(cube / mesh.diameter),
        "faces": _differences(mesh.faces),
        "palette": palette,
        "color": _differences(color),
    }
    textured = mesh.face_texture >= 0
    if textured.any():
        uv = mesh.corner_uv[textured].astype(np.float64)
        uv -= np.floor(uv.min(axis=1, keepdims=True))  # textures repeat: keep the range small
        table, at = np.unique(
            np.rint(uv.reshape(-1, 2) / uv.max() * _STEPS).astype(np.uint16), axis=0, return_inverse=True
        )
        arrays |= {
            "uv": table, "uv_index": _differences(at), "uv_range": np.float64(uv.max()),
            "face_texture": mesh.face_texture.astype(np.int16),
        }  # fmt: skip
        for k, image in enumerate(mesh.textures):
            scale = min(1.0, texture / max(image.shape[:2]))
            size = tuple(max(1, round(scale * n)) for n in image.shape[1::-1])
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            done, code = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if not done:
                raise MeshError(f"{mesh.name}: texture {k} cannot be written as JPEG")
            arrays[f"texture{k}"] = code.ravel()
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _decode(data: bytes, name: str) -> Mesh:
    with np.load(io.BytesIO(data)) as arrays:
        faces = _sums(arrays["faces"]).reshape(-1, 3)
        f = len(faces)
        vertices = arrays["vertices"].astype(np.float64) * (float(arrays["scale"]) / _STEPS)
        vertices -= 0.5 * (vertices.min(axis=0) + vertices.max(axis=0))
        corner_uv, face_texture = np.zeros((f, 3, 2), np.float32), np.full(f, -1, np.int32)
        images: list[Array] = []
        if "uv" in arrays:
            face_texture = arrays["face_texture"].astype(np.int32)
            table = arrays["uv"].astype(np.float64) * (float(arrays["uv_range"]) / _STEPS)
            corner_uv[face_texture >= 0] = table[_sums(arrays["uv_index"])].reshape(-1, 3, 2)
            for k in range(int(face_texture.max()) + 1):
                image = cv2.imdecode(arrays[f"texture{k}"], cv2.IMREAD_COLOR)
                if image is None:
                    raise ValueError(f"texture {k} is no picture")
                images.append(np.ascontiguousarray(image[..., ::-1]))
        colors = arrays["palette"][_sums(arrays["color"])].reshape(f, 3, 3)
    return Mesh(
        vertices=vertices.astype(np.float32),
        faces=faces.astype(np.int32),
        centre=np.zeros(3),
        corner_colors=colors,
        corner_uv=corner_uv,
        face_texture=face_texture,
        textures=tuple(images),
        name=name,
    )


def _differences(index: Array) -> Array:
    """An index array, flat, as differences of neighbours: int16 where they fit."""
    flat = index.ravel().astype(np.int64)
    steps = np.diff(flat, prepend=0)
    return steps.astype(np.int16 if np.abs(steps).max(initial=0) < 2**15 else np.int32)


def _sums(steps: Array) -> Array:
    return np.cumsum(steps.astype(np.int64))
