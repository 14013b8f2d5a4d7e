"""Reads glTF 2.0 files: every kind of triangles, morph targets and skins in their rest pose, instances, colours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.colors import unit_colors
from coop_edge.mesh.formats.gltf_file import GltfFile
from coop_edge.mesh.formats.gltf_materials import GltfMaterial, GltfMaterials
from coop_edge.mesh.formats.gltf_scene import Placed, placed_meshes
from coop_edge.mesh.parts import TRANSPARENCY, Part, check_coordinates, check_corners
from coop_edge.mesh.source import Source

_COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")
_READ = (
    "EXT_mesh_gpu_instancing",
    "EXT_texture_avif",
    "EXT_texture_webp",
    "KHR_materials_emissive_strength",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
    "MSFT_texture_dds",
)
_HARMLESS = (  # they change neither geometry nor the colour of the surface itself
    "ADOBE_materials_clearcoat_specular",
    "AGI_articulations",
    "EXT_lights_image_based",
    "EXT_lights_ies",
    "EXT_mesh_features",
    "EXT_mesh_manifold",
    "EXT_structural_metadata",
    "KHR_animation_pointer",
    "KHR_lights_punctual",
    "KHR_materials_anisotropy",
    "KHR_materials_clearcoat",
    "KHR_materials_dispersion",
    "KHR_materials_ior",
    "KHR_materials_iridescence",
    "KHR_materials_sheen",
    "KHR_materials_specular",
    "KHR_materials_transmission",  # noted as transparency
    "KHR_materials_unlit",
    "KHR_materials_variants",
    "KHR_materials_volume",
    "KHR_xmp",
    "KHR_xmp_json_ld",
)
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_FEW = ("points", "lines", "loops of lines", "strips of lines")


def read_gltf(source: Source) -> list[Part]:
    """Read a glTF file.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    file = GltfFile(source)
    _check_extensions(file)
    if file.section(file.header, "animations"):
        source.note("animations are not read: parts stand as in the file's rest pose")
    # Colours are linear light, as specified; trimesh's exporter writes its sRGB colours as they are.
    generator = str(file.section(file.header, "asset", dict).get("generator", ""))
    linear = "mikedh/trimesh" not in generator
    materials = GltfMaterials(file, linear=linear)
    made: dict[int, list[Part | None]] = {}
    parts: list[Part] = []
    triangles = 0
    for placed in placed_meshes(file):
        for number, primitive in enumerate(file.section(placed.mesh, "primitives")):
            plain = placed.joints is None and not placed.weights.any()
            known = made.setdefault(id(placed.mesh), [])
            if not plain or number >= len(known):
                part = _primitive(file, primitive, placed, materials, linear)
                if plain:
                    known.append(part)
            else:
                part = known[number]
            if part is None:
                continue
            triangles += len(part.faces)
            source.limits.check("triangles", triangles, f"its scene holds {triangles} triangles or more")
            vertices = part.vertices if placed.joints is not None else part.moved(placed.matrix)
            parts.append(Part(vertices, part.faces, part.colors, part.uv, part.material, part.linear))
    return parts


def _check_extensions(file: GltfFile) -> None:
    required = [str(name) for name in file.section(file.header, "extensionsRequired")]
    used = [str(name) for name in file.section(file.header, "extensionsUsed")]
    for name in _COMPRESSED:
        if name in (*used, *required):
            raise MeshError(f"geometry is compressed with {name}, which is not read; export the mesh again without it")
    if unknown := sorted({name for name in required if name not in (*_READ, *_HARMLESS)}):
        raise MeshError(f"requires the extension {', '.join(unknown)}, which is not read; export the mesh without it")
    found = _extensions_in(file.header)
    if compressed := sorted(found & set(_COMPRESSED)):
        raise MeshError(
            f"geometry is compressed with {compressed[0]}, which is not read; export the mesh again without it"
        )
    if unknown := sorted({name for name in (*used, *found) if name not in (*_READ, *_HARMLESS)}):
        file.source.note(f"what the extension {', '.join(unknown)} adds is not read")


