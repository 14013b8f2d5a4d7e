"""What every benchmark shares: figures are written whole or not at all."""

from __future__ import annotations

import json
import os

import pytest

from benchmarks import common


def test_json_takes_the_place_of_an_older_file(tmp_path):
    path = tmp_path / "figures.json"
    for value in (1.5, 2.5):
        common.write_json(path, {"ms": value})
        assert json.loads(path.read_text()) == {"ms": value}
    assert [each.name for each in tmp_path.iterdir()] == ["figures.json"]


def test_json_reaches_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    path, done = tmp_path / "figures.json", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    common.write_json(path, {"ms": 1.0})
    assert done[:2] == ["fsync", "replace"]


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_what_is_no_json_leaves_the_older_file_alone(tmp_path, value):
    path = tmp_path / "figures.json"
    common.write_json(path, {"ms": 1.0})
    with pytest.raises((ValueError, TypeError)):
        common.write_json(path, {"ms": value})
    assert json.loads(path.read_text()) == {"ms": 1.0}
    assert [each.name for each in tmp_path.iterdir()] == ["figures.json"]
