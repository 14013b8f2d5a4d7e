"""Symmetries from BOP's models_info.json: in the mesh's unit, and of the mesh."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coop_edge.errors import InputError
from coop_edge.mesh import Mesh, load_symmetries

DATA = Path(__file__).parents[1] / "data" / "mesh"


@pytest.fixture(scope="module")
def meshes() -> dict[str, Mesh]:
    return {unit: Mesh.load(DATA / f"cyl_{unit}.ply", unit=unit) for unit in ("m", "mm")}


@pytest.mark.parametrize("unit", ["m", "mm"])
def test_the_axis_is_in_the_unit_of_the_mesh(unit, meshes):
    found = load_symmetries(DATA / f"info_{unit}.json", 1, meshes[unit], unit=unit)
    (axis, offset) = found.continuous[0]
    np.testing.assert_allclose(axis, [0, 0, 1])
    np.testing.assert_allclose(offset, [0.03, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("file", "unit", "object_id", "says"),
    [
        ("m", "m", 2, r"diameter is 0\.3842 m .* that of the mesh 0\.1281 m; the file's objects of this size: 1"),
        ("mm", "m", 1, r"diameter is 128\.1 m .* with unit='mm' object 1 would fit"),
        ("m", "mm", 1, r"with unit='m' object 1 would fit"),
        ("m", "m", 7, r"has no object 7 \(it has 1, 2\)"),
    ],
)
def test_an_entry_of_another_object_or_unit(file, unit, object_id, says, meshes):
    with pytest.raises(InputError, match=says):
        load_symmetries(DATA / f"info_{file}.json", object_id, meshes["m"], unit=unit)


def entry(**changes) -> dict:
    return {**json.loads((DATA / "info_m.json").read_text())["1"], **changes}


@pytest.mark.parametrize("change", [1.0, 0.96, 1.04])
def test_a_diameter_of_a_slightly_other_mesh_passes(change, meshes, tmp_path):
    (tmp_path / "i.json").write_text(json.dumps({"1": entry(diameter=0.12806 * change)}))
    load_symmetries(tmp_path / "i.json", 1, meshes["m"], unit="m")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"1": entry(diameter=0.11)}, "no object of the file is of this size"),
        ({"1": entry(min_x=0.03)}, "its min_x is 0.03 m, that of the mesh -0.01 m, though the diameters agree"),
        ({"1": entry(size_z=0.2)}, "its size_z is 0.2 m"),
        ({"1": entry(diameter="wide")}, "diameter: wanted a number, got 'wide'"),
        ({"1": entry(diameter=None)}, "diameter: wanted a number, got None"),
        ({"1": entry(diameter=10**400)}, "diameter: wanted a number"),
        ({"1": entry(diameter=-0.1)}, "wanted a number above 0"),
        ({"1": entry(symmetries_discrete=[[1]])}, r"object 1: symmetries_discrete\[0\]: wanted 16 numbers"),
        ({"1": 3}, "object 1: models_info entry: wanted a mapping"),
        ([1], "holds a list; wanted a mapping from object ids"),
    ],
)
def test_damaged_files(content, says, meshes, tmp_path):
    (tmp_path / "i.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=says):
        load_symmetries(tmp_path / "i.json", 1, meshes["m"], unit="m")


def test_files_that_are_none(meshes, tmp_path):
    for path, content in (
        (tmp_path / "a.json", None),
        (tmp_path / "b.json", "{"),
        (tmp_path / "c.json", "[" * 100_000),
    ):
        if content is not None:
            path.write_text(content)
        with pytest.raises(InputError, match="models_info"):
            load_symmetries(path, 1, meshes["m"], unit="m")


def test_an_entry_without_a_diameter_is_said(meshes, tmp_path, caplog):
    (tmp_path / "i.json").write_text(json.dumps({"1": {"symmetries_continuous": []}}))
    assert load_symmetries(tmp_path / "i.json", 1, meshes["m"], unit="m").trivial
    assert "gives no diameter" in caplog.text


def test_a_box_is_not_wanted(meshes, tmp_path):
    (tmp_path / "i.json").write_text(json.dumps({"1": {"diameter": 0.128}}))
    assert load_symmetries(tmp_path / "i.json", 1, meshes["m"], unit="m").trivial
