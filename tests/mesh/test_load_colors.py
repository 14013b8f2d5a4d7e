"""Colours, format by format, looked up at known points of the surface with the slow oracle."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from PIL import Image

from coop_edge.errors import InputError
from coop_edge.mesh import DEFAULT_ALBEDO, Mesh
from coop_edge.mesh.parts import TRANSPARENCY
from tests.mesh import assets, gltf_writer
from tests.oracles.texture import color_at, lookup

VERTEX_COLORS = np.array([[250, 10, 20], [10, 240, 30], [20, 30, 230], [200, 210, 60]])
INNER = [np.array([0.05, 0.01, 0.0]), np.array([0.01, 0.03, 0.0])]  # one point in each triangle


def _in_memory(folder, image, pbr=False):
    return assets.trimesh_quad(image, pbr=pbr)


TEXTURED = {
    "obj": assets.obj_quad,
    "ply vertex st": lambda d, i: assets.ply_quad(d, i, layout="vertex st"),
    "ply vertex texture_uv binary": lambda d, i: assets.ply_quad(d, i, layout="vertex texture_uv", binary=True),
    "ply face": lambda d, i: assets.ply_quad(d, i, layout="face"),
    "ply face binary": lambda d, i: assets.ply_quad(d, i, layout="face", binary=True),
    "glb": lambda d, i: gltf_writer.write(d / "quad.glb", image=i),
    "gltf": lambda d, i: gltf_writer.write(d / "quad.gltf", image=i),
    "dae": assets.dae_quad,
    "trimesh simple material": _in_memory,
    "trimesh PBR material": lambda d, i: _in_memory(d, i, pbr=True),
}


@pytest.mark.parametrize("source", TEXTURED, ids=list(TEXTURED))
def test_texture_stands_upright(source, tmp_path):
    image = assets.texture()
    mesh = Mesh.load(TEXTURED[source](tmp_path, image), unit="m")
    assert (mesh.face_texture == 0).all()
    assert len(mesh.textures) == 1
    for point, color in assets.texel_points(image):
        np.testing.assert_allclose(color_at(mesh, point), color, atol=0.01)


def test_surface_color_agrees_with_the_oracle():
    rng = np.random.default_rng(1)
    mesh = Mesh.load(assets.trimesh_quad(assets.texture(3)), unit="m")
    weights = rng.dirichlet((1, 1, 1), 200)
    faces = rng.integers(0, 2, 200)
    got = mesh.surface_color(faces, weights)
    for color, face, w in zip(got, faces, weights, strict=True):
        np.testing.assert_allclose(color, lookup(mesh.textures[0], *(w @ mesh.corner_uv[face])), atol=1e-3)
    assert mesh.surface_color(np.zeros(0, int), np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(InputError, match="face indices"):
        mesh.surface_color([2], [[1.0, 0.0, 0.0]])
    with pytest.raises(InputError, match="barycentric"):
        mesh.surface_color([0], [[1.0, 0.0]])


def test_texture_repeats_outside_the_unit_square():
    image = assets.texture()
    quad = assets.trimesh_quad(image)
    quad.visual.uv = assets.QUAD_UV + (3.0, -2.0)
    mesh = Mesh.load(quad, unit="m")
    for point, color in assets.texel_points(image):
        np.testing.assert_allclose(color_at(mesh, point), color, atol=0.05)  # float32 coordinates around 3


def test_obj_with_textured_and_plain_materials(tmp_path):
    """Two textures, two diffuse colours and one face group without material, in one file."""
    one, two = assets.texture(1), assets.texture(2)
    assets.save_png(tmp_path / "one.png", one)
    (tmp_path / "sub dir").mkdir()
    assets.save_png(tmp_path / "sub dir" / "two.png", two)
    (tmp_path / "m.mtl").write_text(
        "newmtl a\nmap_Kd one.png\nnewmtl b\nmap_Kd sub dir\\two.png\nnewmtl c\nKd 1 0.5 0\nnewmtl d\nKd 0 0.2 1\n"
    )
    lines, offset = ["mtllib m.mtl"], 0
    for i, (material, coordinates) in enumerate(zip("abcd", (True, True, True, False), strict=True)):
        lines += [f"v {x} {y} {z + 0.1 * i}" for x, y, z in assets.QUAD]
        lines += [f"vt {u} {v}" for u, v in assets.QUAD_UV]
        lines.append(f"usemtl {material}")
        for a, b, c in ((1, 2, 3), (1, 3, 4)):
            k = [a + offset, b + offset, c + offset]
            lines.append("f " + " ".join(f"{j}/{j}" if coordinates else str(j) for j in k))
        offset += 4
    (tmp_path / "many.obj").write_text("\n".join(lines) + "\n")
    mesh = Mesh.load(tmp_path / "many.obj", unit="m")
    assert len(mesh.faces) == 8
    assert len(mesh.textures) == 2
    for height, image in ((0.0, one), (0.1, two)):
        for point, color in assets.texel_points(image):
            np.testing.assert_allclose(color_at(mesh, point + (0, 0, height)), color, atol=0.01)
    for height, color in ((0.2, (255, 128, 0)), (0.3, (0, 51, 255))):
        np.testing.assert_allclose(color_at(mesh, INNER[0] + (0, 0, height)), color, atol=0.6)


def test_obj_vertex_colors_survive_a_material_without_texture(tmp_path):
    rows = [
        f"v {x} {y} {z} {r / 255} {g / 255} {b / 255}"
        for (x, y, z), (r, g, b) in zip(assets.QUAD, VERTEX_COLORS, strict=True)
    ]
    (tmp_path / "q.mtl").write_text("newmtl plain\nKd 0.5 0.5 0.5\n")
    (tmp_path / "q.obj").write_text("\n".join(["mtllib q.mtl", *rows, "usemtl plain", "f 1 2 3", "f 1 3 4"]) + "\n")
    mesh = Mesh.load(tmp_path / "q.obj", unit="m")
    for corner, color in zip(assets.QUAD, VERTEX_COLORS, strict=True):
        np.testing.assert_allclose(color_at(mesh, corner), color, atol=0.5)


def test_obj_undefined_material_is_said(tmp_path):
    path = assets.obj_quad(tmp_path, assets.texture())
    path.write_text(path.read_text() + "usemtl (null)\nf 1/1 2/2 4/4\n")
    mesh = Mesh.load(path, unit="m")
    assert sorted(mesh.face_texture.tolist()) == [-1, 0, 0]
    assert mesh.notes == ("materials '(null)' are not defined: their faces take the albedo",)


def test_obj_coordinates_without_material_take_the_albedo(tmp_path):
    rows = [f"v {x} {y} {z}" for x, y, z in assets.QUAD] + [f"vt {u} {v}" for u, v in assets.QUAD_UV]
    (tmp_path / "q.obj").write_text("\n".join([*rows, "f 1/1 2/2 3/3", "f 1/1 3/3 4/4"]) + "\n")
    mesh = Mesh.load(tmp_path / "q.obj", unit="m", albedo=(1, 2, 3))
    assert (mesh.face_texture == -1).all()
    assert (mesh.corner_colors == (1, 2, 3)).all()


@pytest.mark.parametrize(("kind", "scale"), [("uchar", 1), ("ushort", 257), ("float", 1 / 255)])
@pytest.mark.parametrize("extra_uv", [False, True])
def test_ply_vertex_colors(kind, scale, extra_uv, tmp_path):
    path = assets.ply_colored(tmp_path, vertex=VERTEX_COLORS * scale, kind=kind, extra_uv=extra_uv)
    mesh = Mesh.load(path, unit="m")
    for corner, color in zip(assets.QUAD, VERTEX_COLORS, strict=True):
        np.testing.assert_allclose(color_at(mesh, corner), color, atol=0.5)


def test_ply_face_colors_and_precedence(tmp_path):
    faces = np.array([[10, 20, 30], [200, 100, 50]])
    mesh = Mesh.load(assets.ply_colored(tmp_path, face=faces), unit="m")
    for point, color in zip(INNER, faces, strict=True):
        np.testing.assert_array_equal(color_at(mesh, point).round(), color)
    both = Mesh.load(assets.ply_colored(tmp_path, face=faces, vertex=VERTEX_COLORS), unit="m")
    np.testing.assert_allclose(color_at(both, assets.QUAD[1]), VERTEX_COLORS[1], atol=0.5)


def _srgb(linear):
    linear = np.asarray(linear, float)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_gltf_factor_and_vertex_colors_are_linear_light(tmp_path):
    plain = Mesh.load(gltf_writer.write(tmp_path / "a.glb", factor=(0.5, 0.2, 1.0)), unit="m")
    np.testing.assert_allclose(plain.corner_colors[0, 0], _srgb((0.5, 0.2, 1.0)), atol=1)
    colors = np.array([(1, 0, 0), (0, 0.5, 0), (0, 0, 0.25), (1, 1, 1)])
    mesh = Mesh.load(gltf_writer.write(tmp_path / "b.glb", colors=colors), unit="m")
    tinted = Mesh.load(gltf_writer.write(tmp_path / "c.glb", colors=colors, factor=(0.5, 0.5, 0.5)), unit="m")
    for corner, color in zip(assets.QUAD, colors, strict=True):
        np.testing.assert_allclose(color_at(mesh, corner), _srgb(color), atol=1)
        np.testing.assert_allclose(color_at(tinted, corner), _srgb(0.5 * color), atol=1.5)


def test_gltf_factor_times_texture(tmp_path):
    image = np.full((2, 2, 3), 188, np.uint8)  # about one half in linear light
    mesh = Mesh.load(gltf_writer.write(tmp_path / "a.glb", image=image, factor=(0.5, 1.0, 1.0)), unit="m")
    linear = ((188 / 255 + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(mesh.textures[0][0, 0], [*_srgb([0.5 * linear]), 188, 188], atol=1)


def test_trimesh_glb_keeps_the_colors_it_was_given(tmp_path):
    """trimesh's exporter writes its sRGB colours as they are: they come back as they were."""
    quad = trimesh.Trimesh(assets.QUAD, assets.QUAD_FACES, vertex_colors=VERTEX_COLORS.astype(np.uint8), process=False)
    quad.export(tmp_path / "a.glb")
    for source in (quad, tmp_path / "a.glb"):
        mesh = Mesh.load(source, unit="m")
        for corner, color in zip(assets.QUAD, VERTEX_COLORS, strict=True):
            np.testing.assert_allclose(color_at(mesh, corner), color, atol=0.5)


