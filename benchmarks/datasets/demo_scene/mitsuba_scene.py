"""What any scene needs to become one of Mitsuba 3: its camera, shapes with a coat, bitmaps, and a picture in passes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.demo_scene.files import linear
from benchmarks.datasets.demo_scene.parts import Part

PASS = 64  # samples per pixel of the picture that are traced at once


def perspective(
    mi: Any, K: np.ndarray, size: tuple[int, int], T_world_camera: np.ndarray, scale: int, samples: int
) -> dict[str, Any]:
    """Describe a pinhole camera of (width, height) = ``size`` at ``scale`` film pixels per pixel of the picture.

    Mitsuba's camera looks along +z with x to the left and y up; its film's corner is (0, 0), so that the first pixel's
    centre is (0.5, 0.5); the principal point is given by how far the film's middle lies from it, as a share of the
    film's size. One focal length: K[1, 1] must equal K[0, 0].
    """
    width, height = size
    T = T_world_camera @ np.diag([-1.0, -1.0, 1.0, 1.0])
    cx, cy = K[0, 2] + 0.5, K[1, 2] + 0.5
    return {
        "type": "perspective",
        "fov_axis": "x",
        "fov": float(2.0 * np.degrees(np.arctan(width / 2.0 / K[0, 0]))),
        "principal_point_offset_x": float(0.5 - cx / width),
        "principal_point_offset_y": float(0.5 - cy / height),
        "near_clip": 0.01,
        "far_clip": 20.0,
        "to_world": mi.ScalarTransform4f(T.tolist()),
        "film": {
            "type": "hdrfilm",
            "width": width * scale,
            "height": height * scale,
            "rfilter": {"type": "box"},
            "pixel_format": "rgb",
            "component_format": "float32",
        },
        "sampler": {"type": "multijitter", "sample_count": samples, "seed": 1},
    }


def in_passes(mi: Any, loaded: Any, passes: int, **options: Any) -> np.ndarray:
    """Return the mean of ``passes`` renders, each with a seed of its own, float32; ``options`` go to ``mi.render``.

    One render of all samples would take gigabytes in the vectorised variants.
    """
    total = np.array(mi.render(loaded, seed=0, **options)).astype(np.float64)
    for seed in range(1, passes):
        total += np.array(mi.render(loaded, seed=seed, **options))
    return (total / passes).astype(np.float32)


def shape(path: Path, part: Part, T: np.ndarray) -> dict[str, Any]:
    """Write a part as a binary PLY file that Mitsuba reads, and describe it in the world."""
    points = part.vertices @ T[:3, :3].T + T[:3, 3]
    columns = [points]
    names = ["x", "y", "z"]
    if part.smooth:
        columns.append(_normals(points, part.faces) if part.normals is None else part.normals @ T[:3, :3].T)
        names += ["nx", "ny", "nz"]
    if part.uv is not None:
        columns.append(part.uv * (1.0, -1.0) + (0.0, 1.0))  # Mitsuba's bitmaps begin at the top
        names += ["u", "v"]
    columns.append(linear(part.colors))
    names += ["r", "g", "b"]
    rows = np.ascontiguousarray(np.concatenate(columns, axis=1), "<f4")
    cells = np.empty(len(part.faces), [("n", "u1"), ("i", "<i4", 3)])
    cells["n"], cells["i"] = 3, part.faces
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property float {n}" for n in names]
    header += [f"element face {len(cells)}", "property list uchar int vertex_indices", "end_header\n"]
    path.write_bytes("\n".join(header).encode() + rows.tobytes() + cells.tobytes())
    return {"type": "ply", "filename": str(path), "face_normals": not part.smooth}


def bitmap(mi: Any, image: np.ndarray, raw: bool = False) -> dict[str, Any]:
    """Describe an image uint8 [h,w,3] (sRGB) or [h,w] as a texture; raw: numbers, not colours."""
    data = np.array(image if image.ndim == 3 else image[..., None], order="C")
    texture = mi.Bitmap(data)  # which takes no read-only array
    texture.set_srgb_gamma(not raw)
    return {"type": "bitmap", "bitmap": texture, "raw": raw, "filter_type": "bilinear"}


def coat(mi: Any, part: Part, pictures: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Describe a dielectric coat over the part's colours."""
    colors = (
        bitmap(mi, pictures[part.texture])
        if part.uv is not None
        else {"type": "mesh_attribute", "name": "vertex_color"}
    )
    bsdf = {"type": "principled", "base_color": colors, "roughness": part.roughness, "specular": 0.5}
    return {"type": "twosided", "bsdf": bsdf}


def _normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals weighted by area, shared by vertices at the same place (seams)."""
    corners = points[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    _, same = np.unique(np.round(points, 7), axis=0, return_inverse=True)
    same = same.reshape(-1)
    total = np.zeros((same.max() + 1, 3))
    for k in range(3):
        np.add.at(total, same[faces[:, k]], normal)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return (total / np.maximum(length, 1e-30))[same]
