"""The one line about an object: diameter, faces, colours."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from coop_edge.mesh import Mesh
from tests.mesh import assets


def box(extent: float = 0.1) -> trimesh.Trimesh:
    return trimesh.creation.box([extent] * 3)


def test_no_colours():
    mesh = Mesh.load(box(), unit="m", name="cube")
    assert mesh.summary == "cube: diameter 0.1732 m, 12 faces, no colours"
    assert Mesh.load(box(), unit="m", albedo=(255, 0, 0)).color_summary == "no colours"


def test_a_slip_of_the_unit_shows():
    """Within 5 mm and 5 m nothing is refused: the line is where it is seen."""
    assert "diameter 0.0866 m" in Mesh.load(box(5.0), unit="cm").summary
    assert "diameter 0.00866 m" in Mesh.load(box(5.0), unit="mm").summary


def test_colours():
    colored = box()
    colored.visual.vertex_colors = np.full((8, 4), 200, np.uint8)
    assert Mesh.load(colored, unit="m").color_summary == "colours"  # of the file, though they look like the albedo
    assert Mesh.load(colored, unit="m", ignore_colors=True).color_summary == "no colours"
    assert Mesh.load(assets.trimesh_quad(assets.texture()), unit="m").color_summary == "colours (1 texture)"


def test_plain_grey():
    """One grey everywhere tells nothing of an object; one colour does, and so do two greys."""
    colored = box()
    assert Mesh.load(colored, unit="m").is_plain_grey
    assert not Mesh.load(colored, unit="m", albedo=(255, 0, 0)).is_plain_grey
    colored.visual.vertex_colors = np.full((8, 4), 120, np.uint8)
    colored.visual.vertex_colors[:, 3] = 255
    assert Mesh.load(colored, unit="m").is_plain_grey
    colored.visual.vertex_colors[0, :3] = 60
    assert not Mesh.load(colored, unit="m").is_plain_grey
    assert not Mesh.load(assets.trimesh_quad(assets.texture()), unit="m").is_plain_grey


@pytest.mark.parametrize(("color", "says"), [((200, 200, 200), "no colours"), ((9, 9, 9), "colours")])
def test_a_mesh_made_by_hand(color, says):
    mesh = Mesh(
        vertices=np.float32([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]]),
        faces=np.int32([[0, 1, 2]]),
        centre=np.zeros(3),
        corner_colors=np.full((1, 3, 3), color, np.uint8),
        corner_uv=np.zeros((1, 3, 2), np.float32),
        face_texture=np.full(1, -1, np.int32),
    )
    assert mesh.color_summary == says
    assert mesh.summary.startswith("mesh: diameter")
