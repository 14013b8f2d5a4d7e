"""OBJ and MTL as exporters write them, and files that were cut off."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import MeshError
from coop_edge.mesh import Mesh
from coop_edge.mesh.parts import TRANSPARENCY
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
        "v 0 0 0\nv .1 0 \\  \n0\nv 0 .1 0\nf 1 \\\t\r\n2 \\\r\n3\n",
        "v 0 0 0\rv .1 0 \\\r0\rv 0 .1 0\rf 1 2\\\r 3\r",
        "\ufeff" + TRIANGLE + "f -3 -2 -1\n",
        "v 0 0 0 1\nv .1 0 0 1\nv 0 .1 0 1\nf 1 2 3\n",
        "v 0 0 0\nv 1e-1 0 0\nv 0 +.1 0\nf 1 2 3\n",
    ],
)
def test_ways_to_write_a_triangle(text, tmp_path):
    mesh = load(tmp_path, text)
    assert surface.area(mesh) == pytest.approx(0.005)
    assert mesh.notes == ()


TETRAHEDRON = "v 0 0 0\nv .1 0 0\nv 0 .1 0\nv 0 0 .1\n"
SIDES = "f 1 3 2\nf 1 2 4\nf 2 3 4\nf 3 1 4\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "line",
    [
        "# from C:\\models\\",
        "#\\",
        "g C:\\a\\",
        "g a \\",
        "o part\\",
        "usemtl C:\\a\\",
        "s off\\",
        "vendor C:\\a\\",
        "vn 0 0 1 # \\",
    ],
)
def test_a_backslash_behind_a_comment_or_a_name_goes_on_nowhere(line, end, tmp_path):
    text = f"{line}\n{TETRAHEDRON}{line}\n{SIDES}{line}\nf 1 2 3\n".replace("\n", end)
    (tmp_path / "a.obj").write_bytes(text.encode())
    mesh = Mesh.load(tmp_path / "a.obj", unit="m")
    assert len(mesh.faces) == 5
    np.testing.assert_allclose(mesh.centre, 0.05, atol=1e-9)


@pytest.mark.parametrize("line", ["# from C:\\tmp\\", "newmtl red # old\\", "newmtl C:\\red\\", "map_Kd C:\\red\\"])
def test_a_backslash_in_a_library_swallows_nothing(line, tmp_path):
    mtl = f"newmtl grey\n{line}\nnewmtl red\nKd 1 0 0\n" if "newmtl" not in line else f"{line}\nKd 1 0 0\n"
    if line.startswith("map"):
        mtl = "newmtl red\nKd 1 0 0 \\\nnewmtl other\n"
    name = r"C:\red\ ".strip() if "newmtl C" in line else "red"
    mesh = load(tmp_path, f"mtllib m.mtl\n{TRIANGLE}usemtl {name}\nf 1 2 3\n", mtl)
    assert (mesh.corner_colors == RED).all()


def test_what_goes_on_in_the_next_line_of_libraries(tmp_path):
    (tmp_path / "n.mtl").write_text("newmtl b\nKd 0 1 0\n")
    mtl = "newmtl a\nKd 1 \\\n 0 \\  \n0\n"
    mesh = load(tmp_path, f"mtllib m.mtl \\\n n.mtl\n{TWO}usemtl a\nf 1 2 4\nusemtl b\nf 1 4 3\n", mtl)
    assert surface.all_colors(mesh) == [(0, 255, 0), RED]


@pytest.mark.parametrize("end", ["f 1 2 3 \\", "f 1 2 3 \\\nf 1 2 3\n", "f 1 2 \\\n# 3\n"])
def test_a_backslash_before_nothing_is_an_error(end, tmp_path):
    with pytest.raises(MeshError, match=r"line 4: .*corners"):
        load(tmp_path, TRIANGLE + end)


def test_lines_are_numbered_as_in_the_file(tmp_path):
    with pytest.raises(MeshError, match="line 6: a face refers to number 0"):
        load(tmp_path, "v 0 0 \\\n0\nv .1 0 0\nv 0 .1 0\n\nf 1 2 0\n")


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


ANNOUNCED = """# 4 faces|# Faces: 4|#Faces:4|# faces 4|# Number of faces: 4|# 4 polygons|# 0 polygons - 4 triangles
# 2 polygons - 4 triangles|# vertices: 4, faces: 4|# 4 vertices, 4 faces|# 1,004 faces|# Mesh has 4 faces
# face count: 4|# facets: 4|# 4 elements|# triangles = 4|# 4 triangles in group|# 4 facets|# numfaces 4
#  4  faces, 0 materials
# FaceCount=4|# face_count: 4|# num_faces = 4|# Vertices 4 Faces 4 Normals 0|## 4 normals 4 verts 4 tris|# polys: 4
# (4 faces)|# 4 vertices 4 texture coordinates 4 faces|# no. of faces: 4|# total: 4 faces|# The file contains 4 faces
# Faces: 4 Materials: 1|# total faces 4|# 4 face(s)
# 4 triangle faces|# elements: 4|# faces=4;verts=4|# vert count: 4 face count: 4|# facecount 4""".replace(
    "\n", "|"
).split("|")


