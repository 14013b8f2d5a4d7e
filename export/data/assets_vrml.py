"""VRML 2.0 as electronics CAD writes it: coloured indexed face sets, no transforms. trimesh does not read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from coop_edge.errors import MeshError

Array = np.ndarray[Any, Any]

_MATERIAL = re.compile(
    r"material\s+(?:DEF\s+(?P<name>\S+)\s+)?Material\s*\{(?P<body>[^}]*)\}|material\s+USE\s+(?P<use>[^\s}]+)"
)
_DIFFUSE = re.compile(r"diffuseColor\s+([-+.\deE]+)[\s,]+([-+.\deE]+)[\s,]+([-+.\deE]+)")
_INDEX = re.compile(r"coordIndex\s*\[([^\]]*)\]")
_POINTS = re.compile(r"point\s*\[([^\]]*)\]")


def read_vrml(path: Path) -> trimesh.Trimesh:
    """Read triangles with face colours.

    Raises:
        MeshError: the file is not VRML 2.0, is damaged, has Transform nodes or no indexed face sets.
    """
    text = path.read_text(errors="replace")
    if not text.startswith("#VRML V2.0"):
        raise MeshError(f"{path}: wanted a file that begins with '#VRML V2.0'")
    text = re.sub(r"#[^\n]*", "", text)
    if re.search(r"\bTransform\b", text):
        raise MeshError(f"{path}: holds Transform nodes, which this reader does not follow")
    materials: dict[str, Array] = {}
    vertices, faces, colors, count = [], [], [], 0
    for shape in _shapes(text):
        color = np.array([200, 200, 200], np.uint8)
        if (found := _MATERIAL.search(shape)) is not None:
            if found["use"]:
                color = materials.get(found["use"], color)
            elif (diffuse := _DIFFUSE.search(found["body"])) is not None:
                color = np.clip(255.0 * np.array([float(v) for v in diffuse.groups()]), 0, 255).astype(np.uint8)
                if found["name"]:
                    materials[found["name"]] = color
        index, points = _INDEX.search(shape), _POINTS.search(shape)
        if index is None or points is None:
            continue
        corner = _numbers(points[1], path).reshape(-1, 3)
        triangles = _fans(_numbers(index[1], path).astype(np.int64))
        if len(triangles) and triangles.max() >= len(corner):
            raise MeshError(f"{path}: a face refers to point {triangles.max()} of {len(corner)}")
        vertices.append(corner)
        faces.append(triangles + count)
        colors.append(np.broadcast_to(color, (len(triangles), 3)))
        count += len(corner)
    if not sum(len(f) for f in faces):
        raise MeshError(f"{path}: has no indexed face sets")
    return trimesh.Trimesh(
        np.concatenate(vertices), np.concatenate(faces), face_colors=np.concatenate(colors), process=False
    )


def _shapes(text: str) -> Iterator[str]:
    """The body of each Shape node, up to the next one."""
    starts = [m.end() for m in re.finditer(r"\bShape\s*\{", text)]
    for start, end in pairwise([*starts, len(text)]):
        yield text[start:end]


def _numbers(text: str, path: Path) -> Array:
    try:
        return np.array(text.replace(",", " ").split(), np.float64)
    except ValueError as error:
        raise MeshError(f"{path}: {error}") from None


def _fans(index: Array) -> Array:
    """Triangles [n,3] of polygons, each ended by -1."""
    if len(index) % 4 == 0 and (index[3::4] == -1).all():
        return index.reshape(-1, 4)[:, :3]
    out: list[tuple[int, int, int]] = []
    polygon: list[int] = []
    for value in [*index.tolist(), -1]:
        if value >= 0:
            polygon.append(value)
            continue
        out += [(polygon[0], polygon[k], polygon[k + 1]) for k in range(1, len(polygon) - 1)]
        polygon = []
    return np.array(out, np.int64).reshape(-1, 3)
