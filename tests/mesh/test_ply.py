"""PLY: names, types and layouts that exporters use."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from coop_edge.errors import MeshError
from coop_edge.mesh import Mesh
from coop_edge.mesh.parts import TRANSPARENCY
from tests.mesh import assets, surface
from tests.mesh.assets import QUAD, QUAD_FACES, QUAD_UV
from tests.oracles.texture import color_at

COLORS = np.array([[250, 10, 20], [10, 240, 30], [20, 30, 230], [200, 210, 60]])
PACK = {"uchar": "B", "char": "b", "ushort": "H", "short": "h", "int": "i", "uint": "I", "float": "f", "double": "d"}


def ply(form: str, elements: list[tuple[str, list[str], list[list]]], comments=(), end: str = "\n") -> bytes:
    """``elements``: name, properties ("float x", "list uchar int vertex_indices"), rows (a list property is a list)."""
    head = ["ply", f"format {form} 1.0", *(f"comment {c}" for c in comments)]
    for name, properties, rows in elements:
        head += [f"element {name} {len(rows)}", *(f"property {p}" for p in properties)]
    data = (end.join([*head, "end_header"]) + end).encode()
    order = ">" if "big" in form else "<"
    for _, properties, rows in elements:
        for row in rows:
            words = []
            for p, value in zip(properties, row, strict=True):
                kind = p.split()
                if kind[0] == "list":
                    data += struct.pack(order + PACK[kind[1]], len(value)) if form != "ascii" else b""
                    words += [len(value), *value]
                    values, code = value, PACK[kind[2]]
                else:
                    words.append(value)
                    values, code = [value], PACK[kind[0]]
                if form != "ascii":
                    data += struct.pack(order + code * len(values), *values)
            if form == "ascii":
                data += (" ".join(map(str, words)) + end).encode()
    return data


XYZ = ["float x", "float y", "float z"]
FACE = ["list uchar int vertex_indices"]
FORMS = ["ascii", "binary_little_endian", "binary_big_endian"]


def vertices(extra=()) -> list[list]:
    return [[*map(float, v), *(e[i] for e in extra)] for i, v in enumerate(QUAD)]


def load(folder, data: bytes, **options) -> Mesh:
    (folder / "a.ply").write_bytes(data)
    return Mesh.load(folder / "a.ply", unit="m", **options)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_mixed_polygons(form, end, tmp_path):
    elements = [("vertex", XYZ, vertices()), ("face", FACE, [[[0, 1, 2, 3]], [[0, 1, 2]], [[0, 2, 3]]])]
    mesh = load(tmp_path, ply(form, elements, end=end))
    assert surface.area(mesh) == pytest.approx(2 * 0.08 * 0.04, rel=1e-6)
    assert mesh.notes == ()


@pytest.mark.parametrize("form", FORMS)
def test_strips(form, tmp_path):
    strip = [0, 1, 3, 2, -1, 3, 1, 0]
    elements = [("vertex", XYZ, vertices()), ("tristrips", ["list int int vertex_indices"], [[strip]])]
    mesh = load(tmp_path, ply(form, elements))
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).tolist() == [True, True, False]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["vertex", "face"])
@pytest.mark.parametrize(
    "names", ["red green blue", "diffuse_red diffuse_green diffuse_blue", "r g b", "Red Green Blue"]
)
def test_names_of_colors(names, where, form, tmp_path):
    properties = [f"uchar {n}" for n in names.split()]
    if where == "vertex":
        elements = [
            ("vertex", XYZ + properties, vertices(COLORS.T)),
            ("face", FACE, [[f.tolist()] for f in QUAD_FACES]),
        ]
    else:
        rows = [[f.tolist(), *map(int, c)] for f, c in zip(QUAD_FACES, COLORS, strict=False)]
        elements = [("vertex", XYZ, vertices()), ("face", FACE + properties, rows)]
    mesh = load(tmp_path, ply(form, elements))
    if where == "vertex":
        for corner, color in zip(QUAD, COLORS, strict=True):
            np.testing.assert_allclose(color_at(mesh, corner), color, atol=0.5)
    else:
        assert surface.all_colors(mesh) == sorted(tuple(map(int, c)) for c in COLORS[:2])


@pytest.mark.parametrize(
    ("kind", "scale"), [("uchar", 1), ("ushort", 257), ("int", 1), ("uint", 257), ("float", 1 / 255), ("double", 1)]
)
def test_types_of_colors(kind, scale, tmp_path):
    properties = [f"{kind} {n}" for n in ("red", "green", "blue")]
    values = (COLORS * scale).T.tolist()
    elements = [("vertex", XYZ + properties, vertices(values)), ("face", FACE, [[f.tolist()] for f in QUAD_FACES])]
    mesh = load(tmp_path, ply("binary_little_endian", elements))
    for corner, color in zip(QUAD, COLORS, strict=True):
        np.testing.assert_allclose(color_at(mesh, corner), color, atol=0.6)


@pytest.mark.parametrize("most", [1.0000001, 1.0 + 2**-20, 1.005])
def test_float_colors_may_be_rounded_above_one(most, tmp_path):
    values = COLORS / 255
    values[0] = most
    properties = [f"double {n}" for n in ("red", "green", "blue")]
    elements = [("vertex", XYZ + properties, vertices(values.T)), ("face", FACE, [[f.tolist()] for f in QUAD_FACES])]
    mesh = load(tmp_path, ply("ascii", elements))
    np.testing.assert_allclose(color_at(mesh, QUAD[1]), COLORS[1], atol=0.5)
    np.testing.assert_allclose(color_at(mesh, QUAD[0]), 255, atol=0.5)


def test_colors_that_are_cut_or_missing_are_noted(tmp_path):
    properties = [f"float {n}" for n in ("red", "green", "blue")]
    for worst, says in ((1.5, "cut to 0..1"), (-0.5, "cut to 0..1"), (float("nan"), "NaN or infinite")):
        values = COLORS / 255
        values[0, 0] = worst
        elements = [
            ("vertex", XYZ + properties, vertices(values.T)),
            ("face", FACE, [[f.tolist()] for f in QUAD_FACES]),
        ]
        assert any(says in note for note in load(tmp_path, ply("ascii", elements)).notes)


@pytest.mark.parametrize("form", FORMS)
def test_several_textures(form, tmp_path):
    one, two = assets.texture(1), assets.texture(2)
    assets.save_png(tmp_path / "one.png", one)
    assets.save_png(tmp_path / "two.png", two)
    faces, upper = QUAD_FACES.tolist(), (QUAD_FACES + 4).tolist()
    rows = [[f, QUAD_UV[f].ravel().tolist(), 0] for f in faces]
    rows += [[f, QUAD_UV[np.array(f) - 4].ravel().tolist(), 1] for f in upper]
    elements = [
        ("vertex", XYZ, [*vertices(), *([*map(float, v + (0, 0, 0.1))] for v in QUAD)]),
        ("face", [*FACE, "list uchar float texcoord", "int texnumber"], rows),
    ]
    mesh = load(tmp_path, ply(form, elements, comments=["TextureFile one.png", "TextureFile two.png"]))
    for height, image in ((0.0, one), (0.1, two)):
        for point, color in assets.texel_points(image):
            np.testing.assert_allclose(color_at(mesh, point + (0, 0, height)), color, atol=0.01)
    without = [
        (n, [p for p in ps if "texnumber" not in p], [r[:2] for r in rs] if n == "face" else rs)
        for n, ps, rs in elements
    ]
    with pytest.raises(MeshError, match="names 2 textures, but not which of them its faces show"):
        load(tmp_path, ply(form, without, comments=["TextureFile one.png", "TextureFile two.png"]))


def test_texture_on_a_polygon(tmp_path):
    image = assets.texture()
    assets.save_png(tmp_path / "skin.png", image)
    rows = [[[0, 1, 2, 3], QUAD_UV.ravel().tolist()]]
    elements = [("vertex", XYZ, vertices()), ("face", [*FACE, "list uchar float texcoord"], rows)]
    mesh = load(tmp_path, ply("binary_little_endian", elements, comments=["TextureFile skin.png"]))
    for point, color in assets.texel_points(image):
        np.testing.assert_allclose(color_at(mesh, point), color, atol=0.01)


def test_what_is_not_read_is_noted(tmp_path):
    faces = ("face", FACE, [[f.tolist()] for f in QUAD_FACES])
    edges = ("edge", ["int vertex1", "int vertex2"], [[0, 1]])
    mesh = load(tmp_path, ply("ascii", [("vertex", XYZ, vertices()), faces, edges]) + b"1 2 3\n")
    assert set(mesh.notes) == {
        "elements 'edge' are not read",
        "1 rows behind the last element are not read",
    }


@pytest.mark.parametrize(
    "comment",
    [
        b"comment TextureFile\tskin.png", b"comment\tTextureFile skin.png", b"comment TextureFile: skin.png",
        b"comment TextureFile:skin.png", b'comment texturefile = "skin.png"', b"comment TEXTUREFILE 'skin.png'",
        b"comment  TextureFile  skin.png ", b"obj_info TextureFile skin.png", b"comment texture_file skin.png",
        b"comment texture skin.png", b"comment Texture File: skin.png", b"comment TextureFile=skin.png",
    ],
)  # fmt: skip
def test_ways_to_name_a_texture(comment, tmp_path):
    image = assets.texture()
    assets.save_png(tmp_path / "skin.png", image)
    elements = [
        ("vertex", [*XYZ, "float u", "float v"], vertices(QUAD_UV.T)),
        ("face", FACE, [[f.tolist()] for f in QUAD_FACES]),
    ]
    data = ply("ascii", elements).replace(b"element vertex", comment + b"\nelement vertex", 1)
    mesh = load(tmp_path, data)
    assert mesh.notes == ()
    for point, color in assets.texel_points(image):
        np.testing.assert_allclose(color_at(mesh, point), color, atol=0.01)
    other = load(tmp_path, data.replace(comment, b"comment painted with skin.png"))
    assert any("'painted with skin.png' is not read: wanted 'TextureFile NAME'" in note for note in other.notes)
    assert any("'u', 'v' of 'vertex' are not read: no comment names a texture" in note for note in other.notes)


@pytest.mark.parametrize("where", ["vertex", "face"])
@pytest.mark.parametrize(
    "properties",
    ["float rgb", "uint rgba", "list uchar uchar color", "uchar gray", "uchar Red_", "float f_dc_0",
     "uchar ambient_red", "float quality", "uchar alpha", "uchar green"],
)  # fmt: skip
def test_properties_that_are_not_read_are_noted(properties, where, tmp_path):
    value = [1, 2, 3] if "list" in properties else 7
    name = properties.split()[-1].lower()
    elements = [
        (
            "vertex",
            XYZ + [properties] * (where == "vertex"),
            [[*v, *[value] * (where == "vertex")] for v in vertices()],
        ),
        (
            "face",
            FACE + [properties] * (where == "face"),
            [[f.tolist(), *[value] * (where == "face")] for f in QUAD_FACES],
        ),
    ]
    (note,) = load(tmp_path, ply("binary_little_endian", elements)).notes
    assert name in note
    assert f"{where!r}" in note
    assert load(tmp_path, ply("binary_little_endian", elements), ignore_colors=True).notes == ()


def test_normals_are_not_noted(tmp_path):
    elements = [("vertex", [*XYZ, "float nx", "float ny", "float nz"], vertices(np.eye(4)[:3]))]
    mesh = load(tmp_path, ply("ascii", [*elements, ("face", FACE, [[f.tolist()] for f in QUAD_FACES])]))
    assert mesh.notes == ()


@pytest.mark.parametrize(
    ("kind", "alpha", "clear"),
    [("uchar", 255, False), ("uchar", 90, True), ("float", 1.0, False), ("float", 0.5, True)],
)
def test_transparency_is_noted(kind, alpha, clear, tmp_path):
    properties = [f"{kind} {n}" for n in ("red", "green", "blue", "alpha")]
    values = [*(COLORS if kind == "uchar" else COLORS / 255).T.tolist(), [alpha] * 4]
    elements = [("vertex", XYZ + properties, vertices(values)), ("face", FACE, [[f.tolist()] for f in QUAD_FACES])]
    mesh = load(tmp_path, ply("binary_little_endian", elements))
    assert mesh.notes == ((TRANSPARENCY,) if clear else ())


def _plain(**change) -> bytes:
    return ply("ascii", [("vertex", XYZ, vertices()), ("face", FACE, [[f.tolist()] for f in QUAD_FACES])])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"property float x", b"property list uchar float x", "is no number|ends early|holds lists"),
        (b"property float x", b"property quad x", "'property quad x' is not understood"),
        (b"property float y", b"property float x", "two properties of one name"),
        (b"format ascii", b"format base64", "format 'base64'"),
        (b"element vertex 4", b"element vertex 999999999999", "truncated"),
        (b"element vertex 4", b"element vertex -4", "not understood"),
        (b"0.08 0.0 0.0", b"0,08 0.0 0.0", "'0,08' is not a number: decimals want a point"),
        (b"3 0 1 2", b"3 0 1 9", "vertex 9 of 4"),
        (b"3 0 1 2", b"3 0 1 -2", "vertex -2 of 4"),
        (b"3 0 1 2", b"3 0 1", "row 0 of element 'face' ends early"),
        (b"3 0 1 2", b"3 0 1 2 2", "row 0 of element 'face' holds 5 numbers"),
        (b"3 0 1 2", b"3 0 1 1.5", "does not fit its type"),
        (b"vertex_indices", b"corners", "no list vertex_indices"),
        (b"list uchar int", b"list uchar float", "wanted integers"),
        (b"list uchar int", b"list float int", "a list is counted in float"),
    ],
)
def test_damaged_files(old, new, says, tmp_path):
    data = _plain()
    assert old in data
    with pytest.raises(MeshError, match=says):
        load(tmp_path, data.replace(old, new, 1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["red", "x"])
def test_a_list_where_a_number_is_wanted(name, form, tmp_path):
    properties = [*XYZ, "uchar red", "uchar green", "uchar blue"]
    at = [p.split()[1] for p in properties].index(name)
    kind = properties[at].split()[0]
    properties[at] = f"list uchar {kind} {name}"
    rows = [list(row) for row in vertices(COLORS.T)]
    for row in rows:
        row[at] = [row[at]]
    faces = ("face", FACE, [[f.tolist()] for f in QUAD_FACES])
    with pytest.raises(MeshError, match=f"property '{name}' of 'vertex' holds lists; wanted a number per row"):
        load(tmp_path, ply(form, [("vertex", properties, rows), faces]))


def test_colors_of_different_types(tmp_path):
    properties = [*XYZ, "uchar red", "float green", "uchar blue"]
    faces = ("face", FACE, [[f.tolist()] for f in QUAD_FACES])
    with pytest.raises(MeshError, match="of different types"):
        load(tmp_path, ply("ascii", [("vertex", properties, vertices(COLORS.T)), faces]))