class TestAnnouncements:
    @pytest.mark.parametrize("comment", ANNOUNCED)
    def test_fewer_faces_than_a_comment_announces(self, comment, tmp_path):
        for text in (f"{comment}\n{TETRAHEDRON}{SIDES[:16]}", f"{TETRAHEDRON}{comment}\n{SIDES[:16]}"):
            with pytest.raises(MeshError, match="cut off: its comments announce"):
                load(tmp_path, text)

    @pytest.mark.parametrize("comment", [c for c in ANNOUNCED if "1,004" not in c and "- 4" not in c])
    def test_as_many_as_a_comment_announces(self, comment, tmp_path):
        for text in (f"{comment}\n{TETRAHEDRON}{SIDES}", f"{TETRAHEDRON}{SIDES}{comment}\n"):
            assert load(tmp_path, text).notes == ()

    @pytest.mark.parametrize(
        "comment",
        [
            "# face 7", "# faces 1-9", "# faces 0..9", "# facet: 9", "# reduced from 100 faces", "# f 1 2 3", "# 9",
            "# at most 9000 faces per group, max 100000 faces", "# 2024-01-02 12:30", "# v1.9, faces", "# group 9",
            "# cube9 faces up", "# 90% of the faces", "# 9 materials, 4 faces", "# exported by Face2Mesh 9.1",
        ],
    )  # fmt: skip
    def test_other_numbers(self, comment, tmp_path):
        assert load(tmp_path, f"{comment}\n{TETRAHEDRON}{SIDES}").notes == ()

    def test_what_may_be_of_something_else_is_a_note(self, tmp_path):
        mesh = load(tmp_path, f"# cube of Anna: 9 faces\n{TETRAHEDRON}{SIDES}")
        assert mesh.notes == ("comments announce 9 faces, the file holds 4: it may be cut off",)

    @pytest.mark.parametrize(
        "text",
        [
            "# 4 faces\n# 2 faces\ng a\nF\nF\n# 2 faces\ng b\nF\nF\n",
            "g a\nF\nF\n# 2 faces\ng b\nF\nF\n# 2 faces\n# 4 faces\n",
            "g a\n# 3 faces\nF\nF\nF\ng b\n# 1 faces\nF\n",
            "g a\n# 2 faces\nF\nF\ng b\n# 2 faces\nF\nF\n",
            "# object a\nF\n# 1 polygons - 0 triangles\n# object b\nQ\n# 1 polygons - 2 triangles\n",
            "# 1 polygons - 2 triangles\nQ\nF\nF\n",
            "# 3 polygons - 2 triangles\nQ\nF\nF\n",
            "# 2 faces, 3 triangles\nQ\nF\n",
            "# 3 triangles\nQ\nF\n",
            "# 1 quads, 2 triangles\nQ\nF\nF\n",
            "# 3 faces, 1 quads, 2 triangles\nQ\nF\nF\n",
            "g a\nF\ng b\nF\nF\n# 2 faces\n",
            "# faces: 3\nF\nF\nF\n# faces: 3\n",
            "# triangles: 5\ng a\nF\nF\n# 2 triangles\ng b\nF\nF\nF\n# 3 triangles\n",
        ],
    )
    def test_group_by_group(self, text, tmp_path):
        lines = text.replace("F", "f 1 2 4").replace("Q", "f 1 2 4 3").replace("f 1 2 4aces", "Faces")
        mesh = load(tmp_path, TWO + lines)
        assert mesh.notes == () or "cut off" not in str(mesh.notes)

    @pytest.mark.parametrize(
        "text",
        [
            "g a\n# 3 faces\nF\nF\nF\ng b\n# 3 faces\nF\n",
            "# 6 faces\n# 3 faces\ng a\nF\nF\nF\n# 3 faces\ng b\nF\nF\n",
            "# triangles: 6\ng a\nF\nF\n# 2 triangles\ng b\nF\nF\n",
            "# 2 polygons - 4 triangles\nQ\n",
            "# 4 triangles\nQ\nF\n",
            "# 3 quads\nQ\n",
        ],
    )
    def test_cut_off_in_a_group(self, text, tmp_path):
        with pytest.raises(MeshError, match="cut off: its comments announce"):
            load(tmp_path, TWO + text.replace("F", "f 1 2 4").replace("Q", "f 1 2 4 3"))

    def test_thousands_of_groups(self, tmp_path):
        text = TWO + "".join(f"g {i}\nf 1 2 4\nf 1 4 3\n# 2 faces\n" for i in range(20_000))
        assert not any("cut off" in note for note in load(tmp_path, text).notes)


