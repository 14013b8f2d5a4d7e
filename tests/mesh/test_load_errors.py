"""Files that cannot be used: what was given, what was wanted, what to do."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from coop_edge.errors import MeshError
from coop_edge.mesh import Mesh
from tests.mesh import assets, gltf_writer


def _sphere() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=2, radius=0.05)


@pytest.mark.parametrize(
    ("extent", "unit", "message"),
    [
        (120.0, "m", r"diameter 120 m with unit='m'; with unit='mm' it would be 0.12 m"),
        (0.12, "mm", r"diameter 0.00012 m with unit='mm'; with unit='m' it would be 0.12 m"),
        (6.0, "m", r"diameter 6 m with unit='m'; with unit='in' it would be 0.1524 m"),
        (1e9, "mm", r"no unit of m, cm, mm, in brings it there"),
        (1e-9, "m", r"no unit of m, cm, mm, in brings it there"),
    ],
)
def test_unlikely_size(extent, unit, message):
    flat = trimesh.Trimesh(
        np.array([[0, 0, 0], [extent, 0, 0], [extent / 2, extent / 10, 0]]), [[0, 1, 2]], process=False
    )
    with pytest.raises(MeshError, match=message):
        Mesh.load(flat, unit=unit)


@pytest.mark.parametrize("extent", [0.0051, 4.9])
def test_sizes_within_the_bounds(extent):
    flat = trimesh.Trimesh(
        np.array([[0, 0, 0], [extent, 0, 0], [extent / 2, extent / 10, 0]]), [[0, 1, 2]], process=False
    )
    assert Mesh.load(flat, unit="m").diameter > 0.99 * extent


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3), int), "no triangles"),
        (assets.QUAD, np.zeros((0, 3), int), "no triangles"),
        (assets.QUAD, [[0, 0, 1], [2, 2, 2]], "all of its 2 triangles are degenerate"),
        (assets.QUAD * np.nan, assets.QUAD_FACES, "4 vertices used by faces are NaN or infinite"),
        (np.where(assets.QUAD == assets.WIDTH, 1e200, assets.QUAD), assets.QUAD_FACES, "has the coordinate 1e\\+200"),
        (np.where(assets.QUAD == assets.WIDTH, np.inf, assets.QUAD), assets.QUAD_FACES, "2 vertices used by faces"),
        (assets.QUAD, [[0, 1, 9]], "vertex 9 of 4"),
        (assets.QUAD, [[0, 1, -1]], "vertex -1 of 4"),
    ],
)
def test_unusable_geometry(vertices, faces, message):
    mesh = trimesh.Trimesh(vertices=vertices, faces=faces, process=False)
    with pytest.raises(MeshError, match=message):
        Mesh.load(mesh, unit="m")


def test_point_clouds_and_strangers(tmp_path):
    cloud = trimesh.PointCloud(assets.QUAD)
    for source, message in ((cloud, "point cloud of 4"), (assets.QUAD, "got ndarray"), (None, "got NoneType")):
        with pytest.raises(MeshError, match=message):
            Mesh.load(source, unit="m")
    cloud.export(tmp_path / "cloud.ply")
    with pytest.raises(MeshError, match=r"cloud\.ply: has no triangles"):
        Mesh.load(tmp_path / "cloud.ply", unit="m")
    (tmp_path / "cloud.obj").write_text("v 0 0 0\nv 1 0 0\n")
    with pytest.raises(MeshError, match=r"cloud\.obj.*no triangles"):
        Mesh.load(tmp_path / "cloud.obj", unit="m")


def test_paths(tmp_path):
    with pytest.raises(MeshError, match="no such file"):
        Mesh.load(tmp_path / "absent.obj", unit="m")
    with pytest.raises(MeshError, match="not a file"):
        Mesh.load(str(tmp_path), unit="m")
    (tmp_path / "thing.step").write_text("x")
    with pytest.raises(MeshError, match=r"'\.step' is not known; wanted one of \.obj, \.ply"):
        Mesh.load(tmp_path / "thing.step", unit="m")


SUFFIXES = ["obj", "ply", "glb", "gltf", "stl", "off", "dae"]


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02 nonsense \xff\xfe" * 20], ids=["empty", "noise"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_without_sense(suffix, content, tmp_path):
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(content)
    with pytest.raises(MeshError, match=rf"bad\.{suffix}"):
        Mesh.load(path, unit="m")


def _export(path: Path, **options) -> Path:
    _sphere().export(path, **options)
    return path


TRUNCATED = {
    "ply binary": lambda d: _export(d / "a.ply"),
    "ply ascii": lambda d: _export(d / "a.ply", encoding="ascii"),
    "stl binary": lambda d: _export(d / "a.stl"),
    "stl ascii": lambda d: _export(d / "a.stl", file_type="stl_ascii"),
    "glb": lambda d: gltf_writer.write(d / "a.glb", image=assets.texture()),
    "off": lambda d: _export(d / "a.off"),
    "dae": lambda d: assets.dae_quad(d, assets.texture()),
}


@pytest.mark.parametrize("share", [0.95, 0.5, 0.1])
@pytest.mark.parametrize("kind", TRUNCATED, ids=list(TRUNCATED))
def test_truncated_files(kind, share, tmp_path):
    path = TRUNCATED[kind](tmp_path)
    Mesh.load(path, unit="m")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(MeshError, match=str(path)):
        Mesh.load(path, unit="m")


def test_truncated_obj_that_lacks_vertices(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 0.1 0 0\nv 0 0.1 0\nf 1 2 3\nf 1 2 7\n")
    with pytest.raises(MeshError, match=r"a\.obj"):
        Mesh.load(tmp_path / "a.obj", unit="m")


def test_obj_relative_indices(tmp_path):
    """They count back from where they stand, not from the end of the file."""
    triangle = "v 0 0 {z}\nv 0.1 0 {z}\nv 0 {y} {z}\n"
    parts = [(0, 0.1), (0.1, 0.3)]
    (tmp_path / "b.obj").write_text("".join(triangle.format(z=z, y=y) + "f -3 -2 -1\n" for z, y in parts))
    mesh = Mesh.load(tmp_path / "b.obj", unit="m")
    corners = mesh.vertices[mesh.faces].astype(float)
    areas = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    np.testing.assert_allclose(np.sort(areas), [0.005, 0.015], rtol=1e-6)
    (tmp_path / "c.obj").write_text(triangle.format(z=0, y=1) + "f -4 -2 -1\n")
    with pytest.raises(MeshError, match=r"line 4: a face refers 4 back, where 3 are before it"):
        Mesh.load(tmp_path / "c.obj", unit="m")


def _without(path: Path, name: str) -> Path:
    (path.parent / name).unlink()
    return path


MISSING = {
    "obj texture": (lambda d: _without(assets.obj_quad(d, assets.texture()), "skin.png"), "'skin.png' is missing"),
    "obj mtl": (lambda d: _without(assets.obj_quad(d, assets.texture()), "quad.mtl"), "'quad.mtl' is missing"),
    "ply texture": (
        lambda d: _without(assets.ply_quad(d, assets.texture(), layout="face"), "skin.png"),
        "'skin.png' is missing",
    ),
    "gltf texture": (
        lambda d: _without(gltf_writer.write(d / "a.gltf", image=assets.texture()), "skin.png"),
        "'skin.png' is missing",
    ),
    "dae texture": (lambda d: _without(assets.dae_quad(d, assets.texture()), "skin.png"), "'skin.png' is missing"),
}


@pytest.mark.parametrize("kind", MISSING, ids=list(MISSING))
def test_missing_assets_are_named(kind, tmp_path):
    make, message = MISSING[kind]
    path = make(tmp_path)
    with pytest.raises(MeshError, match=message):
        Mesh.load(path, unit="m")
    assert len(Mesh.load(path, unit="m", ignore_colors=True).faces) == 2


def test_missing_gltf_buffer(tmp_path):
    path = _without(gltf_writer.write(tmp_path / "a.gltf"), "data.bin")
    with pytest.raises(MeshError, match=r"'data\.bin' is missing"):
        Mesh.load(path, unit="m")


def test_undecodable_textures_are_named(tmp_path):
    path = assets.obj_quad(tmp_path, assets.texture(size=(64, 64)))
    data = (tmp_path / "skin.png").read_bytes()
    for broken in (b"no image at all", data[: len(data) // 2]):
        (tmp_path / "skin.png").write_bytes(broken)
        with pytest.raises(MeshError, match=r"'skin\.png' cannot be decoded"):
            Mesh.load(path, unit="m")


def test_undecodable_texture_inside_a_glb(tmp_path):
    path = gltf_writer.write(tmp_path / "a.glb", image_bytes=b"\xabKTX 20\xbb\r\n\x1a\n and more")
    with pytest.raises(MeshError, match="material 'skin' cannot be decoded"):
        Mesh.load(path, unit="m")
    assert Mesh.load(path, unit="m", ignore_colors=True).textures == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"header_extra": {"extensionsUsed": ["KHR_draco_mesh_compression"]}}, "KHR_draco_mesh_compression"),
        ({"texture_extra": {"texCoord": 1}}, "second texture coordinates"),
    ],
)
def test_gltf_features_that_would_be_read_wrongly(options, message, tmp_path):
    path = gltf_writer.write(tmp_path / "a.glb", image=assets.texture(), **options)
    with pytest.raises(MeshError, match=message):
        Mesh.load(path, unit="m")


def test_ply_that_names_a_texture_without_coordinates(tmp_path):
    path = assets.ply_colored(tmp_path)
    path.write_text(path.read_text().replace("element vertex", "comment TextureFile skin.png\nelement vertex", 1))
    assets.save_png(tmp_path / "skin.png", assets.texture())
    with pytest.raises(MeshError, match="no texture coordinates"):
        Mesh.load(path, unit="m")


def test_non_finite_texture_coordinates():
    quad = assets.trimesh_quad(assets.texture())
    quad.visual.uv = np.full((4, 2), np.nan)
    with pytest.raises(MeshError, match="texture coordinates hold NaN"):
        Mesh.load(quad, unit="m")


def test_text_that_is_not_utf8(tmp_path, monkeypatch):
    """Names and comments in another encoding do no harm, with no package that guesses encodings."""
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)
    obj = assets.obj_quad(tmp_path, assets.texture())
    for path in (obj, next(tmp_path.glob("*.mtl"))):
        path.write_bytes(b"# gr\xfc\xdfe\n" + path.read_bytes())
    assert len(Mesh.load(obj, unit="m").textures) == 1
    for name, old, new, options in (
        ("a.ply", b"1.0\n", b"1.0\ncomment gr\xfc\xdfe\n", {}),
        ("b.ply", b"1.0\n", b"1.0\ncomment gr\xfc\xdfe\n", {"encoding": "ascii"}),
        ("a.stl", b"solid", b"solid gr\xfc\xdfe", {"file_type": "stl_ascii"}),
        ("a.off", b"OFF\n", b"OFF\n# gr\xfc\xdfe\n", {}),
    ):
        path = _export(tmp_path / name, **options)
        path.write_bytes(path.read_bytes().replace(old, new, 1))
        assert len(Mesh.load(path, unit="m").faces) == len(_sphere().faces), name


def test_binary_stl_says_how_much_is_missing(tmp_path):
    path = _export(tmp_path / "a.stl")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(MeshError, match=rf"1000 of {len(whole)} bytes"):
        Mesh.load(path, unit="m")
    path.write_bytes(whole + b"appended by an exporter")
    assert len(Mesh.load(path, unit="m").faces) == len(_sphere().faces)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_centre_must_be_finite(value):
    mesh = Mesh.load(_sphere(), unit="m")
    with pytest.raises(MeshError, match="centre"):
        dataclasses.replace(mesh, centre=np.array([0.0, value, 0.0]))


def test_a_mesh_keeps_what_it_was_given():
    """Its arrays cannot be changed from outside, and the caller's own stay as they were."""
    mesh = Mesh.load(_sphere(), unit="m")
    vertices, texture = mesh.vertices.copy(), np.zeros((2, 2, 3), np.uint8)
    other = dataclasses.replace(mesh, vertices=vertices, textures=(texture,))
    vertices += 1.0
    texture += 9
    np.testing.assert_array_equal(other.vertices, mesh.vertices)
    assert not other.textures[0].any()
    with pytest.raises(ValueError, match="read-only"):
        other.textures[0][:] = 1
