"""Reads COLLADA files (DAE): the scene with its nodes, geometries and materials, in the axes and unit of the file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.formats.dae_file import DaeFile, Element, attribute, numbers
from coop_edge.mesh.formats.dae_geometry import read_geometry
from coop_edge.mesh.formats.dae_materials import DaeMaterial, DaeMaterials
from coop_edge.mesh.parts import Part
from coop_edge.mesh.source import Source

Matrix = NDArray[np.float64]

_DEEPEST = 500


def read_dae(source: Source) -> list[Part]:
    """Read a COLLADA file.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    file = DaeFile(source)
    if file.root.find(".//library_animations//channel") is not None:
        source.note("animations are not read: parts stand as in the file's rest pose")
    materials = DaeMaterials(file)
    made: dict[tuple[str, frozenset[tuple[str, int, int | None]]], list[Part]] = {}
    parts: list[Part] = []
    triangles = 0
    for count, (instance, matrix) in enumerate(_instances(file), 1):
        source.limits.check("instances", count, f"its scene places {count} parts or more")
        geometry = file.target(attribute(instance, "url"), "geometry")
        bound = {} if source.ignore_colors else materials.bound(instance)
        key = geometry.get("id", ""), frozenset((s, id(m.material), m.bound) for s, m in bound.items())
        if key not in made:
            made[key] = read_geometry(file, geometry, _with_direct(file, materials, bound, geometry))
        for part in made[key]:
            triangles += len(part.faces)
            source.limits.check("triangles", triangles, f"its scene holds {triangles} triangles or more")
            parts.append(replace(part, vertices=part.moved(matrix)))
    placed = {name for name, _ in made}
    if left := sum(each.get("id", "") not in placed for each in file.root.findall("library_geometries/geometry")):
        source.note(f"{left} geometries are not in the scene: they are not read")
    return parts


def _with_direct(
    file: DaeFile, materials: DaeMaterials, bound: dict[str, DaeMaterial], geometry: Element
) -> dict[str, DaeMaterial]:
    """Add the materials that a geometry names by their own id, where the node binds none: some exporters do."""
    found = dict(bound)
    if file.source.ignore_colors:
        return found
    for primitive in geometry.iter():
        symbol = primitive.get("material")
        if symbol and symbol not in found:
            try:
                found[symbol] = materials.get("#" + symbol)
            except MeshError:
                if any(e.get("id") == symbol for e in file.root.iter("material")):
                    raise
    return found


def _instances(file: DaeFile) -> Iterator[tuple[Element, Matrix]]:
    """Yield each instance of a geometry in the scene, and where it stands [4,4]. Raises MeshError."""
    visited = 0
    nodes = _scene(file)
    waiting: list[tuple[Element, Matrix, int]] = [(node, np.eye(4), 0) for node in reversed(nodes)]
    while waiting:
        node, parent, depth = waiting.pop()
        visited += 1
        file.source.limits.check("instances", visited // 10, f"its scene has {visited} nodes, copies included,")
        if depth > _DEEPEST:
            raise MeshError(f"nodes lie more than {_DEEPEST} deep in each other, or in a circle; the file is damaged")
        matrix = parent @ _local(node)
        below = []
        for child in node:
            if child.tag == "instance_geometry":
                yield child, matrix
            elif child.tag == "instance_controller":
                name = node.get("name") or node.get("id") or attribute(child, "url")
                raise MeshError(
                    f"node {name!r} is deformed by a controller (a skin or morph), which is not read; apply the "
                    "armature or shape keys, and export it again"
                )
            elif child.tag == "node":
                below.append((child, matrix, depth + 1))
            elif child.tag == "instance_node":
                below.append((file.target(child.get("url"), "node"), matrix, depth + 1))
        waiting += reversed(below)


def _scene(file: DaeFile) -> list[Element]:
    """Return the nodes at the top of the scene; a holder of all geometries where the file has no scene."""
    instance = file.root.find("scene/instance_visual_scene")
    if instance is not None:
        return file.target(instance.get("url"), "visual_scene").findall("node")
    scenes = file.root.findall("library_visual_scenes/visual_scene")
    if len(scenes) == 1:
        return scenes[0].findall("node")
    if scenes:
        raise MeshError(f"has {len(scenes)} scenes, and does not say which is meant; export it with one")
    geometries = file.root.findall("library_geometries/geometry")
    if geometries:
        file.source.note("has no scene: all its geometries are read, as they lie")
    holder = Element("node")
    for geometry in geometries:
        Element.append(holder, Element("instance_geometry", {"url": "#" + geometry.get("id", "")}))
    return [holder]


def _local(node: Element) -> Matrix:
    """Return the product of a node's transforms, in their order [4,4]."""
    matrix = np.eye(4)
    for each in node:
        if each.tag == "matrix":
            step = numbers(each, 16).reshape(4, 4)
        elif each.tag == "translate":
            step = np.eye(4)
            step[:3, 3] = numbers(each, 3)
        elif each.tag == "scale":
            step = np.diag([*numbers(each, 3), 1.0])
        elif each.tag == "rotate":
            step = _rotation(numbers(each, 4))
        elif each.tag in ("lookat", "skew"):
            raise MeshError(f"a node is placed by <{each.tag}>, which is not read; export it with matrices")
        else:
            continue
        matrix = matrix @ step
    return matrix


def _rotation(values: NDArray[np.float64]) -> Matrix:
    """Return [4,4] of an axis and an angle in degrees [4] (Rodrigues' formula)."""
    axis, angle = values[:3], math.radians(values[3])
    length = float(np.linalg.norm(axis))
    matrix = np.eye(4)
    if length == 0.0:
        return matrix
    x, y, z = axis / length
    hat = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    matrix[:3, :3] += math.sin(angle) * hat + (1.0 - math.cos(angle)) * hat @ hat
    return matrix
