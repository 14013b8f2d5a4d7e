"""The contract of every renderer: what comes back, and what is refused with which words."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from benchmarks.meshes import colored_torus, grey_box, look_at_views
from coop_edge.errors import BackendUnavailable, InputError
from coop_edge.mesh import Mesh
from coop_edge.render import Shading, open3d
from coop_edge.render.base import NEAR, object_points
from tests.oracles import render as oracle
from tests.render.scenes import RENDERERS, intrinsics, make, soup, translation

T1 = look_at_views(1, 0.3)
T2 = look_at_views(2, 0.3)
K = intrinsics(32)


def changed(array, index, value):
    array = np.array(array, float)
    array[index] = value
    return array


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize(("size", "shape"), [(16, (16, 16)), ((9, 21), (9, 21)), (1, (1, 1))])
def test_shapes_and_dtypes(renderer, n, size, shape):
    result = make(renderer, grey_box()).render(look_at_views(n, 0.3), K, size)
    assert (result.rgb.shape, result.rgb.dtype) == ((n, *shape, 3), np.uint8)
    assert (result.depth.shape, result.depth.dtype) == ((n, *shape), np.float32)
    assert (result.triangle_id.shape, result.triangle_id.dtype) == ((n, *shape), np.int32)
    assert (result.mask.shape, result.mask.dtype) == ((n, *shape), np.bool_)
    assert (result.object_points().shape, result.object_points().dtype) == ((n, *shape, 3), np.float32)
    assert result.T_camera_object.shape == (n, 4, 4)
    assert result.K.shape == (n, 3, 3)
    assert all(a.flags.c_contiguous for a in (result.rgb, result.depth, result.triangle_id))


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("n", [0, 2])
def test_per_view_intrinsics_and_mesh_index(renderer, n):
    meshes = [grey_box(), colored_torus(sections=16)]
    T = look_at_views(n, 0.3)
    Ks = np.stack([K * (1.0, 1.0, 1.0), intrinsics(32, 20.0)])[:n].reshape(n, 3, 3)
    batch = make(renderer, meshes).render(T, Ks, 32, mesh_index=np.arange(n, dtype=np.int64))
    for i in range(n):
        single = make(renderer, meshes[i]).render(T[i : i + 1], Ks[i], 32)
        assert single.mask.any()
        np.testing.assert_array_equal(batch.rgb[i], single.rgb[0])
        np.testing.assert_array_equal(batch.depth[i], single.depth[0])
        np.testing.assert_array_equal(batch.triangle_id[i], single.triangle_id[0])


@pytest.mark.parametrize("renderer", RENDERERS)
def test_empty_lists_are_an_empty_batch(renderer):
    result = make(renderer, grey_box()).render(np.zeros((0, 4, 4)), K, 8, mesh_index=[])
    assert result.rgb.shape == (0, 8, 8, 3)


BAD_CALLS = [
    ("one view without its axis", (T1[0], K, 32), {}, "leading axis"),
    ("pose of shape 3x4", (T1[:, :3], K, 32), {}, r"\[\.\.\.,4,4\]"),
    ("NaN pose", (changed(T1, (0, 0, 3), np.nan), K, 32), {}, "NaN"),
    ("transposed pose", (np.swapaxes(T1, 1, 2), K, 32), {}, "transposed"),
    ("scaled rotation", (changed(T1, (0, slice(3), slice(3)), 2 * np.eye(3)), K, 32), {}, "orthonormal"),
    ("reflection", (changed(T1, (0, slice(3), slice(3)), np.diag([1, 1, -1])), K, 32), {}, "reflection"),
    ("K of shape 3x4", (T1, np.eye(3, 4), 32), {}, "K: wanted"),
    ("K for another number of views", (T2, np.stack([K] * 3), 32), {}, r"\[2,3,3\]"),
    ("NaN K", (T1, changed(K, (0, 0), np.nan), 32), {}, "NaN"),
    ("transposed K", (T1, K.T, 32), {}, "transposed"),
    ("negative focal length", (T1, changed(K, (0, 0), -5.0), 32), {}, "positive focal"),
    ("K of words", (T1, "abc", 32), {}, "K: wanted numbers"),
    ("no K", (T1, None, 32), {}, "K: wanted"),
    ("no size", (T1, K, None), {}, "size"),
    ("size in words", (T1, K, "32"), {}, "size"),
    ("size 0", (T1, K, 0), {}, "size"),
    ("size True", (T1, K, True), {}, "size"),
    ("size too large", (T1, K, 8193), {}, "8192"),
    ("fractional size", (T1, K, (32, 32.0)), {}, "size"),
    ("three sizes", (T1, K, (32, 32, 3)), {}, "size"),
    ("mesh_index too long", (T1, K, 32), {"mesh_index": [0, 0]}, "mesh_index"),
    ("mesh_index past the end", (T1, K, 32), {"mesh_index": [1]}, r"\[0, 1\)"),
    ("negative mesh_index", (T1, K, 32), {"mesh_index": [-1]}, r"\[0, 1\)"),
    ("fractional mesh_index", (T1, K, 32), {"mesh_index": [0.0]}, "integers"),
]


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(("arguments", "options", "words"), [c[1:] for c in BAD_CALLS], ids=[c[0] for c in BAD_CALLS])
def test_bad_calls_are_refused(renderer, arguments, options, words):
    with pytest.raises(InputError, match=words):
        make(renderer, grey_box()).render(*arguments, **options)


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(
    ("meshes", "options", "words"),
    [
        ([], {}, "non-empty"),
        ([grey_box(), "box.obj"], {}, "Mesh.load"),
        (grey_box(), {"supersample": 2}, "supersample"),
        (grey_box(), {"supersample": 0}, "supersample"),
        (grey_box(), {"threads": 0}, "threads"),
        (grey_box(), {"threads": 1.5}, "threads"),
    ],
)
def test_bad_construction_is_refused(renderer, meshes, options, words):
    with pytest.raises(InputError, match=words):
        make(renderer, meshes, **options)


@pytest.mark.parametrize("value", [-0.1, np.nan, 5.0])
def test_bad_shading_is_refused(value):
    with pytest.raises(InputError, match="Shading"):
        Shading(ambient=value)


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(
    "place",
    [(0, 0, -0.3), (0, 0, -1e6), (5.0, 0, 0.3), (-5.0, 0, 0.3), (0, 5.0, 0.3), (0, -5.0, 0.3)],
    ids=["behind", "far behind", "right", "left", "below", "above"],
)
def test_nothing_in_view(renderer, place):
    result = make(renderer, grey_box(), supersample=3).render(translation(*place)[None], K, 32)
    assert not result.rgb.any()
    assert not result.depth.any()
    assert (result.triangle_id == -1).all()
    assert np.isnan(result.object_points()).all()


@pytest.mark.parametrize("renderer", RENDERERS)
def test_object_points_lie_on_the_surface_seen(renderer):
    # An off-centre mesh far from its frame's origin, and a camera with skew and unequal focal lengths.
    mesh = colored_torus(sections=32)
    T = look_at_views(4, 0.3, seed=3)
    K_skewed = np.array([[60.0, 3.0, 30.5], [0.0, 75.0, 20.0], [0.0, 0.0, 1.0]])
    result = make(renderer, mesh).render(T, K_skewed, (48, 64))
    assert result.mask.any(axis=(1, 2)).all()
    points = result.object_points()
    for i in range(len(T)):
        mask = result.mask[i]
        corners = (mesh.vertices + mesh.centre)[mesh.faces[result.triangle_id[i][mask]]]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        facing = np.abs((normal @ T[i, :3, :3].T * oracle.pixel_rays(K_skewed, 48, 64)[mask]).sum(axis=1))
        off_plane = np.abs(((points[i][mask] - corners[:, 0]) * normal).sum(axis=1))
        assert (off_plane / facing).max() < 2e-4 * 0.3  # along the ray, of the distance
        camera_points = points[i][mask] @ T[i, :3, :3].T + T[i, :3, 3]
        uvw = camera_points @ K_skewed.T
        v, u = np.nonzero(mask)
        np.testing.assert_allclose(uvw[:, :2] / uvw[:, 2:], np.stack([u, v], axis=1), atol=1e-3)
        assert np.isnan(points[i][~mask]).all()


@pytest.mark.parametrize("renderer", RENDERERS)
def test_near_plane_cuts(renderer):
    # A wall through the camera's plane: visible from NEAR on, and nothing of it nearer.
    wall = soup([[[0.01, -9, -9], [0.01, 9, -9], [0.01, 0, 9]]])
    K_wide = intrinsics(65, focal=4.0)
    result = make(renderer, wall).render(np.eye(4)[None], K_wide, 65)
    rays = oracle.pixel_rays(K_wide, 65, 65)
    depth, face, _ = oracle.intersect(wall.vertices.astype(float)[wall.faces], rays)
    assert (face >= 0).any()
    assert (face < 0).any()
    np.testing.assert_array_equal(result.mask[0], face >= 0)
    np.testing.assert_allclose(result.depth[0], depth, rtol=1e-5)
    # Facing planes just before and just behind the near plane.
    for z, seen in ((0.999 * NEAR, False), (1.001 * NEAR, True)):
        plane = soup([[[-1, -1, z], [1, -1, z], [0, 2, z]]])
        assert make(renderer, plane).render(np.eye(4)[None], K, 32).mask.all() == seen
        assert make(renderer, plane).render(np.eye(4)[None], K, 32).mask.any() == seen


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("repeat", [(0, 0), (-3, 7)])
def test_texture_orientation(renderer, repeat):
    # Four texels on a facing square; pixels 4 and 12 of 0..16 look at texel centres.
    red, green, blue, white = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
    square = np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]])  # y points down: bottom left first
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + repeat
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    mesh = Mesh(
        vertices=square.astype(np.float32),
        faces=faces.astype(np.int32),
        centre=np.zeros(3),
        corner_colors=np.zeros((2, 3, 3), np.uint8),
        corner_uv=uv[faces].astype(np.float32),
        face_texture=np.zeros(2, np.int32),
        textures=(np.array([[red, green], [blue, white]], np.uint8),),
    )
    K_square = np.array([[8.0, 0.0, 8.0], [0.0, 8.0, 8.0], [0.0, 0.0, 1.0]])
    flat = make(renderer, mesh, shading=Shading(1.0, 0.0)).render(translation(0, 0, 1)[None], K_square, 17).rgb[0]
    for (v, u), color in {(4, 4): red, (4, 12): green, (12, 4): blue, (12, 12): white}.items():
        np.testing.assert_allclose(flat[v, u].astype(int), color, atol=1)
    np.testing.assert_allclose(flat[4, 6].astype(int), (191, 64, 0), atol=1)  # a quarter of the way
    # Between two texels: three eighths of the way across the border, and halfway inside.
    np.testing.assert_allclose(flat[4, (1, 8)].astype(int), [(159, 96, 0), (128, 128, 0)], atol=1)
    np.testing.assert_allclose(flat[(1, 8), 4].astype(int), [(159, 0, 96), (128, 0, 128)], atol=1)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'open3d'"), r"pip install open3d.*--renderer cpu"),
        (ImportError("libusb-1.0.so.0: cannot open shared object file"), "libusb-1.0-0"),
        (OSError("libGL.so.1: cannot open shared object file"), "libgl1"),
    ],
)
def test_missing_open3d_says_what_to_install(monkeypatch, error, words):
    def fail(name):
        raise error

    monkeypatch.setattr(open3d.importlib, "import_module", fail)
    with pytest.raises(BackendUnavailable, match=words):
        make("open3d", grey_box())


def test_the_package_imports_no_backend():
    code = "import sys, coop_edge.render; print(*{'numba', 'open3d', 'cupy', 'torch', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == []


@pytest.mark.parametrize("renderer", RENDERERS)
def test_the_result_keeps_its_own_poses(renderer):
    T = look_at_views(2, 0.3)
    result = make(renderer, grey_box()).render(T, K, 16)
    before = result.object_points()
    T[:, :3, 3] += 1.0
    np.testing.assert_array_equal(result.object_points(), before)


def test_object_points_take_the_memory_of_a_view():
    depth = np.ones((24, 64, 64), np.float32)
    T, Ks = look_at_views(24, 0.3), np.repeat(intrinsics(64)[None], 24, 0)
    tracemalloc.start()
    points = object_points(depth, T, Ks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * points.nbytes
