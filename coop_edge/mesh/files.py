"""Reads mesh files into parts, through trimesh's readers; what those pass over in silence is an error here."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange.obj import load_obj
from trimesh.exchange.ply import load_ply

from coop_edge.errors import MeshError
from coop_edge.mesh import gltf, parts
from coop_edge.mesh.colors import material_texture
from coop_edge.mesh.parts import Part

_TEXT_ASSETS = (".mtl", ".bin", ".gltf", ".glb")


class AssetReader:
    """Reads what a mesh file refers to, relative to its folder, and remembers what could not be read.

    trimesh's readers log a missing material or texture at debug level and go on in grey; ``check`` raises instead.
    """

    def __init__(self, mesh_path: Path) -> None:
        self.folder = mesh_path.parent
        self.file_name = mesh_path.name
        self.failures: list[str] = []

    def get(self, name: str) -> bytes:
        """Read the bytes of an asset, and check that an image is one. Raises OSError, recorded for ``check``."""
        path = self._find(name.strip())
        if path is None:
            self.failures.append(f"{name.strip()!r} is missing (looked in {self.folder})")
            raise FileNotFoundError(name)
        data = path.read_bytes()
        if path.suffix.lower() == ".mtl":
            return _text(data).encode()
        if path.suffix.lower() not in _TEXT_ASSETS:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                    Image.open(io.BytesIO(data)).load()
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                self.failures.append(f"{name.strip()!r} cannot be decoded as an image ({error})")
                raise
        return data

    def __getitem__(self, name: str) -> bytes:
        return self.get(name)

    def _find(self, name: str) -> Path | None:
        for candidate in (name, name.replace("\\", "/"), unquote(name)):
            path = self.folder / candidate.removeprefix("file://")
            if path.is_file():
                return path
        return None

    def check(self, mesh_path: Path) -> None:
        """Raise MeshError if anything the mesh refers to could not be read."""
        if self.failures:
            raise MeshError(
                f"{mesh_path}: refers to a file that cannot be used: {'; '.join(dict.fromkeys(self.failures))}. "
                "Put it beside the mesh, or load with ignore_colors=True to do without its colours"
            )


def _text(data: bytes) -> str:
    """Decode UTF-8, or else Latin-1, which has a letter for every byte: the two differ in names and comments alone."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_file(path: Path, ignore_colors: bool) -> tuple[list[Part], list[str]]:
    """Read the parts of a mesh file, in its own unit and axes, and notes on what was passed over. Raises MeshError."""
    if not path.exists():
        raise MeshError(f"{path}: no such file")
    if not path.is_file():
        raise MeshError(f"{path}: not a file; wanted a mesh file ({', '.join(READERS)})")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise MeshError(f"{path}: suffix {path.suffix!r} is not known; wanted one of {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise MeshError(f"{path}: the file is empty")
    assets = AssetReader(path)
    notes: list[str] = []
    try:
        found = reader(path, assets, ignore_colors, notes)
    except MeshError as error:
        raise error if str(error).startswith(str(path)) else MeshError(f"{path}: {error}") from error
    except Exception as error:  # readers meet any kind of bytes, and fail in any kind of way
        assets.check(path)
        raise MeshError(
            f"{path}: cannot be read as {path.suffix[1:].upper()} ({type(error).__name__}: {error}); the file is "
            "truncated, damaged or of another format. Try to export it again"
        ) from error
    if not ignore_colors:
        assets.check(path)
    return found, notes


def _read_obj(path: Path, assets: AssetReader, ignore_colors: bool, notes: list[str]) -> list[Part]:
    text = _text(path.read_bytes())
    lines = text.encode().splitlines()
    relative = next((i for i, line in enumerate(lines) if line.startswith(b"f ") and b"-" in line), None)
    if relative is not None and any(line.startswith((b"v ", b"vt ")) for line in lines[relative:]):
        # They count back from where they stand; the reader counts them from the end of the file.
        raise MeshError(
            "mixes relative (negative) face indices with vertices that follow; export it with absolute ones"
        )
    found = parts.from_loader(load_obj(io.StringIO(text), resolver=assets, skip_materials=ignore_colors))
    if not ignore_colors:
        used = {line[7:].decode(errors="replace").strip() for line in lines if line.startswith(b"usemtl ")}
        known = {part.visual.material.name for part in found if part.visual is not None}
        if unknown := sorted(used - known):
            notes.append(f"materials {', '.join(map(repr, unknown))} are not defined: their faces take the albedo")
    return found


def _read_ply(path: Path, assets: AssetReader, ignore_colors: bool, notes: list[str]) -> list[Part]:
    textured = _ply_names_texture(path) and not ignore_colors
    header, end, body = path.read_bytes().partition(b"end_header")
    file = io.BytesIO(_text(header).encode() + end + body)
    loaded = load_ply(file, resolver=assets, fix_texture=textured, skip_materials=not textured)
    for name, element in loaded.get("metadata", {}).get("_ply_raw", {}).items():
        data, wanted = element.get("data"), element["length"]
        columns = data.values() if isinstance(data, dict) else [data]
        for column in columns:
            if wanted and (column is None or len(column) < wanted):
                have = 0 if column is None else len(column)
                raise MeshError(f"truncated, {have} of {wanted} rows of element {name!r}; copy or export it again")
    if textured:  # the reader splits vertices along texture seams: colours by vertex no longer fit
        loaded.update(vertex_colors=None, face_colors=None)
        if loaded.get("visual") is None:
            raise MeshError("names a texture, but its vertices and faces have no texture coordinates")
    else:
        loaded["visual"] = None
    return parts.from_loader(loaded)


def _ply_names_texture(path: Path) -> bool:
    with path.open("rb") as file:
        for line in file:
            text = line.strip().lower()
            if text.startswith(b"comment texturefile"):
                return True
            if text == b"end_header":
                return False
    raise MeshError("has no end_header line: not a PLY file, or truncated")


def _read_gltf(path: Path, assets: AssetReader, ignore_colors: bool, notes: list[str]) -> list[Part]:
    header = gltf.read_header(path)
    gltf.check_header(header, path)
    scene = _load_scene(path, assets, skip_materials=ignore_colors)
    found = parts.from_scene(scene, linear=gltf.colors_are_linear(header))
    textured = gltf.textured_materials(header) if not ignore_colors else set()
    for part in found:
        material = getattr(part.visual, "material", None)
        if material is not None and material.name in textured and material_texture(material) is None:
            assets.check(path)
            raise MeshError(f"the texture of material {material.name!r} cannot be decoded; save it as PNG or JPEG")
    return found


def _read_off(path: Path, assets: AssetReader, ignore_colors: bool, notes: list[str]) -> list[Part]:
    text = _text(path.read_bytes())
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    tokens = " ".join(line for line in lines if line).split(maxsplit=3)
    rows = sum(bool(line) for line in lines)
    if len(tokens) >= 3 and tokens[1].isdigit() and tokens[2].isdigit():
        wanted = int(tokens[1]) + int(tokens[2])
        if rows < wanted + 1:
            raise MeshError(f"truncated, {max(rows - 2, 0)} of {wanted} rows; copy or export it again")
    return parts.from_scene(_load_scene(path, assets, text.encode()))


def _read_stl(path: Path, assets: AssetReader, ignore_colors: bool, notes: list[str]) -> list[Part]:
    data = path.read_bytes()
    wanted = 84 + 50 * int.from_bytes(data[80:84], "little")  # if binary: a header, a count, 50 bytes a triangle
    if len(data) != wanted and data[:5].lower() == b"solid" and b"facet" in data:
        if b"endsolid" not in data[-1024:]:
            raise MeshError("truncated, it has no endsolid line; copy or export it again")
        data = _text(data).encode()
    elif len(data) < wanted:
        raise MeshError(f"truncated, or not an STL file: {len(data)} of {wanted} bytes; copy or export it again")
    else:
        data = data[:wanted]  # some exporters append to it
    return parts.from_scene(_load_scene(path, assets, data))


def _read_dae(path: Path, assets: AssetReader, ignore_colors: bool, notes: list[str]) -> list[Part]:
    try:
        import collada
        from trimesh.exchange.dae import load_collada
    except ImportError as error:
        raise MeshError(
            "COLLADA files need pycollada, which is not installed: pip install pycollada (part of coop-edge[onboard])"
        ) from error
    data = path.read_bytes()
    try:
        loaded = load_collada(io.BytesIO(data), resolver=assets, ignore_broken=False)
    except collada.common.DaeError as error:
        loaded = load_collada(io.BytesIO(data), resolver=assets, ignore_broken=True)
        notes.append(f"COLLADA: what could not be read was left out ({error})")
    return parts.from_loader(loaded)


def _load_scene(path: Path, assets: AssetReader, data: bytes | None = None, **options: Any) -> trimesh.Scene:
    """Let trimesh read the file, or ``data`` instead of its bytes."""
    file = io.BytesIO(path.read_bytes() if data is None else data)
    kind = path.suffix[1:].lower()
    return trimesh.load(file, file_type=kind, resolver=assets, force="scene", process=False, **options)


READERS: dict[str, Callable[[Path, AssetReader, bool, list[str]], list[Part]]] = {
    ".obj": _read_obj,
    ".ply": _read_ply,
    ".glb": _read_gltf,
    ".gltf": _read_gltf,
    ".stl": _read_stl,
    ".dae": _read_dae,
    ".off": _read_off,
}
"""Known suffixes and their readers."""


def read_trimesh(source: Any) -> list[Part]:
    """Return the parts of a ``trimesh.Trimesh`` or ``trimesh.Scene``. Raises MeshError on anything else."""
    if isinstance(source, trimesh.Trimesh):
        return [parts.from_trimesh(source)]
    if isinstance(source, trimesh.Scene):
        return parts.from_scene(source)
    if isinstance(source, trimesh.PointCloud):
        raise MeshError(f"a point cloud of {np.shape(source.vertices)[0]} points has no surface; wanted triangles")
    raise MeshError(f"wanted a path, trimesh.Trimesh or trimesh.Scene, got {type(source).__name__}")
