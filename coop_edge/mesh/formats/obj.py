"""Reads OBJ files (Wavefront): polygons, materials, textures, colours of vertices.

Indices count from 1, negative ones back from where they stand. What announces more faces than there are is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.colors import are_normals, check_alpha, unit_colors
from coop_edge.mesh.formats.mtl import MtlMaterial, read_mtl
from coop_edge.mesh.formats.obj_counts import Announcement, check_counts, read_announcement
from coop_edge.mesh.formats.obj_faces import FaceLines, Faces
from coop_edge.mesh.parts import TRANSPARENCY, Part, check_coordinates
from coop_edge.mesh.source import Source
from coop_edge.mesh.text import decode, floats, lines, statements

_QUIET = ("vn", "vp", "s", "mg", "lod", "bevel", "c_interp", "d_interp")
_SURFACES = ("surf", "curv", "curv2", "bzp", "bsp", "patch", "cdc", "cdp", "call", "csh")
_NUMBERS = (  # keywords that numbers follow
    "v", "vt", "vn", "vp", "f", "fo", "l", "p", "curv", "curv2", "surf", "parm", "trim", "hole", "scrv", "sp",
    "end", "con", "deg", "bmat", "step", "cstype", "bzp", "bsp", "patch", "cdc", "cdp", "res", "ctech",
    "stech",
)  # fmt: skip
_NAMES = ("g", "o", "s", "mg", "usemtl", "mtllib", "usemap", "maplib", "lod", "bevel", "c_interp", "d_interp", "call")


@dataclass
class _Contents:
    """What stands in the lines of a file."""

    vertices: list[str] = field(default_factory=list)
    coordinates: list[str] = field(default_factory=list)
    groups: dict[str | None, FaceLines] = field(default_factory=dict)  # by material
    libraries: list[str] = field(default_factory=list)
    announced: list[Announcement] = field(default_factory=list)
    borders: list[int] = field(default_factory=list)  # lines where a group, object or material begins


def read_obj(source: Source) -> list[Part]:
    """Read an OBJ file.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    text = decode(source.data)
    contents = _read_lines(source, text)
    faces = {name: lines_.read() for name, lines_ in contents.groups.items()}
    every = [each for found in faces.values() for each in found]
    _check_complete(source, contents, every, text)
    if not every:
        return []
    vertices, colors = _vertices(source, contents.vertices)
    coordinates = _coordinates(contents.coordinates)
    materials = {} if source.ignore_colors else _libraries(source, contents)
    # The material that comes first stands last: templates of earlier versions know this order of triangles.
    return [
        _part(source, each, vertices, colors, coordinates, materials.get(name))
        for name, found in reversed(faces.items())
        for each in found
    ]


def _read_lines(source: Source, text: str) -> _Contents:
    found = _Contents()
    material: str | None = None
    for number, line in statements(text, _NUMBERS, _NAMES):
        words = line.split(None, 1)
        if not words:
            continue
        key, rest = words[0], words[1].strip() if len(words) > 1 else ""
        if key == "v":
            found.vertices.append(rest)
        elif key == "vt":
            found.coordinates.append(rest)
        elif key in ("f", "fo"):
            group = found.groups.setdefault(material, FaceLines())
            group.texts.append(rest)
            group.before.append((number, len(found.vertices), len(found.coordinates)))
        elif key.startswith("#"):
            _comment(source, found, number, line.strip())
        elif key in ("g", "o"):
            found.borders.append(number)
        elif key == "usemtl":
            material = rest
            found.borders.append(number)
        elif key == "mtllib":
            found.libraries.append(rest)
            if not rest:
                source.note("a line mtllib names no file")
        elif key in _SURFACES:
            raise MeshError(f"line {number}: {key!r}: curved surfaces are not read; export it as triangles")
        elif key in ("l", "p"):
            source.note("lines and points are not read")
        elif key in ("usemap", "maplib"):
            source.note(f"textures named by {key!r} are not read, those of materials (mtllib, usemtl) are")
        elif key not in _QUIET:
            source.note(f"lines that begin with {key[:20]!r} are not read")
    return found


