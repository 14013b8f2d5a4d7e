"""Writes what a run leaves behind (CSV files, a plot, a JSON report), and shows how it stands."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from coop_edge.base.files import atomic_write

Array = np.ndarray[Any, Any]


def mean_or_none(values: Array) -> float | None:
    """Return the mean, or None of nothing."""
    return float(np.mean(values)) if values.size else None


def median_or_none(values: Array) -> float | None:
    """Return the median, or None of nothing."""
    return float(np.median(values)) if values.size else None


def present(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Return the figures that are finite."""
    return {k: float(v) for k, v in figures.items() if v is not None and np.isfinite(v)}


class Table:
    """A CSV file that grows by rows and survives a kill; columns that appear later are added to all rows.

    A resumed run drops the rows behind the checkpoint it goes on from.
    """

    def __init__(self, path: Path, keep_until_step: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            self.rows = [row for row in _whole_rows(path) if float(row["step"]) <= keep_until_step]
        self._columns: list[str] = list(dict.fromkeys(k for r in self.rows for k in r))
        self._rewrite()

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))
        new = [k for k in row if k not in self._columns]
        if new:
            self._columns += new
            self._rewrite()
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def column(self, name: str) -> Array:
        """Return a column as float64, NaN where a row lacks it."""
        values = [r.get(name) for r in self.rows]
        return np.array([float(v) if v not in (None, "") else np.nan for v in values])

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self.rows)
        with atomic_write(self.path) as file:
            file.write(text.getvalue().encode())


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Read a table's rows, but not what a kill or a full disk left of the last one."""
    text = path.read_bytes().decode(errors="replace")
    rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    return [row for row in rows if None not in row and None not in row.values() and _is_number(row.get("step"))]


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text))
    except ValueError:
        return False


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all; NaN is refused because it is not JSON."""
    with atomic_write(path) as file:
        file.write((json.dumps(report, indent=2, allow_nan=False) + "\n").encode())


def plot(path: Path, title: str, metrics: Table, evaluations: Table, shown: Sequence[str]) -> None:
    """Plot losses (left) and held-out figures (right) over the samples seen, into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in [c for c in _columns(metrics) if c.startswith("loss")]:
        left.plot(metrics.column("samples"), metrics.column(name), label=name.removeprefix("loss_"), linewidth=1)
    for name in [c for c in _columns(evaluations) if c in shown]:
        right.plot(evaluations.column("samples"), evaluations.column(name), "o-", label=name, markersize=3)
    for axes, label in ((left, "training loss"), (right, "held-out objects")):
        axes.set_xlabel("pairs seen")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(title)
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    with atomic_write(path) as file:
        file.write(data.getvalue())


def _columns(table: Table) -> list[str]:
    return list(dict.fromkeys(k for r in table.rows for k in r))


class Display:
    """A progress bar on a terminal, a line every half minute elsewhere; silent in all processes but the first."""

    def __init__(self, minutes: float, enabled: bool) -> None:
        self.console = Console(stderr=True)
        self._total = minutes * 60
        self._enabled = enabled
        self._last_line = -1e9
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (enabled and self.console.is_terminal),
        )
        self._task = self._progress.add_task("starting", total=self._total)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, elapsed: float, text: str) -> None:
        """Show that ``elapsed`` seconds of the run have passed, and ``text``, which says how it stands."""
        self._progress.update(self._task, completed=min(elapsed, self._total), description=text)
        if self._enabled and not self.console.is_terminal and elapsed - self._last_line >= 30:
            self._last_line = elapsed
            self.console.print(f"{elapsed / 60:6.1f} min  {text}", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Show one line that stays."""
        if self._enabled:
            self.console.print(text, highlight=False, soft_wrap=True)
