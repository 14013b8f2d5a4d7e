"""models/: PLY files in millimetres as BOP has them, with colours at the vertices or one texture beside the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.datasets.make_dataset.assets import Asset, tiles
from benchmarks.datasets.make_dataset.symmetry import find_symmetries
from coop_edge.base.files import atomic_write
from coop_edge.mesh import Mesh

_BORDER = 2  # pixels around an image of the atlas, copies of its edge: bilinear sampling reads them
_CELL = 8  # side of a plain colour's square, pixels


def model_path(root: Path, obj_id: int) -> Path:
    """Return the file of an object of the set."""
    return root / "models" / f"obj_{obj_id:06d}.ply"


def write_models(root: Path, assets: Sequence[Asset]) -> None:
    """Write all models, numbered from 1, and models_info.json."""
    info = {}
    for obj_id, asset in enumerate(assets, start=1):
        path = model_path(root, obj_id)
        write_ply(path, asset.mesh)
        info[str(obj_id)] = model_info(Mesh.load(path, unit="mm"))
    write_json(root / "models" / "models_info.json", info)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` whole or not at all."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def model_info(mesh: Mesh) -> dict[str, Any]:
    """Return an entry of models_info.json: diameter and bounding box in mm, symmetries that were found."""
    points = 1000.0 * (mesh.vertices.astype(np.float64) + mesh.centre)
    low, size = points.min(axis=0), np.ptp(points, axis=0)
    info: dict[str, Any] = {"diameter": 1000.0 * mesh.diameter}
    for k, axis in enumerate("xyz"):
        info[f"min_{axis}"], info[f"size_{axis}"] = float(low[k]), float(size[k])
    symmetries = find_symmetries(mesh)
    discrete = []
    for T in symmetries.group[1:]:  # all of them: who reads the file as BOP's tools do forms no products
        in_mm = T.copy()
        in_mm[:3, 3] *= 1000.0
        discrete.append(in_mm.ravel().tolist())
    if discrete:
        info["symmetries_discrete"] = discrete
    if symmetries.continuous:
        info["symmetries_continuous"] = [
            {"axis": axis.tolist(), "offset": (1000.0 * offset).tolist()} for axis, offset in symmetries.continuous
        ]
    return info


def write_ply(path: Path, mesh: Mesh) -> None:
    """Write a binary PLY in mm; with textures, one PNG of the same name beside it that holds them all."""
    points = 1000.0 * (mesh.vertices.astype(np.float64) + mesh.centre)
    if mesh.textures:
        image, uv = atlas(mesh)
        done, data = cv2.imencode(".png", image[..., ::-1])
        if not done:
            raise OSError(f"{path.with_suffix('.png')}: OpenCV could not encode the texture")
        with atomic_write(path.with_suffix(".png")) as file:
            file.write(data.tobytes())
        corner: np.ndarray = uv.reshape(-1, 2).astype(np.float32)
        names: tuple[tuple[str, str], ...] = (("texture_u", "float"), ("texture_v", "float"))
    else:
        corner = mesh.corner_colors.reshape(-1, 3)
        names = tuple((name, "uchar") for name in ("red", "green", "blue"))
    # A vertex has one colour or place in the texture: those where several meet are written several times.
    key = np.concatenate([mesh.faces.reshape(-1, 1).astype(np.float64), corner], axis=1)
    rows, faces = np.unique(key, axis=0, return_inverse=True)
    kind = {"uchar": "u1", "float": "<f4"}
    vertices = np.empty(len(rows), [("xyz", "<f4", 3), *((n, kind[k]) for n, k in names)])
    vertices["xyz"] = points[rows[:, 0].astype(int)]
    for column, (name, _) in enumerate(names, start=1):
        vertices[name] = rows[:, column]
    cells = np.empty(len(mesh.faces), [("n", "u1"), ("i", "<i4", 3)])
    cells["n"], cells["i"] = 3, faces.reshape(-1, 3)
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment TextureFile {path.with_suffix('.png').name}"] if mesh.textures else []
    header += [f"element vertex {len(vertices)}", *(f"property float {axis}" for axis in "xyz")]
    header += [f"property {kind_} {name}" for name, kind_ in names]
    header += [f"element face {len(cells)}", "property list uchar int vertex_indices", "end_header\n"]
    with atomic_write(path) as file:
        file.write("\n".join(header).encode() + vertices.tobytes() + cells.tobytes())


def atlas(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Lay all of a mesh's textures and plain colours into one image.

    Textures that repeat are laid out as often as a triangle needs them; a face without a texture gets the square of its
    mean colour.

    Returns:
        The image uint8 [h,w,3], and texture coordinates [F,3,2] as in ``Mesh``: (0, 0) is the bottom left corner, v
        up.
    """
    plain = mesh.face_texture < 0
    palette, color = np.unique(
        np.rint(mesh.corner_colors[plain].astype(np.float64).mean(axis=1)).astype(np.uint8), axis=0, return_inverse=True
    )
    blocks = [np.tile(t, (n, n, 1)) for t, n in zip(mesh.textures, tiles(mesh), strict=True)]
    columns = max(1, int(np.ceil(np.sqrt(len(palette)))))
    grid = np.zeros((-(-len(palette) // columns), columns, 3), np.uint8)
    grid.reshape(-1, 3)[: len(palette)] = palette
    squares = grid.repeat(_CELL, axis=0).repeat(_CELL, axis=1)
    blocks += [squares] if len(palette) else []
    bordered = [cv2.copyMakeBorder(b, *(_BORDER,) * 4, cv2.BORDER_REPLICATE) for b in blocks]
    height, tops = sum(b.shape[0] for b in bordered), np.cumsum([0] + [b.shape[0] for b in bordered])
    image = np.zeros((height, max(b.shape[1] for b in bordered), 3), np.uint8)
    for top, block in zip(tops[:-1], bordered, strict=True):
        image[top : top + block.shape[0], : block.shape[1]] = block
    pixels = np.zeros((len(mesh.faces), 3, 2))  # from the image's top left corner, rightwards and down
    for k, (texture, n) in enumerate(zip(mesh.textures, tiles(mesh), strict=True)):
        mine = mesh.face_texture == k
        uv = mesh.corner_uv[mine].astype(np.float64)
        uv -= np.floor(uv.min(axis=1, keepdims=True)) if len(uv) else 0.0
        size = np.array(texture.shape[1::-1])
        pixels[mine] = uv * size
        pixels[mine, :, 1] = n * size[1] - pixels[mine, :, 1] + tops[k]
    row, column = np.divmod(color.reshape(-1), columns)
    middle = (np.stack([column, row], axis=1) + 0.5) * _CELL
    pixels[plain] = (middle + (0, tops[len(mesh.textures)] if len(palette) else 0))[:, None]
    pixels += _BORDER
    return image, np.stack([pixels[..., 0] / image.shape[1], 1.0 - pixels[..., 1] / height], axis=-1)
