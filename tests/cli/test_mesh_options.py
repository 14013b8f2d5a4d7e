"""How commands read meshes: with or without their colours, from inside a folder or outside."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from coop_edge import Estimator, MeshError
from coop_edge.annotate.worker import Setup
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


@pytest.fixture
def inner(tmp_path):
    """The folder of m.obj, whose texture lies outside; a frame to look at is in the folder "frames"."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "skin.png"), np.zeros((4, 4, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "frames" / "1.png"), np.zeros((48, 64, 3), np.uint8))
    (inner / "m.mtl").write_text("newmtl a\nmap_Kd ../../skin.png\n")
    (inner / "m.obj").write_text("mtllib m.mtl\n" + ROWS)
    return inner


@pytest.mark.parametrize("command", ["estimate", "track", "detect"])
def test_colours_and_places(command, tmp_path, folder, added, inner):
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


@pytest.mark.parametrize("command", ["live", "view"])
def test_pages_read_meshes_as_asked(command, tmp_path, folder, inner, monkeypatch):
    asked = []

    def add(estimator, objects, **how):
        asked.append(how)
        raise typer.Exit(0)

    monkeypatch.setattr("coop_edge.cli.inputs.add_objects", add)
    monkeypatch.setattr("coop_edge.view.page.make_server", lambda host, port: SimpleNamespace(stop=lambda: None))
    source = "0" if command == "live" else str(tmp_path / "frames")
    monkeypatch.setattr("coop_edge.cli.live._open", lambda *_: (None, iter(())))
    given = [command, source, "--object", f"m={inner / 'm.obj'}:m", "--camera", "60,60,31.5,23.5"]
    for more in ([], ["--ignore-colors"], ["--allow-outside"]):
        result = CliRunner().invoke(app, [*given, "--engines", str(folder), "--device", "cpu", "--threads", "1", *more])
        assert result.exit_code == 0, result.output
    assert [(how["ignore_colors"], how["allow_outside"]) for how in asked] == [
        (False, False), (True, False), (False, True)
    ]  # fmt: skip


def test_workers_of_annotate_read_meshes_as_asked(tmp_path, folder, inner, monkeypatch):
    setups = []
    monkeypatch.setattr("coop_edge.annotate.local.run_local", lambda items, setup, workers: setups.append(setup) or [])
    given = ["annotate", str(tmp_path / "frames"), "--object", f"m={inner / 'm.obj'}:m", "--camera", "60,60,31.5,23.5"]
    for i, more in enumerate(([], ["--ignore-colors"], ["--allow-outside"])):
        CliRunner().invoke(app, [*given, "--engines", str(folder), "-o", str(tmp_path / f"out{i}"), *more])
    inside, plain, outside = (Setup.parse(setup.plain()) for setup in setups)
    with pytest.raises(MeshError, match="lies outside"):
        inside.meshes()
    assert not plain.meshes()["m"].textures
    assert len(outside.meshes()["m"].textures) == 1
