"""`python -m export train`: wrong use is one readable line and exit code 2."""

from __future__ import annotations

import pytest
import torch
import trimesh
from typer.testing import CliRunner

from export.cli.main import app
from export.train.checkpoint import load_state


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["refiner", "--head", "hybrid"], "--head is an option of the coarse network"),
        (["coarse", "--flow", "laplace"], "--flow is an option of the refiner network"),
        (["selector", "--pose-loss", "off"], "--pose-loss is an option of the refiner network"),
        (["refiner", "--no-match", "off"], "--no-match is an option of the coarse network"),
        (["coarse", "--minutes", "-1"], "TrainOptions.minutes = -1.0: wanted a number in"),
        (["coarse", "--resume", "nowhere"], "nowhere: holds no training_state.pt"),
        (["coarse", "--init", "nowhere.pth", "--out", "x"], "nowhere.pth: no such file"),
        (["coarse", "--pack", "nowhere.npz", "--max-steps", "1"], "nowhere.npz' does not exist"),
    ],
)
def test_wrong_use_is_said_in_one_line(arguments, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert wanted in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_role_or_option_that_does_not_exist_is_refused():
    assert run("train", "finder").exit_code == 2
    assert run("train", "coarse", "--minute", "1").exit_code == 2


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_real_pairs_from_the_command_to_the_report(role, tmp_path):
    """Rendering, training, evaluation with iterations, report: as a user starts it, with few of everything."""
    threads = torch.get_num_threads()
    result = run(
        *("train", role, "--max-steps", 2, "--batch-size", 2, "--workers", 0, "--threads", 1),
        *("--evaluate-samples", 1, "--device", "cpu", "--out", tmp_path / role),
    )
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert load_state(tmp_path / role)["counters"]["step"] == 2
    report = (tmp_path / role / "report.json").read_text()
    for name in {"coarse": ("class_accuracy", "within_5px"), "refiner": ("error_before", "error_after_5")}[role]:
        assert f'"{name}":' in report
        assert f'"easy_{name}":' in report


def test_pairs_are_drawn_and_a_bad_path_is_said(tmp_path):
    for role in ("coarse", "refiner"):
        result = run("pairs", role, "-o", tmp_path / f"{role}.png", "-n", 2, "--size", 64)
        assert result.exit_code == 0, result.output
        assert (tmp_path / f"{role}.png").read_bytes().startswith(b"\x89PNG")
    result = run("pairs", "coarse", "-o", tmp_path / "x.unknown", "-n", 1, "--size", 32)
    assert result.exit_code == 2
    assert "wanted a path that ends in .png or .jpg" in " ".join(result.output.split())


def test_assets_become_a_pack_that_pairs_are_drawn_from(tmp_path):
    (tmp_path / "meshes").mkdir()
    for i in range(12):
        trimesh.creation.box((1, 1, 1 + i / 4)).export(tmp_path / "meshes" / f"box{i}.ply")
    result = run("assets", tmp_path / "meshes", "-o", tmp_path / "pack.npz")
    assert result.exit_code == 0, result.output
    assert "12 objects" in result.output
    drawn = run("pairs", "coarse", "-o", tmp_path / "p.png", "-n", 1, "--size", 32, "--pack", tmp_path / "pack.npz")
    assert drawn.exit_code == 0, drawn.output
    missing = run("assets", tmp_path / "absent", "-o", tmp_path / "other.npz")
    assert missing.exit_code == 2
    assert "does not exist; wanted a folder or an archive" in " ".join(missing.output.split())
