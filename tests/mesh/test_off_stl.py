"""OFF and STL: the variants of the formats, and where they keep colours."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import MeshError
from coop_edge.mesh import Mesh
from coop_edge.mesh.parts import TRANSPARENCY
from tests.mesh import surface
from tests.mesh.assets import QUAD, QUAD_FACES
from tests.oracles.texture import color_at

AREA = 0.08 * 0.04
COLORS = np.array([[250, 10, 20], [10, 240, 30], [20, 30, 230], [200, 210, 60]])


def off(head: str = "OFF\n4 2 0", vertex=("", "", "", ""), face=("", ""), quad: bool = False) -> str:
    rows = [f"{x} {y} {z} {extra}" for (x, y, z), extra in zip(QUAD, vertex, strict=True)]
    if quad:
        return "\n".join([head.replace("4 2", "4 1"), *rows, f"4 0 1 2 3 {face[0]}"]) + "\n"
    faces = [f"3 {a} {b} {c} {extra}" for (a, b, c), extra in zip(QUAD_FACES, face, strict=True)]
    return "\n".join([head, *rows, *faces]) + "\n"


def load(folder, text: str | bytes, suffix: str = "off", **options) -> Mesh:
    path = folder / f"a.{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Mesh.load(path, unit="m", **options)


@pytest.mark.parametrize(
    "head", ["OFF\n4 2 0", "OFF 4 2 0", "4 2 0", "OFF\n# a comment\n\n4 2 0 # counts", "off\n4 2 0", "OFF\n4 2"]
)
@pytest.mark.parametrize("quad", [False, True])
def test_heads(head, quad, tmp_path):
    mesh = load(tmp_path, off(head, quad=quad))
    assert surface.area(mesh) == pytest.approx(AREA, rel=1e-6)
    assert mesh.notes == ()


@pytest.mark.parametrize("scale", [255, 1.0])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("head", ["COFF\n4 2 0", "OFF\n4 2 0"])
def test_colors_of_vertices(head, scale, alpha, tmp_path):
    extra = [
        " ".join(str(c if scale == 255 else c / 255) for c in row) + (f" {scale}" if alpha else "") for row in COLORS
    ]
    mesh = load(tmp_path, off(head, vertex=extra))
    for corner, color in zip(QUAD, COLORS, strict=True):
        np.testing.assert_allclose(color_at(mesh, corner), color, atol=0.51)


def test_normals_and_texture_coordinates_of_vertices(tmp_path):
    mesh = load(tmp_path, off("NOFF\n4 2 0", vertex=["0 0 1"] * 4))
    assert surface.area(mesh) == pytest.approx(AREA, rel=1e-6)
    mesh = load(tmp_path, off("STCNOFF\n4 2 0", vertex=[f"0 0 1 {r} {g} {b} 255 0 0" for r, g, b in COLORS]))
    np.testing.assert_allclose(color_at(mesh, QUAD[2]), COLORS[2], atol=0.51)
    assert any("texture coordinates are not read" in note for note in mesh.notes)


@pytest.mark.parametrize(
    ("face", "want"),
    [
        (("255 0 0", "0 0 255"), [(0, 0, 255), (255, 0, 0)]),
        (("255 0 0 255", "0 0 255 255"), [(0, 0, 255), (255, 0, 0)]),
        (("1.0 0.0 0.0", "0.0 0.0 1.0"), [(0, 0, 255), (255, 0, 0)]),
        (("0.5 0 1 1", "0 1 0 1"), [(0, 255, 0), (128, 0, 255)]),
        (("1 0 0", "0 1 0"), [(0, 255, 0), (255, 0, 0)]),  # without a point, but none above 1
        (("255 0 0", ""), [(200, 200, 200), (255, 0, 0)]),
        (("255 0 0", "0.0 0.5 0.0"), [(0, 128, 0), (255, 0, 0)]),
        (("0.0 0.5 0.0 1.0", "1 20 3 255"), [(0, 128, 0), (1, 20, 3)]),
    ],
)
def test_colors_of_faces(face, want, tmp_path):
    assert surface.all_colors(load(tmp_path, off(face=face))) == want


def test_the_color_of_a_polygon(tmp_path):
    assert surface.all_colors(load(tmp_path, off(face=("10 20 30", ""), quad=True))) == [(10, 20, 30)]


@pytest.mark.parametrize(
    ("face", "clear"), [(("9 0 0 128", ""), True), (("0.5 0 0 0.3", "9 0 0"), True), (("9 0 0 255", ".1 0 0 1"), False)]
)
def test_transparency_is_noted(face, clear, tmp_path):
    assert load(tmp_path, off(face=face)).notes == ((TRANSPARENCY,) if clear else ())


def test_normals_behind_positions_are_no_colors(tmp_path):
    mesh = load(tmp_path, off(vertex=("-.5 -.5 -.7", "1 0 0", "0 1 0", "0 0 1")))
    assert surface.all_colors(mesh) == [(200, 200, 200)]
    assert any("look like normals: not used" in note for note in mesh.notes)
    mesh = load(tmp_path, off(vertex=("0.6 0.8 0", "0 .6 .8", "0 0 1", "0 1 0")))
    assert any("of length 1 as normals are, are taken as colours" in note for note in mesh.notes)


def test_what_off_does_not_read(tmp_path):
    mesh = load(tmp_path, off(face=("3", "4")) + "1 2 3\n")
    assert any("colour map" in note for note in mesh.notes)
    assert any("1 rows behind the last face" in note for note in mesh.notes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (off("4OFF\n4 2 0"), "another number of coordinates"),
        (off("nOFF\n4 2 0"), "another number of coordinates"),
        ("OFF BINARY\n" + "\0" * 50, "a binary OFF file"),
        (off("OFF\n4 200 0"), "truncated, 6 of 204 rows"),
        (off("OFF\n-4 2 0"), "truncated"),
        (off("OFF\nfour 2 0"), "'four' is not an integer"),
        (off(vertex=("1", "", "", "")), "a vertex has 4 numbers"),
        (off(vertex=("", "1 2 3", "", "")), "vertex 1 has 6 numbers, the first has 3"),
        (off().replace("0.08", "0,08"), "decimals want a point"),
        (off().replace("3 0 1 2", "4 0 1 2"), "face 0 is to have 4 corners, its row holds 3"),
        (off().replace("3 0 1 2", "3 0 1 7"), "vertex 7 of 4"),
        (off(face=("1 2", "")), "other than 0, 1, 3 or 4 numbers"),
        (off(face=("300 0 0", "")), "integers up to 300"),
    ],
)
def test_damaged_off(text, says, tmp_path):
    with pytest.raises(MeshError, match=says):
        load(tmp_path, text)


def stl(header: bytes = b"", spare=(0, 0)) -> bytes:
    data = header.ljust(80, b"\0") + (2).to_bytes(4, "little")
    for face, extra in zip(QUAD_FACES, spare, strict=True):
        data += np.zeros(3, "<f4").tobytes() + QUAD[face].astype("<f4").tobytes() + int(extra).to_bytes(2, "little")
    return data


def fives(r: int, g: int, b: int) -> int:
    return (r << 10) | (g << 5) | b


def test_stl_colors_of_viscam(tmp_path):
    mesh = load(tmp_path, stl(spare=(0x8000 | fives(31, 0, 10), fives(31, 31, 31))), "stl")
    assert surface.all_colors(mesh) == [(200, 200, 200), (255, 0, round(10 * 255 / 31))]
    assert mesh.color_summary == "colours on 50% of the faces"


def test_stl_colors_of_magics(tmp_path):
    header = b"made by hand COLOR=\x0a\x14\x1e\xff,MATERIAL=..."
    mesh = load(tmp_path, stl(header, (0x8000, fives(10, 0, 31))), "stl")  # the second: red lowest
    assert surface.all_colors(mesh) == [(10, 20, 30), (255, 0, round(10 * 255 / 31))]
    assert surface.all_colors(load(tmp_path, stl(header), "stl")) == [(10, 20, 30)]
    assert surface.all_colors(load(tmp_path, stl(header), "stl", ignore_colors=True)) == [(200, 200, 200)]


def test_stl_bytes_that_are_no_colors(tmp_path):
    mesh = load(tmp_path, stl(spare=(1, 2)), "stl")
    assert mesh.notes == ("the spare bytes of its triangles are not colours: not read",)
    assert load(tmp_path, stl(b"solid in spite of being binary"), "stl").notes == ()
    assert load(tmp_path, stl() + b"more", "stl").notes == ("4 bytes behind the last triangle are not read",)


def text_stl(word=str.lower, solids: int = 1) -> str:
    rows = []
    for faces in np.array_split(QUAD_FACES, solids):
        rows.append("solid part")
        for face in faces:
            rows += ["facet normal 0 0 1", "  outer loop", *(f"    vertex {x} {y} {z}" for x, y, z in QUAD[face])]
            rows += ["  endloop", "endfacet"]
        rows.append("endsolid part")
    return word("\n".join(rows) + "\n")


@pytest.mark.parametrize("word", [str.lower, str.upper])
@pytest.mark.parametrize("solids", [1, 2])
def test_text_stl(word, solids, tmp_path):
    assert surface.area(load(tmp_path, text_stl(word, solids), "stl")) == pytest.approx(AREA, rel=1e-6)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["part", "Größe" * 100])
def test_text_stl_as_editors_save_it(encoding, name, tmp_path):
    mesh = load(tmp_path, text_stl().replace("solid part", f"solid {name}").encode(encoding), "stl")
    assert surface.area(mesh) == pytest.approx(AREA, rel=1e-6)
    with pytest.raises(MeshError, match="no endsolid"):
        load(tmp_path, text_stl().replace("endsolid part", "").encode(encoding), "stl")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("0.08", "0,08", "decimals want a point"),
        ("  endloop", "    vertex 1 1 1\n  endloop", "a facet has 4 corners"),
        ("  outer loop\n", "", "in a loop"),
        ("endsolid part", "", "no endsolid"),
        ("endfacet", "endfacets", "is not understood"),
        ("    vertex 0.0 0.0 0.0\n", "", "a facet has 2 corners"),
    ],
)
def test_damaged_text_stl(old, new, says, tmp_path):
    assert old in text_stl()
    with pytest.raises(MeshError, match=says):
        load(tmp_path, text_stl().replace(old, new, 1), "stl")
