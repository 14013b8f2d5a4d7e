"""Units, centre, scene graphs, degenerate and merged triangles, simplification."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
import trimesh
from PIL import Image

from benchmarks.meshes import smooth_texture
from coop_edge.errors import InputError, MeshError
from coop_edge.mesh import Mesh
from coop_edge.mesh.simplify import closest_barycentric, nearest_on_surface
from tests.mesh import assets, gltf_writer
from tests.oracles.texture import lookup


def _box(extents=(0.1, 0.06, 0.04), offset=(0.3, -0.2, 0.5)) -> trimesh.Trimesh:
    box = trimesh.creation.box(extents)
    box.apply_translation(offset)
    return box


@pytest.mark.parametrize(("unit", "metres"), [("m", 1.0), ("cm", 0.01), ("mm", 0.001), ("in", 0.0254)])
def test_units(unit, metres):
    box = _box()
    box.apply_scale(1 / metres)
    mesh = Mesh.load(box, unit=unit)
    np.testing.assert_allclose(mesh.centre, (0.3, -0.2, 0.5), atol=1e-12)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), (0.1, 0.06, 0.04), rtol=1e-6)
    assert mesh.diameter == pytest.approx(np.sqrt(0.1**2 + 0.06**2 + 0.04**2), rel=1e-6)
    assert mesh.radius == pytest.approx(mesh.diameter / 2, rel=1e-6)


def test_unit_is_required_and_checked():
    with pytest.raises(TypeError, match="unit"):
        Mesh.load(_box())
    for wrong in ("metres", "MM", None, 0.001):
        with pytest.raises(InputError, match="'m', 'cm', 'mm', 'in'"):
            Mesh.load(_box(), unit=wrong)


@pytest.mark.parametrize("suffix", ["stl", "stl ascii", "off", "obj", "ply", "glb"])
def test_geometry_of_every_format(suffix, tmp_path):
    box = _box()
    path = tmp_path / f"box.{suffix.split()[0]}"
    box.export(path, **({"file_type": "stl_ascii"} if "ascii" in suffix else {}))
    mesh = Mesh.load(path, unit="m")
    assert (len(mesh.vertices), len(mesh.faces)) == (8, 12)  # STL's 36 separate corners are merged
    assert mesh.name == "box"
    corners = mesh.vertices.astype(float) + mesh.centre
    found = np.abs(corners[:, None] - np.asarray(box.vertices)[None]).max(-1) < 1e-6
    assert found.any(axis=0).all()
    triangles = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert triangles.volume == pytest.approx(box.volume, rel=1e-5)  # winding is kept


def test_far_from_the_origin_keeps_its_shape():
    """float32 holds a tenth of a millimetre at 1 km: vertices are stored about the centre, so nothing is lost."""
    mesh = Mesh.load(_box(offset=(1000.0, -2000.0, 500.0)), unit="m")
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), (0.1, 0.06, 0.04), rtol=1e-6)
    np.testing.assert_allclose(mesh.centre, (1000.0, -2000.0, 500.0), atol=1e-9)


def test_gltf_scene_graph(tmp_path):
    turn = [0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)]  # quaternion x y z w: 90 degrees about z
    nodes = [
        {"children": [1, 2], "translation": [0.1, 0.2, 0.3]},
        {"mesh": 0, "rotation": turn},
        {"mesh": 0, "scale": [2.0, 1.0, 1.0], "translation": [0.0, 0.0, 0.1]},
    ]
    mesh = Mesh.load(gltf_writer.write(tmp_path / "a.glb", nodes=nodes), unit="m")
    got = mesh.vertices.astype(float) + mesh.centre
    turned = np.stack([-assets.QUAD[:, 1], assets.QUAD[:, 0], assets.QUAD[:, 2]], axis=1) + (0.1, 0.2, 0.3)
    stretched = assets.QUAD * (2, 1, 1) + (0.1, 0.2, 0.4)
    want = np.concatenate([turned, stretched])
    assert len(got) == 8
    assert (np.abs(got[:, None] - want[None]).max(-1).min(axis=0) < 1e-6).all()


def test_scene_in_memory_with_a_mirrored_instance():
    scene = trimesh.Scene()
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    scene.add_geometry(_box(offset=(0.1, 0, 0)), node_name="a")
    scene.add_geometry(_box(offset=(0.1, 0, 0)), node_name="b", transform=mirror)
    mesh = Mesh.load(scene, unit="m", name="pair")
    assert (len(mesh.faces), mesh.name) == (24, "pair")
    np.testing.assert_allclose(mesh.centre, 0, atol=1e-9)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), (0.3, 0.06, 0.04), rtol=1e-6)


def test_quads_and_polygons(tmp_path):
    rows = [f"v {x} {y} {z}" for x, y, z in assets.QUAD]
    (tmp_path / "q.obj").write_text("\n".join([*rows, "f 1 2 3 4"]) + "\n")
    mesh = Mesh.load(tmp_path / "q.obj", unit="m")
    assert trimesh.Trimesh(mesh.vertices, mesh.faces).area == pytest.approx(assets.WIDTH * assets.HEIGHT)


def test_degenerate_faces_are_dropped_and_said(caplog):
    v = np.vstack([assets.QUAD, [[5.0, 5.0, 5.0]], [[0.02, 0.0, 0.0]]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 4, 4], [0, 1, 1], [0, 5, 1]])  # points, an edge, collinear
    with caplog.at_level(logging.WARNING):
        mesh = Mesh.load(trimesh.Trimesh(v, faces, process=False), unit="m")
    assert len(mesh.faces) == 2
    assert len(mesh.vertices) == 4  # the far vertex of a degenerate face does not count in the diameter either
    assert mesh.diameter == pytest.approx(np.hypot(assets.WIDTH, assets.HEIGHT), rel=1e-6)
    assert "3 of 5 triangles have zero area" in mesh.notes[0]
    assert "3 of 5 triangles have zero area" in caplog.text


def test_thin_but_real_triangles_are_kept():
    v = np.array([[0, 0, 0], [0.1, 0, 0], [0.05, 1e-6, 0], [0, 0.1, 0]])
    assert len(Mesh.load(trimesh.Trimesh(v, [[0, 1, 2], [0, 2, 3]], process=False), unit="m").faces) == 2


def test_unused_non_finite_vertices_are_harmless():
    v = np.vstack([assets.QUAD, [[np.nan] * 3], [[np.inf] * 3]])
    mesh = Mesh.load(trimesh.Trimesh(v, assets.QUAD_FACES, process=False), unit="m")
    assert len(mesh.vertices) == 4


def test_loading_is_deterministic():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.05)
    hashes = {Mesh.load(sphere, unit="m", max_faces=1000).hash for _ in range(2)}
    assert len(hashes) == 1


def _painted_sphere(subdivisions: int = 5) -> trimesh.Trimesh:
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.05)
    colors = 127.5 + 120 * np.sin(np.asarray(sphere.vertices) * (40, 60, 80))
    rgba = np.column_stack([colors, np.full(len(colors), 255)]).round().astype(np.uint8)
    sphere.visual.vertex_colors = rgba
    return sphere


def test_simplified_sphere_keeps_shape_and_colors(caplog):
    sphere = _painted_sphere()
    with caplog.at_level(logging.WARNING):
        mesh = Mesh.load(sphere, unit="m", max_faces=4000)
    assert 3500 <= len(mesh.faces) <= 4000
    assert f"simplified from {len(sphere.faces)} to {len(mesh.faces)} triangles" in mesh.notes[0]
    assert "simplified" in caplog.text
    points = mesh.vertices.astype(float) + mesh.centre
    assert np.abs(np.linalg.norm(points, axis=1) - 0.05).max() < 0.0005
    want = 127.5 + 120 * np.sin(points[mesh.faces] * (40, 60, 80))
    assert np.abs(mesh.corner_colors - want).mean() < 3


def _wavy_sheet(texture: np.ndarray, n: int = 60, seam: bool = False) -> trimesh.Trimesh:
    """A bumpy sheet of 0.2 x 0.2 m under a texture; with a seam, its right half shows the texture upside down."""
    grid = np.stack(np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="ij"), -1).reshape(-1, 2)
    bump = 0.02 * np.sin(5 * grid[:, 0]) * np.sin(4 * grid[:, 1])
    index = np.arange(n * n).reshape(n, n)
    quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1).reshape(-1, 4)
    faces = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    vertices, uv = np.column_stack([0.2 * grid, bump])[faces].reshape(-1, 3), grid[faces].copy()
    if seam:
        right = grid[faces][..., 0].mean(1) > 0.5
        uv[right] = 1.0 - uv[right]
    visual = trimesh.visual.TextureVisuals(uv=uv.reshape(-1, 2), image=Image.fromarray(texture))
    return trimesh.Trimesh(vertices, np.arange(len(vertices)).reshape(-1, 3), visual=visual, process=False)


@pytest.mark.parametrize("seam", [False, True])
def test_simplified_texture_stays_in_place(seam):
    texture = smooth_texture(128)
    texture[:, :1], texture[:1], texture[-1:], texture[:, -1:] = 0, 0, 0, 0  # so that wrapping round would show
    mesh = Mesh.load(_wavy_sheet(texture, seam=seam), unit="m", max_faces=1500)
    assert len(mesh.faces) <= 1500
    textured = mesh.face_texture >= 0
    assert textured.mean() > (0.85 if seam else 0.99)
    assert "textured ones 100.0% before and" in mesh.notes[0]
    rng = np.random.default_rng(0)
    faces = rng.integers(0, len(mesh.faces), 3000)
    weights = rng.dirichlet((1, 1, 1), 3000)
    points = np.einsum("nc,nck->nk", weights, mesh.vertices[mesh.faces[faces]].astype(float)) + mesh.centre
    uv = points[:, :2] / 0.2
    uv[seam & (uv[:, 0] > 0.5)] = 1.0 - uv[seam & (uv[:, 0] > 0.5)]
    want = np.array([lookup(texture, *c) for c in uv])
    inner = ((uv > 0.03) & (uv < 0.97)).all(axis=1) & (np.abs(points[:, 0] - 0.1) > 0.01)
    error = np.abs(mesh.surface_color(faces, weights) - want)[inner]
    assert np.median(error) < 1.5
    assert (error > 25).mean() < 0.01


def test_simplified_seam_never_shows_what_lies_between_in_the_texture():
    """Left half red, right half blue, green between them in the texture only: no triangle may sweep across it."""
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:, :24], texture[:, 24:40], texture[:, 40:] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    sheet = _wavy_sheet(texture)
    uv = np.asarray(sheet.visual.uv).reshape(-1, 3, 2)
    right = uv[..., 0].mean(1) > 0.5
    uv[..., 0] = np.where(right[:, None], 0.75 + 0.2 * uv[..., 0], 0.05 + 0.2 * uv[..., 0])
    sheet.visual.uv = uv.reshape(-1, 2)
    mesh = Mesh.load(sheet, unit="m", max_faces=1000)
    rng = np.random.default_rng(1)
    colors = mesh.surface_color(rng.integers(0, len(mesh.faces), 5000), rng.dirichlet((1, 1, 1), 5000))
    assert colors[:, 1].max() < 1
    assert (colors[:, 0] > 249).mean() > 0.4
    assert (colors[:, 2] > 249).mean() > 0.4


def test_triangles_that_lie_on_others_are_dropped_before_simplification():
    """Also where their corners are listed from another one on; those that face the other way stay."""
    vertices = np.vstack([assets.QUAD, assets.QUAD + (0, 0, 0.1)])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7], [1, 2, 0], [2, 3, 0], [2, 1, 0]])
    mesh = Mesh.load(trimesh.Trimesh(vertices, faces, process=False), unit="m", max_faces=6)
    assert len(mesh.faces) == 5
    assert mesh.notes == ("2 of 7 triangles lie exactly on others and were dropped",)
    whole = Mesh.load(trimesh.Trimesh(vertices, faces, process=False), unit="m", max_faces=7)
    assert len(whole.faces) == 7


def test_no_simplification_at_the_limit():
    sphere = _painted_sphere(3)
    assert len(Mesh.load(sphere, unit="m", max_faces=len(sphere.faces)).faces) == len(sphere.faces)


def test_missing_simplifier_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    with pytest.raises(MeshError, match=r"pip install fast-simplification.*raise max_faces"):
        Mesh.load(_painted_sphere(3), unit="m", max_faces=100)


@pytest.mark.parametrize("max_faces", [0, 3, 1.5, True, "many"])
def test_max_faces_is_checked(max_faces):
    with pytest.raises(InputError, match="max_faces"):
        Mesh.load(_box(), unit="m", max_faces=max_faces)


def test_closest_point_on_a_triangle_against_a_dense_grid():
    rng = np.random.default_rng(0)
    steps = np.linspace(0, 1, 201)
    beta, gamma = (g.ravel() for g in np.meshgrid(steps, steps))
    inside = beta + gamma <= 1 + 1e-12
    weights = np.stack([1 - beta - gamma, beta, gamma], axis=1)[inside]
    for _ in range(50):
        triangle, point = rng.normal(size=(3, 3)), rng.normal(size=3) * 2
        got = closest_barycentric(triangle, point)
        assert got.sum() == pytest.approx(1)
        assert got.min() > -1e-12
        distance = np.linalg.norm(got @ triangle - point)
        brute = np.linalg.norm(weights @ triangle - point, axis=1).min()
        assert distance <= brute + 1e-12
        assert brute - distance < 0.05


def test_nearest_on_surface_with_no_queries():
    face, weights = nearest_on_surface(assets.QUAD, assets.QUAD_FACES, np.zeros((0, 3)))
    assert (face.shape, weights.shape) == ((0,), (0, 3))


@pytest.mark.parametrize("corners", [4, 5, 8])
def test_polygons_of_one_size_become_fans(corners, tmp_path):
    angle = 2 * np.pi * np.arange(corners) / corners
    ring = [f"v {np.cos(a)} {np.sin(a)} 0" for a in angle]
    path = tmp_path / "polygon.obj"
    path.write_text("\n".join([*ring, "f " + " ".join(str(i + 1) for i in range(corners))]))
    mesh = Mesh.load(path, unit="m")
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    area = 0.5 * np.cross(b - a, c - a)[:, 2]
    assert len(mesh.faces) == corners - 2
    assert (area > 0).all()
    np.testing.assert_allclose(area.sum(), 0.5 * corners * np.sin(2 * np.pi / corners), rtol=1e-6)
