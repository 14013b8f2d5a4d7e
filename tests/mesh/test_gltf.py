"""glTF: what the specification allows and loaders pass over, with the right values."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import MeshError
from coop_edge.mesh import Mesh
from coop_edge.mesh.parts import TRANSPARENCY
from tests.mesh import surface
from tests.mesh.assets import QUAD, QUAD_FACES, QUAD_UV, texel_points, texture
from tests.mesh.glb import Glb
from tests.oracles.texture import color_at

AREA = 0.08 * 0.04
UV_DOWN = np.column_stack([QUAD_UV[:, 0], 1.0 - QUAD_UV[:, 1]])
RED = (200, 40, 30)


def quad(glb: Glb, *, offset=(0.0, 0.0, 0.0), **attributes: int) -> dict:
    indices = glb.accessor(QUAD_FACES.ravel(), "u2")
    return {"attributes": {"POSITION": glb.accessor(QUAD + offset), **attributes}, "indices": indices}


def srgb(linear) -> np.ndarray:
    linear = np.asarray(linear, float)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def load(glb: Glb, folder, **options) -> Mesh:
    return Mesh.load(glb.write(folder / "a.glb"), unit="m", **options)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("width", [3, 4])
def test_normalised_colors(dtype, width, tmp_path):
    linear = np.array([[0.5, 0.02, 0.01, 1.0], [1, 0, 0, 1], [0, 0.3, 0, 0.5], [0.1, 0.2, 0.7, 0]])[:, :width]
    top = np.iinfo(dtype).max
    glb = Glb()
    glb.mesh(quad(glb, COLOR_0=glb.accessor(np.rint(linear * top), dtype, normalized=True)))
    mesh = load(glb, tmp_path)
    for corner, color in zip(QUAD, np.rint(linear * top) / top, strict=True):
        np.testing.assert_allclose(color_at(mesh, corner), srgb(color[:3]), atol=0.51)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i1", "i2"])
def test_normalised_texture_coordinates(dtype, tmp_path):
    image, top = texture(), np.iinfo(dtype).max
    glb = Glb()
    part = quad(glb, TEXCOORD_0=glb.accessor(np.rint(UV_DOWN * top), dtype, normalized=True))
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": glb.image(image)}}}
    glb.mesh(part | {"material": glb.add("materials", material)})
    mesh = load(glb, tmp_path)
    for point, color in texel_points(image):
        np.testing.assert_allclose(color_at(mesh, point), color, atol=0.1)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_integer_texture_coordinates_are_normalised_whether_they_say_so_or_not(dtype, tmp_path):
    image, top = texture(), np.iinfo(dtype).max
    for quantized in (False, True):
        glb = Glb()
        if quantized:  # then they count as they are: texels of a picture that repeats
            glb.header["extensionsUsed"] = ["KHR_mesh_quantization"]
        uv = UV_DOWN if quantized else UV_DOWN * top
        part = quad(glb, TEXCOORD_0=glb.accessor(np.rint(uv), dtype))
        material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": glb.image(image)}}}
        glb.mesh(part | {"material": glb.add("materials", material)})
        mesh = load(glb, tmp_path)
        for point, color in texel_points(image):
            np.testing.assert_allclose(color_at(mesh, point), color, atol=0.1)
        assert bool(mesh.notes) != quantized


@pytest.mark.parametrize(
    "material",
    [
        {"alphaMode": "BLEND"},
        {"alphaMode": "MASK"},
        {"extensions": {"KHR_materials_transmission": {"transmissionFactor": 1.0}}},
    ],
)
def test_transparency_is_noted(material, tmp_path):
    for look, notes in ((material, (TRANSPARENCY,)), ({"alphaMode": "OPAQUE"}, ())):
        glb = Glb()
        base = {"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 0.2]}}
        glb.mesh(quad(glb) | {"material": glb.add("materials", base | look)})
        mesh = load(glb, tmp_path)
        assert surface.all_colors(mesh) == [(255, 0, 0)]
        assert mesh.notes == notes


def test_what_lies_outside_the_scene_is_noted(tmp_path):
    glb = Glb()
    glb.mesh(quad(glb))
    glb.header["nodes"] = [{"mesh": 0}, {"mesh": 0, "translation": [1, 0, 0]}]
    glb.header["scenes"] = [{"nodes": [0]}]
    assert load(glb, tmp_path).notes == ("1 nodes with meshes are not in the scene that is read",)
    glb.mesh(quad(glb))
    glb.header["scenes"] = [{"nodes": [0, 1]}]
    assert load(glb, tmp_path).notes == ("1 meshes are placed by no node: they are not read",)


def test_colors_of_instances_are_noted(tmp_path):
    glb = Glb()
    glb.mesh(quad(glb))
    attributes = {"TRANSLATION": glb.accessor(np.zeros((1, 3))), "_COLOR_0": glb.accessor(np.ones((1, 3)))}
    glb.header["nodes"] = [{"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {"attributes": attributes}}}]
    assert load(glb, tmp_path).notes == ("_COLOR_0 of the instances of a mesh are not read",)


@pytest.mark.parametrize("where", ["primitive", "node", "material", "texture"])
def test_extensions_that_are_not_declared(where, tmp_path):
    for name in ("VENDOR_thing", "KHR_draco_mesh_compression", "KHR_materials_unlit"):
        glb = Glb()
        extra = {"extensions": {name: {}}}
        info = {"index": glb.image(texture())} | (extra if where == "texture" else {})
        look = {"pbrMetallicRoughness": {"baseColorTexture": info}} | (extra if where == "material" else {})
        part = quad(glb, TEXCOORD_0=glb.accessor(UV_DOWN)) | {"material": glb.add("materials", look)}
        glb.mesh(part | (extra if where == "primitive" else {}))
        glb.header["nodes"] = [{"mesh": 0} | (extra if where == "node" else {})]
        if "draco" in name:
            with pytest.raises(MeshError, match="compressed with KHR_draco_mesh_compression"):
                load(glb, tmp_path)
        else:
            want = (f"what the extension {name} adds is not read",) if "VENDOR" in name else ()
            assert load(glb, tmp_path).notes == want


def test_a_version_that_is_asked_for(tmp_path):
    for asset, says in (
        ({"version": "2.1"}, None),
        ({"version": "2.1", "minVersion": "2.0"}, None),
        ({"version": "2.1", "minVersion": "2.1"}, r"glTF 2\.1 is not read"),
    ):
        glb = Glb()
        glb.header["asset"] = asset
        glb.mesh(quad(glb))
        if says is None:
            assert len(load(glb, tmp_path).faces) == 2
            continue
        with pytest.raises(MeshError, match=says):
            load(glb, tmp_path)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i1", "i2"])
@pytest.mark.parametrize("normalized", [True, False])
def test_quantised_positions(dtype, normalized, tmp_path):
    top = float(np.iinfo(dtype).max) if normalized else 1.0
    steps = np.rint(QUAD / 0.08 * 100)
    glb = Glb()
    glb.header["extensionsRequired"] = glb.header["extensionsUsed"] = ["KHR_mesh_quantization"]
    position = glb.accessor(steps, dtype, normalized=normalized)
    glb.mesh({"attributes": {"POSITION": position}, "indices": glb.accessor(QUAD_FACES.ravel(), "u1")})
    glb.header["nodes"] = [{"mesh": 0, "scale": [0.08 * top / 100] * 3}]
    mesh = load(glb, tmp_path)
    np.testing.assert_allclose(surface.extents(mesh), [0.08, 0.04, 0.0], atol=1e-7)


def test_signed_integers_reach_minus_one_at_most(tmp_path):
    glb = Glb()
    position = glb.accessor(np.array([[-128, 0, 0], [127, 0, 0], [0, 127, 0]]), "i1", normalized=True)
    glb.mesh({"attributes": {"POSITION": position}})
    np.testing.assert_allclose(surface.extents(load(glb, tmp_path)), [2, 1, 0], atol=1e-6)


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("mode", [5, 6])
def test_strips_and_fans(mode, indexed, tmp_path):
    """The quad in its corners' order for the mode; all triangles face +z."""
    order = [0, 1, 3, 2] if mode == 5 else [0, 1, 2, 3]
    glb = Glb()
    points = QUAD if indexed else QUAD[order]
    primitive = {"attributes": {"POSITION": glb.accessor(points)}, "mode": mode}
    glb.mesh(primitive | ({"indices": glb.accessor(order, "u1")} if indexed else {}))
    mesh = load(glb, tmp_path)
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    normal = np.cross(b - a, c - a)
    assert (normal[:, 2] > 0).all()
    assert 0.5 * normal[:, 2].sum() == pytest.approx(AREA)


