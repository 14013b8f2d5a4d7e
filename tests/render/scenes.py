"""What the renderer tests share: the renderers under test, meshes, views that go wrong in different ways, parity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, maximum_filter, minimum_filter

from benchmarks.meshes import colored_torus, grey_box, look_at_views, textured_sphere
from coop_edge.mesh import Mesh
from coop_edge.render import CpuRenderer, Open3dRenderer, Renderer

RENDERERS = ["cpu", pytest.param("open3d", marks=pytest.mark.open3d)]


def make(name: str, meshes: Any, *, supersample: int = 1, **options: Any) -> Renderer:
    """The renderer ``name``; supersampling is off unless asked for, whatever the class's own default."""
    return {"cpu": CpuRenderer, "open3d": Open3dRenderer}[name](meshes, supersample=supersample, **options)


def intrinsics(size: float, focal: float | None = None) -> np.ndarray:
    """Square pixels, the principal point at the centre of a ``size`` x ``size`` image."""
    f = focal or 1.4 * size
    return np.array([[f, 0.0, (size - 1) / 2], [0.0, f, (size - 1) / 2], [0.0, 0.0, 1.0]])


def translation(x: float, y: float, z: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T


def soup(corners: np.ndarray, *, colors: np.ndarray | None = None, centre=(0.0, 0.0, 0.0)) -> Mesh:
    """A mesh of separate triangles [F,3,3] (metres, about ``centre``)."""
    f = len(corners)
    return Mesh(
        vertices=np.asarray(corners, np.float32).reshape(-1, 3),
        faces=np.arange(3 * f, dtype=np.int32).reshape(f, 3),
        centre=np.asarray(centre, np.float64),
        corner_colors=np.full((f, 3, 3), 200, np.uint8) if colors is None else np.asarray(colors, np.uint8),
        corner_uv=np.zeros((f, 3, 2), np.float32),
        face_texture=np.full(f, -1, np.int32),
    )


MESHES = {
    "textured": lambda: textured_sphere(3, texture_size=256),
    "colored": lambda: colored_torus(sections=32),
    "uniform": grey_box,
}


THIN_TRIANGLES = {
    "point": [[8, 8], [8, 8], [8, 8]],
    "horizontal line": [[2, 8], [28, 8], [15, 8]],
    "diagonal": [[2, 2], [16, 16], [30, 30]],
    "below the snapping grid": [[8.001, 8.0], [8.002, 8.001], [8.001, 8.001]],
    "between pixel centres": [[8.4, 2], [8.6, 2], [8.5, 30]],
}
"""Image points [3,2] of triangles that cover no pixel centre."""

ABSURD_DISTANCES = (1e30, 1e200, 1e308)


@dataclass(frozen=True)
class View:
    """Where the object's centre (or a point of its surface) stands, in radii, and the focal length as a factor."""

    name: str
    x: float
    y: float
    z: float
    zoom: float = 1.0
    surface: bool = False


VIEWS = (
    View("facing", 0.0, 0.0, 4.0),
    View("far", 0.3, -0.2, 60.0, zoom=15.0),  # through a long lens: the crop of a distant object
    View("close-up", 0.0, 0.0, 1.3),
    View("partly outside", 1.1, 0.7, 3.0),
    View("nearly outside", 1.8, 0.0, 4.0),
    View("partly behind the camera", 0.7, 0.3, 0.3),
    View("camera inside the hull", 0.2, -0.1, 0.2),
    View("surface across the near plane", 0.0, 0.0, 0.02, surface=True),
)


def views_of(mesh: Mesh, K: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """T_camera_object and K of each view [len(VIEWS),...]: randomly rotated, placed by the mesh's centre and radius."""
    Ks = np.stack([K] * len(VIEWS))
    Ks[:, :2, :2] *= np.array([view.zoom for view in VIEWS])[:, None, None]
    T = look_at_views(len(VIEWS), 1.0, seed)
    place = np.array([(view.x, view.y, view.z) for view in VIEWS]) * mesh.radius
    surface = mesh.vertices[mesh.faces[len(mesh.faces) // 3]].mean(axis=0, dtype=np.float64)
    anchor = mesh.centre + np.array([view.surface for view in VIEWS])[:, None] * surface
    T[:, :3, 3] = place - (T[:, :3, :3] @ anchor[..., None])[..., 0]
    return T, Ks


def assert_parity(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], where: str, margin: int = 2
) -> None:
    """Two renders (rgb, depth) of one view agree: silhouettes everywhere, depth and colour off the depth edges."""
    (rgb_a, depth_a), (rgb_b, depth_b) = a, b
    mask_a, mask_b = depth_a > 0, depth_b > 0
    union = (mask_a | mask_b).sum()
    assert union > 0, f"{where}: nothing in sight"
    overlap = (mask_a & mask_b).sum() / union
    assert overlap >= 0.995, f"{where}: silhouette IoU {overlap:.4f}"
    smooth = binary_erosion(mask_a & mask_b, iterations=margin, border_value=1)
    size = 2 * margin + 1
    for depth in (depth_a, depth_b):
        step = maximum_filter(depth, size) - minimum_filter(depth, size)
        smooth &= step <= 0.1 * depth
    assert smooth.any(), f"{where}: no pixels to compare"
    relative = np.abs(depth_a - depth_b)[smooth] / depth_b[smooth]
    assert relative.max() <= 1e-3, f"{where}: depth differs by {relative.max():.2e} relative"
    color = np.abs(rgb_a.astype(float) - rgb_b)[smooth].mean()
    assert color <= 3.0, f"{where}: colour differs by {color:.2f} levels on average"
