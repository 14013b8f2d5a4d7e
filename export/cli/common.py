"""What the commands of `python -m export` share: standard error, and how a command ends that cannot go on."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console

errors = Console(stderr=True)


def fail(message: str, code: int) -> NoReturn:
    """Say why on standard error and end with the exit code."""
    errors.print("[bold red]error:[/] ", end="")
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)
