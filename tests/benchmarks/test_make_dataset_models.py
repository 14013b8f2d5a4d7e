"""The synthetic set's objects: which are taken, how they are written, their symmetries and licences."""

from __future__ import annotations

import json

import numpy as np
import pytest
import trimesh

from benchmarks.datasets.make_dataset import assets
from benchmarks.datasets.make_dataset.models import model_info, write_models, write_ply
from benchmarks.datasets.make_dataset.readme import write_readme
from benchmarks.datasets.make_dataset.symmetry import find_symmetries
from coop_edge.errors import InputError
from coop_edge.mesh import Mesh, Symmetries
from export.data.packs import PackWriter
from export.data.textures import is_held_out
from tests.benchmarks.solids import SIDES, box, colored, textured_box


@pytest.fixture
def pack(tmp_path):
    """Forty boxes: some held out, every third textured."""
    path = tmp_path / "pack.zip"
    with PackWriter(path, texture=64) as writer:
        for k in range(150):
            shape = textured_box() if k % 3 == 0 else box((0.5, 0.3 + 0.001 * k, 0.3))
            writer.add(shape, f"box {k}", f"source{k % 2}/part", "CC0")
    return path


def test_objects_of_a_pack_are_held_out_and_sources_take_turns(pack):
    chosen = assets.choose(pack, 6, seed=0)
    assert len({a.mesh.name for a in chosen}) == 6
    assert all(is_held_out(a.mesh.name) and a.licence == "CC0" for a in chosen)
    assert len({a.source for a in chosen}) == 2
    assert any(a.mesh.textures for a in chosen)
    assert not all(a.mesh.textures for a in chosen)
    for asset in chosen:
        assert asset.mesh.diameter * 1.000001 >= assets.SMALLEST
        assert asset.mesh.diameter <= assets.LARGEST * 1.000001
    again = assets.choose(pack, 6, seed=0)
    assert [a.mesh.hash for a in again] == [a.mesh.hash for a in chosen]
    assert [a.mesh.hash for a in assets.choose(pack, 6, seed=1)] != [a.mesh.hash for a in chosen]


def test_too_few_objects_are_refused_with_the_option_that_helps(pack):
    with pytest.raises(InputError, match="--objects"):
        assets.choose(pack, 140, seed=0)


def test_without_a_pack_the_objects_are_procedural():
    chosen = assets.choose(None, 3, seed=0)
    assert [a.licence for a in chosen] == ["Apache-2.0"] * 3
    assert len({a.mesh.hash for a in chosen}) == 3


@pytest.mark.parametrize(
    ("mesh", "fit"),
    [
        (box(), True),
        (textured_box(), True),
        (box((0.1, 0.08, 0.004)), False),  # a sheet
        (box((0.012, 0.1, 0.012)), False),  # a stick
        (textured_box(repeats=9.0), False),
    ],
    ids=["box", "textured", "sheet", "stick", "texture that repeats nine times"],
)
def test_what_cannot_be_seen_or_written_is_left_out(mesh, fit):
    assert assets.fits(mesh) == fit


@pytest.mark.parametrize("mesh", [box(), textured_box(), textured_box(3.0)], ids=["plain", "textured", "repeated"])
def test_a_model_comes_back_as_it_was(mesh, tmp_path):
    mesh = colored(
        trimesh.Trimesh(mesh.vertices, mesh.faces, process=False),
        corner_colors=mesh.corner_colors, corner_uv=mesh.corner_uv, face_texture=mesh.face_texture,
        textures=mesh.textures, centre=np.array([0.3, -0.1, 0.02]),
    )  # fmt: skip
    path = tmp_path / "obj_000001.ply"
    write_ply(path, mesh)
    back = Mesh.load(path, unit="mm")
    assert back.notes == ()
    assert path.with_suffix(".png").exists() == bool(mesh.textures)
    assert back.diameter == pytest.approx(mesh.diameter, rel=1e-5)
    np.testing.assert_allclose(back.centre, mesh.centre, atol=1e-7)
    corners, found = (m.vertices[m.faces] for m in (mesh, back))
    np.testing.assert_allclose(found, corners, atol=1e-7)  # faces stay in their order
    rng = np.random.default_rng(0)
    face, weights = rng.integers(0, len(mesh.faces), 400), rng.dirichlet((1, 1, 1), 400)
    difference = np.abs(back.surface_color(face, weights) - mesh.surface_color(face, weights))
    assert np.quantile(difference.max(axis=1), 0.98) < 1.0  # a repeated texture's own border is bilinear in ours alone


