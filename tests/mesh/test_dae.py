"""COLLADA: scenes, polygons, materials and texture coordinates as exporters write them."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import MeshError
from coop_edge.mesh import Mesh
from coop_edge.mesh.parts import TRANSPARENCY
from tests.mesh import assets, surface
from tests.mesh.assets import QUAD, QUAD_FACES, QUAD_UV
from tests.mesh.dae_writer import bind, collada, effect, floats, primitive
from tests.oracles.texture import color_at

AREA = 0.08 * 0.04
FACES = QUAD_FACES.tolist()
RED = (255, 0, 0)


def load(folder, text: str, **options) -> Mesh:
    (folder / "a.dae").write_text(text)
    return Mesh.load(folder / "a.dae", unit="m", **options)


@pytest.mark.parametrize("kind", ["triangles", "polylist", "polygons"])
def test_kinds_of_polygons(kind, tmp_path):
    mesh = load(tmp_path, collada(QUAD, [primitive(kind, FACES)]))
    assert surface.area(mesh) == pytest.approx(AREA, rel=1e-6)
    assert mesh.notes == ()


@pytest.mark.parametrize(("kind", "order"), [("tristrips", [0, 1, 3, 2]), ("trifans", [0, 1, 2, 3])])
def test_strips_and_fans(kind, order, tmp_path):
    mesh = load(tmp_path, collada(QUAD, [primitive(kind, [order, order])]))
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    z = np.cross(b - a, c - a)[:, 2]
    assert (z > 0).all()
    assert 0.5 * z.sum() == pytest.approx(2 * AREA, rel=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_polygons_with_holes(turned, tmp_path):
    hole = np.array([[0.01, 0.01, 0], [0.02, 0.01, 0], [0.02, 0.02, 0], [0.01, 0.02, 0]])
    other = hole + (0.03, 0, 0)
    rings = [[0, 1, 2, 3], [4, 5, 6, 7][:: -1 if turned else 1], [8, 9, 10, 11]]
    points = np.concatenate([QUAD, hole, other])
    mesh = load(tmp_path, collada(points, [primitive("polygons", [], holes=[rings])]))
    assert surface.area(mesh) == pytest.approx(AREA - 2e-4, rel=1e-6)


def test_lines_are_noted_and_splines_refused(tmp_path):
    text = collada(QUAD, [primitive("triangles", FACES), primitive("lines", [[0, 1]])])
    assert load(tmp_path, text).notes == ("lines are not read",)
    with pytest.raises(MeshError, match="is no mesh"):
        load(tmp_path, text.replace("<mesh>", "<spline>").replace("</mesh>", "</spline>"))


def nodes(inside: str) -> str:
    return inside.replace("[g]", '<instance_geometry url="#g"/>')


@pytest.mark.parametrize(
    ("scene", "low", "high"),
    [
        ("<node><translate>1 2 3</translate>[g]</node>", (1, 2, 3), (1.08, 2.04, 3)),
        ("<node><rotate>0 0 1 90</rotate><translate>1 0 0</translate>[g]</node>", (-0.04, 1, 0), (0, 1.08, 0)),
        ("<node><scale>2 1 1</scale><node><translate>1 0 0</translate>[g]</node></node>", (2, 0, 0), (2.16, 0.04, 0)),
        ("<node><matrix>0 -1 0 5 1 0 0 0 0 0 1 0 0 0 0 1</matrix>[g]</node>", (4.96, 0, 0), (5, 0.08, 0)),
    ],
)
def test_nodes(scene, low, high, tmp_path):
    mesh = load(tmp_path, collada(QUAD, [primitive("triangles", FACES)], nodes=nodes(scene)))
    points = mesh.vertices.astype(float) + mesh.centre
    np.testing.assert_allclose(points.min(0), low, atol=1e-6)
    np.testing.assert_allclose(points.max(0), high, atol=1e-6)


@pytest.mark.parametrize(
    ("scene", "says"),
    [
        ("<node><lookat>0 0 0 0 0 1 0 1 0</lookat>[g]</node>", "<lookat>, which is not read"),
        ("<node><translate>1 2</translate>[g]</node>", "<translate>: wanted 3 finite numbers"),
        ("<node><translate>1,5 2 0</translate>[g]</node>", "decimals want a point, not a comma"),
        ('<node id="n"><instance_node url="#n"/>[g]</node>', "in a circle|more than the limit"),
        ('<node><instance_geometry url="#x"/></node>', "'#x' is not in the file"),
        ('<node><instance_geometry url="b.dae#g"/></node>', "lies in another file"),
        ('<node name="arm"><instance_controller url="#k"/></node>', "node 'arm' is deformed by a controller"),
    ],
)
def test_damaged_scenes(scene, says, tmp_path):
    with pytest.raises(MeshError, match=says):
        load(tmp_path, collada(QUAD, [primitive("triangles", FACES)], nodes=nodes(scene)))


def test_a_file_without_a_scene(tmp_path):
    text = collada(QUAD, [primitive("triangles", FACES)])
    start, end = text.index("<library_visual_scenes>"), text.index("</COLLADA>")
    mesh = load(tmp_path, text[:start] + text[end:])
    assert len(mesh.faces) == 2
    assert any("no scene" in note for note in mesh.notes)


@pytest.mark.parametrize("model", ["phong", "blinn", "lambert"])
def test_diffuse_colors(model, tmp_path):
    libraries = effect("<diffuse><color>1 0 0 1</color></diffuse>", model=model)
    text = collada(QUAD, [primitive("triangles", FACES, material="M")], libraries=libraries, bind=bind())
    assert surface.all_colors(load(tmp_path, text)) == [RED]


def test_constant_shading_and_emission_alone(tmp_path):
    shining = "<emission><color>1 0 0 1</color></emission>"
    for look, model in ((shining, "constant"), (shining + "<diffuse><color>0 0 0 1</color></diffuse>", "phong")):
        part = [primitive("triangles", FACES, material="M")]
        text = collada(QUAD, part, libraries=effect(look, model=model), bind=bind())
        assert surface.all_colors(load(tmp_path, text)) == [RED], model


def test_a_color_that_is_a_parameter(tmp_path):
    params = '<newparam sid="c"><float4>1 0 0 1</float4></newparam>'
    libraries = effect('<diffuse><param ref="c"/></diffuse>', params=params)
    text = collada(QUAD, [primitive("triangles", FACES, material="M")], libraries=libraries, bind=bind())
    assert surface.all_colors(load(tmp_path, text)) == [RED]


def test_commas_in_decimals_say_so(tmp_path):
    libraries = effect("<diffuse><color>0,8 0 0 1</color></diffuse>")
    text = collada(QUAD, [primitive("triangles", FACES, material="M")], libraries=libraries, bind=bind())
    with pytest.raises(MeshError, match="'0,8' is not a number: decimals want a point"):
        load(tmp_path, text)
    with pytest.raises(MeshError, match="'0,08' is not a number: decimals want a point"):
        load(tmp_path, collada(QUAD, [primitive("triangles", FACES)]).replace("0.08", "0,08"))


def test_commas_between_indices_say_so(tmp_path):
    for text in ("0, 1, 2", "0,1 2", "0,1,2"):
        wrong = collada(QUAD, [primitive("triangles", FACES)]).replace("<p>0 1 2", f"<p>{text}")
        with pytest.raises(MeshError, match="numbers are to be parted by blanks, not by commas"):
            load(tmp_path, wrong)


WHITE = '<transparent opaque="{}"><color>{}</color></transparent><transparency><float>{}</float></transparency>'


@pytest.mark.parametrize(
    ("look", "clear"),
    [
        (WHITE.format("A_ONE", "1 1 1 0.5", "1"), True),
        (WHITE.format("A_ONE", "1 1 1 1", "0.1"), True),
        (WHITE.format("RGB_ZERO", "1 1 1 1", "0.3"), True),
        ("<transparency><float>0.5</float></transparency>", True),
        ('<transparent opaque="A_ONE"><texture texture="x" texcoord="UV"/></transparent>', True),
        (WHITE.format("A_ONE", "1 1 1 1", "1"), False),
        (WHITE.format("RGB_ZERO", "0 0 0 1", "1"), False),
        (WHITE.format("RGB_ZERO", "1 1 1 1", "0"), False),
        ("", False),
    ],
)
def test_transparency_is_noted(look, clear, tmp_path):
    libraries = effect("<diffuse><color>1 0 0 1</color></diffuse>" + look)
    text = collada(QUAD, [primitive("triangles", FACES, material="M")], libraries=libraries, bind=bind())
    mesh = load(tmp_path, text)
    assert surface.all_colors(mesh) == [RED]
    assert mesh.notes == ((TRANSPARENCY,) if clear else ())


def test_ambient_colors_are_noted(tmp_path):
    libraries = effect("<ambient><color>1 0 0 1</color></ambient>")
    text = collada(QUAD, [primitive("triangles", FACES, material="M")], libraries=libraries, bind=bind())
    assert load(tmp_path, text).notes == ("material 'M' has no diffuse colour; its ambient one is not read",)


def test_geometries_outside_the_scene_are_noted(tmp_path):
    text = collada(QUAD, [primitive("triangles", FACES)])
    start, end = text.index('<geometry id="g">'), text.index("</library_geometries>")
    other = text[start:end].replace('"g"', '"h"').replace('"p', '"q').replace("#p", "#q").replace('"v"', '"w"')
    mesh = load(tmp_path, text[:end] + other + text[end:])
    assert mesh.notes == ("1 geometries are not in the scene: they are not read",)


def test_colors_of_vertices(tmp_path):
    colors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    given = '<input semantic="COLOR" source="#c" offset="0"/>'
    text = collada(QUAD, [primitive("triangles", FACES, inputs=given)], sources=floats("c", colors, "RGB"))
    mesh = load(tmp_path, text)
    for corner, color in zip(QUAD, colors, strict=True):
        np.testing.assert_allclose(color_at(mesh, corner), 255 * color, atol=0.5)


def textured(image: str, *, sets: dict[int | None, np.ndarray], bound: str = "", sampler: str = "") -> str:
    params = (
        '<newparam sid="sf"><surface type="2D"><init_from>im</init_from></surface></newparam>'
        f'<newparam sid="sm"><sampler2D><source>sf</source>{sampler}</sampler2D></newparam>'
    )
    libraries = f'<library_images><image id="im"><init_from>{image}</init_from></image></library_images>'
    libraries += effect('<diffuse><texture texture="sm" texcoord="UV"/></diffuse>', params=params)
    sources, inputs = "", ""
    for i, (number, uv) in enumerate(sets.items()):
        sources += floats(f"t{i}", uv, "ST")
        which = "" if number is None else f' set="{number}"'
        inputs += f'<input semantic="TEXCOORD" source="#t{i}" offset="0"{which}/>'
    part = primitive("triangles", FACES, inputs=inputs, material="M")
    return collada(QUAD, [part], sources=sources, libraries=libraries, bind=bind(extra=bound))


WRONG = np.zeros((4, 2))
BOUND = '<bind_vertex_input semantic="UV" input_semantic="TEXCOORD" input_set="{}"/>'


@pytest.mark.parametrize(
    ("sets", "bound"),
    [
        ({0: QUAD_UV}, ""),
        ({None: QUAD_UV}, BOUND.format(0)),
        ({1: WRONG, 0: QUAD_UV}, BOUND.format(0)),
        ({0: WRONG, 1: QUAD_UV}, BOUND.format(1)),
    ],
)
@pytest.mark.parametrize("form", ["{}", "./{}", "file:{}", "file://{}"])
def test_texture_coordinates(sets, bound, form, tmp_path):
    image = assets.texture()
    assets.save_png(tmp_path / "my skin.png", image)
    name = form.format("my%20skin.png" if form.startswith("file") else "my skin.png")
    mesh = load(tmp_path, textured(name, sets=sets, bound=bound))
    for point, color in assets.texel_points(image):
        np.testing.assert_allclose(color_at(mesh, point), color, atol=0.01)


def test_texture_coordinates_that_are_not_told_apart(tmp_path):
    assets.save_png(tmp_path / "a.png", assets.texture())
    with pytest.raises(MeshError, match=r"has 2 sets of texture coordinates.*does not say which"):
        load(tmp_path, textured("a.png", sets={0: WRONG, 1: QUAD_UV}))
    with pytest.raises(MeshError, match="binds set 3, which is not one of them"):
        load(tmp_path, textured("a.png", sets={0: WRONG, 1: QUAD_UV}, bound=BOUND.format(3)))


def test_clamped_texture(tmp_path):
    image = assets.texture()
    assets.save_png(tmp_path / "a.png", image)
    clamp = "<wrap_s>CLAMP</wrap_s><wrap_t>CLAMP</wrap_t>"
    mesh = load(tmp_path, textured("a.png", sets={0: QUAD_UV * 3 - 1}, sampler=clamp))
    np.testing.assert_allclose(color_at(mesh, (0.005, 0.002, 0)), image[-1, 0], atol=0.1)


def test_materials_that_nothing_binds_are_noted(tmp_path):
    text = collada(QUAD, [primitive("triangles", FACES, material="nothing")])
    assert any("no node binds a material to 'nothing'" in note for note in load(tmp_path, text).notes)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<?xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><?xml", "document type of its own"),
        ("</COLLADA>", "", "not valid XML"),
        ('count="12"', 'count="99"', "truncated, 12 of 99"),
        ('count="2"', 'count="9"', "6 corners for 9 triangles"),
        ("<p>0 1 2", "<p>0 1 9", "vertex 9 of 4"),
        ("<p>0 1 2", "<p>0 1 -9", "vertex -9 of 4"),
        ("<p>0 1 2", "<p>0 1 x", "'x' is not an integer"),
        ('stride="3"', 'stride="4"', "truncated|columns"),
        ("COLLADA", "XOLLADA", "not a COLLADA file"),
    ],
)
def test_damaged_files(old, new, says, tmp_path):
    text = collada(QUAD, [primitive("triangles", FACES)])
    assert old in text
    changed = text.replace(old, new) if old == "COLLADA" else text.replace(old, new, 1)
    with pytest.raises(MeshError, match=says):
        load(tmp_path, changed)
