"""Defines the contract of the renderers, and the one shading model that all of them follow.

Pixels: the centre of pixel (column u, row v) is the point (u, v); a ray through it is K^-1 (u, v, 1). Depth is z along
the optical axis in metres, 0 where there is nothing.

Coverage: a triangle covers a pixel if the pixel's centre lies inside its projection; centres exactly on an edge belong
to the triangle for which it is a top or a left edge, so that triangles that share an edge never leave a gap or overlap.
Both sides of a triangle are drawn. What is nearer than ``NEAR`` is cut off. At equal depth the lower triangle id wins.

Shading: ``colour = albedo * (ambient + diffuse * |n . v|)`` per channel, on the sRGB values as they are, with n the
triangle's own normal, v the unit vector from the surface point to the camera (a light at the camera), clamped to
[0, 255] and rounded to nearest. The albedo is interpolated perspective-correctly between the corners' colours, or read
bilinearly from the texture (texel centres at half-integers, repeated at the borders).

Supersampling by an odd factor s: RGB is the mean over the s x s sample grid of a pixel, whose middle sample is the
pixel's centre (background samples are black); depth and triangle id are those of the middle sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.geometry.camera import check_intrinsics
from coop_edge.mesh.mesh import Mesh

Array = Any  # np.ndarray, or cupy.ndarray from the CUDA renderer

NEAR = 1e-3
"""Near plane, metres: geometry closer to the camera is clipped."""


@dataclass(frozen=True)
class Shading:
    """Shares of the two lights; the defaults sum to 1, so a face seen head-on shows its albedo."""

    ambient: float = 0.4
    diffuse: float = 0.6

    def __post_init__(self) -> None:
        if not (0.0 <= self.ambient <= 4.0 and 0.0 <= self.diffuse <= 4.0):
            raise InputError(f"Shading: wanted ambient and diffuse in [0, 4], got {self.ambient}, {self.diffuse}")


@dataclass(frozen=True)
class RenderResult:
    """N views. Images are arrays of ``xp``, the renderer's array module: ``numpy``, or ``cupy`` on a GPU."""

    rgb: Array  # uint8 [N,H,W,3]; black where there is nothing
    depth: Array  # float32 [N,H,W] metres; 0 = nothing
    triangle_id: Array  # int32 [N,H,W], index into the mesh's faces; -1 = nothing
    T_camera_object: np.ndarray  # float64 [N,4,4]
    K: np.ndarray  # float64 [N,3,3]
    xp: Any

    @property
    def mask(self) -> Array:
        """Return the silhouette, bool [N,H,W]."""
        return self.triangle_id >= 0

    def object_points(self) -> Array:
        """Return the object-point map, float32 [N,H,W,3]: surface points seen, in the object's frame; NaN off it."""
        return object_points(self.depth, self.T_camera_object, self.K, self.xp)


def object_points(depth: Array, T_camera_object: np.ndarray, K: np.ndarray, xp: Any = np) -> Array:
    """Project depth [N,H,W] (metres, 0 = nothing) back to points in the object's frame, float32 [N,H,W,3], NaN off it.

    Works view by view: the float64 in between takes four times as much memory as the result (see ``back_project``).

    Args:
        depth: [N,H,W], an array of the module ``xp``, as the result is.
        T_camera_object: [N,4,4], metres, on the host.
        K: [N,3,3], pixels, on the host.
        xp: ``numpy`` or ``cupy``.
    """
    points = xp.empty((*depth.shape, 3), np.float32)
    for i in range(len(depth)):
        one = slice(i, i + 1)
        points[one] = back_project(depth[one], T_camera_object[one], K[one], xp)
    return points


def back_project(depth: Array, T_camera_object: np.ndarray, K: np.ndarray, xp: Any = np) -> Array:
    """Do what ``object_points`` does for all views at once: x_object = R^T (depth K^-1 (u, v, 1) - t)."""
    height, width = depth.shape[1:]
    K_inverse = np.linalg.inv(np.asarray(K, np.float64))
    R_t = np.swapaxes(np.asarray(T_camera_object, np.float64)[:, :3, :3], 1, 2)
    origin = -(R_t @ np.asarray(T_camera_object, np.float64)[:, :3, 3, None])[..., 0]
    rays, origin = xp.asarray(R_t @ K_inverse), xp.asarray(origin)  # rays [N,3,3]: (u, v, 1) -> ray in object axes
    u = xp.arange(width)
    v = xp.arange(height)
    # float64 until the sum is done: the origin can lie a thousand object sizes away.
    direction = (
        rays[:, None, None, :, 0] * u[None, None, :, None]
        + rays[:, None, None, :, 1] * v[None, :, None, None]
        + rays[:, None, None, :, 2]
    )
    points = (direction * depth[..., None] + origin[:, None, None, :]).astype(np.float32)
    # Not by a mask as an index: CuPy counts what is in it, and the host waits for that.
    return xp.where(depth[..., None] > 0, points, np.float32(np.nan))