@pytest.mark.parametrize(("second", "notes"), [("Kd 0 1 0", 1), ("Kd 1 0 0", 1)])
def test_two_materials_of_one_name(second, notes, tmp_path):
    text = f"mtllib m.mtl\n{TRIANGLE}usemtl a\nf 1 2 3\n"
    mesh = load(tmp_path, text, f"newmtl a\nKd 1 0 0\nnewmtl a\n{second}\n")
    assert (mesh.corner_colors == RED).all()
    assert mesh.notes == ("m.mtl, line 3: there is a material 'a' already: the first counts",)
    (tmp_path / "n.mtl").write_text(f"newmtl a\n{second}\n")
    mesh = load(tmp_path, text.replace("m.mtl", "m.mtl n.mtl"), "newmtl a\nKd 1 0 0\n")
    assert (mesh.corner_colors == RED).all()
    assert mesh.notes == ("material 'a' is in two libraries: the first counts",)


@pytest.mark.parametrize("dark", ["", "Kd 0 0 0\n", "Kd 0.0\n"])
@pytest.mark.parametrize("glow", ["Ke 1 0 0\n", "ke 1.0 0.0 0.0\n", "map_Ke red.png\n", "Ke 0 0 0\nmap_Ke red.png\n"])
def test_materials_that_only_shine(dark, glow, tmp_path):
    assets.save_png(tmp_path / "red.png", np.full((4, 4, 3), RED, np.uint8))
    text = f"mtllib m.mtl\n{TRIANGLE}vt .2 .2\nusemtl a\nf 1/1 2/1 3/1\n"
    mesh = load(tmp_path, text, f"newmtl a\n{dark}{glow}")
    assert surface.all_colors(mesh) == [RED]
    assert mesh.notes == ("material 'a' has no colour but the light that it gives off: taken as its colour",)
    mesh = load(tmp_path, text, f"newmtl a\nKd 0 1 0\n{glow}")
    assert surface.all_colors(mesh) == [(0, 255, 0)]
    assert any("is not read: material 'a' has a colour beside the light" in note for note in mesh.notes)
    assert load(tmp_path, text, "newmtl a\nKd 0 0 0\nKe 0 0 0\n").notes == ()


