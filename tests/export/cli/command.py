"""Runs `python -m export` in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from export.cli.main import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])
