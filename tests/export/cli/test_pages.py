"""The commands that the pages give exist, with the options and settings that they are given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from export.cli.main import app
from export.train.run import options_from

ROOT = Path(__file__).parents[3]
PAGES = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])
LINES = sorted(set(re.findall(r"^python -m export ([a-z].*)$", PAGES.replace("\\\n", " "), re.MULTILINE)))


def test_the_pages_show_how_to_train_and_export():
    assert {"train", "onnx", "features"} <= {line.split()[0] for line in LINES}


@pytest.mark.parametrize("line", LINES)
def test_commands_have_the_options_they_are_given(line):
    name, *arguments = shlex.split(line, comments=True)
    given = typer.main.get_command(app).commands[name].make_context(name, arguments).params
    assert given  # the line above raises on an option that does not exist
    if "setting" in given:
        options_from(given["role"].value, given["setting"] or ())