def _comment(source: Source, found: _Contents, number: int, text: str) -> None:
    announced = read_announcement(number, text)
    if announced:
        found.announced.append(announced)
    elif text.startswith("#MRGB"):
        source.note("the colours of ZBrush (#MRGB) are not read; export it with a texture")


def _check_complete(source: Source, found: _Contents, faces: list[Faces], text: str) -> None:
    """Compare the faces with what comments announce; note other signs of a cut."""
    if found.announced:
        groups = found.groups.values()
        rows = [(at[0], len(t.split("#")[0].split())) for g in groups for at, t in zip(g.before, g.texts, strict=True)]
        table = np.array(sorted(rows), np.int64).reshape(-1, 2)
        check_counts(source, found.announced, table[:, 0], table[:, 1], np.array(found.borders, np.int64))
    for what, n, used in (
        ("vertices", len(found.vertices), [each.polygons.corners for each in faces]),
        ("texture coordinates", len(found.coordinates), [f.coordinates for f in faces if f.coordinates is not None]),
    ):
        behind = n - 1 - max((int(each.max(initial=0)) for each in used), default=n)
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
    given = floats([word for row in words if len(row) >= 6 for word in row[3:6]], "colours of vertices").reshape(-1, 3)
    if are_normals(given, source.notes):
        return points, None
    if not has.all():
        source.note(f"{int((~has).sum())} of {len(rows)} vertices have no colour")
    colors = np.full((len(rows), 3), np.nan)
    colors[has] = unit_colors(given, source.notes)
    alpha = [row[6] for row in words if len(row) == 7]
    if alpha:
        check_alpha(floats(alpha, "colours of vertices"), given, source.notes)
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
    used = {name for name in found.groups if name}
    for name in dict.fromkeys(name for line in found.libraries for name in _names(source, line)):
        data = source.assets.read(name)
        path = source.assets.find(name)
        assert path is not None
        for key, each in read_mtl(source, path, data).items():
            if materials.setdefault(key, each) is not each and key in used:
                source.note(f"material {key!r} is in two libraries: the first counts")
    # A comment may stand behind a name, on either side, and names may hold its sign: the whole name comes first.
    plain = {_plain(name): each for name, each in reversed(materials.items()) if name is not None}
    for name in used - set(materials):
        if _plain(name) in plain:
            materials[name] = plain[_plain(name)]
    if unknown := sorted(used - set(materials)):
        source.note(f"materials {', '.join(map(repr, unknown))} are not defined: their faces take the albedo")
    if materials and not used:
        source.note("names a material library, but no face a material (usemtl): they take the albedo")
    return materials


def _plain(name: str) -> str:
    """Return a material's name without a comment and quotes."""
    return re.split(r"\s#", name)[0].strip().removeprefix('"').removesuffix('"')


def _names(source: Source, line: str) -> list[str]:
    """Return the names behind mtllib: one that may hold spaces, or several, in quotes or not."""
    plain = re.split(r"\s#", line)[0].strip()
    if '"' not in plain:
        for whole in (line, plain):
            if source.assets.find(whole):
                return [whole]
    words = [quoted or word for quoted, word in re.findall(r'"([^"]+)"|([^\s"]+)', plain)]
    if '"' in plain or (len(words) > 1 and any(source.assets.find(word) for word in words)):
        return words
    return [plain] if plain else []


def _part(
    source: Source,
    faces: Faces,
    vertices: NDArray[np.float64],
    colors: NDArray[np.float64] | None,
    coordinates: NDArray[np.float64],
    found: MtlMaterial | None,
) -> Part:
    places, _ = faces.polygons.cut(vertices, source.notes)
    corners = faces.polygons.corners[places]
    uv = None
    if faces.coordinates is not None and found is not None and found.material.texture is not None:
        rows = faces.coordinates
        if rows.max() >= len(coordinates):
            raise MeshError(f"a face refers to texture coordinate {rows.max() + 1} of {len(coordinates)}: damaged")
        uv = found.coordinates(coordinates[rows[places]])
        check_coordinates(uv)
    if found is not None and found.transparent:
        source.note(TRANSPARENCY)
    material = None if found is None else found.material
    return Part(vertices, corners, None if colors is None else colors[corners], uv, material)
