"""Reads OBJ files (Wavefront): polygons, materials, textures, colours of vertices.

Indices count from 1, negative ones back from where they stand. What announces more faces than there are is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.colors import unit_colors
from coop_edge.mesh.formats.mtl import MtlMaterial, read_mtl
from coop_edge.mesh.parts import Part, Polygons, check_coordinates
from coop_edge.mesh.source import Source
from coop_edge.mesh.text import decode, floats, lines

_QUIET = ("vn", "vp", "g", "o", "s", "mg", "l", "p", "lod", "bevel", "c_interp", "d_interp", "usemap", "maplib")
_SURFACES = ("surf", "curv", "curv2", "bzp", "bsp", "patch", "cdc", "cdp", "call", "csh")
_ANNOUNCED = re.compile(
    r"^#+\s*(?:(?:number of\s+)?(faces|polygons|triangles)\s*[:=]\s*(\d+)|(\d+)\s+(faces|polygons|triangles))"
    r"(?:\s*-\s*\d+ triangles)?\s*$",
    re.I,
)


@dataclass
class _Group:
    """Faces of one material that all have texture coordinates, or all have none."""

    corners: list[int] = field(default_factory=list)  # vertices, from 0
    coordinates: list[int] = field(default_factory=list)  # rows of vt, from 0
    sizes: list[int] = field(default_factory=list)


@dataclass
class _Contents:
    """What stands in the lines of a file."""

    vertices: list[str] = field(default_factory=list)
    coordinates: list[str] = field(default_factory=list)
    groups: dict[tuple[str | None, bool], _Group] = field(default_factory=dict)
    libraries: list[str] = field(default_factory=list)
    announced: list[int] = field(default_factory=list)
    faces: int = 0


def read_obj(source: Source) -> list[Part]:
    """Read an OBJ file. Raises MeshError."""
    text = decode(source.data)
    contents = _read_lines(source, text)
    _check_complete(source, contents, text)
    if not contents.faces:
        return []
    vertices, colors = _vertices(source, contents.vertices)
    coordinates = _coordinates(contents.coordinates)
    materials = {} if source.ignore_colors else _libraries(source, contents)
    # The group that comes first stands last: so the triangles have the order that templates of earlier versions know.
    return [
        part
        for (name, textured), group in reversed(contents.groups.items())
        for part in [_part(source, group, vertices, colors, coordinates if textured else None, materials.get(name))]
        if len(part.faces)
    ]


def _read_lines(source: Source, text: str) -> _Contents:
    found = _Contents()
    material: str | None = None
    for number, line in enumerate(lines(re.sub(r"\\\r?\n", " ", text)), 1):
        words = line.split(None, 1)
        if not words:
            continue
        key, rest = words[0], words[1].strip() if len(words) > 1 else ""
        if key == "v":
            found.vertices.append(rest)
        elif key == "vt":
            found.coordinates.append(rest)
        elif key in ("f", "fo"):
            _add_face(found, material, rest, number)
        elif key.startswith("#"):
            _comment(source, found, line.strip())
        elif key == "usemtl":
            material = rest
        elif key == "mtllib":
            found.libraries.append(rest)
        elif key in _SURFACES:
            raise MeshError(
                f"line {number}: {key!r}: curved surfaces and other files are not read; export it as triangles"
            )
        elif key in ("l", "p"):
            source.note("lines and points are not read")
        elif key not in _QUIET:
            source.note(f"lines that begin with {key[:20]!r} are not read")
    return found


def _add_face(found: _Contents, material: str | None, text: str, number: int) -> None:
    words = (text.split("#")[0] if "#" in text else text).split()
    if len(words) < 3:
        raise MeshError(f"line {number}: a face of {len(words)} corners; wanted at least 3; the file may be cut off")
    slashes = {word.count("/") for word in words}
    n, m = len(found.vertices), len(found.coordinates)
    try:
        if slashes == {0}:
            corners, coordinates = [int(word) for word in words], []
        else:
            fields = [word.split("/") for word in words]
            corners = [int(each[0]) for each in fields]
            given = [each[1] for each in fields]
            coordinates = [int(each) for each in given] if all(given) else []
            if len(slashes) > 1 or any(given) != all(given) or slashes - {1, 2}:
                raise MeshError(f"line {number}: the corners of a face are not written alike; the file may be cut off")
            if any(len(each) > 2 and each[2] and not each[2].lstrip("-").isdigit() for each in fields):
                raise ValueError
    except ValueError:
        raise MeshError(f"line {number}: {text[:60]!r} are not the corners of a face; the file is damaged") from None
    if 0 in corners or 0 in coordinates:
        raise MeshError(f"line {number}: a face refers to number 0; they count from 1")
    group = found.groups.setdefault((material, bool(coordinates)), _Group())
    group.corners += [c - 1 if c > 0 else _back(n, c, number) for c in corners]
    group.coordinates += [c - 1 if c > 0 else _back(m, c, number) for c in coordinates]
    group.sizes.append(len(words))
    found.faces += 1


def _back(n: int, index: int, number: int) -> int:
    if n + index < 0:
        raise MeshError(f"line {number}: a face refers {-index} back, where {n} are before it; the file is damaged")
    return n + index


def _comment(source: Source, found: _Contents, text: str) -> None:
    announced = _ANNOUNCED.match(text)
    if announced:
        found.announced.append(int(announced.group(2) or announced.group(3)))
    elif text.startswith("#MRGB"):
        source.note("the colours of ZBrush (#MRGB) are not read; export it with a texture")


def _check_complete(source: Source, found: _Contents, text: str) -> None:
    """Compare the faces with what comments announce, in the file's head or group by group; note signs of a cut."""
    counts = found.announced
    if counts:
        wanted = counts[0] if sum(counts[1:]) in (0, counts[0]) else sum(counts)  # the first may count all of them
        triangles = sum(size - 2 for group in found.groups.values() for size in group.sizes)
        if found.faces < wanted and triangles != wanted:
            raise MeshError(f"cut off: its comments announce {wanted} faces, it holds {found.faces}; export it again")
        if wanted not in (found.faces, triangles):
            source.note(f"comments announce {wanted} faces, the file holds {found.faces}: it may be cut off")
    for what, n, used in (
        ("vertices", len(found.vertices), [i for g in found.groups.values() for i in g.corners]),
        ("texture coordinates", len(found.coordinates), [i for g in found.groups.values() for i in g.coordinates]),
    ):
        behind = n - 1 - max(used, default=n)
        if behind > 0:  # loose ones in between are common
            source.note(f"the last {behind} of {n} {what} belong to no face: the file may be cut off")
    last = lines(text[-200:])[-1:]
    if last and last[0].split()[:1] == ["f"] and not text.endswith(("\n", "\r")):
        source.note("the last line is a face and has no end: the file may be cut off")


