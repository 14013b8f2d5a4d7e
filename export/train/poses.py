"""Training pairs as the estimator's own stages take them: what the evaluation in training and the verification share.

Matches are solved and pairs refined and aligned by the package's functions, in NumPy on the CPU, whatever ran the
networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coop_edge.config import EstimatorConfig
from coop_edge.errors import InputError
from coop_edge.geometry.crop import CropCamera
from coop_edge.ops.base import Decoded
from coop_edge.ops.cpu import CpuOperations
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.stages.coarse import CoarsePoses, coarse_poses
from coop_edge.stages.pairs import Pairs
from export.data.batch import PATCH, CoarseBatch, RefinerBatch, take
from export.data.rerender import PairRecord, centres_of, in_sight, rerender

Array = np.ndarray[Any, Any]

OPS = CpuOperations()
SOLVER = CpuPnpSolver()


def match_poses(
    batch: CoarseBatch, probability: Array, index: Array, offset: Array, config: EstimatorConfig | None = None
) -> CoarsePoses:
    """Solve for the poses of N queries, each from the matches with its one template, as the estimator does.

    Args:
        batch: N pairs.
        probability, index, offset: of the coarse decoder, float32 [N,T], int32 [N,T] and float32 [N,T,2]; they may hold
            anything, NaN included.
        config: the estimator's options; the defaults if None.
    """
    n, size = batch.query.shape[:2]
    maps = np.ascontiguousarray(batch.template_points)[:, None]
    decoded = Decoded(probability[:, None], index[:, None], offset[:, None])
    config = config or EstimatorConfig()
    return coarse_poses(
        *OPS.lift(decoded, np.zeros((n, 1), np.int64), list(maps), PATCH, config.advanced.coarse.min_probability),
        batch.K_query,
        ops=OPS,
        solver=SOLVER,
        config=config,
        size=size,
        patch=PATCH,
    )


def pairs_of(batch: RefinerBatch, centre: Array, R_crop_camera: Array | None = None) -> Pairs:
    """Return N training pairs as pairs of the refinement.

    A crop counts as the middle third of an image: the photograph is larger than any crop of it, so matches beside the
    crop are legal.

    Args:
        batch: the pairs.
        centre: float64 [N,3] of the objects, metres, object's frame.
        R_crop_camera: float64 [N,3,3], what turns the axes of the cameras that poses are given in into those of the
            crops; by default they are the crops' cameras themselves.
    """
    n, size = batch.query.shape[:2]
    T = np.asarray(batch.T_init, np.float64)
    z = np.einsum("nj,nhwj->nhw", T[:, 2, :3], batch.object_points.astype(np.float64)) + T[:, None, None, 2, 3]
    H = np.broadcast_to(np.array([[1.0, 0.0, -size], [0.0, 1.0, -size], [0.0, 0.0, 1.0]]), (n, 3, 3))
    R = np.broadcast_to(np.eye(3), (n, 3, 3)) if R_crop_camera is None else R_crop_camera
    return Pairs(
        query=OPS.as_network_image(batch.query),
        render=OPS.as_network_image(batch.render),
        depth=np.nan_to_num(z).astype(np.float32),
        crop=CropCamera(batch.K, R, H, size),
        T_crop_object=T,
        centre=centre,
        diameter=batch.diameter,
        image_size=(3 * size, 3 * size),
        image_px=np.ones(n),
        ops=OPS,
    )


class RerenderedPairs:
    """The ``PairMaker`` of training pairs, which are cropped and rendered again at each pose.

    Each pair is an object of its own; poses are those of the cameras of ``batch``.

    batch, records: as a stream with ``keep_scenes=True`` gives them.
    """

    def __init__(self, batch: RefinerBatch, records: Sequence[PairRecord]) -> None:
        self.ops, self.size = OPS, int(batch.query.shape[1])
        self._batch, self._records, self._centre = batch, records, centres_of(records)

    def centres_and_diameters(self, object_index: Array) -> tuple[Array, Array]:
        """See ``PairMaker.centres_and_diameters``."""
        return self._centre[object_index], self._batch.diameter[object_index]

    def in_sight(self, T_camera_object: Array, object_index: Array) -> Array:
        """See ``PairMaker.in_sight``; the camera is that of the scene, which the photograph's lies in."""
        return in_sight(*self._at(object_index), T_camera_object)

    def make(self, T_camera_object: Array, object_index: Array, roll: float = 0.0) -> Pairs:
        """See ``PairMaker.make``; the crops are upright.

        Raises:
            InputError: a roll.
        """
        if roll:
            raise InputError("training pairs are made in upright crops: set advanced.refine.joint_iterations=1")
        before, records = self._at(object_index)
        seen = rerender(before, records, T_camera_object)
        turn = seen.R_crop @ np.swapaxes(before.R_crop, 1, 2)
        return pairs_of(seen, self._centre[object_index], turn)

    def _at(self, index: Array) -> tuple[RefinerBatch, list[PairRecord]]:
        return take(self._batch, index), [self._records[i] for i in index]
