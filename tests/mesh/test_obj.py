"""OBJ and MTL as exporters write them, and files that were cut off."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import MeshError
from coop_edge.mesh import Mesh
from tests.mesh import assets, surface
from tests.oracles.texture import color_at

TRIANGLE = "v 0 0 0\nv .1 0 0\nv 0 .1 0\n"
RED = (255, 0, 0)


def load(folder, text: str, mtl: str | None = None, **options) -> Mesh:
    if mtl is not None:
        (folder / "m.mtl").write_text(mtl)
    (folder / "a.obj").write_text(text)
    return Mesh.load(folder / "a.obj", unit="m", **options)


@pytest.mark.parametrize(
    "text",
    [
        "v\t0\t0\t0\nv .1   0 0\nv\t0 .1 0\nf\t1 2\t3\n",
        "  v 0 0 0\n\tv .1 0 0\n v 0 .1 0\n \tf 1 2 3\n",
        "v 0 0 0 # a\nv .1 0 0# b\nv 0 .1 0   #c\nf 1 2 3 # d\n",
        "v 0 0 \\\n0\nv .1 0 0\nv 0 .1 0\nf 1 \\\n2 3\n",
        "v 0 0 0\r\nv .1 0 0\r\nv 0 .1 0\r\nf 1 2 3\r\n",
        "v 0 0 0\rv .1 0 0\rv 0 .1 0\rf 1 2 3\r",
        "f 1 2 3\n" + TRIANGLE,
        TRIANGLE + "f 1// 2// 3//\n",
        TRIANGLE + "vn 0 0 1\nf 1//1 2//1 3//1\n",
        TRIANGLE + "fo 1 2 3\n",
        "\ufeff" + TRIANGLE + "f -3 -2 -1\n",
        "v 0 0 0 1\nv .1 0 0 1\nv 0 .1 0 1\nf 1 2 3\n",
        "v 0 0 0\nv 1e-1 0 0\nv 0 +.1 0\nf 1 2 3\n",
    ],
)
def test_ways_to_write_a_triangle(text, tmp_path):
    mesh = load(tmp_path, text)
    assert surface.area(mesh) == pytest.approx(0.005)
    assert mesh.notes == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TRIANGLE + "f 1 2 0\n", "line 4: a face refers to number 0"),
        (TRIANGLE + "f 1 2 x\n", "line 4: '1 2 x' are not the corners of a face"),
        (TRIANGLE + "f 1/1 2/2 3\n", "line 4: the corners of a face are not written alike"),
        (TRIANGLE + f"f 1 2 {10**400}\n", "refers to vertex"),
        ("v 0,5 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", r"vertices: '0,5' is not a number: decimals want a point"),
        ("v 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "a vertex has 2 numbers"),
        (TRIANGLE + "cstype bezier\nsurf 0 1 0 1 1 2 3\n", "line 5: 'surf': curved surfaces are not read"),
    ],
)
def test_damaged_files(text, says, tmp_path):
    with pytest.raises(MeshError, match=says):
        load(tmp_path, text)


TWO = "v 0 0 0\nv .1 0 0\nv 0 .1 0\nv .1 .1 0\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"# 2 faces\n{TWO}f 1 2 4\n", "announce 2 faces, it holds 1"),
        (f"# Vertices: 4\n# Faces: 2\n{TWO}f 1 2 4\n", "announce 2 faces, it holds 1"),
        (f"# 4 polygons\n{TWO}f 1 2 4 3\nf 1 2 4 3\nf 4 2 1 3\n", "announce 4 faces, it holds 3"),
        (f"{TWO}g a\nf 1 2 4\n# 1 faces\ng b\n# 2 faces\nf 1 4 3\n", "announce 3 faces, it holds 2"),
        (f"{TWO}f 1 2 4\nf 1 4\n", "line 6: a face of 2 corners"),
        (f"{TWO}f 1//1 2//1 4//1\nf 1//1 4//1 3/\n", "line 6: the corners of a face are not written alike"),
    ],
)
def test_files_that_were_cut_off(text, says, tmp_path):
    with pytest.raises(MeshError, match=says):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{TWO}f 1 2 3\n", "the last 1 of 4 vertices belong to no face: the file may be cut off"),
        (f"{TWO}f 1 2 4\nf 1 4 3", "the last line is a face and has no end: the file may be cut off"),
        (f"{TWO}g a\nf 1 2 4\n# 1 faces\ng b\nf 1 4 3\n", "announce 1 faces, the file holds 2"),
    ],
)
def test_signs_of_a_cut_are_noted(text, says, tmp_path):
    assert any(says in note for note in load(tmp_path, text).notes)


@pytest.mark.parametrize(
    "text",
    [
        f"# 2 faces\n{TWO}f 1 2 4\nf 1 4 3\n",
        f"# 1 polygons - 2 triangles\n{TWO}f 1 2 4 3\n",
        f"# 2 faces\n{TWO}f 1 2 4 3\n",  # counted as triangles
        f"# 2 faces\n{TWO}g a\nf 1 2 4\n# 1 faces\ng b\nf 1 4 3\n# 1 faces\n",
        f"# made from a scan of 100 faces by hand\n{TWO}f 1 2 4\nf 1 4 3\n",
    ],
)
def test_counts_that_fit(text, tmp_path):
    mesh = load(tmp_path, text)
    assert len(mesh.faces) == 2
    assert mesh.notes == ()


@pytest.mark.parametrize(
    "mtl",
    [
        "newmtl a\nKd 1 0 0\n",
        "newmtl\ta\n\tKd\t1\t0\t0\n",
        "newmtl a # skin\nKd 1 0 0 # red\n",
        "newmtl a\nkd 1.0 0.0 0.0\nKs 1 1 1\n",
        "newmtl a\nKd 1 0 0\nnewmtl a\nKd 0 1 0\n",
    ],
)
@pytest.mark.parametrize("use", ["usemtl a", "\tusemtl\ta ", "usemtl a # red", 'usemtl "a"'])
def test_ways_to_write_a_color(mtl, use, tmp_path):
    mesh = load(tmp_path, f"mtllib m.mtl\n{TRIANGLE}{use}\nf 1 2 3\n", mtl)
    assert (mesh.corner_colors == RED).all()
    assert mesh.notes == ()


def test_names_may_hold_the_sign_of_a_comment(tmp_path):
    mesh = load(tmp_path, f"mtllib m.mtl\n{TRIANGLE}usemtl Material #25\nf 1 2 3\n", "newmtl Material #25\nKd 1 0 0\n")
    assert (mesh.corner_colors == RED).all()


@pytest.mark.parametrize(
    "libraries", ["mtllib one.mtl two.mtl", "mtllib one.mtl\nmtllib two.mtl", 'mtllib "one.mtl" "two.mtl"']
)
def test_several_libraries(libraries, tmp_path):
    (tmp_path / "one.mtl").write_text("newmtl a\nKd 1 0 0\n")
    (tmp_path / "two.mtl").write_text("newmtl b\nKd 0 1 0\n")
    mesh = load(tmp_path, f"{libraries}\n{TWO}usemtl a\nf 1 2 4\nusemtl b\nf 1 4 3\n")
    assert surface.all_colors(mesh) == [(0, 255, 0), RED]


def test_a_library_with_spaces_in_its_name(tmp_path):
    (tmp_path / "my skin.mtl").write_text("newmtl a\nKd 1 0 0\n")
    mesh = load(tmp_path, f"mtllib my skin.mtl\n{TRIANGLE}usemtl a\nf 1 2 3\n")
    assert (mesh.corner_colors == RED).all()


def test_a_library_that_no_face_uses_is_noted(tmp_path):
    mesh = load(tmp_path, f"mtllib m.mtl\n{TRIANGLE}f 1 2 3\n", "newmtl a\nKd 1 0 0\n")
    assert any("no face a material (usemtl)" in note for note in mesh.notes)
    assert mesh.color_summary == "no colours"


@pytest.mark.parametrize(
    ("mtl", "says"),
    [
        ("newmtl a\nKd 0,5 0 0\n", r"m\.mtl, line 2: Kd: '0,5' is not a number: decimals want a point"),
        ("newmtl a\nKd\n", "Kd: has no value"),
        ("newmtl a\nKd 1 0\n", "Kd: wanted R G B"),
        ("newmtl a\nKd nan 0 0\n", "finite"),
        ("newmtl a\nmap_Kd -s\n", "lacks its value"),
    ],
)
def test_damaged_libraries(mtl, says, tmp_path):
    with pytest.raises(MeshError, match=says):
        load(tmp_path, f"mtllib m.mtl\n{TRIANGLE}usemtl a\nf 1 2 3\n", mtl)


def test_colors_that_are_not_read_are_noted(tmp_path):
    text = f"mtllib m.mtl\n{TRIANGLE}usemtl a\nf 1 2 3\n"
    assert any(
        "Kd spectral is not read" in note for note in load(tmp_path, text, "newmtl a\nKd spectral a.rfl\n").notes
    )
    grey = load(tmp_path, text, "newmtl a\nKd 0.5\n")
    assert (grey.corner_colors == 128).all()
    assert any("map_Ke is not read" in n for n in load(tmp_path, text, "newmtl a\nKd 1 0 0\nmap_Ke a.png\n").notes)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("map_Kd skin.png", "skin.png"),
        ("map_kd skin.png # the skin", "skin.png"),
        ('map_Kd "skin.png"', "skin.png"),
        ('map_Kd "my skin.png" # c', "my skin.png"),
        ("map_Kd my skin.png", "my skin.png"),
        ("map_Kd skin #1.png", "skin #1.png"),
        ("\tmap_Kd\t-blendu on -texres 512 -bm 1.0 skin.png", "skin.png"),
        ("map_Kd -o 0 0 0 -s 1 1 1 skin.png", "skin.png"),
        ("map_Kd -s 1 1 skin.png", "skin.png"),
        ("map_Kd -clamp off skin.png", "skin.png"),
        ("map_Kd .\\skin.png", "skin.png"),
        ("map_Kd -skin.png", "-skin.png"),
    ],
)
def test_ways_to_name_a_texture(line, name, tmp_path):
    image = assets.texture()
    path = assets.obj_quad(tmp_path, image, name=name)
    (tmp_path / "quad.mtl").write_text(f"newmtl skin\n{line}\n")
    mesh = Mesh.load(path, unit="m")
    for point, color in assets.texel_points(image):
        np.testing.assert_allclose(color_at(mesh, point), color, atol=0.01)
    assert mesh.notes == ()


def test_options_that_move_a_texture(tmp_path):
    image = assets.texture()  # 8 x 4
    path = assets.obj_quad(tmp_path, image)
    (tmp_path / "quad.mtl").write_text("newmtl skin\nmap_Kd -s 2 0.5 1 -o 0.125 0.25 0 skin.png\n")
    mesh = Mesh.load(path, unit="m")
    for column in range(16):
        for row in range(2):
            u, v = (column + 0.5) / 16, (row + 0.5) / 2
            want = image[3 - int((0.5 * v + 0.25) * 4), int((2 * u + 0.125) * 8) % 8]
            np.testing.assert_allclose(color_at(mesh, (u * 0.08, v * 0.04, 0)), want, atol=0.1)


def test_a_clamped_texture(tmp_path):
    image = assets.texture()
    path = assets.obj_quad(tmp_path, image)
    (tmp_path / "quad.mtl").write_text("newmtl skin\nmap_Kd -clamp on -s 3 1 -o -1 0 skin.png\n")
    mesh = Mesh.load(path, unit="m")
    np.testing.assert_allclose(color_at(mesh, (0.01, 0.005, 0)), image[3, 0], atol=0.1)
    np.testing.assert_allclose(color_at(mesh, (0.07, 0.035, 0)), image[0, 7], atol=0.1)


def test_vertex_colors_of_some_vertices(tmp_path):
    text = "v 0 0 0 1 0 0\nv .1 0 0 1 0 0\nv 0 .1 0 1 0 0\nv .1 .1 0\nf 1 2 3\nf 2 4 3\n"
    mesh = load(tmp_path, text)
    assert surface.all_colors(mesh) == [(200, 200, 200), RED]
    assert any("1 of 4 vertices have no colour" in note for note in mesh.notes)
    assert mesh.color_summary == "colours on 50% of the faces"


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_vertex_colors_with_alpha(scale, tmp_path):
    rows = "".join(f"v {x} {y} 0 {scale} 0 {0.5 * scale} {scale}\n" for x, y in ((0, 0), (0.1, 0), (0, 0.1)))
    mesh = load(tmp_path, rows + "f 1 2 3\n")
    assert (np.abs(mesh.corner_colors.astype(int) - (255, 0, 128)) <= 1).all()


def test_lines_and_unknown_words_are_noted(tmp_path):
    mesh = load(tmp_path, TRIANGLE + "f 1 2 3\nl 1 2\nfoo 3\n#MRGB ff00\n")
    assert len(mesh.notes) == 3


def test_faces_with_and_without_coordinates_in_one_material(tmp_path):
    path = assets.obj_quad(tmp_path, assets.texture())
    path.write_text(path.read_text().replace("f 1/1 3/3 4/4", "f 1 3 4"))
    mesh = Mesh.load(path, unit="m")
    assert sorted(mesh.face_texture.tolist()) == [-1, 0]
    assert any("faces without coordinates" in note for note in mesh.notes)
