"""Times functions, lists package versions, writes JSON files, prints tables and errors, for all benchmarks."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec

import numpy as np

from coop_edge.base.files import atomic_write
from coop_edge.errors import CoopEdgeError

P = ParamSpec("P")


def command(main: Callable[P, int]) -> Callable[P, int]:
    """Decorate a command: errors of wrong use are a line on standard error, and it returns 2."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except (CoopEdgeError, OSError) as error:
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
            return 2

    return run


def versions(*distributions: str) -> dict[str, str | None]:
    """Return installed versions by distribution name; None where one is missing."""
    found: dict[str, str | None] = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def time_ms(fn: Callable[[], object], *, repeats: int = 50, warmup: int = 3) -> dict[str, float]:
    """Time ``fn()``: p50, p90 and min in wall-clock milliseconds and the number of calls n, after ``warmup`` others.

    Quote the median: on a shared machine the mean and the tail depend on other processes.
    """
    for _ in range(warmup):
        fn()
    samples = np.empty(repeats)
    for i in range(repeats):
        start = time.perf_counter()
        fn()
        samples[i] = (time.perf_counter() - start) * 1e3
    p50, p90 = np.percentile(samples, (50, 90))
    return {"p50": float(p50), "p90": float(p90), "min": float(samples.min()), "n": repeats}


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write ``data`` to ``path`` atomically: a reader sees the old file or the new one, never half of one."""
    # allow_nan=False: NaN is not JSON, and a figure that is NaN is a fault of the benchmark.
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def print_table(title: str, rows: Iterable[Sequence[object]], columns: Sequence[str] | None = None) -> None:
    """Print rows as a table; floats with four significant digits, None as a dash. ``columns`` names the columns."""
    from rich.console import Console
    from rich.table import Table

    rows = [tuple(row) for row in rows]
    table = Table(title=title, show_header=columns is not None)
    width = max((len(row) for row in rows), default=0)
    for name in columns or [""] * width:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(_cell, row))
    Console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
