"""The commands that the pages give exist, with the options and settings that they are given."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

from export.cli.main import app
from export.train.run import options_from

PAGE = (Path(__file__).parents[3] / "docs/gpu.md").read_text()


@pytest.mark.parametrize("line", re.findall(r"^python -m export (.*)$", PAGE, re.MULTILINE))
def test_commands_have_the_options_they_are_given(line):
    name, *arguments = shlex.split(line)
    given = typer.main.get_command(app).commands[name].make_context(name, arguments).params
    assert given  # the line above raises on an option that does not exist
    if "setting" in given:
        options_from(given["role"].value, given["setting"] or ())


@pytest.mark.parametrize("module", sorted(set(re.findall(r"^python -m (benchmarks[.\w]+)", PAGE, re.MULTILINE))))
def test_benchmarks_exist(module):
    assert importlib.util.find_spec(module)
