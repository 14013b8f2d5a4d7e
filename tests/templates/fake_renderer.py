"""A renderer of one sphere by analytic ray casting: meets the Renderer contract and depends on nothing else."""

from __future__ import annotations

import numpy as np

from coop_edge.render.base import Renderer


class SphereRenderer(Renderer):
    """Draws, instead of the mesh, a sphere of its bounding radius about its centre, in one grey."""

    def _render(self, T_camera_centred, K, height, width, mesh_index):
        v, u = np.mgrid[:height, :width]
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K).swapaxes(1, 2)[:, None]
        centre = T_camera_centred[:, None, None, :3, 3]
        radius = np.array([self.meshes[i].radius for i in mesh_index]).reshape(-1, 1, 1)
        a, b = (rays**2).sum(-1), (rays * centre).sum(-1)
        root = b**2 - a * ((centre**2).sum(-1) - radius**2)
        hit = root > 0
        depth = np.where(hit, (b - np.sqrt(np.maximum(root, 0))) / a, 0).astype(np.float32)
        rgb = np.where(hit[..., None], np.uint8(128), np.uint8(0)).repeat(3, axis=-1)
        return rgb, depth, np.where(hit, 0, -1).astype(np.int32)
