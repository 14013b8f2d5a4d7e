"""The command line as a user meets it: results, pictures, exit codes, errors in one readable line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from coop_edge.cli.main import app
from coop_edge.cli.options import EffortName
from coop_edge.config import EFFORTS
from coop_edge.mesh import Mesh
from coop_edge.registry import check_templates
from coop_edge.runtime.bundle import Bundle
from coop_edge.templates import TemplateSet

ROOT = Path(__file__).parents[2]
MUG = str(ROOT / "docs/examples/mug/mug.obj")
runner = CliRunner()


def invoke(*arguments: object):
    return runner.invoke(app, [*map(str, arguments)])


def test_onboard_writes_templates_and_a_contact_sheet(tmp_path):
    out, sheet = tmp_path / "mug.npz", tmp_path / "sheet.png"
    result = invoke(
        *("onboard", MUG, "--unit", "m", "-o", out, "--size", 64),
        *("--renderer", "cpu", "--contact-sheet", sheet, "--json"),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    templates = TemplateSet.load(out)
    assert templates.rgb.shape == (42, 64, 64, 3)
    assert report["hash"] == templates.hash
    assert report["mesh_hash"] == Mesh.load(MUG, unit="m").hash
    assert report["diameter_m"] == pytest.approx(templates.diameter, abs=1e-6)
    picture = cv2.imread(str(sheet))
    assert picture.shape[1] >= 7 * 64
    assert (picture.max(axis=2) > 60).mean() > 0.1


@pytest.mark.open3d
def test_onboard_renders_with_open3d_if_asked_to(tmp_path):
    command = ["onboard", MUG, "--unit", "m", "-o", tmp_path / "a.npz", "--size", 48, "--renderer", "open3d", "--json"]
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["renderer"] == "open3d"
    invoke("onboard", MUG, "--unit", "m", "-o", tmp_path / "b.npz", "--size", 48, "--renderer", "cpu")
    a, b = (TemplateSet.load(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert (a.masks & b.masks).sum() / (a.masks | b.masks).sum() > 0.99
    assert np.abs(a.rgb.astype(int) - b.rgb).mean() < 1.0


def test_onboard_makes_what_the_engines_take(tmp_path):
    """As the first example has it: nothing said but mesh, unit and file."""
    result = invoke("onboard", MUG, "--unit", "m", "-o", tmp_path / "mug.npz", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["renderer"] == "cpu"
    bundle, templates = Bundle.load("coop-xs"), TemplateSet.load(tmp_path / "mug.npz")
    check_templates("mug", templates, bundle)
    assert templates.size == bundle.input_size
    assert invoke("onboard", MUG, "--unit", "m", "-o", tmp_path / "x.npz", "--engines", "nowhere").exit_code == 2


def test_onboard_takes_symmetries_from_bop(tmp_path):
    info = tmp_path / "models_info.json"
    info.write_text(
        json.dumps({"7": {"diameter": 0.12, "symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]}})
    )
    common = ["onboard", MUG, "--unit", "m", "-o", tmp_path / "mug.npz", "--size", 32, "--renderer", "cpu"]
    assert invoke(*common, "--models-info", info, "--object-id", 7).exit_code == 0
    assert len(TemplateSet.load(tmp_path / "mug.npz").symmetries.continuous) == 1
    result = invoke(*common, "--models-info", info, "--object-id", 8)
    assert result.exit_code == 2
    assert "has no object 8 (it has 7)" in result.output


@pytest.mark.parametrize("unit", ["m", "mm"])
def test_onboard_takes_symmetries_in_the_unit_of_the_mesh(unit, tmp_path):
    data = ROOT / "tests/data/mesh"
    common = ["onboard", data / f"cyl_{unit}.ply", "--unit", unit, "-o", tmp_path / "a.npz", "--size", 32]
    common += ["--renderer", "cpu", "--models-info", data / f"info_{unit}.json", "--object-id"]
    assert invoke(*common, 1).exit_code == 0
    np.testing.assert_allclose(TemplateSet.load(tmp_path / "a.npz").symmetries.continuous[0][1], [0.03, 0, 0])
    result = invoke(*common, 2)
    assert result.exit_code == 2
    assert "that of the mesh 0.1281 m; the file's objects of this size: 1" in result.output.replace("\n", " ")


def test_textures_outside_are_read_if_asked_for(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "skin.png"), np.zeros((4, 4, 3), np.uint8))
    (inner / "m.mtl").write_text("newmtl a\nmap_Kd ../../skin.png\n")
    rows = "v 0 0 0\nv .1 0 0\nv 0 .1 0.02\nv 0.05 .05 .1\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl a\n"
    (inner / "m.obj").write_text(f"mtllib m.mtl\n{rows}f 1/1 2/2 3/3\nf 1/1 4/2 2/3\n")
    command = ["render", inner / "m.obj", "--unit", "m", "-o", tmp_path / "out.png", "--size", 32]
    result = invoke(*command)
    assert result.exit_code == 2
    assert "allow_outside" in result.output
    result = invoke(*command, "--allow-outside", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["colours"] == "colours (1 texture)"


def test_render_writes_colour_depth_and_points(tmp_path):
    out = tmp_path / "view.png"
    result = invoke("render", MUG, "--unit", "m", "-o", out, "--size", 96, "--view", 8)
    assert result.exit_code == 0, result.output
    assert "diameter_m" in result.stdout
    picture = cv2.imread(str(out))
    assert picture.shape[0] == 96
    assert picture.shape[1] >= 3 * 96


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing option '--unit'"),
        (["--unit", "furlong"], "furlong"),
        (["--unit", "mm"], "with unit='m' it would be 0.1231 m"),
        (["--unit", "m", "--albedo", "red"], "wanted R,G,B"),
        (["--unit", "m", "--supersample", "2"], "wanted 1, 3 or 5"),
        (["--unit", "m", "--view", "42"], "--view"),
        (["--unit", "m", "--size", "3"], "--size"),
        (["--unit", "m", "--renderer", "vulkan"], "vulkan"),
        (["--unit", "m", "-o", "picture.tiff3"], "wanted a suffix among"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("render", MUG, "-o", "out.png", *arguments)
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.obj", None, "no such file"),
        ("empty.ply", b"", "MeshError"),
        ("mesh.xyz", b"1 2 3", "MeshError"),
    ],
)
def test_unusable_meshes(name, content, says, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    result = invoke("onboard", path, "--unit", "m", "-o", tmp_path / "out.npz", "--renderer", "cpu")
    assert result.exit_code == 2
    assert says in result.output
    assert not (tmp_path / "out.npz").exists()


def test_max_faces_simplifies_and_says_so(tmp_path):
    pytest.importorskip("fast_simplification")
    result = invoke("render", MUG, "--unit", "m", "-o", tmp_path / "a.png", "--size", 32, "--max-faces", 500, "--json")
    report = json.loads(result.stdout)
    assert report["faces"] <= 500
    assert any("simplified from 2388" in note for note in report["notes"])


def test_nothing_is_written_when_one_output_cannot_be(tmp_path):
    common = ["onboard", MUG, "--unit", "m", "--renderer", "cpu", "--size", 16]
    result = invoke(*common, "-o", tmp_path / "a.npz", "--contact-sheet", tmp_path / "a.gif")
    assert result.exit_code == 2
    assert "wanted a suffix among" in result.output
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder.npz").mkdir()
    result = invoke(*common, "-o", tmp_path / "folder.npz")
    assert result.exit_code == 2
    assert "folder.npz" in result.output
    assert "cannot write: it is a folder" in result.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "holds a list"),
        ("{", "is not JSON"),
        ('{"1": 3}', "wanted a mapping"),
        ('{"1": {"symmetries_discrete": 1}}', "symmetries_discrete"),
    ],
)
def test_unusable_models_info(text, says, tmp_path):
    (tmp_path / "info.json").write_text(text)
    common = ["onboard", MUG, "--unit", "m", "-o", tmp_path / "mug.npz", "--size", 16, "--renderer", "cpu"]
    result = invoke(*common, "--models-info", tmp_path / "info.json", "--object-id", 1)
    assert result.exit_code == 2
    assert says in result.output


def test_a_view_of_nothing_writes_nothing(tmp_path):
    (tmp_path / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    result = invoke(
        "render", tmp_path / "flat.obj", "--unit", "m", "-o", tmp_path / "a.png", "--size", 32, "--view", 17
    )
    assert result.exit_code == 2
    assert "choose another --view" in result.output
    assert not (tmp_path / "a.png").exists()


def test_commands_know_every_effort():
    assert [name.value for name in EffortName] == list(EFFORTS)


def test_debug_shows_the_trace(tmp_path):
    with pytest.raises(Exception, match="no such file"):
        runner.invoke(app, ["--debug", "render", "missing.obj", "--unit", "m", "-o", "x.png"], catch_exceptions=False)


def test_a_warning_is_one_line_without_source_code(tmp_path):
    """K is that of an image half as large; the command then ends with an error, for want of engines."""
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((480, 640, 3), np.uint8))
    command = ["estimate", tmp_path / "image.png", f"{MUG}:m", "--camera", "300,300,159.5,119.5", "--box", "1,2,30,40"]
    usual = warnings.showwarning
    result = invoke(*command, "--engines", "nowhere")
    warned, error = result.stderr.splitlines()
    assert warned.startswith("warning: Camera: the principal point is far from the image's centre: K fits")
    assert error.startswith("error: BundleError: no bundle 'nowhere'")
    assert warnings.showwarning is usual


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["--help"], ["estimate", "--help"], ["--version"], ["chatter"]])
def test_a_reader_that_closes_the_pipe_ends_a_command_quietly(command, unbuffered):
    script = (
        "import sys, typer\n"
        "from coop_edge.cli import main\n"
        "main.app.command()(lambda: [typer.echo('x' * 99) for _ in range(9999)] and None)\n"
        "main.app.registered_commands[-1].name = 'chatter'\n"
        "sys.stdin.read()\n"  # until nobody reads the output
        f"sys.argv = ['coop-edge', *{command}]\n"
        "main.main()\n"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONUNBUFFERED": unbuffered}, **pipes
    ) as run:
        run.stdout.close()
        run.stdin.close()
        assert run.stderr.read() == b""
    assert run.returncode == 1


def test_another_broken_pipe_is_an_error(monkeypatch):
    def build(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "a worker is gone")

    monkeypatch.setattr("coop_edge.estimator.Estimator.from_engines", build)
    result = invoke("onboard", MUG, "--unit", "m", "-o", "x.npz")
    assert result.exit_code == 2
    assert "error: BrokenPipeError: [Errno 32] a worker is gone" in result.stderr


def test_the_installed_command_starts():
    result = subprocess.run(
        [Path(sys.executable).parent / "coop-edge", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("coop-edge ")
    module = [sys.executable, "-m", "coop_edge", "--version"]
    assert subprocess.run(module, capture_output=True, text=True, check=True).stdout == result.stdout
    assert invoke("--help").exit_code == 0
