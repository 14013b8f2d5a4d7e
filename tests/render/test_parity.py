"""The rasteriser against brute force and against Open3D, over meshes and views that go wrong in different ways."""

import numpy as np
import pytest

from benchmarks.meshes import colored_torus, grey_box, textured_sphere
from coop_edge.render import CpuRenderer
from coop_edge.render.base import NEAR
from tests.oracles import render as oracle
from tests.render.scenes import MESHES, VIEWS, assert_parity, intrinsics, make, views_of

SEEDS = (5, 28)  # rotations for which each mesh is in sight in every view


@pytest.mark.open3d
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("supersample", [1, 3])
@pytest.mark.parametrize("kind", MESHES)
def test_cpu_matches_open3d(kind, supersample, seed):
    mesh, size = MESHES[kind](), 160
    T, K = views_of(mesh, intrinsics(size), seed=seed)
    ours = make("cpu", mesh, supersample=supersample).render(T, K, size)
    theirs = make("open3d", mesh, supersample=supersample).render(T, K, size)
    for i, view in enumerate(VIEWS):
        assert ours.mask[i].any(), view.name
        assert_parity((ours.rgb[i], ours.depth[i]), (theirs.rgb[i], theirs.depth[i]), f"{kind}, {view.name}")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("supersample", [1, 3])
@pytest.mark.parametrize(
    "mesh", [textured_sphere(1, texture_size=64), colored_torus(sections=12), grey_box()], ids=lambda mesh: mesh.name
)
def test_cpu_matches_brute_force(mesh, supersample, seed):
    height, width = 56, 72
    T, K = views_of(mesh, np.array([[80.0, 1.5, 35.0], [0.0, 90.0, 28.0], [0.0, 0.0, 1.0]]), seed=seed)
    result = CpuRenderer(mesh, supersample=supersample).render(T, K, (height, width))
    for i, view in enumerate(VIEWS):
        rgb, depth, face = oracle.render(mesh, T[i], K[i], height, width, samples=supersample)
        assert_parity((result.rgb[i], result.depth[i]), (rgb, depth), f"{mesh.name}, {view.name}")
        # Ids may differ only where a ray passes within the snapping distance of an edge.
        assert (result.triangle_id[i] != face).mean() <= 0.005, view.name
        same = result.triangle_id[i] == face
        np.testing.assert_allclose(result.depth[i][same], depth[same], rtol=1e-5)
        if supersample == 1:
            np.testing.assert_allclose(result.rgb[i][same].astype(int), rgb[same].astype(int), atol=1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", MESHES)
def test_the_views_hold_what_they_promise(kind, seed):
    mesh = MESHES[kind]()
    T, K = views_of(mesh, intrinsics(160), seed=seed)
    ids = CpuRenderer(mesh).render(T, K, 160).triangle_id
    for i, view in enumerate(VIEWS):
        z = ((mesh.vertices + mesh.centre) @ T[i, :3, :3].T + T[i, :3, 3])[mesh.faces][..., 2]
        cut = np.flatnonzero((z.min(axis=1) < NEAR) & (z.max(axis=1) > NEAR))
        assert bool(len(cut)) == (view.z < 1.0), view.name
        if view.surface:  # cut triangles are in sight
            assert np.isin(ids[i], cut).mean() > 0.1
        border = np.concatenate([ids[i, 0], ids[i, -1], ids[i, :, 0], ids[i, :, -1]])
        assert (border >= 0).any() == (view.name not in ("facing", "far")), view.name
