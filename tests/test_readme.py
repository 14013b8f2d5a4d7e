"""The README's snippet runs and prints what it says; its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_snippet_runs_and_finds_the_pose(tmp_path, monkeypatch):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    # The same steps with small templates: the shapes in the comments are those of the defaults.
    names: dict = {}
    exec(compile(snippet.replace("mesh, 224", "mesh, 48"), "README.md", "exec"), names)
    result, T_true = names["result"], names["T_true"]
    assert result.statistics.n_inliers[0] == 120
    np.testing.assert_allclose(result.T_camera_object[0], T_true[0], atol=1e-5)
    assert (tmp_path / "mug.npz").is_file()
    assert names["view"].rgb.shape == (1, 480, 640, 3)


def test_the_snippet_is_short():
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 22


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_point_at_files(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", README, re.MULTILINE))))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (benchmarks(?:\.\w+)+)", README))))
def test_named_benchmarks_exist(module):
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("path", [".ci/run", "CONTRIBUTING.md"])
def test_the_system_libraries_of_open3d_are_named(path):
    from coop_edge.render.open3d import SYSTEM_LIBRARIES

    text = (ROOT / path).read_text()
    assert [library for library in SYSTEM_LIBRARIES if library not in text] == []
