"""Reads the lines of an OBJ file that are faces: all at once where they are written alike, else one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.parts import Polygons

_ALIKE = {  # how corners are written: vertex, texture coordinate, normal; and how many numbers that makes
    "v": (re.compile(r"(?<!\S)\d+(?!\S)"), 1),
    "v/t": (re.compile(r"(?<!\S)\d+/\d+(?!\S)"), 2),
    "v//n": (re.compile(r"(?<!\S)\d+//\d+(?!\S)"), 2),
    "v/t/n": (re.compile(r"(?<!\S)\d+/\d+/\d+(?!\S)"), 3),
}


@dataclass(frozen=True)
class Faces:
    """Polygons, and the rows of vt at their corners [C]; None where they have no texture coordinates."""

    polygons: Polygons
    coordinates: NDArray[np.int64] | None


@dataclass
class FaceLines:
    """The lines of the faces of one material, and what stood before each: line number, vertices, coordinates."""

    texts: list[str] = field(default_factory=list)
    before: list[tuple[int, int, int]] = field(default_factory=list)

    def read(self) -> list[Faces]:
        """Return the faces, those with texture coordinates apart from those without.

        Raises:
            MeshError: damaged, or it holds what is not read.
        """
        alike = self._read_alike()
        return self._read_each() if alike is None else [alike]

    def _read_alike(self) -> Faces | None:
        """Read all lines at once; None unless all corners are written in one way, with positive numbers."""
        text = "\n".join(self.texts)
        first = text.split(None, 1)[0] if text.strip() else ""
        style = next((name for name, (pattern, _) in _ALIKE.items() if pattern.fullmatch(first)), None)
        if style is None or _ALIKE[style][0].sub("", text).strip():
            return None
        sizes = np.array([len(row.split()) for row in self.texts], np.int64)
        width = _ALIKE[style][1]
        numbers = np.fromstring(text.replace("/", " "), np.int64, sep=" ")
        if numbers.size != width * sizes.sum() or sizes.min() < 3 or (numbers < 1).any():
            return None
        table = numbers.reshape(-1, width) - 1
        return Faces(Polygons(table[:, 0], sizes), table[:, 1] if style in ("v/t", "v/t/n") else None)

    def _read_each(self) -> list[Faces]:
        corners: dict[bool, list[int]] = {}
        coordinates: list[int] = []
        sizes: dict[bool, list[int]] = {}
        for text, before in zip(self.texts, self.before, strict=True):
            points, places = _read_face(text, *before)
            textured = bool(places)
            corners.setdefault(textured, []).extend(points)
            sizes.setdefault(textured, []).append(len(points))
            coordinates += places
        try:
            return [
                Faces(
                    Polygons(np.array(corners[textured], np.int64), np.array(sizes[textured], np.int64)),
                    np.array(coordinates, np.int64) if textured else None,
                )
                for textured in corners
            ]
        except OverflowError:
            raise MeshError("a face refers to a number that no file holds; the file is damaged") from None


def _read_face(text: str, number: int, vertices: int, coordinates: int) -> tuple[list[int], list[int]]:
    """Return the vertices and texture coordinates of a face's corners, counted from 0. Raises MeshError."""
    words = text.split("#")[0].split()
    if len(words) < 3:
        raise MeshError(f"line {number}: a face of {len(words)} corners; wanted at least 3; the file may be cut off")
    fields = [word.split("/") for word in words]
    given = [len(each) > 1 and each[1] != "" for each in fields]
    lengths = {len(each) for each in fields}
    if len(lengths) > 1 or any(given) != all(given) or not lengths <= {1, 2, 3}:
        raise MeshError(f"line {number}: the corners of a face are not written alike; the file may be cut off")
    try:
        points = [int(each[0]) for each in fields]
        places = [int(each[1]) for each in fields] if all(given) else []
        _ = [int(each[2]) for each in fields if len(each) > 2 and each[2]]  # not used, but damage shows
    except ValueError:
        raise MeshError(f"line {number}: {text[:60]!r} are not the corners of a face; the file is damaged") from None
    return [_from_zero(i, vertices, number) for i in points], [_from_zero(i, coordinates, number) for i in places]


def _from_zero(index: int, before: int, number: int) -> int:
    if index == 0:
        raise MeshError(f"line {number}: a face refers to number 0; they count from 1")
    if index > 0:
        return index - 1
    if before + index < 0:
        raise MeshError(f"line {number}: a face refers {-index} back, where {before} are before it; it is damaged")
    return before + index
