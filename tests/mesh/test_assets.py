"""What a mesh file may refer to: where, how large, and what happens when it cannot be read."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coop_edge.errors import InputError, MeshError
from coop_edge.mesh import LoadLimits, Mesh
from tests.mesh import assets
from tests.mesh.assets import QUAD, QUAD_FACES, QUAD_UV
from tests.mesh.dae_writer import collada, primitive
from tests.mesh.glb import Glb


@pytest.fixture
def folder(tmp_path):
    """A mesh's own folder, two below tmp_path; a picture lies at each level."""
    inner = tmp_path / "models" / "cup"
    inner.mkdir(parents=True)
    for place in (tmp_path, tmp_path / "models", inner):
        assets.save_png(place / "skin.png", assets.texture())
    return inner


def obj(folder: Path, name: str) -> Path:
    return assets.obj_quad(folder, None, name=name)


INSIDE = ["skin.png", "../skin.png", "..\\skin.png", "../cup/skin.png", "..%2Fskin.png", "file:../skin.png"]
OUTSIDE = ["../../skin.png", "..\\..\\skin.png", "..%2f..%2fskin.png", "../cup/../../skin.png", "file:../../skin.png"]


@pytest.mark.parametrize("name", INSIDE)
def test_files_below_the_parent_of_the_folder_are_read(name, folder):
    assert len(Mesh.load(obj(folder, name), unit="m").textures) == 1


@pytest.mark.parametrize("name", [*OUTSIDE, "{}", "file://{}", "file://localhost{}"])
def test_files_outside_are_refused_unless_asked_for(name, folder):
    name = name.format(folder.parents[1] / "skin.png")
    path = obj(folder, name)
    with pytest.raises(MeshError, match=r"lies outside .*allow_outside=True"):
        Mesh.load(path, unit="m")
    assert len(Mesh.load(path, unit="m", allow_outside=True).textures) == 1
    assert Mesh.load(path, unit="m", ignore_colors=True).textures == ()


def test_links_are_followed_before_the_place_is_checked(folder):
    os.symlink(folder.parents[1] / "skin.png", folder / "link.png")
    path = obj(folder, "link.png")
    with pytest.raises(MeshError, match="lies outside"):
        Mesh.load(path, unit="m")
    assert len(Mesh.load(path, unit="m", allow_outside=True).textures) == 1


def _library(folder: Path) -> Path:
    (folder.parents[1] / "m.mtl").write_text("newmtl skin\nKd 1 0 0\n")
    path = obj(folder, "skin.png")
    path.write_text(path.read_text().replace("mtllib quad.mtl", "mtllib ../../m.mtl"))
    return path


def _buffer(folder: Path) -> Path:
    glb = Glb()
    glb.mesh({"attributes": {"POSITION": glb.accessor(QUAD)}, "indices": glb.accessor(QUAD_FACES.ravel(), "u2")})
    path = glb.write(folder / "a.gltf")
    header = json.loads(path.read_text())
    (folder.parents[1] / "data.bin").write_bytes(glb.blob)
    header["buffers"][0]["uri"] = "..%2F../data.bin"
    path.write_text(json.dumps(header))
    return path


def _ply(folder: Path) -> Path:
    path = assets.ply_quad(folder, assets.texture(), layout="vertex st")
    path.write_text(path.read_text().replace("TextureFile skin.png", "TextureFile ../../skin.png"))
    return path


def _dae(folder: Path) -> Path:
    path = assets.dae_quad(folder, assets.texture())
    path.write_text(path.read_text().replace(">skin.png<", f">file://{folder.parents[1]}/skin.png<"))
    return path


@pytest.mark.parametrize("make", [_library, _buffer, _ply, _dae])
def test_every_kind_of_file_is_kept_inside(make, folder):
    path = make(folder)
    with pytest.raises(MeshError, match="lies outside"):
        Mesh.load(path, unit="m")
    assert len(Mesh.load(path, unit="m", allow_outside=True).faces) == 2


@pytest.mark.parametrize("name", ["\0.png", "a" * 5000, "http://example.org/skin.png", "missing/skin.png"])
def test_names_that_no_file_has(name, folder):
    (folder / "quad.mtl").write_text(f"newmtl skin\nmap_Kd {name}\n")
    with pytest.raises(MeshError, match="is missing"):
        Mesh.load(assets.obj_quad(folder, None, mtl=False), unit="m")


