"""Refiner pairs at new poses: what an iterated refinement sees next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from export.data.batch import RefinerBatch, stack
from export.data.pairs_refiner import RefinerScene, view_at

Array = np.ndarray[Any, Any]


def rerender(batch: RefinerBatch, scenes: Sequence[RefinerScene], T_camera_object: ArrayLike) -> RefinerBatch:
    """The same pairs, started from other poses.

    Parameters
    ----------
    batch, scenes: as a stream with ``keep_scenes=True`` gave them, or this function before.
    T_camera_object: [N,4,4] in the cameras of ``batch``, as a network that saw it would estimate them.

    The crop is taken anew, by a virtual camera that looks at the object at its new pose: a homography of the same
    photograph. ``K``, ``T_init`` and ``T_true`` of the result are those of the new cameras; labels are worked out from
    geometry rendered through them. A pose that no camera can be aimed at (not finite, not a rotation, the object's
    centre nearer than 0.6 of its diameter, over 45 degrees off the axis or 20 times too far) leaves its pair as it was.

    Raises InputError on shapes that do not fit.
    """
    T = np.asarray(T_camera_object, np.float64)
    n = len(batch.query)
    if len(scenes) != n or T.shape != (n, 4, 4):
        raise InputError(
            f"rerender: wanted as many scenes and poses as pairs ({n}), got {len(scenes)} and {list(T.shape)}; "
            "make_stream(..., keep_scenes=True) gives both"
        )
    if n == 0:
        return batch
    out = []
    for i, record in enumerate(scenes):
        true = np.asarray(batch.T_true[i], np.float64)
        turn = se3.from_rt(record.scene.target.T[:3, :3] @ true[:3, :3].T, np.zeros(3))  # this crop -> base camera
        usable = np.isfinite(T[i]).all() and np.abs(T[i, :3, :3] @ T[i, :3, :3].T - np.eye(3)).max() < 1e-3
        pose = turn @ (_orthonormal(T[i]) if usable else batch.T_init[i])
        if not (usable and _in_sight(record, pose)):
            pose = turn @ np.asarray(batch.T_init[i], np.float64)
        out.append(view_at(record, pose))
    return stack(out)


def _in_sight(record: RefinerScene, pose: Array) -> bool:
    thing = record.scene.target.object
    centre = pose[:3, :3] @ thing.mesh.centre + pose[:3, 3]
    far = 20.0 * np.linalg.norm(record.scene.target.T[:3, 3])
    return bool(centre[2] > 0.6 * thing.diameter and np.linalg.norm(centre[:2]) < centre[2] < far)


def _orthonormal(T: Array) -> Array:
    """T with its rotation, off by single precision, made exact (Kabsch, 1976)."""
    U, _, V = np.linalg.svd(T[:3, :3])
    fixed = T.copy()
    fixed[:3, :3] = U @ np.diag([1.0, 1.0, np.linalg.det(U @ V)]) @ V
    return fixed
