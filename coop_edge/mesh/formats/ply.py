"""Reads PLY files: polygons and strips, colours of vertices or faces, textures by vertex or by face."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.colors import check_alpha, unit_colors
from coop_edge.mesh.formats.ply_elements import Element, read_header, read_rows
from coop_edge.mesh.parts import Material, Part, Polygons, Texture, check_coordinates
from coop_edge.mesh.source import Source

_COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_COORDINATES = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"), ("texture_s", "texture_t"))
_INDICES = ("vertex_indices", "vertex_index")
_NORMALS = ("nx", "ny", "nz", "normal_x", "normal_y", "normal_z")
_TEXTURE = re.compile(r"texture[ _-]?(?:file)?(?:name)?[ \t]*[:=]?[ \t]+(.+)|texturefile[:=](.+)", re.IGNORECASE)
_PICTURE = re.compile(r"\.(?:png|jpe?g|tga|bmp|tiff?|webp|dds|mtl)\b", re.IGNORECASE)
_KNOWN = ("vertex", "face", "tristrips")


def read_ply(source: Source) -> list[Part]:
    """Read a PLY file.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    header = read_header(source.data)
    behind = read_rows(header, source.data)
    if behind:
        unit = "rows" if header.format == "ascii" else "bytes"
        source.note(f"{behind} {unit} behind the last element are not read")
    elements = {element.name: element for element in header.elements}
    if len(elements) < len(header.elements):
        raise MeshError("has two elements of one name; copy or export it again")
    if unknown := [name for name, element in elements.items() if name not in _KNOWN and element.rows]:
        source.note(f"elements {', '.join(map(repr, unknown))} are not read")
    vertex = elements.get("vertex", Element("vertex", 0))
    vertices = _vertices(vertex)
    polygons, face = _polygons(elements)
    if not len(polygons.sizes):
        return []
    places, owner = polygons.cut(vertices, source.notes)
    faces = polygons.corners[places]
    files = [] if source.ignore_colors else _texture_files(source, header.comments)
    uv, number = _coordinates(vertex, face, polygons, places, owner) if files else (None, None)
    if files and uv is None:
        raise MeshError("names a texture, but its vertices and faces have no texture coordinates")
    colors = None if source.ignore_colors else _colors(vertex, face, faces, owner, source.notes)
    if not source.ignore_colors:
        _note_unread(source, [vertex, *([face] if face is not None else [])], textured=bool(files))
    if not files:
        return [Part(vertices, faces, colors=colors)]
    return _textured(source, files, Part(vertices, faces, colors, uv), number)


def _vertices(vertex: Element) -> NDArray[np.float64]:
    if not vertex.rows:
        return np.zeros((0, 3))
    axes = [vertex.scalar(axis) for axis in "xyz"]
    if any(axis is None for axis in axes):
        raise MeshError(f"its vertices have no x, y and z, but {', '.join(vertex.columns) or 'nothing'}")
    return np.column_stack([np.asarray(axis) for axis in axes]).astype(np.float64)


def _polygons(elements: dict[str, Element]) -> tuple[Polygons, Element | None]:
    """Return the faces and the element that has a row for each of them; None where they come from strips."""
    face, strips = elements.get("face"), elements.get("tristrips")
    if face is not None and face.rows and strips is not None and strips.rows:
        raise MeshError("has faces and strips of triangles beside each other, which is not read; export it as faces")
    if strips is not None and strips.rows:
        return _strips(strips), None
    if face is None or not face.rows:
        return Polygons(np.zeros(0, np.int64), np.zeros(0, np.int64)), None
    name = next((n for n in _INDICES if n in face.columns), None)
    if name is None:
        raise MeshError(f"its faces have no list vertex_indices, but {', '.join(face.columns) or 'nothing'}")
    column = face.lists(name)
    assert column is not None
    if column.values.dtype.kind == "f":
        raise MeshError(f"the property {name!r} of its faces holds {column.values.dtype}; wanted integers")
    return Polygons(column.values.astype(np.int64), column.sizes), face


def _strips(element: Element) -> Polygons:
    """Return the triangles of strips; -1 ends one, and every other triangle is turned round."""
    column = next((element.lists(n) for n in _INDICES if n in element.columns), None)
    if column is None:
        raise MeshError("its strips of triangles have no list vertex_indices")
    triangles, at = [], 0
    for size in column.sizes:
        row = column.values[at : at + size].astype(np.int64)
        at += int(size)
        for strip in np.split(row, np.flatnonzero(row == -1)):
            strip = strip[strip != -1]
            each = np.stack([strip[:-2], strip[1:-1], strip[2:]], axis=1) if len(strip) > 2 else np.zeros((0, 3), int)
            each[1::2] = each[1::2, [1, 0, 2]]
            triangles.append(each)
    corners = np.concatenate([np.zeros((0, 3), np.int64), *triangles])
    return Polygons(corners.ravel(), np.full(len(corners), 3, np.int64))


