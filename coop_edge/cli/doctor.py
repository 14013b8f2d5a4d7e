"""The command `coop-edge doctor`: what is on this machine, and what is missing."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from coop_edge.cli import options


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Also import Open3D and load every network (seconds).")] = False,
    as_json: options.Json = False,
) -> None:
    """Check what is installed on this machine, and say what to install. Exit code 1: no Estimator can run here."""
    from coop_edge.doctor import examine
    from coop_edge.doctor.table import show

    report = examine(deep=deep)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        show(report, Console())
    raise typer.Exit(0 if report.ready else 1)
