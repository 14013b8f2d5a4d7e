"""What is relied on of trimesh, which is bounded in pyproject.toml: names, and what they hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import trimesh

ROOT = Path(__file__).parents[2]


def test_the_version_is_bounded_on_both_sides():
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'"trimesh>=(\d+)\.\d+,<(\d+)"', text)
    assert found, "trimesh has no bound on one side"
    low, high = map(int, found.groups())
    assert low <= int(trimesh.__version__.split(".")[0]) < high


def test_the_names_that_are_not_documented_are_still_there():
    """``from_trimesh`` imports them; a version without them, or with others, has to be looked at."""
    from trimesh.visual.material import MultiMaterial, PBRMaterial, SimpleMaterial, empty_material

    filler = empty_material().image
    assert filler.size == (2, 2)
    plain = SimpleMaterial()
    assert tuple(plain.diffuse[:3]) == (102, 102, 102)
    assert plain.kwargs == {}
    assert SimpleMaterial(diffuse=[1, 2, 3, 255]).image is None
    assert PBRMaterial().baseColorFactor is None
    assert PBRMaterial().baseColorTexture is None
    assert MultiMaterial(materials=[plain]).materials == [plain]


def test_what_is_read_of_a_mesh_and_a_scene():
    box = trimesh.creation.box()
    assert box.visual.defined is False
    box.visual.vertex_colors = np.full((8, 4), 9, np.uint8)
    assert (box.visual.kind, box.visual.defined) == ("vertex", True)
    faces = trimesh.creation.box()
    faces.visual.face_colors = np.full((12, 4), 9, np.uint8)
    assert faces.visual.kind == "face"
    uv = np.zeros((8, 2))
    textured = trimesh.Trimesh(box.vertices, box.faces, process=False)
    textured.visual = trimesh.visual.TextureVisuals(uv=uv)
    assert textured.visual.kind == "texture"
    assert hasattr(textured.visual, "vertex_attributes")
    assert hasattr(textured.visual, "face_materials")
    scene = trimesh.Scene()
    scene.add_geometry(box, node_name="a", geom_name="b", transform=np.diag([2.0, 2, 2, 1]))
    (node,) = scene.graph.nodes_geometry
    transform, name = scene.graph[node]
    assert (name, transform[0, 0]) == ("b", 2.0)


def test_files_are_read_without_trimesh():
    """No module of ``mesh`` but ``from_trimesh`` imports it."""
    for path in (ROOT / "coop_edge" / "mesh").rglob("*.py"):
        if path.name != "from_trimesh.py":
            assert not re.search(r"^\s*(import|from) trimesh", path.read_text(), re.MULTILINE), path
