"""Renders held against closed forms: a sphere (depth, silhouette) and a box (depth, faces, colours)."""

import numpy as np
import pytest
import trimesh
from scipy.ndimage import binary_dilation, binary_erosion

from benchmarks.meshes import grey_box, look_at_views
from coop_edge.mesh import DEFAULT_ALBEDO
from coop_edge.render import Shading
from tests.oracles import render as oracle
from tests.render.scenes import RENDERERS, intrinsics, make, soup, translation

RADIUS = 0.05


@pytest.fixture(scope="module")
def sphere():
    ball = trimesh.creation.icosphere(subdivisions=6, radius=RADIUS)
    return soup(np.asarray(ball.triangles))


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(
    "place",
    [(0.0, 0.0, 0.2), (0.03, -0.02, 0.15), (0.06, 0.04, 0.2), (0.0, 0.0, 3.0), (0.0, 0.0, 0.0)],
    ids=["facing", "off-axis", "partly outside", "far", "from inside"],
)
def test_sphere(renderer, sphere, place):
    size = 128
    # From afar through a long lens: what a crop of a distant object is.
    K = intrinsics(size, focal=1.4 * size * max(1.0, place[2] / 0.2))
    result = make(renderer, sphere).render(translation(*place)[None], K, size)
    rays = oracle.pixel_rays(K, size, size)
    centre = np.array(place)
    truth = oracle.sphere_depth(centre, RADIUS, rays)
    if place == (0.0, 0.0, 0.0):
        truth = RADIUS / np.linalg.norm(rays, axis=-1)  # every ray leaves through the far side
    depth, mask = result.depth[0], result.mask[0]
    # The chords of 81,920 triangles lie up to 1e-4 of the radius inside the sphere; grazing rays magnify that.
    inner = binary_erosion(truth > 0, iterations=2, border_value=1)
    assert inner.sum() > 1000
    assert mask[inner].all()
    assert not mask[~binary_dilation(truth > 0)].any()
    area = (truth > 0).sum()
    assert abs(int(mask.sum()) - area) <= 0.005 * area
    assert np.abs(depth - truth)[inner].max() <= 1e-3 * RADIUS
    assert np.median(np.abs(depth - truth)[inner]) <= 1e-4 * RADIUS


@pytest.mark.parametrize("renderer", RENDERERS)
def test_box(renderer):
    extents = np.array([0.1, 0.06, 0.04])
    mesh = grey_box(extents)
    T, size, shading = look_at_views(12, 0.25, seed=5), 96, Shading(0.3, 0.5)
    K = intrinsics(size)
    result = make(renderer, mesh, shading=shading).render(T, K, size)
    rays = oracle.pixel_rays(K, size, size)
    normals = np.cross(
        *np.moveaxis(mesh.vertices[mesh.faces][:, 1:] - mesh.vertices[mesh.faces][:, :1], 1, 0)
    )  # of each face, along one axis
    for i in range(len(T)):
        truth, axis = oracle.box_depth(extents, T[i], rays)
        mask = result.mask[i]
        # The mesh is exactly the box: masks differ at most where a ray grazes an edge within 1/512 pixel.
        assert (mask != (truth > 0)).sum() <= 2
        both = mask & (truth > 0)
        np.testing.assert_allclose(result.depth[i][both], truth[both], rtol=1e-3)
        hit_axis = np.abs(normals).argmax(axis=1)[result.triangle_id[i]]
        same_face = both & (hit_axis == axis)
        assert same_face.sum() >= both.sum() - 4
        np.testing.assert_allclose(result.depth[i][same_face], truth[same_face], rtol=1e-6)
        face_normals = np.eye(3)[axis] @ T[i, :3, :3].T
        color = np.array(DEFAULT_ALBEDO) * oracle.lighting(face_normals, rays, shading)[..., None]
        assert np.abs(result.rgb[i].astype(float) - color)[same_face].max() <= 0.5 + 1e-3


@pytest.mark.parametrize("renderer", RENDERERS)
def test_vertex_colors_are_interpolated_perspectively(renderer):
    # A tilted triangle with pure colours at its corners: the albedo is the barycentric coordinate in space.
    corners = np.array([[[-0.3, -0.3, 0.3], [0.9, -0.6, 1.5], [0.0, 0.8, 2.0]]])
    mesh = soup(corners, colors=255 * np.eye(3)[None])
    size = 64
    result = make(renderer, mesh, shading=Shading(1.0, 0.0)).render(np.eye(4)[None], intrinsics(size, 50.0), size)
    points = result.object_points()[0][result.mask[0]].astype(float)
    barycentric = np.linalg.solve(corners[0].T[None], points[..., None])[..., 0]
    assert len(points) > 300
    np.testing.assert_allclose(result.rgb[0][result.mask[0]], 255 * barycentric, atol=0.6)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_colors_are_limited_not_wrapped(renderer):
    wall = soup([[[-1, -1, 0], [1, -1, 0], [0, 2, 0]]])
    bright = make(renderer, wall, shading=Shading(4.0, 4.0), supersample=3)
    assert (bright.render(translation(0, 0, 0.2)[None], intrinsics(8), 8).rgb == 255).all()
