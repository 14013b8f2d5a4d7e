"""What the commands that search an image share: its options, and the progress they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from coop_edge.errors import InputError

MaxInstances = Annotated[
    int | None, typer.Option("--max-instances", help="Most results per object in a search without boxes. Default: 1.")
]
Region = Annotated[
    str | None,
    typer.Option(help="X,Y,WIDTH,HEIGHT in pixels: search only for objects whose middle is in here; not with boxes."),
]


def search_options(max_instances: int | None, region: str | None) -> dict[str, Any]:
    """Return what was given of ``Estimator.find``'s options.

    Raises:
        InputError: a region that is not four numbers.
    """
    options: dict[str, Any] = {} if max_instances is None else {"max_instances": max_instances}
    if region is None:
        return options
    try:
        numbers = [float(part) for part in region.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise InputError(f"--region: wanted X,Y,WIDTH,HEIGHT, got {region!r}")
    return options | {"region": tuple(numbers)}


def search_limits(max_instances: int | None, region: str | None, *, recover: bool, boxed: bool) -> dict[str, Any]:
    """Return what was given of ``Estimator.find``'s options.

    Raises:
        InputError: options that the boxes rule out.
    """
    options = search_options(max_instances, region)
    if boxed and options:
        name = next(iter(options)).replace("_", "-")
        raise InputError(f"--{name}: only for a search without boxes; leave it, or --box and --detections, out")
    if recover and not boxed:
        raise InputError("--recover: looks around boxes, and there are none; give --box or --detections")
    return options


@contextmanager
def searching() -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a search on standard error, if it is a terminal; gives what is told of it."""
    columns = (TextColumn("searching"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("search", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)