@pytest.mark.parametrize("kind", ["folder", "fifo"])
@pytest.mark.parametrize("what", ["skin.png", "quad.mtl"])
def test_what_is_no_regular_file_is_refused_at_once(what, kind, folder):
    path = obj(folder, "skin.png")
    (folder / what).unlink()
    if kind == "fifo":
        os.mkfifo(folder / what)
    else:
        (folder / what).mkdir()
    found: list[BaseException] = []

    def run() -> None:
        try:
            Mesh.load(path, unit="m")
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert found, "hangs"
    assert isinstance(found[0], MeshError)
    assert "not a regular file" in str(found[0])


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (MemoryError(), "MemoryError"),
    ],
)
@pytest.mark.parametrize("what", ["skin.png", "quad.mtl"])
def test_what_cannot_be_read_is_an_error(what, error, says, folder, monkeypatch):
    path = obj(folder, "skin.png")
    read = Path.read_bytes

    def fail(self):
        if self.name == what:
            raise error
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(MeshError, match=rf"'{what}' cannot be read \({says}\)"):
        Mesh.load(path, unit="m")
    if what == "skin.png":
        assert len(Mesh.load(path, unit="m", ignore_colors=True).faces) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_texture_without_permission(folder):
    path = obj(folder, "skin.png")
    (folder / "skin.png").chmod(0)
    with pytest.raises(MeshError, match="Permission denied"):
        Mesh.load(path, unit="m")


@pytest.mark.parametrize("what", ["skin.png", "quad.mtl", "quad.obj"])
def test_an_interrupt_passes(what, folder, monkeypatch):
    path = obj(folder, "skin.png")
    read = Path.read_bytes

    def interrupted(self):
        if self.name == what:
            raise KeyboardInterrupt
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Mesh.load(path, unit="m")