def _extensions_in(header: dict[str, Any]) -> set[str]:
    """Return the names of all extensions that objects of the file have, declared or not."""
    found: set[str] = set()
    waiting: list[Any] = [header]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            extensions = each.get("extensions")
            found |= {str(name) for name in extensions} if isinstance(extensions, dict) else set()
            waiting += [value for key, value in each.items() if key != "extras" and isinstance(value, (dict, list))]
        else:
            waiting += [value for value in each if isinstance(value, (dict, list))]
    return found


def _primitive(file: GltfFile, entry: Any, placed: Placed, materials: GltfMaterials, linear: bool) -> Part | None:
    """Return the triangles of a primitive, not yet placed (a skinned one is); None if it has no surface."""
    if not isinstance(entry, dict):
        raise MeshError("glTF: a primitive that is no object; the file is damaged")
    attributes = file.section(entry, "attributes", dict)
    mode = file.integer(entry, "mode", "primitive", _TRIANGLES)
    if mode < _TRIANGLES:
        file.source.note(f"{_FEW[mode]} are not read")
        return None
    if "POSITION" not in attributes:
        file.source.note("a primitive without positions is not read")
        return None
    vertices = _attribute(file, entry, "POSITION", placed.weights, (3,))
    if placed.joints is not None:
        vertices = _skinned(file, attributes, vertices, placed.joints)
    n = len(vertices)
    corners = file.accessor(entry["indices"]).ravel() if "indices" in entry else np.arange(n)
    if corners.dtype.kind not in "ui":
        raise MeshError("glTF: indices that are no integers; the file is damaged")
    faces = _triangles(corners.astype(np.int64), mode)
    check_corners(faces, n)
    if file.source.ignore_colors:
        return Part(vertices, faces).trimmed()
    material = materials.get(entry.get("material"))
    if material.transparent:
        file.source.note(TRANSPARENCY)
    colors = _colors(file, entry, placed, n)
    uv = _coordinates(file, entry, placed, material, n)
    extra = [name for name in attributes if name.startswith("COLOR_") and name != "COLOR_0"]
    if extra:
        file.source.note(f"the colours {', '.join(extra)} are not read, COLOR_0 is")
    return Part(
        vertices,
        faces,
        None if colors is None else colors[faces],
        None if uv is None else uv[faces],
        material.material,
        linear,
    ).trimmed()


def _triangles(corners: NDArray[np.int64], mode: int) -> NDArray[np.int64]:
    if mode == _TRIANGLES:
        if len(corners) % 3:
            raise MeshError(f"glTF: triangles of {len(corners)} corners, not a multiple of 3; the file is damaged")
        return corners.reshape(-1, 3)
    if mode not in (_STRIP, _FAN):
        raise MeshError(f"glTF: a primitive of mode {mode} is not known")
    if len(corners) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == _FAN:
        return np.stack([np.full(len(corners) - 2, corners[0]), corners[1:-1], corners[2:]], axis=1)
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    faces[1::2] = faces[1::2][:, [0, 2, 1]]  # every other one is turned round (section 3.7.2.1)
    return faces


