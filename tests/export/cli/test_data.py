"""`python -m export pairs` and `assets`: what they write, and what they refuse."""

from __future__ import annotations

import trimesh

from tests.export.cli.command import run


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
