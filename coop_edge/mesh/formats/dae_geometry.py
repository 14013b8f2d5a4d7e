"""Reads the geometries of a COLLADA file: triangles, polygons with holes, strips and fans, and what lies on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.colors import unit_colors
from coop_edge.mesh.formats.dae_file import DaeFile, Element, attribute, indices, integer
from coop_edge.mesh.formats.dae_materials import DaeMaterial
from coop_edge.mesh.parts import TRANSPARENCY, Part, Polygons, check_coordinates, check_corners
from coop_edge.mesh.polygons import cut_outline

_SURFACES = ("triangles", "polylist", "polygons", "tristrips", "trifans")
_LINES = ("lines", "linestrips")

Rows = NDArray[np.int64]


class _Input(NamedTuple):
    """One column of a primitive's indices: what it refers to."""

    semantic: str
    source: str
    offset: int
    set: int | None


def read_geometry(file: DaeFile, element: Element, materials: dict[str, DaeMaterial]) -> list[Part]:
    """Return the parts of a geometry with the materials that a node binds to its symbols.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    label = element.get("name") or element.get("id") or ""
    mesh = element.find("mesh")
    if mesh is None:
        raise MeshError(f"geometry {label!r} is no mesh (a spline or a convex hull), which is not read; export a mesh")
    parts = []
    for primitive in mesh:
        if primitive.tag in _SURFACES:
            parts.append(_read_primitive(file, mesh, primitive, materials, label))
        elif primitive.tag in _LINES:
            file.source.note("lines are not read")
    return [part for part in parts if len(part.faces)]


def _read_primitive(
    file: DaeFile, mesh: Element, primitive: Element, materials: dict[str, DaeMaterial], label: str
) -> Part:
    inputs, width = _inputs(mesh, primitive, label)
    position = next((i for i in inputs if i.semantic == "POSITION"), None)
    if position is None:
        raise MeshError(f"geometry {label!r} has no positions; the file is damaged")
    vertices = file.array(position.source, 3)[:, :3]
    rows, triangles = _triangles(file, primitive, width, position.offset, vertices, label)
    faces = rows[triangles, position.offset] if len(rows) else np.zeros((0, 3), np.int64)
    check_corners(faces, len(vertices))
    if file.source.ignore_colors:
        return Part(vertices, faces).trimmed()
    symbol = primitive.get("material")
    found = materials.get(symbol or "")
    if found is None and symbol is not None:
        file.source.note(f"no node binds a material to {symbol!r}: these faces take the albedo")
    if found is not None and found.transparent:
        file.source.note(TRANSPARENCY)
    colors = _colors(file, inputs, rows, triangles)
    uv = None
    if found is not None and found.material.texture is not None:
        uv = _coordinates(file, inputs, rows, triangles, found, label)
    return Part(vertices, faces, colors, uv, None if found is None else found.material).trimmed()


def _inputs(mesh: Element, primitive: Element, label: str) -> tuple[list[_Input], int]:
    """Return what the columns of a primitive's indices refer to, and how many columns there are."""
    inputs = []
    for each in primitive.findall("input"):
        semantic, source, offset = attribute(each, "semantic"), attribute(each, "source"), integer(each, "offset", 0)
        which = integer(each, "set") if each.get("set") is not None else None
        if semantic != "VERTEX":
            inputs.append(_Input(semantic, source, offset, which))
            continue
        vertices = next((v for v in mesh.findall("vertices") if "#" + v.get("id", "") == source), None)
        if vertices is None:
            raise MeshError(f"geometry {label!r}: its vertices {source!r} are not there; the file is damaged")
        for inner in vertices.findall("input"):
            inner_set = integer(inner, "set") if inner.get("set") is not None else None
            inputs.append(_Input(attribute(inner, "semantic"), attribute(inner, "source"), offset, inner_set))
    width = max((i.offset for i in inputs), default=0) + 1
    if width > 64:
        raise MeshError(f"geometry {label!r}: {width} indices per corner; the file is damaged")
    return inputs, width


