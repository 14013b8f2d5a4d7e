"""Reads mesh files into parts: the dispatch on the suffix, and what all formats have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from coop_edge.errors import MeshError
from coop_edge.mesh.assets import Assets
from coop_edge.mesh.formats.dae import read_dae
from coop_edge.mesh.formats.gltf import read_gltf
from coop_edge.mesh.formats.obj import read_obj
from coop_edge.mesh.formats.off import read_off
from coop_edge.mesh.formats.ply import read_ply
from coop_edge.mesh.formats.stl import read_stl
from coop_edge.mesh.limits import LoadLimits
from coop_edge.mesh.parts import Part
from coop_edge.mesh.source import Source

READERS: dict[str, Callable[[Source], list[Part]]] = {
    ".obj": read_obj,
    ".ply": read_ply,
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".stl": read_stl,
    ".dae": read_dae,
    ".off": read_off,
}
"""Known suffixes and their readers."""


def read_file(
    path: Path, *, ignore_colors: bool, allow_outside: bool, limits: LoadLimits, notes: list[str]
) -> list[Part]:
    """Read the parts of a mesh file, in its own unit and axes; what was passed over goes to ``notes``.

    Raises:
        MeshError: the file is missing, of an unknown format, damaged or too large, or holds what is not read.
    """
    if not path.exists():
        raise MeshError(f"{path}: no such file")
    if not path.is_file():
        raise MeshError(f"{path}: not a file; wanted a mesh file ({', '.join(READERS)})")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise MeshError(f"{path}: suffix {path.suffix!r} is not known; wanted one of {', '.join(READERS)}")
    try:
        size = path.stat().st_size
        if size == 0:
            raise MeshError("the file is empty")
        limits.check("file_bytes", size, f"has {size} bytes")
        assets = Assets(path, allow_outside=allow_outside, limits=limits, notes=notes)
        source = Source(path, path.read_bytes(), assets, limits, ignore_colors, notes)
        parts = reader(source)
        triangles = sum(len(part.faces) for part in parts)
        limits.check("triangles", triangles, f"has {triangles} triangles")
        return parts
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error
    except OSError as error:
        raise MeshError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise MeshError(f"{path}: does not fit into memory; simplify the mesh") from error
    except Exception as error:  # readers meet any kind of bytes, and fail in any kind of way
        raise MeshError(
            f"{path}: cannot be read as {path.suffix[1:].upper()} ({type(error).__name__}: {error}); the file is "
            "truncated, damaged or of another format. Try to export it again"
        ) from error
