"""Walks the scene of a glTF file: where its nodes put their meshes, in the rest pose of skins and morph targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.formats.gltf_file import GltfFile

Matrix = NDArray[np.float64]

_INSTANCING = "EXT_mesh_gpu_instancing"


class Placed(NamedTuple):
    """A mesh of a node: where its vertices go, and the weights of its morph targets.

    Attributes:
        matrix: [4,4].
        joints: of a skin [J,4,4], which take the place of the matrix; None without a skin.
    """

    mesh: dict[str, Any]
    matrix: Matrix
    weights: NDArray[np.float64]
    joints: Matrix | None


def placed_meshes(file: GltfFile) -> Iterator[Placed]:
    """Yield the meshes of the scene, an instance at a time.

    Raises:
        MeshError: damaged, a circle, too many.
    """
    worlds = _worlds(file)
    nodes = file.section(file.header, "nodes")
    if left := sum("mesh" in file.entry("nodes", i) for i in range(len(nodes)) if i not in worlds):
        file.source.note(f"{left} nodes with meshes are not in the scene that is read")
    named = {mesh for i in range(len(nodes)) if _whole(mesh := file.entry("nodes", i).get("mesh"))}
    if (loose := len(file.section(file.header, "meshes")) - len(named)) > 0:
        file.source.note(f"{loose} meshes are placed by no node: they are not read")
    count = 0
    for index, world in worlds.items():
        node = file.entry("nodes", index)
        if "mesh" not in node:
            continue
        mesh = file.entry("meshes", node["mesh"])
        weights = _weights(file, node.get("weights", mesh.get("weights")))
        joints = None if "skin" not in node else _joints(file, node["skin"], worlds)
        for matrix in _instances(file, node, world):
            count += 1
            file.source.limits.check("instances", count, f"its scene places {count} parts or more")
            yield Placed(mesh, matrix, weights, joints)


def _roots(file: GltfFile) -> list[Any]:
    scenes = file.section(file.header, "scenes")
    if scenes:
        if len(scenes) > 1:
            file.source.note(f"of {len(scenes)} scenes the one that the file opens with is read")
        return list(file.section(file.entry("scenes", file.header.get("scene", 0)), "nodes"))
    nodes = file.section(file.header, "nodes")
    children = {
        child for i in range(len(nodes)) for child in file.section(file.entry("nodes", i), "children") if _whole(child)
    }
    return [i for i in range(len(nodes)) if i not in children]


def _worlds(file: GltfFile) -> dict[int, Matrix]:
    """Return the nodes of the scene and their places [4,4], parents first. Raises MeshError: a node of two parents."""
    worlds: dict[int, Matrix] = {}
    waiting = [(root, np.eye(4)) for root in reversed(_roots(file))]
    while waiting:
        index, parent = waiting.pop()
        node = file.entry("nodes", index)
        if index in worlds:
            raise MeshError(f"glTF: node {index} is the child of two nodes, or of itself; the file is damaged")
        worlds[index] = parent @ _local(file, node, f"node {index}")
        waiting += [(child, worlds[index]) for child in reversed(file.section(node, "children"))]
    return worlds


def _local(file: GltfFile, node: dict[str, Any], where: str) -> Matrix:
    if "matrix" in node:
        return file.numbers(node["matrix"], 16, f"{where}: matrix").reshape(4, 4).T
    move = file.numbers(node.get("translation", [0, 0, 0]), 3, f"{where}: translation")
    turn = file.numbers(node.get("rotation", [0, 0, 0, 1]), 4, f"{where}: rotation")
    scale = file.numbers(node.get("scale", [1, 1, 1]), 3, f"{where}: scale")
    return _matrices(move[None], turn[None], scale[None], where)[0]


def _matrices(move: Matrix, turn: Matrix, scale: Matrix, where: str) -> Matrix:
    """Return [N,4,4] of translations [N,3], quaternions x y z w [N,4] and scales [N,3]."""
    length = np.linalg.norm(turn, axis=1, keepdims=True)
    if not (length > 1e-6).all():
        raise MeshError(f"glTF: {where}: a rotation of length 0; the file is damaged")
    x, y, z, w = (turn / length).T
    R = np.empty((len(turn), 3, 3))
    R[:, 0] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=1)
    R[:, 1] = np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=1)
    R[:, 2] = np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1)
    T = np.tile(np.eye(4), (len(turn), 1, 1))
    T[:, :3, :3] = R * scale[:, None, :]
    T[:, :3, 3] = move
    return T


def _instances(file: GltfFile, node: dict[str, Any], world: Matrix) -> Matrix:
    """Return where a node's mesh stands [N,4,4]: once, or at each of its instances."""
    extension = file.section(file.section(node, "extensions", dict), _INSTANCING, dict)
    if not extension:
        return world[None]
    attributes = file.section(extension, "attributes", dict)
    found = {key: file.accessor(index).astype(np.float64) for key, index in attributes.items() if key in _SHAPES}
    if other := [key for key in attributes if key not in _SHAPES]:
        file.source.note(f"{', '.join(map(str, other))} of the instances of a mesh are not read")
    counts = {len(values) for values in found.values()}
    wrong = any(values.shape[1] != _SHAPES[key] for key, values in found.items())
    if len(counts) != 1 or wrong:
        raise MeshError(f"glTF: {_INSTANCING}: its attributes do not fit together; the file is damaged")
    n = counts.pop()
    file.source.limits.check("instances", n, f"a node places its mesh {n} times")
    move = found.get("TRANSLATION", np.zeros((n, 3)))
    turn = found.get("ROTATION", np.tile([0.0, 0.0, 0.0, 1.0], (n, 1)))
    scale = found.get("SCALE", np.ones((n, 3)))
    return np.asarray(world @ _matrices(move, turn, scale, _INSTANCING))


_SHAPES = {"TRANSLATION": 3, "ROTATION": 4, "SCALE": 3}


def _weights(file: GltfFile, value: Any) -> NDArray[np.float64]:
    if value is None:
        return np.zeros(0)
    return file.numbers(value, len(value) if isinstance(value, list) else 1, "weights")


def _joints(file: GltfFile, index: Any, worlds: dict[int, Matrix]) -> Matrix:
    """Return what a skin's joints do to a vertex in the bind pose, [J,4,4]."""
    skin = file.entry("skins", index)
    joints = file.section(skin, "joints")
    if any(not _whole(joint) or joint not in worlds for joint in joints) or not joints:
        raise MeshError(f"glTF: skin {index}: its joints are not in the scene; apply the armature and export it again")
    here = np.stack([worlds[joint] for joint in joints])
    if "inverseBindMatrices" not in skin:
        return here
    inverse = file.accessor(skin["inverseBindMatrices"]).astype(np.float64)
    if inverse.shape[0] < len(joints) or inverse.shape[1] != 16:
        raise MeshError(f"glTF: skin {index}: {inverse.shape[0]} matrices for {len(joints)} joints")
    return np.asarray(here @ inverse[: len(joints)].reshape(-1, 4, 4).transpose(0, 2, 1))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