def _triangles(
    file: DaeFile, primitive: Element, width: int, at: int, vertices: NDArray[np.float64], label: str
) -> tuple[Rows, NDArray[np.int64]]:
    """Return the indices of all corners [C,width], and triangles of corners [T,3]."""
    what = f"geometry {label!r}: indices of <{primitive.tag}>"
    lists = [_rows(p, width, what) for p in primitive.findall("p")]
    count = integer(primitive, "count", 0)
    if primitive.tag == "triangles":
        rows = np.concatenate([np.zeros((0, width), np.int64), *lists])
        if len(rows) % 3 or ("count" in primitive.attrib and len(rows) != 3 * count):
            raise MeshError(f"{what}: {len(rows)} corners for {count} triangles; the file is truncated or damaged")
        return rows, np.arange(len(rows)).reshape(-1, 3)
    holed = primitive.findall("ph")
    if primitive.tag != "polylist" and "count" in primitive.attrib and len(lists) + len(holed) != count:
        raise MeshError(f"{what}: {len(lists) + len(holed)} lists for {count}; the file is truncated or damaged")
    if primitive.tag in ("tristrips", "trifans"):
        return _strips(lists, width, fan=primitive.tag == "trifans")
    if primitive.tag == "polylist":
        sizes = indices(primitive.find("vcount"), f"geometry {label!r}: vcount")
        rows = np.concatenate([np.zeros((0, width), np.int64), *lists])
        if len(sizes) != count or (sizes < 0).any() or sizes.sum() != len(rows):
            raise MeshError(f"{what}: {len(rows)} corners for {count} polygons; the file is truncated or damaged")
    else:
        sizes = np.array([len(rows) for rows in lists], np.int64)
        rows = np.concatenate([np.zeros((0, width), np.int64), *lists])
    if len(rows):
        check_corners(rows[:, at], len(vertices))
    triangles, _ = Polygons(rows[:, at], sizes).cut(vertices, file.source.notes)
    for each in holed:
        rows, triangles = _with_holes(each, width, at, vertices, what, rows, triangles)
    return rows, triangles


def _with_holes(
    element: Element,
    width: int,
    at: int,
    vertices: NDArray[np.float64],
    what: str,
    rows: Rows,
    triangles: NDArray[np.int64],
) -> tuple[Rows, NDArray[np.int64]]:
    """Append one polygon with holes."""
    rings = [_rows(ring, width, what) for ring in [*element.findall("p"), *element.findall("h")]]
    for ring in rings:
        check_corners(ring[:, at], len(vertices))
    points = [vertices[ring[:, at]] for ring in rings if len(ring) >= 3]
    cut = cut_outline(points[0], points[1:]) if len(points) == len(rings) and rings else None
    if cut is None:
        raise MeshError(f"{what}: a polygon with holes that cross it or each other; export the mesh as triangles")
    return np.concatenate([rows, *rings]), np.concatenate([triangles, cut + len(rows)])


def _strips(lists: list[Rows], width: int, *, fan: bool) -> tuple[Rows, NDArray[np.int64]]:
    triangles, start = [np.zeros((0, 3), np.int64)], 0
    for rows in lists:
        i = np.arange(max(len(rows) - 2, 0))
        if fan:
            each = np.stack([np.zeros_like(i), i + 1, i + 2], axis=1)
        else:
            each = np.stack([i, i + 1 + i % 2, i + 2 - i % 2], axis=1)
        triangles.append(each + start)
        start += len(rows)
    return np.concatenate([np.zeros((0, width), np.int64), *lists]), np.concatenate(triangles)


def _rows(element: Element, width: int, what: str) -> Rows:
    flat = indices(element, what)
    if len(flat) % width:
        raise MeshError(f"{what}: {len(flat)} numbers, not a multiple of {width}; the file is truncated or damaged")
    return flat.reshape(-1, width)


def _pick(values: NDArray[np.float64], index: Rows, what: str) -> NDArray[np.float64]:
    if index.size and (index.min() < 0 or index.max() >= len(values)):
        raise MeshError(f"a corner refers to {what} {index.max()} of {len(values)}; the file is damaged")
    return values[index]


def _colors(
    file: DaeFile, inputs: list[_Input], rows: Rows, triangles: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    found = sorted((i for i in inputs if i.semantic == "COLOR"), key=lambda i: i.set or 0)
    if not found:
        return None
    if len(found) > 1:
        file.source.note(f"of {len(found)} sets of vertex colours the first is read")
    table = unit_colors(file.array(found[0].source, 3)[:, :4], file.source.notes)
    return _pick(table, rows[triangles, found[0].offset], "colour")


def _coordinates(
    file: DaeFile, inputs: list[_Input], rows: Rows, triangles: NDArray[np.int64], found: DaeMaterial, label: str
) -> NDArray[np.float64] | None:
    """Return the coordinates of the set that the material's texture uses [T,3,2]; None if there are none at all."""
    sets = [i for i in inputs if i.semantic == "TEXCOORD"]
    if not sets:
        return None
    chosen = [i for i in sets if (i.set or 0) == found.bound] if found.bound is not None else sets
    if not chosen and len(sets) == 1 and sets[0].set is None:
        chosen = sets
    if len(chosen) != 1:
        which = "says which" if found.bound is None else f"binds set {found.bound}, which is not one of them"
        raise MeshError(
            f"geometry {label!r} has {len(sets)} sets of texture coordinates, and its material {found.material.name!r} "
            f"{'does not say which it uses' if found.bound is None else which}; export it with one"
        )
    uv = _pick(file.array(chosen[0].source, 2)[:, :2], rows[triangles, chosen[0].offset], "texture coordinate")
    check_coordinates(uv)
    return uv
