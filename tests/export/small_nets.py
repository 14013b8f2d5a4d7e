"""Networks and pairs small enough for a test to train."""

from __future__ import annotations

import numpy as np

from coop_edge.geometry import se3
from export.data.batch import PATCH, CoarseBatch, RefinerBatch

TRUNK = {
    "image_size": 32,
    "stem_channels": 8,
    "encoder_dim": 16,
    "encoder_depth": 1,
    "encoder_heads": 2,
    "decoder_dim": 16,
    "decoder_depth": 3,
    "decoder_heads": 2,
}
NET = {
    "coarse": {"trunk": TRUNK, "match_dim": 8},
    "refiner": {"trunk": TRUNK, "match_dim": 8, "dpt_channels": 8, "radius_px": 0.5},
}


def coarse_batch(rng, n, size):
    """Noise images; patch i of the query is patch i + 1 of the template, the last one has no match."""
    T = (size // PATCH) ** 2
    return CoarseBatch(
        query=rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        template=rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        match_index=np.tile(np.arange(1, T + 1), (n, 1)),
        offset=rng.uniform(-0.5, 0.5, (n, T, 2)).astype(np.float32),
        on_target=np.ones((n, T), bool),
        template_points=rng.normal(size=(n, size, size, 3)).astype(np.float32),
        K_query=np.broadcast_to([[100.0, 0, size / 2], [0, 100, size / 2], [0, 0, 1]], (n, 3, 3)).copy(),
        T_query=np.broadcast_to(np.eye(4), (n, 4, 4)).copy(),
        diameter=np.ones(n),
        query_index=np.arange(n),
    )


def refiner_batch(rng, n, size):
    """A wavy sheet 1 m away that fills the image; labels by projection at a true pose a little off the start."""
    f = 2.0 * size
    K = np.array([[f, 0, (size - 1) / 2], [0, f, (size - 1) / 2], [0, 0, 1.0]])
    v, u = np.mgrid[:size, :size].astype(np.float64)
    z = 1.0 + 0.05 * np.sin(u / 5) * np.cos(v / 7)
    points = np.stack([(u - K[0, 2]) / f * z, (v - K[1, 2]) / f * z, z - 1.0], axis=-1)
    T_init = se3.from_rt(np.eye(3), [0, 0, 1.0])
    xi = rng.normal(size=(n, 6)) * (0.01, 0.01, 0.03, 0.05, 0.05, 0.05)
    T_true = se3.from_rt(se3.so3_exp(xi[:, 3:]), T_init[:3, 3] + xi[:, :3])
    p = se3.transform(T_true, points.reshape(-1, 3)) @ K.T
    there = (p[..., :2] / p[..., 2:]).reshape(n, size, size, 2)
    flow = (there - np.stack([u, v], axis=-1)).transpose(0, 3, 1, 2)
    return RefinerBatch(
        query=rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        render=rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        object_points=np.broadcast_to(points, (n, size, size, 3)).astype(np.float32),
        flow=flow.astype(np.float32),
        visible=((there >= 0) & (there <= size - 1)).all(axis=-1),
        K=np.broadcast_to(K, (n, 3, 3)).copy(),
        T_init=np.broadcast_to(T_init, (n, 4, 4)).copy(),
        T_true=T_true,
        R_crop=np.broadcast_to(np.eye(3), (n, 3, 3)).copy(),
        model_points=np.broadcast_to(points.reshape(-1, 3)[::37], (n, *points.reshape(-1, 3)[::37].shape)).astype(
            np.float32
        ),
        diameter=np.full(n, 0.6),
        query_index=np.arange(n),
    )


class Repeated:
    """A stream whose every batch is one of ``kinds`` fixed ones: to be learnt by heart. ``hook`` sees each number."""

    def __init__(self, role, size, *, batch_size, start=0, hook=None, kinds=1, **_):
        make = coarse_batch if role == "coarse" else refiner_batch
        self.batches = [make(np.random.default_rng(k), batch_size, size) for k in range(kinds)]
        self.number = start // batch_size
        self.hook = hook
        self.closed = False

    def __iter__(self):
        return self

    def __next__(self):
        batch = self.batches[self.number % len(self.batches)]
        self.number += 1
        return self.hook(self.number, batch) if self.hook else batch

    def close(self):
        self.closed = True