@pytest.mark.parametrize("line", ["d 0.5", "d 0.0", "d -halo 0.5", "map_d mask.png", "Tr 0.3", "map_Tr mask.png"])
def test_transparency_is_noted(line, tmp_path):
    text = f"mtllib m.mtl\n{TRIANGLE}usemtl a\nf 1 2 3\n"
    assert load(tmp_path, text, f"newmtl a\nKd 1 0 0\n{line}\n").notes == (TRANSPARENCY,)
    for plain in ("d 1.0", "Tr 0", "Tr 1", "d 1 # whole"):
        assert load(tmp_path, text, f"newmtl a\nKd 1 0 0\n{plain}\nnewmtl b\n{line}\n").notes == ()


def test_transparent_vertices_are_noted(tmp_path):
    rows = "v 0 0 0 1 0 0 {0}\nv .1 0 0 1 0 0 1\nv 0 .1 0 1 0 0 1\nf 1 2 3\n"
    assert load(tmp_path, rows.format(0.5)).notes == (TRANSPARENCY,)
    assert load(tmp_path, rows.format(1)).notes == ()


def test_statements_that_are_there_twice_are_noted(tmp_path):
    text = f"mtllib m.mtl\n{TRIANGLE}usemtl a\nf 1 2 3\n"
    mesh = load(tmp_path, text, "newmtl a\nKd 0 1 0\nKd 1 0 0\n")
    assert surface.all_colors(mesh) == [RED]
    assert mesh.notes == ("m.mtl, line 3: Kd of 'a' is there twice: the last counts",)
    assets.save_png(tmp_path / "skin.png", assets.texture())
    notes = load(tmp_path, text, "newmtl a\nmap_Kd skin.png\nmap_Kd skin.png\n").notes
    assert "m.mtl, line 3: map_Kd of 'a' is there twice: the last counts" in notes
    assert "m.mtl: lines that begin with 'colour' are not read" in load(tmp_path, text, "newmtl a\ncolour 1\n").notes


def test_colors_of_two_scales_are_noted(tmp_path):
    mesh = load(tmp_path, "v 0 0 0 255 0 0\nv .1 0 0 0 .5 0\nv 0 .1 0 255 0 0\nf 1 2 3\n")
    assert mesh.notes == ("colours below 1 beside others up to 255: all of them are taken as 0..255",)


def test_what_belongs_to_no_material_is_noted(tmp_path):
    text = f"mtllib m.mtl\n{TRIANGLE}usemtl a\nf 1 2 3\n"
    mesh = load(tmp_path, text, "# c\n\nKd 1 0 0\nnewmtl a\nKd 0 1 0\n")
    assert mesh.notes == ("m.mtl, line 3: what stands before the first newmtl is of no material: not read",)


def test_normals_behind_positions_are_no_colors(tmp_path):
    mesh = load(tmp_path, "v 0 0 0 -.5 -.5 -.7\nv .1 0 0 1 0 0\nv 0 .1 0 0 1 0\nf 1 2 3\n")
    assert surface.all_colors(mesh) == [(200, 200, 200)]
    assert any("look like normals" in note for note in mesh.notes)


def test_textures_that_no_material_names_are_noted(tmp_path):
    notes = load(tmp_path, f"maplib x\n{TRIANGLE}usemap red\nf 1 2 3\n").notes
    assert len(notes) == 2
    assert all("are not read, those of materials" in note for note in notes)


@pytest.mark.parametrize(
    "mtl",
    [
        "newmtl a\nKd 1 0 0\n",
        "newmtl\ta\n\tKd\t1\t0\t0\n",
        "newmtl a # skin\nKd 1 0 0 # red\n",
        "newmtl a\nkd 1.0 0.0 0.0\nKs 1 1 1\n",
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
    "libraries",
    [
        "mtllib one.mtl two.mtl",
        "mtllib one.mtl\nmtllib two.mtl",
        'mtllib "one.mtl" "two.mtl"',
        'mtllib "one.mtl" two.mtl # c',
        'mtllib one.mtl "two.mtl"',
    ],
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
