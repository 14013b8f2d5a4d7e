"""Reads the files that a mesh file refers to: regular ones, below its own folder's parent, within bounds."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.images import ImageDecoder
from coop_edge.mesh.limits import LoadLimits

_HELP = (
    "Put it beside the mesh, or do without its colours: Mesh.load(..., ignore_colors=True) in Python, --ignore-colors "
    "of the commands onboard, render, estimate, track and detect; for others save the mesh without textures"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


class Assets:
    """Finds, reads and decodes what a mesh file names.

    A file may name any path of the machine, so only those below the parent of the mesh's own folder are read
    ("../textures/" is common), links followed; with ``allow_outside`` all of them.
    """

    def __init__(self, mesh_path: Path, *, allow_outside: bool, limits: LoadLimits, notes: list[str]) -> None:
        self.folder = mesh_path.parent
        self._allow_outside, self._limits = allow_outside, limits
        self._decoder = ImageDecoder(limits, notes)
        self._images: dict[Path, NDArray[np.uint8]] = {}

    def find(self, name: str, near: Path | None = None) -> Path | None:
        """Return the path of what is called ``name``, seen from the folder ``near``, then from the mesh's; or None.

        Raises:
            MeshError: it is there, but lies outside, or is no regular file.
        """
        for folder in dict.fromkeys((near or self.folder, self.folder)):
            for candidate in _spellings(name):
                path = folder / candidate
                try:
                    there = path.exists()
                except (OSError, ValueError):  # a name that no file can have
                    continue
                if there:
                    self._check(name, path)
                    return path
        return None

    def read(self, name: str, near: Path | None = None) -> bytes:
        """Return the bytes of what is called ``name``.

        Raises:
            MeshError: missing, outside, unreadable, too large.
        """
        return self._bytes(self._known(name, near), name)

    def image(self, name: str, near: Path | None = None) -> NDArray[np.uint8]:
        """Return a picture as uint8 [h,w,3]; the same array each time.

        Raises:
            MeshError: the file is missing, lies outside, or is not a picture.
        """
        path = self._known(name, near)
        key = Path(os.path.abspath(path))
        if key not in self._images:
            data = self._bytes(path, name)
            try:
                self._images[key] = self.decode(data, repr(name))
            except MeshError as error:
                raise MeshError(f"refers to a file that cannot be used: {error}") from error
        return self._images[key]

    def decode(self, data: bytes, label: str) -> NDArray[np.uint8]:
        """Decode a picture that lies in the mesh file itself.

        Raises:
            MeshError: it cannot be decoded, or is too large.
        """
        return self._decoder.decode(data, label)

    def _known(self, name: str, near: Path | None) -> Path:
        path = self.find(name, near)
        if path is None:
            raise MeshError(
                f"refers to a file that cannot be used: {name!r} is missing (looked in {self.folder}). {_HELP}"
            )
        return path

    def _check(self, name: str, path: Path) -> None:
        if not self._allow_outside:
            bound = self.folder.resolve().parent
            if not path.resolve().is_relative_to(bound):
                raise MeshError(
                    f"refers to {name!r}, which lies outside {bound}; if you trust the file, load it with "
                    "allow_outside=True (--allow-outside of the commands), else put it beside the mesh"
                )
        if not path.is_file():
            raise MeshError(f"refers to {name!r}, which is not a regular file. {_HELP}")

    def _bytes(self, path: Path, name: str) -> bytes:
        try:
            size = path.stat().st_size
            self._limits.check("file_bytes", size, f"{name!r} has {size} bytes")
            return path.read_bytes()
        except (OSError, MemoryError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise MeshError(
                f"refers to a file that cannot be used: {name!r} cannot be read ({why}). {_HELP}"
            ) from error


def _spellings(name: str) -> list[str]:
    """Return the paths that a name may stand for: as it is, with its escapes undone, with backslashes as slashes."""
    plain = name.strip()
    without = re.sub(r"^file:(//(localhost)?(?=/)|//)?", "", plain, flags=re.IGNORECASE)
    if _SCHEME.match(without) and not re.match(r"[A-Za-z]:[\\/]", without):
        return [plain]  # http: and the like; a file may be called so
    forms = [plain, without, unquote(without), without.replace("\\", "/"), unquote(without).replace("\\", "/")]
    forms += [form[1:] for form in forms if re.match(r"/[A-Za-z]:", form)]
    return list(dict.fromkeys(form for form in forms if form and "\0" not in form))
