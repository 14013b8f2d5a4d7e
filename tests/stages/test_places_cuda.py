"""The search of a whole image on a GPU is the CPU's: on the CuPy stand-in, which runs the kernels that ship."""

# ruff: noqa: F811  (fixtures are imported and named again)
from __future__ import annotations

import numpy as np

from coop_edge.stages.bounds import Bounds
from coop_edge.stages.boxes import overlaps
from coop_edge.stages.image_maps import image_levels
from coop_edge.stages.places import find_places
from coop_edge.stages.silhouettes import silhouettes
from tests.estimators_gpu import cupy, gpu  # noqa: F401
from tests.runtime.fake_arrays import DOWNLOAD
from tests.stages.test_features_cuda import CAMERA, SIZE, parts, picture, runner  # noqa: F401


def test_levels_and_places_are_the_cpus(gpu, runner, far, picture):
    image = picture[0]
    whole = (0.0, 0.0, *map(float, CAMERA.size))
    depth = np.full(CAMERA.size[::-1], 0.6, np.float32)
    answers = []
    for device in ("cpu", "cuda"):
        _, ops, features, model = parts(device, runner, far)
        given = ops.upload(image)
        scales = np.array([0.9, 1.3])
        levels = list(image_levels(given, CAMERA.size, scales, whole, SIZE // 2, features=features))
        if downloads := getattr(ops.xp, "transfers", None):
            downloads.clear()
        found = [
            find_places(levels, model.views, far.diameter, 6, bounds=Bounds(whole, 0.0, np.inf, 300.0, d), ops=ops)
            for d in (None, depth)
        ]
        sizes = [size for way, size in getattr(ops.xp, "transfers", []) if way == DOWNLOAD]
        answers.append(([ops.to_host(level.maps) for level in levels], found, sizes))
    (maps, cpu, _), (maps_there, there, sizes) = answers
    for ours, theirs in zip(maps, maps_there, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=0.05)
    for ours, theirs in zip(cpu, there, strict=True):
        np.testing.assert_allclose(theirs.score[:3], ours.score[:3], rtol=0.05)
        assert overlaps(theirs.box[:1], ours.box[:2]).max() > 0.8
    assert len(sizes) <= 4  # of each search the best view of each place, twice: nothing else comes to the host


def test_silhouettes_are_the_cpus(gpu, runner, far, picture):
    _, T, _, mask = picture
    answers = []
    for device in ("cpu", "cuda"):
        backend, ops, _, _ = parts(device, runner, far)
        renderer = backend.renderer([far], threads=1)
        seen = silhouettes(renderer, np.array([T, T]), np.zeros(2, int), CAMERA, ops)
        assert isinstance(seen, np.ndarray)
        assert silhouettes(renderer, np.zeros((0, 4, 4)), np.zeros(0, int), CAMERA, ops).shape == (0, 120, 160)
        answers.append(seen)
    np.testing.assert_array_equal(answers[0][0], mask)
    np.testing.assert_array_equal(answers[1], answers[0])
