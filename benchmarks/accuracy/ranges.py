"""Range images for VSD: of the scene from its depth, of objects from the CPU renderer."""

from __future__ import annotations

import numpy as np

from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.metrics import depth_to_range
from benchmarks.accuracy.records import ImageKey, Target
from coop_edge.errors import InputError
from coop_edge.render import CpuRenderer


class RangeImages:
    """Distances to the camera's centre, metres, of an object at two poses and of the scene behind them.

    The evaluation meshes are loaded at once; the scene of the last image is kept.
    """

    def __init__(self, dataset: BopDataset) -> None:
        self._dataset = dataset
        self._place = {obj_id: i for i, obj_id in enumerate(dataset.object_ids)}
        meshes = [dataset.models[obj_id].load_mesh(evaluation=True) for obj_id in dataset.object_ids]
        self._renderer = CpuRenderer(meshes, threads=1) if meshes else None
        self._scene: tuple[ImageKey, np.ndarray] | None = None

    def __call__(
        self, target: Target, T_estimate: np.ndarray, T_truth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(estimate, truth, scene), each float [H,W], of the target's object at poses [4,4]. Raises InputError."""
        camera = self._dataset.camera(*target.image)
        size = camera.height, camera.width
        assert self._renderer is not None  # there is a target, hence an object
        view = self._renderer.render(
            np.stack([T_estimate, T_truth]), camera.K, size, mesh_index=np.full(2, self._place[target.obj_id])
        )
        estimate, truth = depth_to_range(view.depth, camera.K)
        return estimate, truth, self._of_scene(target.image, camera.K, size)

    def _of_scene(self, image: ImageKey, K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if self._scene is None or self._scene[0] != image:
            depth = self._dataset.depth(*image)
            if depth is None or depth.shape != size:
                given = "none" if depth is None else f"{depth.shape[1]} x {depth.shape[0]}"
                raise InputError(
                    f"depth of scene {image[0]}, image {image[1]}: wanted {size[1]} x {size[0]}, got {given}"
                )
            self._scene = image, depth_to_range(depth, K)
        return self._scene[1]