def test_long_strip(tmp_path):
    n = 9
    points = np.array([[0.01 * (i // 2), 0.02 * (i % 2), 0] for i in range(n)])
    glb = Glb()
    glb.mesh({"attributes": {"POSITION": glb.accessor(points)}, "mode": 5})
    mesh = load(glb, tmp_path)
    assert len(mesh.faces) == n - 2
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    z = np.cross(b - a, c - a)[:, 2]
    assert (z < 0).all() or (z > 0).all()


def test_points_and_lines_are_noted(tmp_path):
    glb = Glb()
    plain = quad(glb)
    glb.mesh(plain, plain | {"mode": 0}, plain | {"mode": 1}, plain | {"mode": 3})
    mesh = load(glb, tmp_path)
    assert len(mesh.faces) == 2
    assert mesh.notes == ("points are not read", "lines are not read", "strips of lines are not read")


@pytest.mark.parametrize("index_type", ["u1", "u2", "u4"])
@pytest.mark.parametrize("base", [True, False])
def test_sparse_accessors(index_type, base, tmp_path):
    glb = Glb()
    start = QUAD.copy()
    start[2:] = 0
    position = glb.accessor(start)
    entry = glb.header["accessors"][position]
    changed = np.arange(4) if not base else np.array([2, 3])
    if not base:
        del entry["bufferView"]
    entry["sparse"] = {
        "count": len(changed),
        "indices": {
            "bufferView": glb.view(changed.astype("<" + index_type).tobytes()),
            "componentType": {"u1": 5121, "u2": 5123, "u4": 5125}[index_type],
        },
        "values": {"bufferView": glb.view(QUAD[changed].astype("<f4").tobytes())},
    }
    glb.mesh({"attributes": {"POSITION": position}, "indices": glb.accessor(QUAD_FACES.ravel(), "u2")})
    assert surface.area(load(glb, tmp_path)) == pytest.approx(AREA, rel=1e-6)


@pytest.mark.parametrize("place", ["mesh", "node"])
def test_morph_weights(place, tmp_path):
    glb = Glb()
    part = quad(glb)
    lift = np.zeros((4, 3))
    lift[:, 0] = QUAD[:, 0]  # twice as wide at weight 1
    part["targets"] = [{"POSITION": glb.accessor(lift)}, {"POSITION": glb.accessor(10 * lift)}]
    weights = {"weights": [0.5, 0.0]}
    glb.mesh(part, **(weights if place == "mesh" else {"weights": [0.9, 0.9]}))
    glb.header["nodes"] = [{"mesh": 0} | (weights if place == "node" else {})]
    assert surface.area(load(glb, tmp_path)) == pytest.approx(1.5 * AREA, rel=1e-6)


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.0, 0.0], [0.0, 0.0, 0.5]])
def test_morph_weights_that_are_not_one_for_each_target_are_refused(weights, tmp_path):
    glb = Glb()
    part = quad(glb)
    part["targets"] = [{"POSITION": glb.accessor(np.zeros((4, 3)))} for _ in range(2)]
    glb.mesh(part, weights=weights)
    glb.header["nodes"] = [{"mesh": 0}]
    with pytest.raises(MeshError, match=f"{len(weights)} weights for 2 morph targets.*export it again"):
        load(glb, tmp_path)


def test_skins_stand_in_their_rest_pose(tmp_path):
    """Two joints; half the quad's corners follow each; the mesh node's own place does not count."""
    glb = Glb()
    joints = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    part = quad(glb, JOINTS_0=glb.accessor(joints, "u1"), WEIGHTS_0=glb.accessor(np.eye(4)[[0] * 4]))
    inverse = np.tile(np.eye(4), (2, 1, 1))
    inverse[1, 3, 0] = -0.01  # column by column
    glb.mesh(part)
    glb.header["skins"] = [{"joints": [1, 2], "inverseBindMatrices": glb.accessor(inverse.reshape(2, 16))}]
    glb.header["nodes"] = [
        {"mesh": 0, "skin": 0, "translation": [5, 5, 5]},
        {"translation": [0, 0, 0.3]},
        {"translation": [0.04, 0, 0.3]},
    ]
    mesh = load(glb, tmp_path)
    np.testing.assert_allclose(surface.extents(mesh), [0.08 + 0.03, 0.04, 0], atol=1e-7)
    np.testing.assert_allclose(mesh.centre, [0.055, 0.02, 0.3], atol=1e-7)


def test_instances(tmp_path):
    glb = Glb()
    glb.mesh(quad(glb))
    half = np.sqrt(0.5)
    attributes = {
        "TRANSLATION": glb.accessor(np.array([[0, 0, 0], [0, 0, 0.1], [0, 0, 0.2]])),
        "ROTATION": glb.accessor(
            np.array([[0, 0, 0, 127], [0, 0, 127 * half, 127 * half], [0, 0, 0, 127]]).round(), "i1", normalized=True
        ),
        "SCALE": glb.accessor(np.array([[1, 1, 1], [1, 1, 1], [2, 1, 1]])),
    }
    extension = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    glb.header["nodes"] = [{"mesh": 0, "extensions": extension, "translation": [1, 0, 0]}]
    glb.header["extensionsRequired"] = glb.header["extensionsUsed"] = ["EXT_mesh_gpu_instancing"]
    mesh = load(glb, tmp_path)
    assert surface.area(mesh) == pytest.approx(4 * AREA, rel=1e-5)
    np.testing.assert_allclose(mesh.centre, [1 + (0.16 - 0.04) / 2, 0.04, 0.1], atol=1e-5)


@pytest.mark.parametrize("required", [True, False])
def test_extensions(required, tmp_path):
    glb = Glb()
    glb.mesh(quad(glb))
    glb.header["extensionsUsed"] = ["KHR_materials_unlit", "VENDOR_thing"]
    if required:
        glb.header["extensionsRequired"] = ["KHR_materials_unlit", "VENDOR_thing"]
        with pytest.raises(MeshError, match="requires the extension VENDOR_thing, which is not read"):
            load(glb, tmp_path)
    else:
        assert load(glb, tmp_path).notes == ("what the extension VENDOR_thing adds is not read",)


def _textured(glb: Glb, info: dict, uv: np.ndarray = UV_DOWN, **more) -> None:
    part = quad(glb, TEXCOORD_0=glb.accessor(uv), **more)
    glb.mesh(part | {"material": glb.add("materials", {"pbrMetallicRoughness": {"baseColorTexture": info}})})


def _wrapped(texel: int, n: int, wrap: str) -> int:
    if wrap == "clamp":
        return min(max(texel, 0), n - 1)
    if wrap == "mirror":
        texel %= 2 * n
        return texel if texel < n else 2 * n - 1 - texel
    return texel % n


@pytest.mark.parametrize("vertical", ["repeat", "mirror", "clamp"])
@pytest.mark.parametrize("horizontal", ["repeat", "mirror", "clamp"])
def test_samplers(horizontal, vertical, tmp_path):
    """Coordinates from -1.5 to 2.5 along u and -0.75 to 1.75 along v, looked up at the centres of texels."""
    codes = {"repeat": 10497, "mirror": 33648, "clamp": 33071}
    image = texture()  # 8 x 4
    glb = Glb()
    glb.header["samplers"] = [{"wrapS": codes[horizontal], "wrapT": codes[vertical]}]
    _textured(glb, {"index": glb.image(image, sampler=0)}, UV_DOWN * (4.0, 2.5) - (1.5, 0.75))
    mesh = load(glb, tmp_path)
    for column in range(-12, 20):
        for row in range(-3, 7):
            u, v = (column + 0.5) / 8, (row + 0.5) / 4
            point = ((u + 1.5) / 4.0 * 0.08, (1 - (v + 0.75) / 2.5) * 0.04, 0.0)
            want = image[_wrapped(row, 4, vertical), _wrapped(column, 8, horizontal)]
            np.testing.assert_allclose(color_at(mesh, point), want, atol=0.1)


def test_a_clamped_texture_that_reaches_too_far_is_noted(tmp_path):
    glb = Glb()
    glb.header["samplers"] = [{"wrapS": 33071}]
    _textured(glb, {"index": glb.image(texture(size=(64, 64)), sampler=0)}, UV_DOWN * 1e5)
    assert any("continued as 'clamp'" in note for note in load(glb, tmp_path).notes)


def test_texture_transform(tmp_path):
    """Offset, rotation, scale in the order of KHR_texture_transform: scaled, turned, moved; v counts downwards."""
    image = texture(size=(16, 16))
    moved = {"offset": [0.25, 0.5], "rotation": np.pi / 2, "scale": [0.5, 0.25]}
    glb = Glb()
    _textured(glb, {"index": glb.image(image), "extensions": {"KHR_texture_transform": moved}})
    mesh = load(glb, tmp_path)
    for u, v in ((0.3, 0.2), (0.7, 0.9), (0.1, 0.6)):
        x, y = 0.5 * u, 0.25 * v
        want_u, want_v = 0.25 + y, 0.5 - x  # counter-clockwise as seen, where v counts downwards
        got = mesh_color(mesh, u, v)
        np.testing.assert_allclose(got, bilinear(image, want_u, want_v), atol=0.5)


def mesh_color(mesh: Mesh, u: float, v: float) -> np.ndarray:
    return np.asarray(color_at(mesh, (u * 0.08, (1 - v) * 0.04, 0.0)))


def bilinear(image: np.ndarray, u: float, v: float) -> np.ndarray:
    h, w = image.shape[:2]
    x, y = u * w - 0.5, v * h - 0.5
    i, j = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - i, y - j
    at = lambda a, b: image[b % h, a % w].astype(float)  # noqa: E731
    top = at(i, j) * (1 - fx) + at(i + 1, j) * fx
    return top * (1 - fy) + (at(i, j + 1) * (1 - fx) + at(i + 1, j + 1) * fx) * fy


@pytest.mark.parametrize("where", ["texture", "transform"])
def test_second_texture_coordinates(where, tmp_path):
    image = texture()
    glb = Glb()
    info = {"index": glb.image(image)}
    if where == "texture":
        info["texCoord"] = 1
    else:
        info["extensions"] = {"KHR_texture_transform": {"texCoord": 1}}
    wrong = np.zeros((4, 2))
    _textured(glb, info, wrong, TEXCOORD_1=glb.accessor(UV_DOWN))
    mesh = load(glb, tmp_path)
    for point, color in texel_points(image):
        np.testing.assert_allclose(color_at(mesh, point), color, atol=0.01)


@pytest.mark.parametrize("mode", ["P", "L", "LA", "RGB", "RGBA", "1", "I;16"])
def test_specular_glossiness_textures_in_any_mode(mode, tmp_path):
    import io

    from PIL import Image

    grey = np.array([[0, 255], [255, 0]], np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).convert(mode)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    glb = Glb()
    gloss = {"diffuseTexture": {"index": glb.image(stream.getvalue())}, "diffuseFactor": [1, 1, 1, 1]}
    part = quad(glb, TEXCOORD_0=glb.accessor(UV_DOWN))
    extension = {"KHR_materials_pbrSpecularGlossiness": gloss}
    glb.mesh(part | {"material": glb.add("materials", {"extensions": extension})})
    glb.header["extensionsUsed"] = ["KHR_materials_pbrSpecularGlossiness"]
    mesh = load(glb, tmp_path)
    np.testing.assert_array_equal(mesh.textures[0], np.repeat(grey[..., None], 3, axis=2))


def test_specular_glossiness_color(tmp_path):
    glb = Glb()
    extension = {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [0.5, 0.2, 0.1, 1]}}
    glb.mesh(quad(glb) | {"material": glb.add("materials", {"extensions": extension})})
    np.testing.assert_allclose(load(glb, tmp_path).corner_colors[0, 0], srgb([0.5, 0.2, 0.1]), atol=0.51)


