"""Coverage by the top-left rule: neighbours neither gap nor overlap, and nothing degenerate is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, binary_fill_holes
from scipy.spatial import Delaunay

from benchmarks.meshes import colored_torus, grey_box, look_at_views, textured_sphere
from coop_edge.render import CpuRenderer
from tests.oracles import render as oracle
from tests.render.scenes import ABSURD_DISTANCES, THIN_TRIANGLES, intrinsics, soup, translation

EXACT = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # at z = 1 a metre is a pixel


def times_covered(triangles, K=EXACT, size=32, T=None):
    """How many of the triangles [F,3,3] cover each pixel, each drawn on its own."""
    meshes = [soup(t[None]) for t in triangles]
    views = np.broadcast_to(np.eye(4) if T is None else T, (len(meshes), 4, 4))
    return CpuRenderer(meshes, threads=1).render(views, K, size, mesh_index=np.arange(len(meshes))).mask.sum(axis=0)


def flat(points):
    """Image points [...,2] as points at z = 1."""
    points = np.asarray(points, float)
    return np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)


@pytest.mark.parametrize("turn", [1, -1], ids=["clockwise", "anticlockwise"])
@pytest.mark.parametrize("diagonal", [0, 1])
def test_square_with_corners_on_pixel_centres(diagonal, turn):
    corners = flat([[5, 7], [20, 7], [20, 18], [5, 18]])
    split = [[0, 1, 2], [0, 2, 3]] if diagonal else [[0, 1, 3], [1, 2, 3]]
    count = times_covered(corners[[s[::turn] for s in split]])
    expected = np.zeros((32, 32), int)
    expected[7:18, 5:20] = 1  # top and left edges belong to it, bottom and right ones do not
    np.testing.assert_array_equal(count, expected)


def test_fan_about_a_pixel_centre():
    # Spokes through many pixel centres; the hub is a pixel centre itself.
    rim = [(28, 16), (28, 24), (28, 28), (24, 28), (16, 28), (8, 28), (4, 28), (4, 24), (4, 16), (4, 8), (4, 4), (8, 4)]
    rim += [(16, 4), (24, 4), (28, 4), (28, 8)]
    fan = [[(16, 16), rim[i], rim[(i + 1) % len(rim)]] for i in range(len(rim))]
    expected = np.zeros((32, 32), int)
    expected[4:28, 4:28] = 1
    np.testing.assert_array_equal(times_covered(flat(fan)), expected)


points_on_a_grid = st.lists(
    st.tuples(st.integers(0, 62), st.integers(0, 62)), min_size=6, max_size=24, unique=True
)  # half pixels: edges through pixel centres are the rule, not the exception


@settings(max_examples=40, deadline=None)
@given(points=points_on_a_grid, jitter=st.sampled_from([0.0, 1e-3, 0.37]))
def test_triangulation_covers_every_pixel_once(points, jitter):
    points = np.array(points) / 2.0
    if np.linalg.matrix_rank(points - points[0]) < 2:
        return
    points = points + jitter * np.sin(np.arange(points.size).reshape(points.shape))
    hull = Delaunay(points)
    count = times_covered(flat(points[hull.simplices]))
    assert count.max() <= 1
    v, u = np.mgrid[:32, :32]
    inside = hull.find_simplex(np.stack([u, v], axis=-1)) >= 0
    np.testing.assert_array_equal(count[binary_erosion(inside)], 1)
    np.testing.assert_array_equal(count[binary_erosion(~inside, border_value=1)], 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), tilt=st.floats(-1.2, 1.2), turn=st.floats(-3.0, 3.0))
def test_tilted_triangulation_cut_by_the_near_plane(seed, tilt, turn):
    # A patch of ground under and behind the camera: many triangles are clipped, their neighbours with them.
    rng = np.random.default_rng(seed)
    ground = rng.uniform(-1, 1, (30, 2))
    hull = Delaunay(ground)
    points = np.stack([ground[:, 0], np.full(30, 0.05), ground[:, 1]], axis=-1)
    c, s = np.cos(tilt), np.sin(tilt)
    roll = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    points = points @ (roll @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])).T
    triangles = points[hull.simplices].astype(np.float32)
    K = intrinsics(32, 16.0)
    count = times_covered(triangles, K)
    assert count.max() <= 1
    _, face, _ = oracle.intersect(triangles.astype(float), oracle.pixel_rays(K, 32, 32))
    # Near the horizon a 1/512 pixel of snapping sees past the patch's rim: compare off the silhouette.
    seen = face >= 0
    np.testing.assert_array_equal(count[binary_erosion(seen, border_value=0)], 1)
    np.testing.assert_array_equal(count[binary_erosion(~seen, border_value=0)], 0)


@pytest.mark.parametrize("seed", range(6))
def test_closed_meshes_have_no_holes(seed):
    mesh = textured_sphere(5, texture_size=4)
    T = look_at_views(1, 0.15, seed)
    mask = CpuRenderer(mesh).render(T, intrinsics(200), 200).mask[0]
    assert mask.sum() > 10000
    np.testing.assert_array_equal(binary_fill_holes(mask), mask)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("make_mesh", [lambda: textured_sphere(3, texture_size=4), grey_box])
def test_from_inside_a_closed_mesh_everything_is_covered(make_mesh, seed):
    T = look_at_views(1, 0.01, seed)
    result = CpuRenderer(make_mesh()).render(T, intrinsics(100, 30.0), 100)
    assert result.mask.all()
    assert result.depth.min() > 0.0


def test_equal_depth_lower_id_wins():
    triangle = flat([[2, 2], [28, 3], [12, 29]])
    twisted = triangle[[1, 2, 0]]
    for stack in ([triangle, triangle], [triangle, twisted, triangle[::-1]], [twisted, triangle]):
        ids = CpuRenderer(soup(np.stack(stack))).render(np.eye(4)[None], EXACT, 32).triangle_id
        assert set(np.unique(ids)) == {-1, 0}


@pytest.mark.parametrize("order", [1, -1])
def test_nearer_triangle_wins_whatever_the_order(order):
    near, far = 2.0 * flat([[2, 2], [28, 3], [12, 29]]), 3.0 * flat([[0, 0], [31, 0], [0, 31]])
    result = CpuRenderer(soup(np.stack([near, far][::order]))).render(np.eye(4)[None], EXACT, 32)
    alone = CpuRenderer(soup(near[None])).render(np.eye(4)[None], EXACT, 32).mask
    assert alone.any()
    np.testing.assert_allclose(result.depth[alone], 2.0, rtol=1e-6)


@pytest.mark.parametrize("distance", [0.002, 0.1])
@pytest.mark.parametrize("extent", [10.0, 1e4, 1e7])
def test_triangles_that_reach_far_beyond_the_guard_band(distance, extent):
    # Projections reach 1e12 pixels; two triangles share an edge right through the picture.
    square = np.array([[-1.1, -1, 0], [1, -1.3, 0], [1.2, 1, 0], [-1, 1, 0]]) * extent
    triangles = square[[[0, 1, 2], [0, 2, 3]]]
    K, T = intrinsics(32, 400.0), translation(0, 0, distance)
    np.testing.assert_array_equal(times_covered(triangles, K, T=T), 1)
    depth = CpuRenderer(soup(triangles)).render(T[None], K, 32).depth
    np.testing.assert_allclose(depth, distance, rtol=1e-6)


@pytest.mark.parametrize("place", ABSURD_DISTANCES)
def test_absurd_distances_draw_nothing_and_do_not_crash(place):
    for T in (translation(place, 0, 1), translation(0, place, place), translation(-place, place, -place)):
        result = CpuRenderer(grey_box()).render(T[None], intrinsics(16), 16)
        assert np.isfinite(result.depth).all()
        assert not result.mask.any()


@pytest.mark.parametrize("corners", THIN_TRIANGLES.values(), ids=THIN_TRIANGLES)
def test_thin_triangles_draw_nothing(corners):
    assert not times_covered(flat([corners])).any()


def test_edge_on_triangles_draw_nothing():
    # A wall that contains the camera's centre.
    assert not times_covered(np.array([[[0.0, -1, 0.5], [0, 1, 0.5], [0, 0, 3]]]), intrinsics(33)).any()


@pytest.mark.parametrize(("rim", "tip"), [(1.0, 3.0), (3.0, 1.0)])
def test_depth_of_a_sliver_stays_within_the_triangle(rim, tip):
    # Snapping moves this sliver, 0.0002 pixels wide, onto pixel centres ten times its width away from it.
    image = np.array([[8.0019, 2], [8.0019, 28], [8.0021, 15]])
    z = np.array([rim, rim, tip])
    result = CpuRenderer(soup((flat(image) * z[:, None])[None])).render(np.eye(4)[None], EXACT, 32)
    assert result.mask[0, 3:28, 8].all()
    depth = result.depth[result.mask]
    assert depth.min() >= 1.0 - 1e-6
    assert depth.max() <= 3.0 + 1e-6


def test_grazing_depth_stays_within_the_triangle():
    torus = colored_torus(sections=64)
    T = look_at_views(8, 0.3, seed=11)
    result = CpuRenderer(torus).render(T, intrinsics(200), 200)
    for i in range(len(T)):
        z = (torus.vertices + torus.centre) @ T[i, 2, :3] + T[i, 2, 3]
        z = z[torus.faces[result.triangle_id[i][result.mask[i]]]]
        depth = result.depth[i][result.mask[i]]
        assert (depth >= z.min(axis=1) - 1e-6).all()
        assert (depth <= z.max(axis=1) + 1e-6).all()
