"""Asset packs: what goes in comes out; what cannot be used is said."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
import trimesh

from benchmarks.meshes import colored_torus, grey_box, textured_sphere
from coop_edge.errors import InputError, MeshError
from coop_edge.render.cpu import CpuRenderer
from coop_edge.templates.viewpoints import template_camera
from export.data import assets, photographs, sources, textures
from export.data.assets import Source, build_pack
from export.data.assets_vrml import read_vrml
from export.data.packs import Pack, PackWriter
from export.data.rerender import target_of
from export.data.stream import make_stream
from tests.mutations import damaged_bytes, damaged_data

VRML = """#VRML V2.0 utf8
# a comment with Transform in it
Shape { appearance Appearance {material DEF RED Material { diffuseColor 1.0 0.0 0.0 transparency 0.0 } } }
Shape { geometry IndexedFaceSet { coordIndex [0,1,2,-1,0,2,3,-1] coord Coordinate { point [0 0 0,1 0 0,1 1 0,0 1 0] } }
appearance Appearance {material USE RED } }
Shape { geometry IndexedFaceSet { coordIndex [0 1 2 3 -1] coord Coordinate { point [0 0 1, 1 0 1, 1 1 1, 0 1 1] } } }
"""


@pytest.fixture
def pack(tmp_path):
    path = tmp_path / "pack.npz"
    with PackWriter(path, 256) as writer:
        for mesh in (textured_sphere(3, 0.05, 256), colored_torus(), grey_box()):
            writer.add(mesh, mesh.name, "benchmarks", "Apache-2.0")
    return path


def views(mesh) -> np.ndarray:
    T, K = template_camera(mesh, 96)
    return CpuRenderer(mesh, threads=1).render(T[::9], K, 96).rgb.astype(float)


def test_round_trip(pack):
    """Geometry to 16 bits, untextured colours exactly, renders nearly."""
    opened = Pack(pack)
    assert [a.name for a in opened.assets] == ["textured_sphere", "colored_torus", "grey_box"]
    assert {a.licence for a in opened.assets} == {"Apache-2.0"}
    for i, given in enumerate((textured_sphere(3, 0.05, 256), colored_torus(), grey_box())):
        mesh = opened.read(i)
        np.testing.assert_array_equal(mesh.faces, given.faces)
        np.testing.assert_array_equal(mesh.corner_colors, given.corner_colors)
        np.testing.assert_array_equal(mesh.face_texture, given.face_texture)
        assert mesh.diameter == pytest.approx(1.0, rel=1e-4)
        low, high = given.vertices.min(axis=0), given.vertices.max(axis=0)
        wanted = (given.vertices - (low + high) / 2) / given.diameter
        np.testing.assert_allclose(mesh.vertices, wanted, atol=2 / 65535)
        fraction = (mesh.corner_uv - given.corner_uv) % 1.0
        assert np.minimum(fraction, 1 - fraction).max() < 1e-4
        scaled = replace(given, vertices=wanted.astype(np.float32), centre=np.zeros(3))
        assert np.abs(views(mesh) - views(scaled)).mean() < 1.5


def test_textures_are_shrunk(tmp_path):
    with PackWriter(tmp_path / "p.npz", 32) as writer:
        writer.add(textured_sphere(2, 0.05, 128), "ball", "benchmarks", "x")
    assert Pack(tmp_path / "p.npz").read(0).textures[0].shape == (32, 32, 3)


def test_texture_coordinates_far_out_keep_their_precision(tmp_path):
    given = textured_sphere(2, 0.05, 64)
    given = replace(given, corner_uv=given.corner_uv + np.float32(200.0))
    with PackWriter(tmp_path / "p.npz", 64) as writer:
        writer.add(given, "ball", "benchmarks", "x")
    fraction = (Pack(tmp_path / "p.npz").read(0).corner_uv - given.corner_uv) % 1.0
    assert np.minimum(fraction, 1 - fraction).max() < 1e-3


def test_draw_gives_objects_of_all_sizes(pack):
    drawn = [Pack(pack).draw(np.random.default_rng(i)) for i in range(40)]
    assert {d.mesh.name for d in drawn} == {"textured_sphere", "colored_torus", "grey_box"}
    assert min(d.diameter for d in drawn) < 0.08 < 0.4 < max(d.diameter for d in drawn)
    for d in drawn:
        assert d.mesh.diameter == pytest.approx(d.diameter, rel=1e-4)
        assert np.isfinite(d.normal_map).all()
    assert any(d.mesh.textures for d in drawn if d.mesh.name == "grey_box"), "some untextured objects get a texture"


def test_splits_share_nothing(tmp_path):
    path = tmp_path / "pack.npz"
    with PackWriter(path, 64) as writer:
        for i in range(80):
            writer.add(grey_box(), f"box {i}", "benchmarks", "x")
    train, held = ({a.name for a in Pack(path, split=s).assets} for s in ("train", "heldout"))
    assert not train & held
    assert len(train | held) == 80
    assert held == {f"box {i}" for i in range(80) if textures.is_held_out(f"box {i}")}
    assert 0 < len(held) < 20


def test_a_stream_draws_from_a_pack(tmp_path):
    path = tmp_path / "pack.npz"
    with PackWriter(path, 64) as writer:
        for i in range(40):
            writer.add(colored_torus(sections=16), f"torus {i}", "benchmarks", "x")
    for split in ("train", "heldout"):
        options = {"pack": path, "split": split, "keep_scenes": True}
        with make_stream("refiner", 48, batch_size=72, workers=0, seed=0, labels=1, **options) as stream:
            _, records = next(stream)
        names = {target_of(r).mesh.name for r in records}
        drawn = {n for n in names if n.startswith("torus")}
        assert drawn
        assert names - drawn, "some procedural objects, always"
        assert {textures.is_held_out(n) for n in drawn} == {split == "heldout"}


def test_what_is_no_pack_is_refused(tmp_path, pack):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match=r"not an asset pack.*python -m export assets"):
        Pack(tmp_path / "text")
    with pytest.raises(InputError, match="not an asset pack"):
        Pack(tmp_path / "missing")
    with zipfile.ZipFile(tmp_path / "old.npz", "w") as archive:
        archive.writestr("index.json", json.dumps({"schema": "coop_edge asset pack 0", "objects": []}))
    with pytest.raises(InputError, match="wanted schema 'coop_edge asset pack 1'"):
        Pack(tmp_path / "old.npz")
    with pytest.raises(InputError, match="none of its 3 objects belongs to the split 'heldout'"):
        Pack(pack, split="heldout")


def test_a_damaged_object_is_named(pack, tmp_path):
    with zipfile.ZipFile(pack) as archive, zipfile.ZipFile(tmp_path / "bad.npz", "w") as bad:
        bad.writestr("index.json", archive.read("index.json"))
        bad.writestr("00000.npz", b"nonsense")
    with pytest.raises(MeshError, match="object 'textured_sphere' is damaged"):
        Pack(tmp_path / "bad.npz").read(0)
    with pytest.raises(MeshError, match="object 'grey_box' is damaged"):
        Pack(tmp_path / "bad.npz").read(2)


def test_an_index_with_anything_in_it(pack, tmp_path):
    with zipfile.ZipFile(pack) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    index, path, refused, count = json.loads(members["index.json"]), tmp_path / "x.npz", 0, 0
    texts = [json.dumps(damaged) for damaged in damaged_data(index)]
    for text in (*texts, "[" * 100_000, "1" + "0" * 5000, "nothing", ""):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("index.json", text)
            archive.writestr("00000.npz", members["00000.npz"])
        count += 1
        try:
            opened = Pack(path)
            for i in range(len(opened)):
                opened.read(i)
        except (InputError, MeshError):
            refused += 1
    assert count > 400
    assert refused > 0.8 * count  # the rest: names, sources and licences of any text


def test_a_pack_with_damaged_bytes(pack, tmp_path):
    data, path = pack.read_bytes(), tmp_path / "x.npz"
    whole = [Pack(pack).read(i).hash for i in range(3)]
    for damaged in damaged_bytes(data, 350, 0):
        path.write_bytes(damaged)
        found = whole
        with contextlib.suppress(InputError, MeshError):
            opened = Pack(path)
            found = [opened.read(i).hash for i in range(len(opened))]
        assert found == whole  # checksums leave nothing else


def test_an_object_with_damaged_arrays(pack, tmp_path):
    """Whoever makes a pack may write anything into it, with the right checksum."""
    with zipfile.ZipFile(pack) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "x.npz"
    with np.load(io.BytesIO(members["00000.npz"])) as file:
        arrays = {name: file[name] for name in file.files}
    odd = [np.zeros(0), np.float64(np.nan), np.float64(1e308), np.array(["x"]), np.arange(-4, 5), np.ones((2, 2), bool)]
    odd += [np.array([2**40]), np.full(3, -7, np.int16)]
    changed = [{**arrays, name: value} for name in arrays for value in odd]
    changed += [{key: value for key, value in arrays.items() if key != name} for name in arrays]
    for each in changed:
        buffer = io.BytesIO()
        np.savez(buffer, **each)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("index.json", members["index.json"])
            archive.writestr("00000.npz", buffer.getvalue())
        with contextlib.suppress(MeshError):
            Pack(path).read(0)


def test_nothing_is_left_of_a_pack_that_failed(tmp_path):
    def fail() -> None:
        with PackWriter(tmp_path / "p.npz", 64) as writer:
            writer.add(grey_box(), "a", "b", "c")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert not list(tmp_path.iterdir())


def collection(folder) -> None:
    """Two OBJ files, one textured, in two folders, and files that are of no use."""
    folder.mkdir(parents=True)
    (folder / "LICENSE").write_text("MIT License\n\nmore")
    for k, extents in enumerate(((1, 2, 3), (300, 200, 100))):
        (folder / f"d{k}").mkdir()
        trimesh.creation.box(extents=extents).export(folder / f"d{k}" / "box.stl")
    text = "mtllib m.mtl\nusemtl a\nv 0 0 0\nv 9 0 0\nv 0 9 0\nv 0 0 9\nvt 0 0\nvt 1 0\nvt 0 1\n"
    (folder / "d0" / "tetra.obj").write_text(text + "f 1/1 2/2 3/3\nf 1/1 2/2 4/3\nf 1/1 3/2 4/3\nf 2/1 3/2 4/3\n")
    (folder / "d0" / "m.mtl").write_text("newmtl a\nKd 1 1 1\nmap_Kd t.png\n")
    cv2.imwrite(str(folder / "d0" / "t.png"), np.full((300, 500, 3), (0, 0, 255), np.uint8))
    (folder / "d1" / "broken.obj").write_text("v 0 0\nf 1 2 3\n")
    (folder / "d1" / "part.wrl").write_text(VRML)
    (folder / "d1" / "wire.stl").write_bytes(trimesh.creation.box(extents=(1, 0.01, 0.01)).export(file_type="stl"))
    (folder / "ycb_mug.obj").write_text(text)


def test_build_from_a_folder(tmp_path):
    collection(tmp_path / "things")
    seen = []
    report = build_pack([tmp_path / "things"], tmp_path / "p.npz", progress=lambda a, b: seen.append((a, b)))
    assert report.count == 4
    assert sorted(report.failed) == ["things/d1/broken.obj", "things/d1/wire.stl"]
    assert report.reserved == ["things/ycb_mug.obj"]
    assert report.bytes == (tmp_path / "p.npz").stat().st_size
    assert seen == [(k + 1, 6) for k in range(6)]
    opened = Pack(tmp_path / "p.npz")
    assert {a.licence for a in opened.assets} == {"see LICENSE: MIT License"}
    by_name = {a.name: opened.read(i) for i, a in enumerate(opened.assets)}
    assert set(by_name) == {"things/d0/box.stl", "things/d1/box.stl", "things/d0/tetra.obj", "things/d1/part.wrl"}
    tetra = by_name["things/d0/tetra.obj"]
    assert tetra.textures[0].shape == (154, 256, 3)
    assert np.abs(tetra.textures[0].astype(int) - (255, 0, 0)).max() < 6
    for mesh in by_name.values():
        assert mesh.diameter == pytest.approx(1.0, rel=1e-4)


def test_build_from_archives_with_limits(tmp_path):
    collection(tmp_path / "things")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted((tmp_path / "things").rglob("*")):
            archive.write(path, "top/" + path.relative_to(tmp_path / "things").as_posix())
    outer = tmp_path / "outer"
    outer.mkdir()
    (tmp_path / "a.zip").rename(outer / "inner.sh3f")
    report = build_pack([Source(outer, "nested", "CC0", "*d0*")], tmp_path / "p.npz", limit=1)
    assert report.count == 1
    assert [(a.source, a.licence) for a in Pack(tmp_path / "p.npz").assets] == [("nested", "CC0")]


def test_meshes_are_simplified(tmp_path):
    (tmp_path / "m").mkdir()
    trimesh.creation.icosphere(subdivisions=5).export(tmp_path / "m" / "ball.stl")
    build_pack([tmp_path / "m"], tmp_path / "p.npz", max_faces=800)
    assert len(Pack(tmp_path / "p.npz").read(0).faces) <= 800


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="'nowhere' does not exist"):
        build_pack(["nowhere"], tmp_path / "p.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"none of 0 files could be used; wanted meshes \(\.obj"):
        build_pack([tmp_path / "empty"], tmp_path / "p.npz")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(InputError, match="wanted a folder or an archive"):
        build_pack([tmp_path / "file.txt"], tmp_path / "p.npz")
    (tmp_path / "bad.zip").write_text("x")
    with pytest.raises(InputError, match="cannot be unpacked"):
        build_pack([tmp_path / "bad.zip"], tmp_path / "p.npz")
    assert not (tmp_path / "p.npz").exists()
    with pytest.raises(InputError, match="wanted one of sweethome3d, kicad, random_urdfs, got 'shapenet'"):
        sources.fetch("shapenet", tmp_path)


@pytest.mark.parametrize("module", [sources, photographs])
def test_fetching_commands_explain_themselves_and_fetch_nothing(module, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert "folder" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_vrml(tmp_path):
    (tmp_path / "a.wrl").write_text(VRML)
    mesh = read_vrml(tmp_path / "a.wrl")
    assert len(mesh.faces) == 4
    assert mesh.area == pytest.approx(2.0)
    assert mesh.visual.face_colors[:, :3].tolist() == [[255, 0, 0]] * 2 + [[200, 200, 200]] * 2
    for text, message in (
        ("#VRML V1.0 ascii", "#VRML V2.0"),
        (VRML + "Transform { }", "Transform"),
        ("#VRML V2.0 utf8\n", "no indexed face sets"),
        (VRML.replace("[0,1,2,-1", "[0,1,9,-1"), "refers to point 9 of 4"),
        (VRML.replace("0 1 0]", "0 one 0]"), "one"),
    ):
        (tmp_path / "b.wrl").write_text(text)
        with pytest.raises(MeshError, match=message):
            read_vrml(tmp_path / "b.wrl")


def test_debian_licences(tmp_path):
    (tmp_path / "copyright").write_text(
        "Format: x\nUpstream-Name: y\n\nFiles: *\nCopyright: A\nLicense: CC-BY-4.0\n\n"
        "Files: a/one.wrl\n a/two*.wrl\nCopyright: B\nLicense: GPL-3+\n\nLicense: GPL-3+\n text\n"
    )
    licence = assets.debian_licences(tmp_path / "copyright")
    assert licence("b/one.wrl") == "CC-BY-4.0"
    assert licence("a/one.wrl") == "GPL-3+"
    assert licence("a/two_b.wrl") == "GPL-3+"
    assert licence("a/three.wrl") == "CC-BY-4.0"


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_fetch_unpacks_a_debian_package(tmp_path):
    """A small package of the same layout, already in the cache folder: nothing is downloaded."""
    root = tmp_path / "root"
    collection(root / "things")
    furniture = root / "usr/share/sweethome3d/furniture"
    furniture.mkdir(parents=True)
    with zipfile.ZipFile(furniture / "Acme.sh3f", "w") as archive:
        archive.write(root / "things/d0/tetra.obj", "acme/tetra.obj")
        archive.write(root / "things/d0/m.mtl", "acme/m.mtl")
        archive.write(root / "things/d0/t.png", "acme/t.png")
    shutil.rmtree(root / "things")
    notes = root / "usr/share/doc/sweethome3d-furniture"
    notes.mkdir(parents=True)
    (notes / "copyright").write_text("Files: Acme/*\nCopyright: A\nLicense: CC-BY-3.0\n")
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: sweethome3d-furniture\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: x\n"
    )
    (tmp_path / "cache/sources").mkdir(parents=True)
    target = tmp_path / "cache/sources/sweethome3d-furniture_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(root), str(target)], check=True, capture_output=True)
    found = sources.fetch("sweethome3d", tmp_path / "cache")
    assert [(s.name, s.licence) for s in found] == [("sweethome3d/Acme", "CC-BY-3.0")]
    build_pack(found, tmp_path / "p.npz")
    (asset,) = Pack(tmp_path / "p.npz").assets
    assert (asset.name, asset.licence, asset.textures) == ("sweethome3d/Acme/acme/tetra.obj", "CC-BY-3.0", 1)


def test_a_download_that_fails_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"kicad-packages3d could not be fetched.*By hand: cd .* && apt-get download"):
        sources.fetch("kicad", tmp_path)