def _vertices(source: Source, rows: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return positions [V,3], and colours [V,3] (NaN where a vertex has none), or None."""
    words = [row.split("#")[0].split() if "#" in row else row.split() for row in rows]
    sizes = np.array([len(row) for row in words])
    if not np.isin(sizes, (3, 4, 6, 7)).all():
        wrong = sizes[~np.isin(sizes, (3, 4, 6, 7))][0]
        raise MeshError(f"a vertex has {wrong} numbers; wanted x y z, or x y z and a colour; the file may be cut off")
    points = floats([word for row in words for word in row[:3]], "vertices").reshape(-1, 3)
    if (sizes == 4).any():
        weights = floats([row[3] for row in words if len(row) == 4], "vertices")
        if (weights != 1.0).any():
            source.note("the weights of its vertices (a fourth number) are not used")
    has = sizes >= 6
    if source.ignore_colors or not has.any():
        return points, None
    if not has.all():
        source.note(f"{int((~has).sum())} of {len(rows)} vertices have no colour")
    colors = np.full((len(rows), 3), np.nan)
    given = floats([word for row in words if len(row) >= 6 for word in row[3:6]], "colours of vertices")
    colors[has] = unit_colors(given.reshape(-1, 3), source.notes)
    return points, colors


def _coordinates(rows: list[str]) -> NDArray[np.float64]:
    words = [row.split("#")[0].split() if "#" in row else row.split() for row in rows]
    if any(not 1 <= len(row) <= 3 for row in words):
        raise MeshError("a texture coordinate (vt) has other than one to three numbers; the file is damaged")
    pairs = [[*row, "0"][:2] for row in words]
    return floats([word for pair in pairs for word in pair], "texture coordinates").reshape(-1, 2)


def _libraries(source: Source, found: _Contents) -> dict[str | None, MtlMaterial]:
    """Read the materials of all libraries; of two of one name the first counts. Note those that are in none."""
    materials: dict[str | None, MtlMaterial] = {}
    used = {name for name, _ in found.groups if name}
    for name in dict.fromkeys(name for line in found.libraries for name in _names(source, line)):
        data = source.assets.read(name)
        path = source.assets.find(name)
        assert path is not None
        for key, each in read_mtl(source, path, data).items():
            materials.setdefault(key, each)
    for name in used - set(materials):  # a comment may stand behind the name, and names may hold the sign
        plain = re.split(r"\s#", name)[0].strip()
        quoted = re.match(r'"(.*)"$', plain)
        for other in (plain, quoted.group(1) if quoted else plain):
            if other in materials:
                materials[name] = materials[other]
    if unknown := sorted(used - set(materials)):
        source.note(f"materials {', '.join(map(repr, unknown))} are not defined: their faces take the albedo")
    if materials and not used:
        source.note("names a material library, but no face a material (usemtl): they take the albedo")
    return materials


def _names(source: Source, line: str) -> list[str]:
    """Return the names behind mtllib: one that may hold spaces, or several."""
    quoted = re.findall(r'"([^"]+)"', line)
    if quoted:
        return quoted
    plain = re.split(r"\s#", line)[0].strip()
    for whole in (line, plain):
        if source.assets.find(whole):
            return [whole]
    words = plain.split()
    if len(words) > 1 and any(source.assets.find(word) for word in words):
        return words
    return [plain] if plain else []


def _part(
    source: Source,
    group: _Group,
    vertices: NDArray[np.float64],
    colors: NDArray[np.float64] | None,
    coordinates: NDArray[np.float64] | None,
    found: MtlMaterial | None,
) -> Part:
    polygons = Polygons(np.array(group.corners, np.int64), np.array(group.sizes, np.int64))
    places, _ = polygons.cut(vertices, source.notes)
    faces = polygons.corners[places]
    uv = None
    if coordinates is not None and found is not None and found.material.texture is not None:
        rows = np.array(group.coordinates, np.int64)
        if rows.max() >= len(coordinates):
            raise MeshError(
                f"a face refers to texture coordinate {rows.max() + 1} of {len(coordinates)}; it is damaged"
            )
        uv = found.coordinates(coordinates[rows[places]])
        check_coordinates(uv)
    material = None if found is None else found.material
    return Part(vertices, faces, None if colors is None else colors[faces], uv, material)