@pytest.mark.parametrize("base", [None, [0, 0, 0, 1]])
@pytest.mark.parametrize("strength", [None, 0.5])
def test_emissive_only_materials(base, strength, tmp_path):
    glb = Glb()
    material: dict = {"emissiveFactor": [0.8, 0.1, 0.05]}
    if base is not None:
        material["pbrMetallicRoughness"] = {"baseColorFactor": base}
    if strength is not None:
        material["extensions"] = {"KHR_materials_emissive_strength": {"emissiveStrength": strength}}
    glb.mesh(quad(glb) | {"material": glb.add("materials", material)})
    mesh = load(glb, tmp_path)
    want = np.array([0.8, 0.1, 0.05]) * (strength or 1.0)
    np.testing.assert_allclose(mesh.corner_colors[0, 0], srgb(want), atol=0.51)
    assert any("no colour but the light that it gives off" in note for note in mesh.notes)


def test_emissive_texture_and_emission_beside_a_color(tmp_path):
    image = texture()
    glb = Glb()
    part = quad(glb, TEXCOORD_0=glb.accessor(UV_DOWN))
    shining = {"emissiveTexture": {"index": glb.image(image)}, "emissiveFactor": [1, 1, 1]}
    black = {"pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]}}
    glb.mesh(part | {"material": glb.add("materials", shining | black)})
    mesh = load(glb, tmp_path)
    for point, color in texel_points(image):
        np.testing.assert_allclose(color_at(mesh, point), color, atol=0.01)
    glb = Glb()
    red = {"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 1]}, "emissiveFactor": [0, 0.2, 0]}
    glb.mesh(quad(glb) | {"material": glb.add("materials", red)})
    mesh = load(glb, tmp_path)
    assert (mesh.corner_colors == (255, 0, 0)).all()
    assert any("gives off (emissive) is not read" in note for note in mesh.notes)


def test_materials_are_told_apart_by_number(tmp_path):
    glb = Glb()
    texel = np.full((2, 2, 3), RED, np.uint8)
    first = {"name": "M", "pbrMetallicRoughness": {"baseColorTexture": {"index": glb.image(texel)}}}
    second = {"name": "M", "pbrMetallicRoughness": {"baseColorFactor": [0, 1, 0, 1]}}
    one = quad(glb, TEXCOORD_0=glb.accessor(UV_DOWN)) | {"material": glb.add("materials", first)}
    two = quad(glb, offset=(0, 0, 0.1)) | {"material": glb.add("materials", second)}
    glb.mesh(one, two)
    assert surface.all_colors(load(glb, tmp_path)) == [(0, 255, 0), RED]


def test_a_node_named_world_keeps_its_transform(tmp_path):
    glb = Glb()
    glb.mesh(quad(glb))
    glb.header["nodes"] = [{"name": "world", "scale": [2, 2, 2], "children": [1]}, {"mesh": 0}]
    assert surface.area(load(glb, tmp_path)) == pytest.approx(4 * AREA, rel=1e-6)


def test_interleaved_buffer(tmp_path):
    glb = Glb()
    rows = np.zeros(4, [("p", "<f4", 3), ("c", "u1", 4)])
    rows["p"], rows["c"] = QUAD, [[255, 0, 0, 255]] * 4
    view = glb.view(rows.tobytes(), byteStride=16)
    position = glb.add("accessors", {"bufferView": view, "componentType": 5126, "count": 4, "type": "VEC3"})
    color = {
        "bufferView": view,
        "byteOffset": 12,
        "componentType": 5121,
        "normalized": True,
        "count": 4,
        "type": "VEC4",
    }
    attributes = {"POSITION": position, "COLOR_0": glb.add("accessors", color)}
    glb.mesh({"attributes": attributes, "indices": glb.accessor(QUAD_FACES.ravel(), "u4")})
    mesh = load(glb, tmp_path)
    assert surface.area(mesh) == pytest.approx(AREA, rel=1e-6)
    assert surface.all_colors(mesh) == [(255, 0, 0)]


def test_gltf_with_data_inside(tmp_path):
    glb = Glb()
    _textured(glb, {"index": glb.image(texture())})
    mesh = Mesh.load(glb.write(tmp_path / "a.gltf"), unit="m")
    assert len(mesh.textures) == 1


def _change(**changes):
    def apply(glb: Glb) -> None:
        glb.header.update(changes)

    return apply


def _entry(section: str, **changes):
    def apply(glb: Glb) -> None:
        glb.header[section][0].update(changes)

    return apply


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_change(asset={"version": "1.0"}), r"glTF 1\.0 is not read"),
        (_change(asset=[]), "asset: wanted an object"),
        (_change(scene=4), r"scenes\[4\] is not there"),
        (_change(nodes=[{"mesh": 9}]), r"meshes\[9\] is not there"),
        (_change(nodes=[{"children": [0]}], scenes=[{"nodes": [0]}]), "child of two nodes, or of itself"),
        (_change(nodes=[{"mesh": 0, "scale": [1, 1]}]), "scale: wanted 3 numbers"),
        (_change(nodes=[{"mesh": 0, "translation": [0, 0, 10**400]}]), "translation: wanted 3 numbers"),
        (_change(nodes=[{"mesh": 0, "rotation": [0, 0, 0, 0]}]), "rotation of length 0"),
        (_entry("accessors", count=10**9), "glTF: accessors.*holds 1000000000 entries, 333333333 triangles, more than"),
        (_entry("accessors", count=-1), "wanted an integer of at least 0"),
        (_entry("accessors", componentType=1), "are not known"),
        (_entry("bufferViews", byteLength=10**6), "truncated"),
        (_entry("bufferViews", byteStride=1), "byteStride 1 is less than"),
        (_entry("meshes", primitives=[{"attributes": {"POSITION": 1}, "mode": 9}]), "mode 9 is not known"),
        (_entry("meshes", primitives=["x"]), "a primitive that is no object"),
    ],
)
def test_damaged_headers(change, says, tmp_path):
    glb = Glb()
    glb.mesh(quad(glb))
    glb.header["nodes"] = [{"mesh": 0}]
    change(glb)
    with pytest.raises(MeshError, match=says):
        load(glb, tmp_path)