def _texture_files(source: Source, comments: list[str]) -> list[str]:
    """Return the files that comments name as TextureFile; note other comments that name a picture."""
    files = []
    for comment in comments:
        found = _TEXTURE.fullmatch(comment)
        name = (found[1] or found[2]).strip() if found else ""
        if name and (comment.lower().startswith("texturefile") or _PICTURE.search(name)):
            quoted = re.fullmatch(r"""(["'])(.+)\1""", name)
            files.append(quoted[2] if quoted else name)
        elif _PICTURE.search(comment):
            source.note(f"the comment {comment[:60]!r} is not read: wanted 'TextureFile NAME'")
    return files


def _note_unread(source: Source, elements: list[Element], *, textured: bool) -> None:
    for element in elements:
        left = [name for name in element.columns if name not in element.used and name not in _NORMALS]
        if not left or not element.rows:
            continue
        names = ", ".join(map(repr, left[:8])) + (f" and {len(left) - 8} more" if len(left) > 8 else "")
        places = {name for pair in _COORDINATES for name in pair} | {"texcoord", "texnumber"}
        why = ": no comment names a texture (TextureFile)" if not textured and set(left) <= places else ""
        source.note(f"the properties {names} of {element.name!r} are not read{why}")


def _coordinates(
    vertex: Element,
    face: Element | None,
    polygons: Polygons,
    places: NDArray[np.int64],
    owner: NDArray[np.int64],
) -> tuple[NDArray[np.float64] | None, NDArray[np.int64] | None]:
    """Return the coordinates of the triangles' corners [T,3,2], NaN where there are none, and their textures [T]."""
    number = None if face is None else face.scalar("texnumber")
    numbers = None if number is None else np.asarray(number, np.float64).astype(np.int64)[owner]
    by_face = None if face is None else face.lists("texcoord")
    if by_face is not None:
        has = by_face.sizes == 2 * polygons.sizes
        if not (has | (by_face.sizes == 0)).all():
            raise MeshError("a face has another number of texture coordinates than two for each corner")
        flat = np.full((len(polygons.corners), 2), np.nan)
        flat[np.repeat(has, polygons.sizes)] = by_face.values.astype(np.float64).reshape(-1, 2)
        check_coordinates(by_face.values)
        return flat[places], numbers
    for names in _COORDINATES:
        pair = [vertex.scalar(name) for name in names if name in vertex.columns]
        if len(pair) == 2:
            table = np.column_stack([np.asarray(c, np.float64) for c in pair])
            check_coordinates(table[polygons.corners])
            return table[polygons.corners[places]], numbers
    return None, numbers


def _colors(
    vertex: Element, face: Element | None, faces: NDArray[np.int64], owner: NDArray[np.int64], notes: list[str]
) -> NDArray[np.float64] | None:
    """Return colours of the triangles' corners [T,3,3]; the vertices' win where faces have some as well."""
    by_vertex = _color_columns(vertex, notes)
    by_face = None if face is None else _color_columns(face, notes)
    if by_vertex is not None:
        if by_face is not None:
            notes.append("colours of faces beside those of vertices are not used")
        return by_vertex[faces]
    return None if by_face is None else np.repeat(by_face[owner][:, None], 3, axis=1)


def _color_columns(element: Element, notes: list[str]) -> NDArray[np.float64] | None:
    for names in _COLORS:
        found = [element.scalar(name) for name in names if name in element.columns]
        if len(found) == 3:
            kinds = {np.asarray(c).dtype for c in found}
            if len(kinds) > 1:
                raise MeshError(f"the colours {', '.join(names)} are of different types; wanted one")
            colors = np.column_stack([np.asarray(c) for c in found])
            alpha = next((element.scalar(n) for n in ("alpha", "a", "diffuse_alpha") if n in element.columns), None)
            if alpha is not None:
                check_alpha(alpha, colors, notes)
            return unit_colors(colors, notes)
        if found:
            notes.append(f"colours of {element.name!r} lack some of {', '.join(names)}: not used")
    return None


def _textured(source: Source, files: list[str], whole: Part, number: NDArray[np.int64] | None) -> list[Part]:
    """Split the triangles by texture; those without coordinates keep the colours of the file."""
    assert whole.uv is not None
    if number is None:
        if len(files) > 1:
            raise MeshError(
                f"names {len(files)} textures, but not which of them its faces show (texnumber); export it with one"
            )
        number = np.zeros(len(whole.faces), np.int64)
    if number.size and not (number.min() >= -1 and number.max() < len(files)):  # -1: none
        wrong = number.max() if number.max() >= len(files) else number.min()
        raise MeshError(f"a face shows texture {wrong} of {len(files)}; the file is damaged")
    bare = (number < 0) | np.isnan(whole.uv).all(axis=(1, 2))
    parts = []
    for i in [*range(len(files)), -1]:
        chosen = bare if i < 0 else (number == i) & ~bare
        if not chosen.any():
            continue
        colors = None if whole.colors is None else whole.colors[chosen]
        if i < 0:
            source.note(f"{int(chosen.sum())} triangles show no texture")
            parts.append(Part(whole.vertices, whole.faces[chosen], colors))
            continue
        material = Material(files[i], texture=Texture(source.assets.image(files[i])))
        parts.append(Part(whole.vertices, whole.faces[chosen], colors, whole.uv[chosen], material))
    return parts
