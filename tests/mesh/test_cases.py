"""Small files that loaded as something else, one of each kind, with the right values (``tests/data/mesh``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coop_edge.errors import MeshError
from coop_edge.mesh import Mesh
from tests.mesh import surface

DATA = Path(__file__).parents[1] / "data" / "mesh"
BOX = 6 * 0.1**2
COLOR_0 = [(188, 39, 25)]
"""sRGB's formula makes 187.52, 38.69 and 25.45 of the linear values in the file; 26 is another rounding of the last."""


@pytest.mark.parametrize(
    ("name", "unit", "faces", "area", "colors"),
    [
        ("bracket0.obj", "mm", 20, 8800e-6, [(200, 200, 200)]),
        ("bracket3.ply", "mm", 20, 8800e-6, [(200, 200, 200)]),
        ("arrow_bad.obj", "mm", 2, 600e-6, [(200, 200, 200)]),
        ("color0_VEC4_uint16.glb", "m", 12, BOX, COLOR_0),
        ("texcoord_uint16_normalized.glb", "m", 12, BOX, [(200, 40, 30)]),
        ("gpu_instancing_required.glb", "m", 36, 3 * BOX, [(200, 200, 200)]),
        ("fan_beside_triangles.glb", "m", 14, BOX + 0.0025, [(200, 200, 200)]),
        ("two_materials_of_one_name.glb", "m", 24, 2 * BOX, [(0, 255, 0), (200, 40, 30)]),
        ("clamp_to_edge.glb", "m", 12, BOX, [(10, 200, 10)]),
        ("sg_mode_P.glb", "m", 12, BOX, [(200, 40, 30)]),
        ("d_two_UV_sets__set_1_comes_first__wants_set_0.dae", "mm", 12, BOX, [(200, 40, 30)]),
        ("hexagons.off", "mm", 20, 8276.54e-6, [(200, 200, 200)]),
        ("triangles+face_colours.off", "mm", 20, 8276.54e-6, [(255, 0, 0)]),
        ("obj_tabs/m.obj", "mm", 12, BOX, [(200, 40, 30)]),
    ],
)
def test_right_values(name, unit, faces, area, colors):
    mesh = Mesh.load(DATA / name, unit=unit)
    assert len(mesh.faces) == faces
    assert surface.area(mesh) == pytest.approx(area, rel=1e-5)
    assert surface.all_colors(mesh) == colors


def test_float_colors_that_are_rounded_above_one():
    mesh = Mesh.load(DATA / "p_float_rgb_0__1_rounding_over_one.ply", unit="mm")
    corners = mesh.corner_colors.reshape(-1, 3)
    first = (np.abs(mesh.vertices[mesh.faces].reshape(-1, 3) + mesh.centre) < 1e-6).all(axis=1)
    assert (corners[first] == 255).all()
    assert (corners[~first] == (200, 40, 30)).all()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("unknown_required_extension.glb", "requires the extension VENDOR_new_geometry, which is not read"),
        ("gltf_1_0.glb", r"glTF 1\.0 is not read; wanted glTF 2\.0"),
        ("d_skinned_part_beside_a_rigid_one.dae", "node 'b' is deformed by a controller"),
    ],
)
def test_what_is_not_read_is_named(name, says):
    with pytest.raises(MeshError, match=says):
        Mesh.load(DATA / name, unit="m")