def test_models_info_is_of_the_file_in_millimetres(tmp_path):
    asset = assets.Asset(box(), "drawn", "CC0", 0.5)
    write_models(tmp_path, [asset, asset])
    info = json.loads((tmp_path / "models" / "models_info.json").read_text())
    assert list(info) == ["1", "2"]
    for k, axis in enumerate("xyz"):
        assert info["1"][f"size_{axis}"] == pytest.approx(1000 * SIDES[k], rel=1e-5)
        assert info["1"][f"min_{axis}"] == pytest.approx(-500 * SIDES[k], rel=1e-5)
    assert info["1"]["diameter"] == pytest.approx(1000 * np.linalg.norm(SIDES), rel=1e-5)
    assert len(Symmetries.from_bop(info["2"]).group) == 4


def test_the_readme_names_sources_and_licences(tmp_path):
    licences = ["CC0", "CC-BY-3.0-USA", "CC-BY-3.0", "CC-BY-SA-4.0-with-exception", "of its own"]
    write_readme(tmp_path, [assets.Asset(box(), f"drawn by {k}", name, 0.5) for k, name in enumerate(licences)], "3")
    text = (tmp_path / "README.md").read_text()
    assert "| 1 |  | drawn by 0 | [CC0](https://creativecommons.org/publicdomain/zero/1.0/) |" in text
    assert "[CC-BY-3.0-USA](https://creativecommons.org/licenses/by/3.0/us/)" in text
    assert "[CC-BY-3.0](https://creativecommons.org/licenses/by/3.0/)" in text
    assert "[CC-BY-SA-4.0-with-exception](https://creativecommons.org/licenses/by-sa/4.0/)" in text
    assert "| 5 |  | drawn by 4 | of its own |" in text
    rows = json.loads((tmp_path / "models" / "provenance.json").read_text())
    assert [row["licence"] for row in rows] == licences


def _cylinder(cap: int = 150):
    shape = trimesh.creation.cylinder(0.03, 0.1, sections=64)
    tint = np.full((len(shape.faces), 3), 150)
    tint[np.asarray(shape.triangles_center)[:, 2] > 0.049] = cap
    return colored(shape, tint)


def _cube(face: int):
    shape = trimesh.creation.box((0.06, 0.06, 0.06))
    tint = np.full((12, 3), 150)
    tint[np.asarray(shape.face_normals)[:, 2] > 0.9] = face
    return colored(shape, tint)


def _prism(sides: int):
    """Straight, upright, with a black lid, so that the axis is no two-fold one."""
    shape = trimesh.creation.cylinder(0.05, 0.06, sections=sides)
    tint = np.full((len(shape.faces), 3), 150)
    tint[np.asarray(shape.triangles_center)[:, 2] > 0.029] = 20
    return colored(shape, tint)


def _wedge():
    corners = np.array([(0, 0, 0), (0.1, 0, 0), (0, 0.06, 0), (0, 0, 0.03)], float)
    return colored(trimesh.Trimesh(corners - corners.mean(axis=0), [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]))


@pytest.mark.parametrize(
    ("mesh", "order", "axes"),
    [
        (_wedge(), 1, 0),
        (box(), 4, 0),
        (_cube(150), 24, 0),
        (_cube(20), 4, 0),  # a black face
        (_prism(3), 3, 0),
        (_prism(6), 6, 0),
        (_cylinder(), 2, 1),
        (_cylinder(20), 1, 1),
        (colored(trimesh.creation.icosphere(3, 0.05)), 1, 2),
    ],
    ids=[
        "wedge",
        "box",
        "cube",
        "cube with a black face",
        "triangle",
        "hexagon",
        "can",
        "can with a black lid",
        "ball",
    ],
)
def test_symmetries_are_found_with_their_colours(mesh, order, axes):
    found = find_symmetries(mesh)
    assert len(found.group) == order
    assert len(found.continuous) == axes
    # and they survive the way through models_info.json, about an origin that is not the middle
    moved = colored(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False), mesh.corner_colors[:, 0],
                    centre=np.array([0.05, 0.0, -0.02]))  # fmt: skip
    info = model_info(moved)
    assert len(info.get("symmetries_discrete", [])) == order - 1  # every one of them but the identity, as BOP has it
    again = Symmetries.from_bop(info)
    assert len(again.group) == order
    if axes == 1:
        axis, offset = again.continuous[0]
        off = np.cross(offset - moved.centre, axis)
        np.testing.assert_allclose(off, 0.0, atol=1e-3)