def test_default_albedo_and_ignore_colors(tmp_path):
    bare = trimesh.Trimesh(assets.QUAD, assets.QUAD_FACES, process=False)
    assert (Mesh.load(bare, unit="m").corner_colors == DEFAULT_ALBEDO).all()
    textured = assets.obj_quad(tmp_path, assets.texture())
    mesh = Mesh.load(textured, unit="m", ignore_colors=True, albedo=(9, 8, 7))
    assert mesh.textures == ()
    assert (mesh.corner_colors == (9, 8, 7)).all()
    colored = Mesh.load(assets.ply_colored(tmp_path, vertex=VERTEX_COLORS), unit="m", ignore_colors=True)
    assert (colored.corner_colors == DEFAULT_ALBEDO).all()


def test_multi_material_in_memory():
    from trimesh.visual.material import MultiMaterial, SimpleMaterial

    image = assets.texture()
    skin = SimpleMaterial(image=Image.fromarray(image))
    red = SimpleMaterial(diffuse=(255, 0, 0, 255))
    visual = trimesh.visual.TextureVisuals(
        uv=assets.QUAD_UV, material=MultiMaterial(materials=[skin, red]), face_materials=[0, 1]
    )
    mesh = Mesh.load(trimesh.Trimesh(assets.QUAD, assets.QUAD_FACES, visual=visual, process=False), unit="m")
    assert sorted(mesh.face_texture.tolist()) == [-1, 0]
    np.testing.assert_array_equal(mesh.corner_colors[mesh.face_texture < 0], [[[255, 0, 0]] * 3])


