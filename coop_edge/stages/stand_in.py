"""Makes an object that stands in for the user's own while kernels are compiled and networks loaded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coop_edge.mesh.mesh import Mesh
from coop_edge.mesh.symmetry import Symmetries
from coop_edge.ops.base import Operations
from coop_edge.runtime.bundle import Bundle
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.views import Views
from coop_edge.types import Camera

SIDE = 0.1
"""Of the cube, metres. It is seen from five times as far."""


def stand_in(
    bundle: Bundle, ops: Operations, *, with_views: bool = False
) -> tuple[Mesh, ObjectModel, Camera, NDArray[np.float64]]:
    """Make a grey cube, and what an Estimator would keep of it had it been onboarded: zeros.

    Args:
        bundle: says how many templates an object has, and how large crops are (S).
        ops: of the device.
        with_views: whether the object has views, all alike.

    Returns:
        The mesh, the object, a camera of S x S pixels, and T_camera_object float64 [1,4,4], metres.
    """
    size, views = bundle.input_size, bundle.template.views
    mesh, middle = _cube(SIDE), 0.5 * (size - 1)
    K = np.array([[2.0 * size, 0.0, middle], [0.0, 2.0 * size, middle], [0.0, 0.0, 1.0]])
    tokens = (size // bundle.patch_size) ** 2
    T = np.eye(4)[None]
    T[0, 2, 3] = 5.0 * SIDE
    model = ObjectModel(
        name="stand-in",
        centre=mesh.centre,
        diameter=mesh.diameter,
        symmetries=Symmetries(),
        object_points=ops.upload(np.full((views, size, size, 3), np.nan, np.float32)),
        descriptors=ops.upload(np.zeros((views, tokens, bundle.dim), np.float32)),
        views=Views.blank(T, size, 2.0 * size, ops) if with_views else None,
    )
    return mesh, model, Camera(K, size, size), T


def _cube(side: float) -> Mesh:
    corners = (np.arange(8)[:, None] >> np.arange(3) & 1) - 0.5  # numbered by bits: x + 2 y + 4 z
    squares = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    faces = np.array([triangle for a, b, c, d in squares for triangle in ((a, b, c), (a, c, d))], np.int32)
    return Mesh(
        vertices=(side * corners).astype(np.float32),
        faces=faces,
        centre=np.zeros(3),
        corner_colors=np.full((len(faces), 3, 3), 200, np.uint8),
        corner_uv=np.zeros((len(faces), 3, 2), np.float32),
        face_texture=np.full(len(faces), -1, np.int32),
    )
