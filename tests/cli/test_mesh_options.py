"""How `estimate`, `track` and `detect` read meshes: with or without their colours, from inside a folder or outside."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from coop_edge import Estimator
from coop_edge.cli.main import app
from coop_edge.mesh import DEFAULT_ALBEDO
from tests.runtime.networks import tiny_bundle

ROWS = "v 0 0 0\nv .1 0 0\nv 0 .1 0.02\nv 0.05 .05 .1\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl a\nf 1/1 2/2 3/3\nf 1/1 4/2 2/3\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"), features=False)


@pytest.fixture
def added(monkeypatch):
    """The meshes that commands register; nothing is looked for."""
    meshes = []
    monkeypatch.setattr(Estimator, "add_object", lambda self, name, mesh, **options: meshes.append(mesh))
    for name, answer in (("warmup", {}), ("estimate", []), ("track", []), ("detect", [])):
        monkeypatch.setattr(Estimator, name, lambda self, *args, _answer=answer, **options: _answer)
    return meshes


@pytest.mark.parametrize("command", ["estimate", "track", "detect"])
def test_colours_and_places(command, tmp_path, folder, added):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "skin.png"), np.zeros((4, 4, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "frames" / "1.png"), np.zeros((48, 64, 3), np.uint8))
    (inner / "m.mtl").write_text("newmtl a\nmap_Kd ../../skin.png\n")
    (inner / "m.obj").write_text("mtllib m.mtl\n" + ROWS)
    source = tmp_path / "frames" if command == "track" else tmp_path / "frames" / "1.png"
    boxes = [] if command == "detect" else ["--box", "10,10,20,20"]
    given = [command, source, f"{inner / 'm.obj'}:m", *boxes, "--camera", "60,60,31.5,23.5", "--engines", folder]

    def invoke(*more: str):
        return CliRunner().invoke(app, [*map(str, given), "--device", "cpu", "--threads", "1", *more])

    result = invoke()
    assert result.exit_code == 2
    assert "--allow-outside of the commands" in result.output.replace("\n", " ")
    assert invoke("--allow-outside").exit_code == 0
    assert invoke("--ignore-colors").exit_code == 0
    textured, plain = added
    assert len(textured.textures) == 1
    assert not plain.textures
    assert (plain.corner_colors == DEFAULT_ALBEDO).all()
