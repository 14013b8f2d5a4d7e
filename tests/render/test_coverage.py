"""Coverage by the top-left rule: neighbours neither gap nor overlap, and nothing degenerate is drawn.

Near plane, guard band, ties and nonsense too, by the renderers of the CPU and of CUDA alike.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, binary_fill_holes
from scipy.spatial import Delaunay

from benchmarks.meshes import colored_torus, grey_box, look_at_views, textured_sphere
from coop_edge.kernels.device import CupyDevice
from coop_edge.render import CpuRenderer
from tests.cuda_host.host_device import HostDevice
from tests.oracles import render as oracle
from tests.render import cuda_scenes
from tests.render.scenes import ABSURD_DISTANCES, THIN_TRIANGLES, intrinsics, soup, translation

EXACT = np.eye(3)
"""Intrinsics for which a metre at z = 1 is a pixel."""
DEVICES = {"cuda-host": HostDevice, "cuda": CupyDevice}


def draw_on_cpu(meshes, T, K, size, *, mesh_index=None):
    return CpuRenderer(meshes, threads=1).render(T, K, size, mesh_index=mesh_index)


@pytest.fixture(scope="session", params=["cpu", "cuda-host", pytest.param("cuda", marks=pytest.mark.gpu)])
def draw(request):
    """One render by a new renderer, as NumPy arrays: (meshes, T, K, size, mesh_index=None) -> RenderResult."""
    if request.param == "cpu":
        return draw_on_cpu
    device = DEVICES[request.param]()
    return lambda *arguments, **options: cuda_scenes.render(device, *arguments, **options)


def times_covered(draw, triangles, K=EXACT, size=32, T=None):
    """How many of the triangles [F,3,3] cover each pixel, each a mesh of its own."""
    meshes = [soup(t[None]) for t in triangles]
    views = np.broadcast_to(np.eye(4) if T is None else T, (len(meshes), 4, 4))
    return draw(meshes, views, K, size, mesh_index=np.arange(len(meshes))).mask.sum(axis=0)


def flat(points):
    """Image points [...,2] as points at z = 1."""
    points = np.asarray(points, float)
    return np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)


@pytest.mark.parametrize(("width", "height"), [(15, 11), (60, 60)], ids=["a thread each", "a warp each"])
@pytest.mark.parametrize("turn", [1, -1], ids=["clockwise", "anticlockwise"])
@pytest.mark.parametrize("diagonal", [0, 1])
def test_square_with_corners_on_pixel_centres(draw, diagonal, turn, width, height):
    corners = flat([[5, 7], [5 + width, 7], [5 + width, 7 + height], [5, 7 + height]])
    split = [[0, 1, 2], [0, 2, 3]] if diagonal else [[0, 1, 3], [1, 2, 3]]
    count = times_covered(draw, corners[[s[::turn] for s in split]], size=80)
    expected = np.zeros((80, 80), int)
    expected[7 : 7 + height, 5 : 5 + width] = 1  # top and left edges belong to it, bottom and right ones do not
    np.testing.assert_array_equal(count, expected)


def test_fan_about_a_pixel_centre(draw):
    # Spokes through many pixel centres; the hub is a pixel centre itself.
    rim = [(28, 16), (28, 24), (28, 28), (24, 28), (16, 28), (8, 28), (4, 28), (4, 24), (4, 16), (4, 8), (4, 4), (8, 4)]
    rim += [(16, 4), (24, 4), (28, 4), (28, 8)]
    fan = [[(16, 16), rim[i], rim[(i + 1) % len(rim)]] for i in range(len(rim))]
    expected = np.zeros((32, 32), int)
    expected[4:28, 4:28] = 1
    np.testing.assert_array_equal(times_covered(draw, flat(fan)), expected)


def check_triangulation(draw, points, scale):
    """Every pixel inside a Delaunay triangulation is covered once."""
    hull = Delaunay(points)
    count = times_covered(draw, flat(points[hull.simplices]), size=32 * scale)
    assert count.max() <= 1
    v, u = np.mgrid[: 32 * scale, : 32 * scale]
    inside = hull.find_simplex(np.stack([u, v], axis=-1)) >= 0
    np.testing.assert_array_equal(count[binary_erosion(inside)], 1)
    np.testing.assert_array_equal(count[binary_erosion(~inside, border_value=1)], 0)


points_on_a_grid = st.lists(
    st.tuples(st.integers(0, 62), st.integers(0, 62)), min_size=6, max_size=24, unique=True
)  # half pixels: edges through pixel centres are the rule, not the exception


@settings(max_examples=40, deadline=None)
@given(points=points_on_a_grid, jitter=st.sampled_from([0.0, 1e-3, 0.37]))
def test_any_triangulation_covers_every_pixel_once(points, jitter):
    points = np.array(points) / 2.0
    if np.linalg.matrix_rank(points - points[0]) < 2:
        return
    check_triangulation(draw_on_cpu, points + jitter * np.sin(np.arange(points.size).reshape(points.shape)), 1)


@pytest.mark.parametrize("scale", [1, 4], ids=["small", "large"])
@pytest.mark.parametrize("seed", range(5))
def test_triangulation_covers_every_pixel_once(draw, seed, scale):
    points = np.unique(np.random.default_rng(seed).integers(0, 62, (24, 2)), axis=0) / 2.0
    check_triangulation(draw, points * scale, scale)


def check_tilted(draw, rng, tilt, turn):
    """A patch of ground under and behind the camera: many triangles are clipped, their neighbours with them."""
    ground = rng.uniform(-1, 1, (30, 2))
    hull = Delaunay(ground)
    points = np.stack([ground[:, 0], np.full(30, 0.05), ground[:, 1]], axis=-1)
    c, s = np.cos(tilt), np.sin(tilt)
    roll = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    points = points @ (roll @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])).T
    triangles = points[hull.simplices].astype(np.float32)
    K = intrinsics(32, 16.0)
    count = times_covered(draw, triangles, K)
    assert count.max() <= 1
    _, face, _ = oracle.intersect(triangles.astype(float), oracle.pixel_rays(K, 32, 32))
    # Near the horizon a 1/512 pixel of snapping sees past the patch's rim: compare off the silhouette.
    seen = face >= 0
    np.testing.assert_array_equal(count[binary_erosion(seen, border_value=0)], 1)
    np.testing.assert_array_equal(count[binary_erosion(~seen, border_value=0)], 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), tilt=st.floats(-1.2, 1.2), turn=st.floats(-3.0, 3.0))
def test_any_tilted_triangulation_cut_by_the_near_plane(seed, tilt, turn):
    check_tilted(draw_on_cpu, np.random.default_rng(seed), tilt, turn)


@pytest.mark.parametrize("seed", range(6))
def test_tilted_triangulation_cut_by_the_near_plane(draw, seed):
    tilt, turn = np.random.default_rng([seed, 1]).uniform((-1.2, -3.0), (1.2, 3.0))
    check_tilted(draw, np.random.default_rng(seed), tilt, turn)


@pytest.mark.parametrize("seed", range(6))
def test_closed_meshes_have_no_holes(draw, seed):
    mask = draw(textured_sphere(5, texture_size=4), look_at_views(1, 0.15, seed), intrinsics(200), 200).mask[0]
    assert mask.sum() > 10000
    np.testing.assert_array_equal(binary_fill_holes(mask), mask)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("make_mesh", [lambda: textured_sphere(3, texture_size=4), grey_box])
def test_from_inside_a_closed_mesh_everything_is_covered(draw, make_mesh, seed):
    result = draw(make_mesh(), look_at_views(1, 0.01, seed), intrinsics(100, 30.0), 100)
    assert result.mask.all()
    assert result.depth.min() > 0.0


def test_equal_depth_lower_id_wins(draw):
    triangle = flat([[2, 2], [28, 3], [12, 29]])
    twisted = triangle[[1, 2, 0]]
    for stack in ([triangle, triangle], [triangle, twisted, triangle[::-1]], [twisted, triangle]):
        ids = draw(soup(np.stack(stack)), np.eye(4)[None], EXACT, 32).triangle_id
        assert set(np.unique(ids)) == {-1, 0}


@pytest.mark.parametrize("order", [1, -1])
def test_nearer_triangle_wins_whatever_the_order(draw, order):
    near, far = 2.0 * flat([[2, 2], [28, 3], [12, 29]]), 3.0 * flat([[0, 0], [31, 0], [0, 31]])
    result = draw(soup(np.stack([near, far][::order])), np.eye(4)[None], EXACT, 32)
    alone = draw(soup(near[None]), np.eye(4)[None], EXACT, 32).mask
    assert alone.any()
    np.testing.assert_allclose(result.depth[alone], 2.0, rtol=1e-6)


@pytest.mark.parametrize("distance", [0.002, 0.1])
@pytest.mark.parametrize("extent", [10.0, 1e4, 1e7])
def test_triangles_that_reach_far_beyond_the_guard_band(draw, distance, extent):
    # Projections reach 1e12 pixels; two triangles share an edge right through the picture.
    square = np.array([[-1.1, -1, 0], [1, -1.3, 0], [1.2, 1, 0], [-1, 1, 0]]) * extent
    triangles = square[[[0, 1, 2], [0, 2, 3]]]
    K, T = intrinsics(32, 400.0), translation(0, 0, distance)
    np.testing.assert_array_equal(times_covered(draw, triangles, K, T=T), 1)
    depth = draw(soup(triangles), T[None], K, 32).depth
    np.testing.assert_allclose(depth, distance, rtol=1e-6)


@pytest.mark.parametrize("place", ABSURD_DISTANCES)
def test_absurd_distances_draw_nothing_and_do_not_crash(draw, place):
    for T in (translation(place, 0, 1), translation(0, place, place), translation(-place, place, -place)):
        result = draw(grey_box(), T[None], intrinsics(16), 16)
        assert np.isfinite(result.depth).all()
        assert not result.mask.any()


@pytest.mark.parametrize("corners", THIN_TRIANGLES.values(), ids=THIN_TRIANGLES)
def test_thin_triangles_draw_nothing(draw, corners):
    assert not times_covered(draw, flat([corners])).any()


def test_edge_on_triangles_draw_nothing(draw):
    # A wall that contains the camera's centre.
    assert not times_covered(draw, np.array([[[0.0, -1, 0.5], [0, 1, 0.5], [0, 0, 3]]]), intrinsics(33)).any()


@pytest.mark.parametrize(("rim", "tip"), [(1.0, 3.0), (3.0, 1.0)])
def test_depth_of_a_sliver_stays_within_the_triangle(draw, rim, tip):
    # Snapping moves this sliver, 0.0002 pixels wide, onto pixel centres ten times its width away from it.
    image = np.array([[8.0019, 2], [8.0019, 28], [8.0021, 15]])
    z = np.array([rim, rim, tip])
    result = draw(soup((flat(image) * z[:, None])[None]), np.eye(4)[None], EXACT, 32)
    assert result.mask[0, 3:28, 8].all()
    depth = result.depth[result.mask]
    assert depth.min() >= 1.0 - 1e-6
    assert depth.max() <= 3.0 + 1e-6


def test_grazing_depth_stays_within_the_triangle(draw):
    torus = colored_torus(sections=64)
    T = look_at_views(8, 0.3, seed=11)
    result = draw(torus, T, intrinsics(200), 200)
    for i in range(len(T)):
        z = (torus.vertices + torus.centre) @ T[i, 2, :3] + T[i, 2, 3]
        z = z[torus.faces[result.triangle_id[i][result.mask[i]]]]
        depth = result.depth[i][result.mask[i]]
        assert (depth >= z.min(axis=1) - 1e-6).all()
        assert (depth <= z.max(axis=1) + 1e-6).all()