def test_an_interrupt_while_decoding_passes(folder, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    path = obj(folder, "skin.png")
    monkeypatch.setattr(Image, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Mesh.load(path, unit="m")


def png(width: int, height: int) -> bytes:
    """A picture of one colour whose rows are not even there: its header alone says how large it is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("inside", [True, False])
def test_the_size_of_a_picture_is_checked_before_it_is_decoded(inside, folder):
    if inside:
        glb = Glb()
        uv = glb.accessor(np.zeros((4, 2)))
        material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": glb.image(png(13_000, 13_000))}}}
        attributes = {"POSITION": glb.accessor(QUAD), "TEXCOORD_0": uv}
        indices = glb.accessor(QUAD_FACES.ravel(), "u2")
        glb.mesh({"attributes": attributes, "indices": indices, "material": glb.add("materials", material)})
        path = glb.write(folder / "a.glb")
    else:
        path = obj(folder, "skin.png")
        (folder / "skin.png").write_bytes(png(13_000, 13_000))
    with pytest.raises(MeshError, match=r"13000 x 13000 pixels, more than the limit.*LoadLimits\(texture_pixels="):
        Mesh.load(path, unit="m")


def test_a_picture_that_pillow_does_not_open(folder):
    path = obj(folder, "skin.png")
    (folder / "skin.png").write_bytes(png(20_000, 20_000))
    with pytest.raises(MeshError, match="more pixels than Pillow opens"):
        Mesh.load(path, unit="m", limits=LoadLimits(texture_pixels=10**9))


def test_limits_of_textures(folder):
    path = obj(folder, "skin.png")  # 8 x 4
    assert Mesh.load(path, unit="m", limits=LoadLimits(texture_pixels=32)).textures
    for limits, says in (
        (LoadLimits(texture_pixels=31), "8 x 4 pixels"),
        (LoadLimits(all_texture_pixels=31), "the textures have 32 pixels"),
        (LoadLimits(file_bytes=10), "bytes, more than the limit of 10"),
        (LoadLimits(triangles=1), "has 2 triangles"),
    ):
        with pytest.raises(MeshError, match=says):
            Mesh.load(path, unit="m", limits=limits)
    quad = assets.trimesh_quad(assets.texture())
    with pytest.raises(MeshError, match="8 x 4 pixels"):
        Mesh.load(quad, unit="m", limits=LoadLimits(texture_pixels=31))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_limits_are_checked(value):
    with pytest.raises(InputError, match=r"LoadLimits\.triangles: wanted a positive integer"):
        LoadLimits(triangles=value)
    with pytest.raises(InputError, match="limits: wanted LoadLimits"):
        Mesh.load(assets.trimesh_quad(assets.texture()), unit="m", limits={"triangles": 3})


def nested(levels: int, leaf: str) -> str:
    """Nodes that each hold the one below twice: 2^levels parts."""
    library = f'<node id="n0">{leaf}</node>'
    for i in range(levels):
        library += f'<node id="n{i + 1}"><instance_node url="#n{i}"/><instance_node url="#n{i}"/></node>'
    return f"<library_nodes>{library}</library_nodes>"


@pytest.mark.parametrize("leaf", ['<instance_geometry url="#g"/>', ""])
def test_instances_of_instances(leaf, folder):
    root = '<node id="r"><instance_node url="#n60"/></node>'
    text = collada(QUAD, [primitive("triangles", QUAD_FACES.tolist())], libraries=nested(60, leaf), nodes=root)
    (folder / "a.dae").write_text(text)
    with pytest.raises(MeshError, match=r"more than the limit of 10000.*LoadLimits\(instances="):
        Mesh.load(folder / "a.dae", unit="m")
    root = root.replace("n60", "n3")
    text = collada(QUAD, [primitive("triangles", QUAD_FACES.tolist())], libraries=nested(60, leaf), nodes=root)
    (folder / "a.dae").write_text(text)
    if leaf:
        assert len(Mesh.load(folder / "a.dae", unit="m").faces) == 16
        with pytest.raises(MeshError, match="limit of 7"):
            Mesh.load(folder / "a.dae", unit="m", limits=LoadLimits(instances=7))


def test_instances_of_gltf(folder):
    glb = Glb()
    glb.mesh({"attributes": {"POSITION": glb.accessor(QUAD)}, "indices": glb.accessor(QUAD_FACES.ravel(), "u2")})
    many = glb.add("accessors", {"componentType": 5126, "count": 20_000, "type": "VEC3"})
    glb.header["nodes"] = [
        {"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": many}}}}
    ]
    path = glb.write(folder / "a.glb")
    with pytest.raises(MeshError, match="a node places its mesh 20000 times, more than the limit"):
        Mesh.load(path, unit="m")
    with pytest.raises(MeshError, match="its scene holds 10002 triangles or more"):
        Mesh.load(path, unit="m", limits=LoadLimits(instances=20_000, triangles=10_000))


def peak_mb(path: Path, **options) -> float:
    """Most memory that loading takes at a time, whether it ends in an error or not."""
    gc.collect()
    tracemalloc.start()
    try:
        with contextlib.suppress(MeshError):
            Mesh.load(path, unit="m", **options)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("count", [70_000, 3_000_000, 29_999_997])
def test_an_accessor_without_data_takes_no_memory(count, sparse, folder):
    glb = Glb()
    change = {"count": 3, "indices": {"bufferView": glb.view(bytes([0, 1, 2])), "componentType": 5121}}
    change["values"] = {"bufferView": glb.view(QUAD[:3].astype("<f4").tobytes())}
    entry = {"componentType": 5126, "count": count, "type": "VEC3"} | ({"sparse": change} if sparse else {})
    glb.mesh({"attributes": {"POSITION": glb.add("accessors", entry)}})
    path = glb.write(folder / "a.gltf")
    assert path.stat().st_size < 1000
    assert peak_mb(path) < 5
    with pytest.raises(MeshError, match=f"has {count} entries without data of its own"):
        Mesh.load(path, unit="m")


def test_a_sparse_accessor_of_a_mesh_that_has_data_is_read(folder):
    """As morph targets are stored: as many entries as there are vertices."""
    points = np.tile(QUAD, (30_000, 1))
    glb = Glb()
    position = glb.accessor(points)
    change = {"count": 1, "indices": {"bufferView": glb.view(bytes([2])), "componentType": 5121}}
    change["values"] = {"bufferView": glb.view(np.array([0, 0, 0.5], "<f4").tobytes())}
    target = glb.add("accessors", {"componentType": 5126, "count": len(points), "type": "VEC3", "sparse": change})
    part = {"attributes": {"POSITION": position}, "indices": glb.accessor(QUAD_FACES.ravel(), "u2")}
    glb.mesh(part | {"targets": [{"POSITION": target}]}, weights=[1.0])
    mesh = Mesh.load(glb.write(folder / "a.glb"), unit="m")
    assert np.ptp(mesh.vertices[:, 2]) == pytest.approx(0.5)


def tinted(folder, *, tints: int, side: int = 512, wrap: int = 10497) -> Path:
    """A picture of one colour that many materials tint, one triangle each."""
    glb = Glb()
    position, uv = glb.accessor(QUAD[:3]), glb.accessor(3.0 * QUAD_UV[:3] - 1.0)
    glb.header["samplers"] = [{"wrapS": wrap, "wrapT": wrap}]
    index = glb.image(np.full((side, side, 3), 128, np.uint8), sampler=0)
    parts = []
    for i in range(tints):
        look = {"baseColorFactor": [1, 1, 1 - 0.9 * (i + 1) / tints, 1], "baseColorTexture": {"index": index}}
        material = glb.add("materials", {"pbrMetallicRoughness": look})
        parts.append({"attributes": {"POSITION": position, "TEXCOORD_0": uv}, "material": material})
    glb.mesh(*parts)
    return glb.write(folder / "a.glb")


@pytest.mark.parametrize(("tints", "wrap", "copies"), [(10, 10497, 11), (1, 33071, 8), (3, 33648, 20)])
def test_pictures_that_are_made_of_others_count(tints, wrap, copies, folder):
    path, pixels = tinted(folder, tints=tints, wrap=wrap), 512 * 512
    limits = LoadLimits(all_texture_pixels=copies * pixels)
    with pytest.raises(MeshError, match=r"with the tinted and continued copies, more than.*all_texture_pixels="):
        Mesh.load(path, unit="m", limits=LoadLimits(all_texture_pixels=(copies // 2) * pixels))
    assert peak_mb(path, limits=limits) < 3.0 * 1.3 * copies * pixels / 1e6 + 10


def test_copies_beyond_the_limit_are_not_even_begun(folder):
    path = tinted(folder, tints=200)  # 160 MB
    with pytest.raises(MeshError, match="with the tinted and continued copies"):
        Mesh.load(path, unit="m", limits=LoadLimits(all_texture_pixels=100 * 512 * 512))
    assert peak_mb(path, limits=LoadLimits(all_texture_pixels=100 * 512 * 512)) < 10


def test_vertices_that_no_face_uses_are_not_placed_again_and_again(folder):
    """Each of 100 parts has three corners of the same 100,000 vertices."""
    glb = Glb()
    position = glb.accessor(np.tile(QUAD, (25_000, 1)))
    glb.mesh({"attributes": {"POSITION": position}, "indices": glb.accessor([0, 1, 2], "u1")})
    glb.header["nodes"] = [{"mesh": 0, "translation": [0, 0, 0.01 * i]} for i in range(100)]
    path = glb.write(folder / "a.glb")
    assert len(Mesh.load(path, unit="m").faces) == 100
    assert peak_mb(path) < 30
    rows = [f"v {x} {y} {z}" for x, y, z in np.tile(QUAD, (5_000, 1))]
    rows += [line for i in range(200) for line in (f"usemtl m{i}", "f 1 2 3")]
    (folder / "a.obj").write_text("\n".join(rows) + "\n")
    assert peak_mb(folder / "a.obj") < 30


def test_memory_of_many_triangles(folder):
    """Of a file that holds them all, and of a small one that repeats them."""
    count = 300_000
    points = np.random.default_rng(0).uniform(0, 0.1, (3 * 1000, 3))
    glb = Glb()
    glb.mesh({"attributes": {"POSITION": glb.accessor(points)}})
    glb.header["nodes"] = [{"mesh": 0, "translation": [0, 0, 1e-4 * i]} for i in range(count // 1000)]
    path = glb.write(folder / "a.glb")
    assert peak_mb(path, max_faces=10**6) < 500 * count / 1e6


def test_a_fifo_in_place_of_the_mesh(folder):
    os.mkfifo(folder / "a.obj")
    with pytest.raises(MeshError, match="not a file"):
        Mesh.load(folder / "a.obj", unit="m")


def test_formats_that_run_programs_are_no_textures(folder):
    """Pillow hands EPS to Ghostscript."""
    path = obj(folder, "skin.eps")
    (folder / "skin.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(MeshError, match=r"'skin\.eps' cannot be decoded"):
        Mesh.load(path, unit="m")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TGA", "TIFF", "WEBP", "GIF", "PPM"])
def test_formats_of_pictures(kind, folder):
    name = f"other.{kind.lower()}"
    Image.fromarray(np.full((8, 8, 3), (200, 40, 30), np.uint8)).save(folder / name, kind)
    (texture,) = Mesh.load(obj(folder, name), unit="m").textures
    assert np.abs(texture.astype(int) - (200, 40, 30)).max() < 20
