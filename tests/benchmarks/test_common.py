"""What every benchmark shares: figures are written whole or not at all."""

from __future__ import annotations

import json
import os

import pytest

from benchmarks import common
from coop_edge.errors import InputError


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


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InputError("no such box"), "InputError: no such box"),
        (OSError(28, "full", "a"), "OSError: [Errno 28] full: 'a'"),
    ],
)
def test_a_command_says_wrong_use_in_a_line(capsys, error, says):
    @common.command
    def main(code, *, wrong=None):
        """Run."""
        if wrong:
            raise wrong
        return code

    assert [main(0), main(1)] == [0, 1]
    assert capsys.readouterr() == ("", "")
    assert main(0, wrong=error) == 2
    assert capsys.readouterr() == ("", f"error: {says}\n")
    with pytest.raises(ZeroDivisionError):
        main(0, wrong=ZeroDivisionError())
    assert (main.__name__, main.__doc__) == ("main", "Run.")
