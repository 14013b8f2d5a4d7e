"""The CUDA renderer against the CPU renderer and brute force, and against itself: batches, parts, order, queue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.meshes import colored_torus, grey_box, look_at_views, textured_sphere
from coop_edge.errors import InputError
from coop_edge.render import CpuRenderer, RenderResult, Shading, raster_kernels
from coop_edge.render.base import object_points
from coop_edge.render.cuda import CudaRenderer, CudaRenderResult
from tests.cuda_host.host_device import HostDevice
from tests.kernels.devices import device  # noqa: F401
from tests.oracles import render as oracle
from tests.render.cuda_scenes import assert_same, on_host, render
from tests.render.scenes import MESHES, VIEWS, assert_parity, intrinsics, soup, views_of

SIZE = 48
K = intrinsics(SIZE)


def four_meshes():
    """Two textured ones, so that offsets into the joint textures matter, and very different numbers of faces."""
    return [textured_sphere(3, texture_size=32), colored_torus(sections=16), grey_box(), textured_sphere(1, 0.04, 17)]


def views(n=8):
    return look_at_views(n, 0.2, seed=2), np.arange(n) % 4


@pytest.mark.parametrize("seed", [5, 28])
@pytest.mark.parametrize("supersample", [1, 3])
@pytest.mark.parametrize("kind", MESHES)
def test_matches_cpu(device, kind, supersample, seed):  # noqa: F811
    mesh, size = MESHES[kind](), 96
    T, Ks = views_of(mesh, intrinsics(size), seed=seed)
    ours = render(device, mesh, T, Ks, size, supersample=supersample)
    cpu = CpuRenderer(mesh, supersample=supersample).render(T, Ks, size)
    for i, view in enumerate(VIEWS):
        assert ours.mask[i].any(), view.name
        assert_parity((ours.rgb[i], ours.depth[i]), (cpu.rgb[i], cpu.depth[i]), f"{kind}, {view.name}")
        # Coverage is the same integer arithmetic; FP32 moves a corner by 1/256 sample now and then.
        assert (ours.triangle_id[i] != cpu.triangle_id[i]).mean() <= 0.002, view.name
        same = (ours.triangle_id[i] == cpu.triangle_id[i]) & ours.mask[i]
        # 2 micrometres: what FP32 leaves of a surface that the camera grazes at a few millimetres.
        np.testing.assert_allclose(ours.depth[i][same], cpu.depth[i][same], rtol=1e-5, atol=2e-6, err_msg=view.name)


@pytest.mark.parametrize("supersample", [1, 3])
@pytest.mark.parametrize(
    "mesh", [textured_sphere(1, texture_size=64), colored_torus(sections=12), grey_box()], ids=lambda mesh: mesh.name
)
def test_matches_brute_force(device, mesh, supersample):  # noqa: F811
    height, width = 56, 72
    T, Ks = views_of(mesh, np.array([[80.0, 1.5, 35.0], [0.0, 90.0, 28.0], [0.0, 0.0, 1.0]]), seed=5)
    result = render(device, mesh, T, Ks, (height, width), supersample=supersample, shading=Shading(0.3, 0.9))
    for i, view in enumerate(VIEWS):
        rgb, depth, face = oracle.render(
            mesh, T[i], Ks[i], height, width, samples=supersample, shading=Shading(0.3, 0.9)
        )
        assert_parity((result.rgb[i], result.depth[i]), (rgb, depth), f"{mesh.name}, {view.name}")
        assert (result.triangle_id[i] != face).mean() <= 0.005, view.name
        same = result.triangle_id[i] == face
        if supersample == 1:
            np.testing.assert_allclose(result.rgb[i][same].astype(int), rgb[same].astype(int), atol=1)


@pytest.mark.parametrize("object_points_too", [False, True])
@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize(("size", "shape"), [(16, (16, 16)), ((9, 21), (9, 21)), (1, (1, 1))])
def test_shapes_and_dtypes(device, n, size, shape, object_points_too):  # noqa: F811
    result = render(device, grey_box(), look_at_views(n, 0.3), K, size, object_points=object_points_too)
    assert (result.rgb.shape, result.rgb.dtype) == ((n, *shape, 3), np.uint8)
    assert (result.depth.shape, result.depth.dtype) == ((n, *shape), np.float32)
    assert (result.triangle_id.shape, result.triangle_id.dtype) == ((n, *shape), np.int32)
    assert type(result) is (CudaRenderResult if object_points_too else RenderResult)
    assert (result.object_points().shape, result.object_points().dtype) == ((n, *shape, 3), np.float32)


@pytest.mark.parametrize("supersample", [1, 3])
def test_mixed_meshes_in_one_launch_equal_each_alone(device, supersample):  # noqa: F811
    meshes, (T, index) = four_meshes(), views()
    batch = render(device, meshes, T, K, SIZE, mesh_index=index, supersample=supersample)
    for i in range(len(T)):
        alone = render(device, meshes[index[i]], T[i : i + 1], K, SIZE, supersample=supersample)
        for name in ("rgb", "depth", "triangle_id"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(batch, name)[i])
        assert alone.mask.any()


def test_repeated_calls_give_the_same_in_fresh_arrays(device):  # noqa: F811
    T, index = views()
    renderer = CudaRenderer(four_meshes(), device=device, supersample=3)
    first = renderer.render(T, K, SIZE, mesh_index=index)
    kept = on_host(device, first)
    renderer.render(T[::-1], K, 2 * SIZE, mesh_index=index[::-1])  # larger: the scratch memory grows
    again = renderer.render(T, K, SIZE, mesh_index=index)
    assert_same(on_host(device, again), kept)
    assert_same(on_host(device, first), kept)


def test_the_order_of_threads_does_not_matter():
    T, index = views()
    results = [
        render(HostDevice(reverse=reverse), four_meshes(), T, K, SIZE, mesh_index=index, object_points=True)
        for reverse in (False, True)
    ]
    assert_same(*results)
    np.testing.assert_array_equal(results[0].points, results[1].points)


@pytest.mark.parametrize("s", [3, 5])
def test_supersampling_is_the_mean_of_a_finer_render(device, s):  # noqa: F811
    T, index = views(4)
    fine_K = K * s
    fine_K[:2, 2] += (s - 1) / 2
    fine_K[2, 2] = 1.0
    fine = render(device, four_meshes(), T, fine_K, SIZE * s, mesh_index=index)
    result = render(device, four_meshes(), T, K, SIZE, mesh_index=index, supersample=s)
    mean = fine.rgb.reshape(4, SIZE, s, SIZE, s, 3).mean(axis=(2, 4))
    assert np.abs(result.rgb - mean).max() <= 1.0  # each fine pixel is rounded, and the mean once more
    middle = (slice(None), slice(s // 2, None, s), slice(s // 2, None, s))
    np.testing.assert_array_equal(result.depth, fine.depth[middle])
    np.testing.assert_array_equal(result.triangle_id, fine.triangle_id[middle])


@pytest.mark.parametrize("supersample", [1, 3])
@pytest.mark.parametrize("share", [3.5, 1.0, 0.4, 1e-9], ids=["3 views", "1 view", "bands", "rows"])
def test_parts_do_not_matter(device, share, supersample):  # noqa: F811
    T, index = views(5)
    options = {"mesh_index": index, "supersample": supersample, "object_points": True}
    expected = render(device, four_meshes(), T, K, (20, SIZE), **options)
    limit = max(int(share * 8 * 20 * SIZE * supersample**2), 1)
    parts = render(device, four_meshes(), T, K, (20, SIZE), max_scratch_bytes=limit, **options)
    assert_same(parts, expected)
    np.testing.assert_array_equal(parts.points, expected.points)


@pytest.mark.parametrize("slots", [1, 7])
def test_large_triangles_are_queued_and_a_full_queue_loses_nothing(device, monkeypatch, slots):  # noqa: F811
    meshes = [grey_box(), textured_sphere(1, texture_size=16)]
    T, index = look_at_views(4, 0.11, seed=3), np.arange(4) % 2
    T[3, 2, 3] = 0.04  # cuts the near plane
    renderer = CudaRenderer(meshes, device=device)
    expected = on_host(device, renderer.render(T, intrinsics(120), 120, mesh_index=index))
    queued = int(device.to_numpy(renderer._scratch["queued"])[0])
    assert slots < queued <= renderer._scratch["queue"].size // 4
    monkeypatch.setattr(raster_kernels, "_SAMPLES_PER_SLOT", 1 << 30)
    monkeypatch.setattr(raster_kernels, "_MIN_SLOTS", slots)
    renderer = CudaRenderer(meshes, device=device)
    assert_same(on_host(device, renderer.render(T, intrinsics(120), 120, mesh_index=index)), expected)
    assert renderer._scratch["queue"].size // 4 == slots
    cpu = CpuRenderer(meshes).render(T, intrinsics(120), 120, mesh_index=index)
    assert (cpu.triangle_id != expected.triangle_id).mean() <= 0.002


@pytest.mark.parametrize("distance", [0.2, 100.0])
def test_object_points_lie_on_the_surface(device, distance):  # noqa: F811
    """From the face's own corners: as exact a hundred metres away as near by."""
    meshes, (T, index) = four_meshes(), views()
    T[:, :3, 3] *= distance / 0.2
    Ks = K * np.array([[distance / 0.2, 1, 1], [1, distance / 0.2, 1], [1, 1, 1]])
    result = render(device, meshes, T, Ks, SIZE, mesh_index=index, object_points=True)
    np.testing.assert_array_equal(np.isnan(result.points).all(axis=-1), ~result.mask)
    assert result.object_points() is result.points
    back_projected = object_points(result.depth, T, np.broadcast_to(Ks, (len(T), 3, 3)), device.xp)
    for i, mesh in enumerate(meshes[k] for k in index):
        points, face = result.points[i][result.mask[i]].astype(float), result.triangle_id[i][result.mask[i]]
        corners = mesh.vertices[mesh.faces[face]].astype(float) + mesh.centre
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        np.testing.assert_allclose(((points - corners[:, 0]) * normal).sum(axis=1), 0.0, atol=5e-8)
        # And it projects to the pixel it was written at.
        camera = points @ T[i, :3, :3].T + T[i, :3, 3]
        v, u = np.nonzero(result.mask[i])
        rays = np.column_stack([u, v, np.ones(len(u))]) @ np.linalg.inv(Ks).T
        inside = np.abs(camera - rays * camera[:, 2:]).max(axis=1) < 1e-7 * distance
        assert inside.mean() > 0.99  # the others lie up to 1/512 pixel off their triangle, and are limited to it
        # Depth in FP32 is as good as the angle at which the surface is seen.
        facing = np.abs((camera * (normal @ T[i, :3, :3].T)).sum(axis=1)) / np.linalg.norm(camera, axis=1)
        apart = np.linalg.norm(points - back_projected[i][result.mask[i]], axis=1) * facing
        assert apart[inside].max() <= 5e-7 * distance


