"""Holds what the commands of `python -m export` share: exit codes and shared options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from coop_edge.errors import CoopEdgeError

errors = Console(stderr=True)


class Role(str, Enum):
    """Networks that are trained."""

    coarse = "coarse"
    refiner = "refiner"


Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any option; `python -m export options ROLE` lists them."),
]
Size = Annotated[str | None, typer.Option(help="Size preset: xs, s, b or l.")]
Pack = Annotated[
    Path | None, typer.Option(help="Asset pack of `python -m export assets`; without one all objects are procedural.")
]


def settings_of(given: list[str] | None, **flags: Any) -> list[str]:
    """Return what --set was given, and the flags that were, as settings."""
    return [*(f"{name}={value}" for name, value in flags.items() if value is not None), *(given or ())]


def fail(message: str, code: int) -> NoReturn:
    """Say why on standard error and end with the exit code."""
    errors.print("[bold red]error:[/] ", end="")
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def wrong_use_said() -> Iterator[None]:
    """End with one line and exit code 2 where the block raises what wrong use raises."""
    try:
        yield
    except (CoopEdgeError, OSError) as error:
        fail(f"{type(error).__name__}: {error}", 2)
