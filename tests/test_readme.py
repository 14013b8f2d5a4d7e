"""The README is short; its snippet runs; its figures are those of the results; its commands and links exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_snippet_runs_and_finds_the_mug(capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(compile(snippet.replace('"auto"', '"cpu"'), "README.md", "exec"), names)
    mug, truth = names["mug"], names["scene"].truth["mug"]
    assert mug.success, mug.reason
    np.testing.assert_allclose(mug.T_camera_object[:3, 3], truth[:3, 3], atol=0.01)
    assert mug.T_camera_object.dtype == np.float64
    assert mug.covariance.shape == (6, 6)
    assert names["results"][0].success
    assert str(mug.score) in capsys.readouterr().out


def test_the_snippet_is_short():
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 20


def test_it_can_be_read_in_three_minutes():
    assert len(README.split()) <= 900


def _figures(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())


ACCURACY = {
    '`coop-xs` 0.5.0, `effort="fast"`': ("synthetic fast", "lmo_dev fast"),
    '`coop-xs` 0.5.0, `"balanced"`, the default': ("synthetic balanced", "lmo_dev balanced"),
    '`coop-xs` 0.5.0, `"best"`': ("synthetic best", "lmo_dev best"),
    "MegaPose, published poses (found boxes)": (None, "lmo_dev megapose cnos published"),
    "SIFT with the same templates and solver": ("synthetic sift", "lmo_dev sift"),
}
"""Rows of the README's table -> rows of the results, synthetic and LM-O."""


@pytest.mark.parametrize("row", ACCURACY)
def test_accuracy_is_that_of_the_results(row):
    rows = _figures("accuracy_xs.json")["rows"]
    totals = [rows[name]["total"] if name else None for name in ACCURACY[row]]
    cells = ["" if total is None else f"{total['ar_mssd']:.2f} / {total['ar_mspd']:.2f}" for total in totals]
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {row} |")]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == cells


def test_speed_is_that_of_the_results():
    cases = {name: case["ms"]["p50"] for name, case in _figures("latency_xs.json")["cases"].items()}
    efforts = " / ".join(f"{cases[f'1 object, {effort}']:,.0f}" for effort in ("fast", "balanced", "best"))
    assert f"| estimate 1 object: fast / balanced / best | {efforts} |" in README
    doubt = {name: case["ms"]["p50"] for name, case in _figures("latency_xs.json")["in_doubt"]["cases"].items()}
    assert f"| balanced, in doubt after the first pose | {doubt['1 object, balanced']:,.0f} |" in README
    one, ten = (cases[f"find {count}, balanced"] for count in ("1 object", "10 objects"))
    assert f"| find 1 object; 10 objects | {one:,.0f}; {ten:,.0f} |" in README
    assert f"| track 1 object | {cases['track 1 object']:.0f} |" in README
    assert f"Adding an object takes {_figures('latency_xs.json')['cold']['object_s']:.1f} s." in README
    ransac = _figures("solvers.json")["ransac"]
    ours, poselib, opencv = (ransac[f"{name}_ms"] for name in ("ours", "poselib", "opencv_sqpnp"))
    assert f"| {ours:.1f} ({poselib:.1f}; {opencv:.0f}), on an AMD EPYC |" in README
    render = _figures("render.json")
    assert f"| {render['cpu']['ms']:.1f} ({render['open3d']['ms']:.1f}), on an AMD EPYC |" in README


def test_the_version_of_the_figures_is_that_of_the_bundle():
    bundle = json.loads((ROOT / "engines" / "coop-xs" / "bundle.json").read_text())
    assert set(re.findall(r"`coop-xs` (\d+\.\d+\.\d+)", README)) == {bundle["version"]}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_point_at_files(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", README, re.MULTILINE))))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", [".ci/run", "CONTRIBUTING.md"])
def test_the_system_libraries_of_open3d_are_named(path):
    from coop_edge.render.open3d import SYSTEM_LIBRARIES

    text = (ROOT / path).read_text()
    assert [library for library in SYSTEM_LIBRARIES if library not in text] == []