def quilt():
    """A mesh with two tiny textures that repeat, and faces with none: two triangles of each."""
    rng = np.random.default_rng(4)
    x = np.array([0.0, 10.0, 20.0, 30.0])
    vertices = np.stack([np.tile(x, 2), np.repeat([0.0, 24.0], 4), np.ones(8)], axis=-1)
    faces = np.array([[i, i + 1, i + 5] for i in range(3)] + [[i, i + 5, i + 4] for i in range(3)])
    mesh = soup(vertices[faces], colors=rng.integers(0, 256, (6, 3, 3)))
    textures = tuple(rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in ((3, 5), (4, 2)))
    uv = (vertices[faces][..., :2] * (0.13, -0.11) - (0.7, -0.4)).astype(np.float32)
    return replace(mesh, corner_uv=uv, face_texture=np.array([0, -1, 1] * 2, np.int32), textures=textures)


def test_textures_repeat_and_belong_to_faces(device):  # noqa: F811
    """Every row and column of texels is blended with its neighbour across the border, in both textures."""
    meshes = [textured_sphere(1, texture_size=8), quilt()]
    K_exact, T = np.eye(3), np.eye(4)[None]
    options = {"shading": Shading(1.0, 0.0)}
    ours = render(device, meshes, T, K_exact, (24, 30), mesh_index=[1], **options)
    expected, _, face = oracle.render(meshes[1], T[0], K_exact, 24, 30, **options)
    assert ours.mask.all()
    same = ours.triangle_id[0] == face  # on the seams the two have different rules
    assert same.mean() > 0.9
    np.testing.assert_allclose(ours.rgb[0][same].astype(int), expected[same].astype(int), atol=1)


