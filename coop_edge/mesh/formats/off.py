"""Reads OFF files (Geomview): polygons, colours of vertices (COFF) and of faces, with or without the keyword."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.colors import are_normals, check_alpha, unit_colors
from coop_edge.mesh.parts import Part, Polygons
from coop_edge.mesh.source import Source
from coop_edge.mesh.text import decode, floats, integers, lines

_KEYWORD = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF")
_AGAIN = "copy or export it again"

Rows = list[list[str]]


class _Layout(NamedTuple):
    """What stands in a vertex's row behind its position."""

    texture: bool = False
    color: bool = False
    normal: bool = False


def read_off(source: Source) -> list[Part]:
    """Read an OFF file.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    if b"BINARY" in source.data[:64].split(b"\n")[0].upper().split()[1:2]:
        raise MeshError("a binary OFF file, which is not read; export it as text, or as PLY")
    rows = [line.split("#")[0].split() for line in lines(decode(source.data))]
    rows = [row for row in rows if row]
    layout, rows = _keyword(rows)
    counts = rows[0] if rows else []
    if len(counts) not in (2, 3):
        raise MeshError(f"wanted the numbers of vertices, faces and edges, found {' '.join(counts)[:40]!r}")
    n_vertices, n_faces = (int(n) for n in integers(counts, "the numbers of vertices and faces")[:2])
    if min(n_vertices, n_faces) < 0 or len(rows) - 1 < n_vertices + n_faces:
        raise MeshError(f"truncated, {len(rows) - 1} of {n_vertices + n_faces} rows; {_AGAIN}")
    if behind := len(rows) - 1 - n_vertices - n_faces:
        source.note(f"{behind} rows behind the last face are not read")
    vertices, by_vertex = _vertices(rows[1 : n_vertices + 1], layout, source.notes)
    polygons, by_face = _faces(rows[n_vertices + 1 : n_vertices + n_faces + 1], source.notes)
    places, owner = polygons.cut(vertices, source.notes)
    faces = polygons.corners[places]
    if layout.texture:
        source.note("texture coordinates are not read: the format names no texture")
    if by_vertex is not None:
        if by_face is not None:
            source.note("colours of faces beside those of vertices are not used")
        return [Part(vertices, faces, by_vertex[faces])]
    return [Part(vertices, faces, None if by_face is None else np.repeat(by_face[owner][:, None], 3, axis=1))]


def _keyword(rows: Rows) -> tuple[_Layout, Rows]:
    """Return what the first word says, and the rows from the counts on; without a keyword it is plain OFF."""
    if not rows or not rows[0][0][-3:].isalpha():
        return _Layout(), rows
    found = _KEYWORD.fullmatch(rows[0][0]) or _KEYWORD.fullmatch(rows[0][0].upper())
    if found is None:
        raise MeshError(f"not an OFF file: it begins with {rows[0][0][:20]!r}")
    texture, color, normal, four, n = found.groups()
    if four or n:
        raise MeshError(f"{rows[0][0]}: vertices of another number of coordinates than three are not read")
    rest = rows[0][1:]
    return _Layout(bool(texture), bool(color), bool(normal)), [rest, *rows[1:]] if rest else rows[1:]


def _vertices(rows: Rows, layout: _Layout, notes: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return positions [V,3] and colours [V,3] or None."""
    if not rows:
        return np.zeros((0, 3)), None
    width = len(rows[0])
    fixed = 3 + 3 * layout.normal + 2 * layout.texture
    colors = width - fixed  # plain OFF with three or four numbers more: some write colours without the C
    if colors not in ((3, 4) if layout.color else (0, 3, 4)):
        raise MeshError(f"a vertex has {width} numbers; wanted {fixed}, and 3 or 4 more with colours; {_AGAIN}")
    wrong = next((i for i, row in enumerate(rows) if len(row) != width), None)
    if wrong is not None:
        raise MeshError(f"vertex {wrong} has {len(rows[wrong])} numbers, the first has {width}; {_AGAIN}")
    table = floats([word for row in rows for word in row], "vertices").reshape(len(rows), width)
    if not colors:
        return table[:, :3], None
    start = 3 + 3 * layout.normal
    if not layout.color and are_normals(table[:, start : start + 3], notes):
        return table[:, :3], None
    words = [row[start : start + colors] for row in rows]
    return table[:, :3], _unit(words, notes)


def _faces(rows: Rows, notes: list[str]) -> tuple[Polygons, NDArray[np.float64] | None]:
    """Return the polygons, and their colours [P,3], NaN where a face has none; None if no face has any."""
    sizes = integers([row[0] for row in rows], "corners of faces")
    for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        if size < 1 or len(row) < size + 1:
            raise MeshError(f"face {i} is to have {size} corners, its row holds {len(row) - 1}; {_AGAIN}")
    corners = integers(
        [word for row, n in zip(rows, sizes, strict=True) for word in row[1 : n + 1]], "corners of faces"
    )
    extra = [row[n + 1 :] for row, n in zip(rows, sizes, strict=True)]
    if any(len(words) == 1 for words in extra):
        notes.append("colours of faces that are numbers in a colour map are not read: the map is not in the file")
    if any(len(words) not in (0, 1, 3, 4) for words in extra):
        raise MeshError(f"a face has other than 0, 1, 3 or 4 numbers behind its corners; {_AGAIN}")
    has = np.array([len(words) >= 3 for words in extra], bool)
    if not has.any():
        return Polygons(corners, sizes), None
    colors = np.full((len(rows), 3), np.nan)
    colors[has] = _unit([words for words in extra if len(words) >= 3], notes)
    return Polygons(corners, sizes), colors


def _unit(words: Rows, notes: list[str]) -> NDArray[np.float64]:
    """Convert colours to 0..1: rows of integers count to 255, with a decimal point to 1.

    Where all integers are 0 or 1 they count to 1: writers of C++ leave the point out.
    """
    numbers = floats([word for row in words for word in row[:3]], "colours").reshape(-1, 3)
    whole = np.array([all(re.fullmatch(r"[+-]?\d+", word) for word in row[:3]) for row in words])
    for alike in (whole, ~whole):
        given = [row for row, chosen in zip(words, alike, strict=True) if chosen and len(row) == 4]
        table = floats([word for row in given for word in row], "colours").reshape(-1, 4)
        check_alpha(table[:, 3], table[:, :3], notes)
    integers_ = numbers[whole]
    if integers_.max(initial=0) <= 1:
        return unit_colors(numbers, notes)
    if integers_.max() > 255 or integers_.min() < 0:
        raise MeshError(f"colours are integers up to {integers_.max():g}; wanted 0..255")
    colors = numbers / 255.0
    if not whole.all():
        colors[~whole] = unit_colors(numbers[~whole], notes)
    return np.asarray(colors)
