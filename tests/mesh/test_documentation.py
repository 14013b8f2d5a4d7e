"""The snippets of docs/guides/meshes.md run, and its table of limits has their defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import trimesh

from coop_edge.mesh import LoadLimits, Mesh
from tests.runtime.networks import tiny_bundle

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "meshes.md").read_text()


def test_snippets(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trimesh.creation.cylinder(radius=40, height=90, sections=12).export("cup.ply")
    entry = {"diameter": Mesh.load("cup.ply", unit="mm").diameter * 1e3}
    entry["symmetries_continuous"] = [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]
    Path("models_info.json").write_text(json.dumps({"3": entry}))
    tiny_bundle("tiny", features=False)
    snippets = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(compile(snippet.replace('"coop-xs"', '"tiny"'), "docs/guides/meshes.md", "exec"), {})
    assert "cup: diameter 0.1204 m, 48 faces, no colours" in capsys.readouterr().out


def test_limits():
    limits = LoadLimits()
    assert limits.texture_pixels == 8192 * 8192
    assert limits.all_texture_pixels == 4 * limits.texture_pixels
    assert f"| `triangles` | {limits.triangles:,} |" in PAGE
    assert f"| `instances` | {limits.instances:,} |" in PAGE
    assert limits.file_bytes == 2 << 30
