"""Damaged files: a MeshError, or a mesh whose area, extents and colours agree with a reader of another make.

``COOP_EDGE_FUZZ=2000`` sets the number of mutations of each file.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from coop_edge.errors import MeshError
from coop_edge.mesh import DEFAULT_ALBEDO, Mesh
from coop_edge.mesh.polygons import triangulate
from tests.mesh import assets, readers, surface
from tests.mesh.dae_writer import bind, collada, effect, floats, primitive
from tests.mesh.glb import Glb
from tests.mesh.test_ply import ply

MUTATIONS = int(os.environ.get("COOP_EDGE_FUZZ", "150"))
POINTS = np.array([[0, 0, 0], [0.1, 0, 0], [0.1, 0.06, 0], [0, 0.06, 0], [0.05, 0.03, 0.08]])
FACES = [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]
BASE = [3, 2, 1, 0]
COLORS = np.array([[250, 10, 20], [10, 240, 30], [20, 30, 230], [200, 210, 60], [90, 90, 90]])
UV = np.array([[0.1, 0.1], [0.4, 0.2], [0.3, 0.9], [0.2, 0.8], [0.45, 0.5]])


def _obj(folder: Path, *, colored: bool) -> Path:
    (folder / "m.mtl").write_text("newmtl skin\nmap_Kd skin.png\nnewmtl red\nKd 0.9 0.2 0.1\n")
    rows = ["mtllib m.mtl"]
    for point, color in zip(POINTS, COLORS / 255, strict=True):
        rows.append("v " + " ".join(f"{x:.4f}" for x in [*point, *(color if colored else ())]))
    rows += [f"vt {u} {v}" for u, v in UV]
    rows += ["usemtl skin", *("f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in FACES[:2])]
    rows += ["usemtl red", *("f " + " ".join(str(i + 1) for i in face) for face in [*FACES[2:], BASE])]
    path = folder / "a.obj"
    path.write_text("\n".join(rows) + "\n")
    return path


def _ply(folder: Path, *, form: str, textured: bool) -> Path:
    xyz = ["float x", "float y", "float z"]
    if textured:
        rows = [[face, UV[face].ravel().tolist(), 0] for face in FACES]
        face = ("face", ["list uchar int vertex_indices", "list uchar float texcoord", "int texnumber"], rows)
        data = ply(form, [("vertex", xyz, POINTS.tolist()), face], comments=["TextureFile skin.png"])
    else:
        rows = [[face, *map(int, COLORS[i])] for i, face in enumerate([*FACES, BASE])]
        properties = ["list uchar int vertex_indices", "uchar red", "uchar green", "uchar blue"]
        data = ply(form, [("vertex", xyz, POINTS.tolist()), ("face", properties, rows)])
    (folder / "a.ply").write_bytes(data)
    return folder / "a.ply"


def _stl(folder: Path, *, text: bool) -> Path:
    path = folder / "a.stl"
    if text:
        rows = ["solid a"]
        for face in FACES:
            rows += ["facet normal 0 0 1", "outer loop", *(f"vertex {x} {y} {z}" for x, y, z in POINTS[face])]
            rows += ["endloop", "endfacet"]
        path.write_text("\n".join([*rows, "endsolid a"]) + "\n")
        return path
    data = b"made by hand".ljust(80) + struct.pack("<I", len(FACES))
    for i, face in enumerate(FACES):
        spare = 0x8000 | (3 * i << 10) | (31 - i << 5) | 7
        data += struct.pack("<12fH", 0, 0, 1, *POINTS[face].ravel(), spare)
    path.write_bytes(data)
    return path


def _off(folder: Path, *, colored: bool) -> Path:
    rows = ["COFF" if colored else "OFF", f"5 {len(FACES) + 1} 0"]
    for point, color in zip(POINTS, COLORS, strict=True):
        rows.append(" ".join(map(str, [*point, *((*color, 255) if colored else ())])))
    for i, face in enumerate([*FACES, BASE]):
        rows.append(" ".join(map(str, [len(face), *face, *(() if colored else COLORS[i])])))
    (folder / "a.off").write_text("\n".join(rows) + "\n")
    return folder / "a.off"


def _glb(folder: Path) -> Path:
    glb = Glb()
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": glb.image((folder / "skin.png").read_bytes())}}}
    position, uv = glb.accessor(POINTS), glb.accessor(UV)
    first = {"attributes": {"POSITION": position, "TEXCOORD_0": uv}, "indices": glb.accessor(np.ravel(FACES[:2]), "u2")}
    second = {"attributes": {"POSITION": position}, "indices": glb.accessor(np.ravel(FACES[2:]), "u1")}
    red = {"pbrMetallicRoughness": {"baseColorFactor": [0.8, 0.1, 0.05, 1]}}
    colors = glb.accessor(np.column_stack([COLORS, np.full(5, 255)]), "u1", normalized=True)
    third = {
        "attributes": {"POSITION": position, "COLOR_0": colors},
        "indices": glb.accessor([3, 0, 2, 1], "u1"),
        "mode": 5,
    }
    glb.mesh(
        first | {"material": glb.add("materials", material)}, second | {"material": glb.add("materials", red)}, third
    )
    glb.header["nodes"] = [
        {"mesh": 0, "translation": [0.1, 0, 0]},
        {"mesh": 0, "scale": [1, 2, 1], "rotation": [0, 0, 0.6, 0.8]},
    ]
    return glb.write(folder / "a.glb")


def _dae(folder: Path, *, textured: bool) -> Path:
    if textured:
        params = (
            '<newparam sid="sf"><surface type="2D"><init_from>im</init_from></surface></newparam>'
            '<newparam sid="sm"><sampler2D><source>sf</source></sampler2D></newparam>'
        )
        libraries = '<library_images><image id="im"><init_from>skin.png</init_from></image></library_images>'
        libraries += effect('<diffuse><texture texture="sm" texcoord="UV"/></diffuse>', params=params)
        inputs = '<input semantic="TEXCOORD" source="#t" offset="0" set="0"/>'
        bound = bind(extra='<bind_vertex_input semantic="UV" input_semantic="TEXCOORD" input_set="0"/>')
        part = primitive("triangles", FACES, inputs=inputs, material="M")
        text = collada(POINTS, [part], sources=floats("t", UV, "ST"), libraries=libraries, bind=bound)
    else:
        libraries = effect("<diffuse><color>0.9 0.2 0.1 1</color></diffuse>")
        instance = f'<instance_geometry url="#g">{bind()}</instance_geometry>'
        nodes = f"<node><translate>0.1 0 0</translate><scale>1 2 1</scale>{instance}</node>"
        parts = [primitive("polylist", [*FACES[:3], BASE], material="M"), primitive("triangles", FACES[3:])]
        text = collada(POINTS, parts, libraries=libraries, nodes=nodes)
    (folder / "a.dae").write_text(text)
    return folder / "a.dae"


SEEDS = {
    "obj": lambda d: _obj(d, colored=False),
    "obj colours": lambda d: _obj(d, colored=True),
    "mtl": lambda d: _obj(d, colored=False),
    "ply ascii": lambda d: _ply(d, form="ascii", textured=False),
    "ply binary": lambda d: _ply(d, form="binary_little_endian", textured=False),
    "ply ascii texture": lambda d: _ply(d, form="ascii", textured=True),
    "ply binary texture": lambda d: _ply(d, form="binary_big_endian", textured=True),
    "stl": lambda d: _stl(d, text=False),
    "stl ascii": lambda d: _stl(d, text=True),
    "off": lambda d: _off(d, colored=False),
    "coff": lambda d: _off(d, colored=True),
    "glb": _glb,
    "dae": lambda d: _dae(d, textured=False),
    "dae texture": lambda d: _dae(d, textured=True),
}
WORDS = [
    b"nan",
    b"inf",
    b"-1",
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"7",
    b"1e309",
    b"-1e308",
    b"999999999999",
    b"0,5",
    b"x",
    b"",
]
WORDS += [b"0.5", b"1.5", b"255", b"256", b"65536", b"1e400" * 30, b"#", b"\xff\xfe", b"4294967295"]

NUMBERS = {b"<?xm": rb"(?<=[ >])-?[\d.]+(?=[ <])", b"glTF": rb"(?<=[:,\[ ])-?[\d.]+(?=[,\]} ])"}
"""Words that are changed in formats whose names and brackets leave nothing to read when they are damaged."""


def mutate(data: bytes, rng: np.random.Generator, head: int) -> bytes:
    """One to three changes; ``head``: bytes at the front that are changed more often."""
    for _ in range(int(rng.integers(1, 4))):
        n = len(data)
        at = int(rng.integers(0, max(1, head if rng.random() < 0.3 else n)))
        kind = rng.integers(0, 8)
        if kind == 0:
            data = data[:at] + bytes([rng.integers(0, 256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + bytes([data[at] ^ (1 << int(rng.integers(0, 8)))]) + data[at + 1 :] if at < n else data
        elif kind == 2:
            data = data[:at] + data[at + int(rng.integers(1, 30)) :]
        elif kind == 3:
            span = data[at : at + int(rng.integers(1, 40))]
            to = int(rng.integers(0, max(1, n)))
            data = data[:to] + span + data[to:]
        elif kind == 4 and rng.random() < 0.5:
            data = data[:at]
        else:
            words = list(re.finditer(NUMBERS.get(data[:4], rb"[\w.+-]+"), data))
            if words:
                word = words[int(rng.integers(0, len(words)))]
                data = data[: word.start()] + WORDS[int(rng.integers(0, len(WORDS)))] + data[word.end() :]
    return data


def compare(mesh: Mesh, polygons: list[readers.Polygon]) -> None:
    """Raise AssertionError unless the mesh shows these polygons."""
    points, colors, exact = [], [], True
    for corners, color in polygons:
        if len(corners) < 3:
            continue
        cut = triangulate(corners, np.array([len(corners)]))
        normal = np.cross(corners, np.roll(corners, -1, axis=0)).sum(axis=0)
        flat = np.linalg.norm(normal) > 0 and np.ptp(corners @ (normal / np.linalg.norm(normal))) < 1e-7
        exact &= len(corners) == 3 or bool(flat and not cut.uncertain)
        points.append(corners[cut.corners])
        color = np.asarray(DEFAULT_ALBEDO if color is None else color, float)
        colors += [color if color.ndim == 1 else color[triangle].mean(axis=0) for triangle in cut.corners]
    triangles, shown = np.concatenate(points), np.array(colors, float)
    edges = triangles[:, [1, 2, 0]] - triangles
    doubled = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    real = doubled > 1e-7 * (edges**2).sum(-1).max(axis=1)
    low, high = triangles[real].min(axis=(0, 1)), triangles[real].max(axis=(0, 1))
    size = float(np.linalg.norm(high - low))
    np.testing.assert_allclose(surface.extents(mesh), high - low, atol=1e-5 * size)
    if not exact:
        return
    area = 0.5 * doubled[real]
    assert surface.area(mesh) == pytest.approx(area.sum(), rel=1e-4)
    if not np.isfinite(shown).all():
        return
    weights = surface.areas(mesh) / surface.area(mesh)
    np.testing.assert_allclose(weights @ surface.middle_colors(mesh), (area / area.sum()) @ shown[real], atol=1.0)


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", SEEDS, ids=list(SEEDS))
def test_damaged_files(seed, tmp_path):
    assets.save_png(tmp_path / "skin.png", assets.texture(5, (16, 8)))
    path = SEEDS[seed](tmp_path)
    compare(Mesh.load(path, unit="m"), readers.read(path))
    changed = path.with_name("m.mtl") if seed == "mtl" else path
    whole = changed.read_bytes()
    head = whole.find(b"end_header") if path.suffix == ".ply" else 60
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    loaded = 0
    for i in range(MUTATIONS):
        changed.write_bytes(mutate(whole, rng, head))
        try:
            mesh = Mesh.load(path, unit="m")
        except MeshError:
            continue
        loaded += 1
        try:
            compare(mesh, readers.read(path))
        except Exception as error:
            keep = (
                Path(os.environ.get("COOP_EDGE_FUZZ_KEEP", tmp_path)) / f"{seed.replace(' ', '_')}_{i}{changed.suffix}"
            )
            keep.write_bytes(changed.read_bytes())
            raise AssertionError(f"mutation {i} of {seed}, kept as {keep}: {error!r}") from error
    assert loaded > 0.01 * MUTATIONS, "the mutations leave nothing to compare"