def on_host(array: Array) -> np.ndarray:
    """Return an array of a ``RenderResult`` as NumPy's; one on a GPU is copied."""
    return np.asarray(array if isinstance(array, np.ndarray) else array.get())


class Renderer(ABC):
    """Renders registered meshes from many views at once.

    Args:
        meshes: one Mesh or a sequence of them.
        shading: the two lights; the default ones if None.
        supersample: 1, 3 or 5 samples per pixel side for RGB.

    Raises:
        InputError: no mesh, or another number of samples.
    """

    xp: Any = np
    """The module of the arrays that ``render`` returns."""

    def __init__(self, meshes: Mesh | Sequence[Mesh], *, shading: Shading | None = None, supersample: int = 1) -> None:
        self.meshes: tuple[Mesh, ...] = (meshes,) if isinstance(meshes, Mesh) else tuple(meshes)
        if not self.meshes or not all(isinstance(m, Mesh) for m in self.meshes):
            raise InputError("Renderer: wanted a coop_edge Mesh or a non-empty sequence of them (Mesh.load makes one)")
        if supersample not in (1, 3, 5):
            raise InputError(f"supersample: wanted 1, 3 or 5 (odd: one sample hits the centre), got {supersample}")
        self.shading = shading or Shading()
        self.supersample = int(supersample)

    def render(
        self,
        T_camera_object: ArrayLike,
        K: ArrayLike,
        size: int | tuple[int, int],
        *,
        mesh_index: ArrayLike | None = None,
    ) -> RenderResult:
        """Render N views; N = 0 is legal.

        Args:
            T_camera_object: [N,4,4], metres.
            K: [N,3,3] or [3,3], pixels.
            size: S for S x S pixels, or (height, width).
            mesh_index: integers [N], which of the registered meshes each view shows; the first if None.

        Returns:
            RGB, depth and triangle ids of the views, with their poses and intrinsics.

        Raises:
            InputError: a pose is not rigid, intrinsics are no pinhole camera's, or size or index is out of its range.
        """
        T = np.array(se3.check_transform(T_camera_object))  # the result keeps it: the caller may go on to change theirs
        if T.ndim != 3:
            raise InputError(f"T_camera_object: wanted [N,4,4], got {list(T.shape)}; add a leading axis for one view")
        n = len(T)
        K = check_intrinsics(K, n)
        height, width = check_size(size)
        index = np.zeros(n, np.int32) if mesh_index is None else np.asarray(mesh_index)
        if index.shape == (0,) and n == 0:
            index = index.astype(np.int32)  # an empty list has no dtype of its own
        if index.shape != (n,) or index.dtype.kind not in "iu":
            raise InputError(f"mesh_index: wanted integers [{n}], got {index.dtype} {list(index.shape)}")
        if n and not (index.min() >= 0 and index.max() < len(self.meshes)):
            raise InputError(f"mesh_index: wanted values in [0, {len(self.meshes)}), got {index.min()}..{index.max()}")
        index = index.astype(np.int32)
        # Vertices are stored about the centre: x_camera = R (vertex + centre) + t.
        centres = np.stack([m.centre for m in self.meshes])[index].reshape(n, 3)
        T_centred = T.copy()
        T_centred[:, :3, 3] += (T[:, :3, :3] @ centres[..., None])[..., 0]
        rgb, depth, triangle_id = self._render(T_centred, K, height, width, index)
        return RenderResult(rgb, depth, triangle_id, T, K, self.xp)

    @abstractmethod
    def _render(
        self, T_camera_centred: np.ndarray, K: np.ndarray, height: int, width: int, mesh_index: np.ndarray
    ) -> tuple[Array, Array, Array]:
        """Render checked input: float64 [N,4,4] (centred vertices), float64 [N,3,3], int32 [N] -> rgb, depth, ids."""


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of S or (height, width), each in 1..8192.

    Raises:
        InputError: a side is outside that range.
    """
    try:
        pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    except TypeError:
        pair = ()
    integers = all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) for s in pair)
    if len(pair) != 2 or not integers or not all(1 <= s <= 8192 for s in pair):
        raise InputError(f"size: wanted S or (height, width) with sides in 1..8192, got {size!r}")
    return int(pair[0]), int(pair[1])