def test_palette_grey_and_deep_images(tmp_path):
    grey = np.array([[0, 85], [170, 255]], np.uint8)
    images = {
        "grey.png": Image.fromarray(grey),
        "palette.png": Image.fromarray(np.repeat(grey[..., None], 3, axis=-1)).quantize(4),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "alpha.png": Image.fromarray(np.dstack([grey, grey, grey, np.full_like(grey, 128)])),
    }
    for name, image in images.items():
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        image.save(folder / name)
        mesh = Mesh.load(assets.obj_quad(folder, None, name=name), unit="m")
        np.testing.assert_array_equal(mesh.textures[0][..., 0], grey, err_msg=name)
        np.testing.assert_array_equal(mesh.textures[0][..., 2], grey, err_msg=name)


def test_large_texture_is_shrunk_and_said(tmp_path):
    image = np.zeros((16, 8192, 3), np.uint8)
    image[:, 4096:] = (255, 100, 0)
    mesh = Mesh.load(assets.obj_quad(tmp_path, image), unit="m")
    assert mesh.textures[0].shape == (8, 4096, 3)
    assert any("8192 x 16 shrunk to 4096 x 8" in note for note in mesh.notes)
    np.testing.assert_allclose(color_at(mesh, (0.06, 0.02, 0)), (255, 100, 0), atol=0.01)


@pytest.mark.parametrize("albedo", [(1, 2), (0, 0, 256), (-1, 0, 0), "red", (np.nan, 0, 0), [[1, 2, 3]]])
def test_albedo_is_checked(albedo):
    with pytest.raises(InputError, match="albedo"):
        Mesh.load(assets.trimesh_quad(assets.texture()), unit="m", albedo=albedo)


def test_a_tint_that_is_not_used_is_said(tmp_path):
    quad = assets.trimesh_quad(assets.texture(), pbr=True)
    assert Mesh.load(quad, unit="m").notes == ()
    quad.visual.material.baseColorFactor = [255, 128, 128, 255]
    quad.export(tmp_path / "a.glb")
    for source in (quad, tmp_path / "a.glb"):
        assert Mesh.load(source, unit="m").notes == (
            "the colour that trimesh keeps in a material beside its texture is not used",
        )


@pytest.mark.parametrize("mode", ["OPAQUE", "MASK", "BLEND", None])
def test_transparency_of_objects_in_memory_is_noted(mode):
    quad = assets.trimesh_quad(assets.texture(), pbr=True)
    quad.visual.material.alphaMode = mode
    assert (TRANSPARENCY in Mesh.load(quad, unit="m").notes) == (mode in ("MASK", "BLEND"))
    colored = trimesh.Trimesh(assets.QUAD, assets.QUAD_FACES, vertex_colors=[[9, 9, 9, 90]] * 4, process=False)
    assert Mesh.load(colored, unit="m").notes == (TRANSPARENCY,)