def test_grazing_depth_stays_within_the_triangle(device):  # noqa: F811
    """Slivers seen from the side: snapping covers samples just off them, where their plane is far outside of them."""
    slivers = []
    for x in np.arange(-20, 20) / 2000.0:  # of a left edge, in pixels from a column of pixel centres
        for edge, tip in ((3.0, 0.5), (0.5, 3.0)):
            corners = np.array([[16.0 + x, 2.0, 1.0], [16.0 + x, 30.0, 1.0], [16.1 + x, 16.0, 1.0]])
            slivers.append(soup((corners * np.array([edge, edge, tip])[:, None])[None]))
    T, index = np.tile(np.eye(4), (len(slivers), 1, 1)), np.arange(len(slivers))
    result = render(device, slivers, T, np.eye(3), 32, mesh_index=index)
    depth = result.depth[result.mask]
    assert len(depth) > 500
    assert depth.min() >= np.float32(0.5)
    assert depth.max() <= np.float32(3.0)
    cpu = CpuRenderer(slivers, threads=1).render(T, np.eye(3), 32, mesh_index=index)
    np.testing.assert_array_equal(result.mask, cpu.mask)


@pytest.mark.parametrize("value", [0, -1])
def test_refuses_a_scratch_limit_that_is_none(value):
    with pytest.raises(InputError, match="max_scratch_bytes"):
        CudaRenderer(grey_box(), device=HostDevice(), max_scratch_bytes=value)