def test_json_nested_without_end(tmp_path):
    (tmp_path / "a.gltf").write_text('{"asset":' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(MeshError, match="not valid JSON"):
        Mesh.load(tmp_path / "a.gltf", unit="m")


def test_specular_glossiness_takes_the_place_of_what_is_for_others(tmp_path):
    """With a transform of its own; the other texture is for readers that do not know the extension."""
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = RED
    glb = Glb()
    moved = {"KHR_texture_transform": {"scale": [0.5, 0.5]}}
    gloss = {"diffuseTexture": {"index": glb.image(image), "extensions": moved}}
    other = {"index": glb.image(np.full((2, 2, 3), 9, np.uint8))}
    material = {
        "extensions": {"KHR_materials_pbrSpecularGlossiness": gloss},
        "pbrMetallicRoughness": {"baseColorTexture": other},
    }
    part = quad(glb, TEXCOORD_0=glb.accessor(0.25 + 0.5 * UV_DOWN))
    glb.mesh(part | {"material": glb.add("materials", material)})
    assert surface.all_colors(load(glb, tmp_path)) == [RED]


@pytest.mark.parametrize("how", ["base64", "escaped"])
def test_pictures_in_data_uris(how, tmp_path):
    import base64
    import io
    from urllib.parse import quote_from_bytes

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(texture()).save(stream, "PNG")
    data = stream.getvalue()
    glb = Glb()
    body = f";base64,{base64.b64encode(data).decode()}" if how == "base64" else f",{quote_from_bytes(data)}"
    source = glb.add("images", {"uri": "data:image/png" + body})
    _textured(glb, {"index": glb.add("textures", {"source": source})})
    mesh = load(glb, tmp_path)
    np.testing.assert_array_equal(mesh.textures[0], texture())