def _attribute(
    file: GltfFile, entry: dict[str, Any], name: str, weights: NDArray[np.float64], widths: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return an attribute [V,width] with its morph targets added. Raises MeshError."""
    values = file.accessor(entry["attributes"][name]).astype(np.float64)
    if values.shape[1] not in widths:
        raise MeshError(
            f"glTF: {name} has {values.shape[1]} numbers per vertex; wanted {' or '.join(map(str, widths))}"
        )
    targets = file.section(entry, "targets")
    if weights.any() and len(weights) != len(targets):
        raise MeshError(
            f"glTF: {len(weights)} weights for {len(targets)} morph targets of a primitive; wanted one for each: apply "
            "the shape keys and export it again"
        )
    for weight, target in zip(weights, targets, strict=False):  # none matters where no weight does
        if weight and isinstance(target, dict) and name in target:
            change = file.accessor(target[name]).astype(np.float64)
            if change.shape[0] != len(values) or change.shape[1] > values.shape[1]:
                raise MeshError(f"glTF: a morph target of {name} does not fit its vertices; the file is damaged")
            values[:, : change.shape[1]] += weight * change
    return values


def _skinned(
    file: GltfFile, attributes: dict[str, Any], vertices: NDArray[np.float64], joints: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return vertices [V,3] moved by their joints [J,4,4], each by as much as its weight says."""
    moved, total = np.zeros_like(vertices), np.zeros((len(vertices), 1))
    homogeneous = np.column_stack([vertices, np.ones(len(vertices))])
    sets = [name.removeprefix("JOINTS_") for name in attributes if name.startswith("JOINTS_")]
    for number in sets:
        which = file.accessor(attributes[f"JOINTS_{number}"]).astype(np.int64)
        if f"WEIGHTS_{number}" not in attributes:
            raise MeshError(f"glTF: JOINTS_{number} without WEIGHTS_{number}; the file is damaged")
        weights = file.accessor(attributes[f"WEIGHTS_{number}"]).astype(np.float64)
        if which.shape != weights.shape or len(which) != len(vertices) or which.max(initial=0) >= len(joints):
            raise MeshError("glTF: joints and weights do not fit the vertices; the file is damaged")
        for k in range(which.shape[1]):
            each = np.einsum("vij,vj->vi", joints[which[:, k], :3], homogeneous)
            moved += weights[:, k : k + 1] * each
            total += weights[:, k : k + 1]
    if not sets or not (total > 1e-6).all():
        raise MeshError("glTF: a skin without weights for all vertices; apply the armature and export it again")
    return np.asarray(moved / total)


def _colors(file: GltfFile, entry: dict[str, Any], placed: Placed, n: int) -> NDArray[np.float64] | None:
    if "COLOR_0" not in entry["attributes"]:
        return None
    raw = file.accessor(entry["attributes"]["COLOR_0"])
    if raw.dtype.kind in "iu":  # not said to be normalised, which for colours they always are
        raw = raw / float(np.iinfo(raw.dtype).max)
        colors = raw
    else:
        colors = _attribute(file, entry, "COLOR_0", placed.weights, (3, 4))
    if len(colors) != n or colors.shape[1] not in (3, 4):
        raise MeshError(f"glTF: COLOR_0 is {list(colors.shape)} for {n} vertices; the file is damaged")
    return unit_colors(colors[:, :3], file.source.notes)  # what their alpha does, a material says


def _coordinates(
    file: GltfFile, entry: dict[str, Any], placed: Placed, material: GltfMaterial, n: int
) -> NDArray[np.float64] | None:
    """Return texture coordinates [V,2], v upwards, of the set that the material's texture uses."""
    if material.material.texture is None:
        return None
    name = f"TEXCOORD_{material.coordinates}"
    if name not in entry["attributes"]:
        if material.coordinates:
            which = "second texture coordinates" if material.coordinates == 1 else f"texture coordinates {name}"
            raise MeshError(f"material {material.material.name} uses its {which}, which the mesh does not have")
        return None
    uv = _attribute(file, entry, name, placed.weights, (2,))
    if len(uv) != n:
        raise MeshError(f"glTF: {name} is {list(uv.shape)} for {n} vertices; the file is damaged")
    raw = file.accessor(entry["attributes"][name]).dtype
    if raw.kind in "iu" and not file.uses("KHR_mesh_quantization"):  # section 3.7.2.1 allows normalised ones alone
        file.source.note(f"the integers of {name} are not said to be normalised, which they have to be: taken as such")
        uv = np.maximum(uv / np.iinfo(raw).max, -1.0)
    check_coordinates(uv)
    uv = material.moved(uv)
    return np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1)
