"""Makes the report of a verification: plain data for the manifest, and a table for the terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from coop_edge.runtime.bundle import REQUIRED, Bundle
from coop_edge.runtime.onnx_session import import_onnxruntime
from export.train.provenance import code_version
from export.verify.engines import Engines
from export.verify.outputs import FP32_BOUND, MAX_TIES, OutputRow
from export.verify.poses import DIAMETER_BOUND, MIN_POSES, PX_BOUND, PoseRow


def complaints_of(rows: Sequence[OutputRow], poses: Sequence[PoseRow], allow_few_poses: bool) -> list[str]:
    """Return what fails, a line each."""
    return [row.complaint for row in rows if not row.passed] + [
        row.complaint for row in poses if not row.passed(allow_few_poses)
    ]


def make_report(
    bundle: Bundle,
    engines: Engines,
    drawn: Mapping[str, Any],
    rows: Sequence[OutputRow],
    poses: Sequence[PoseRow],
    allow_few_poses: bool,
) -> dict[str, Any]:
    """Return everything that was compared and how it came out; ``drawn`` says on what."""
    import torch

    passed = not complaints_of(rows, poses, allow_few_poses)
    return {
        "verdict": "passed" if passed else "failed",
        "poses_not_judged": sorted({row.kind for row in poses if not row.enough}),
        "reference": f"PyTorch {torch.__version__}, float32, CPU",
        "onnxruntime": import_onnxruntime().__version__,
        "code": code_version(),
        "graphs": {role: bundle.network(role).sha256 for role in REQUIRED},
        "pairs": {"objects": "held-out, procedural", **drawn},
        "bounds": {
            "fp32_relative": FP32_BOUND,
            "fp32_relative_of": "all values of an output as one vector: max |a - b| / max |b|, and |a - b| / |b| in L2",
            "ties_share": MAX_TIES,
            "pose_median_px": PX_BOUND,
            "pose_median_diameters": DIAMETER_BOUND,
            "pose_pairs_at_least": MIN_POSES,
        },
        "outputs": [plain(row) | {"bound": row.bound, "passed": row.passed} for row in rows],
        "poses": [plain(row) | {"passed": row.passed(allow_few_poses)} for row in poses],
        "engines_not_compared": dict(engines.absent),
    }


def plain(row: Any) -> dict[str, Any]:
    """Return the row for JSON, which knows neither infinity nor NaN: they become None."""
    values = dataclasses.asdict(row)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def print_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a table of outputs and one of poses, if there are any, per engine, and which engines were not compared."""
    console = console or Console()
    for engine in dict.fromkeys(row["engine"] for row in report["outputs"]):
        console.print(_output_table(engine, [row for row in report["outputs"] if row["engine"] == engine]))
        if poses := [row for row in report.get("poses", ()) if row["engine"] == engine]:
            console.print(_pose_table(engine, poses))
    for engine, reason in report["engines_not_compared"].items():
        console.print(f"not compared: {engine}: {reason}", markup=False, highlight=False, soft_wrap=True)


def _output_table(engine: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        title=f"{engine}: outputs against PyTorch's, float32\nlargest |d| / largest value; length of d / length, in L2",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("output", "graph", "max |d|", "of max", "L2", "bound", "ties", ""):
        table.add_column(name, no_wrap=True)
    for row in rows:
        largest = _figure(row["difference"])
        if row["output"] == "index" and row["difference"] is not None:
            largest = f"{row['difference']:.0f} flips"
        bound = "pose" if row["bound"] is None else f"{row['bound']:g}"
        relative = (_figure(row["relative"]), _figure(row["relative_l2"]))
        cells = (row["precision"], largest, *relative, bound, str(row["ties"]))
        table.add_row(f"{row['role']}/{row['output']}", *cells, _mark(row["passed"]))
    return table


def _pose_table(engine: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    bounds = f"medians below {PX_BOUND:g} px, {DIAMETER_BOUND:.1%} of the diameter"
    table = Table(title=f"{engine}: poses, {bounds}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("pose", "solved", "right", "changed", "lost", "px", "p90", "size", "p90", ""):
        table.add_column(name, no_wrap=True)
    for row in rows:
        counts = (f"{row['solved']}/{row['pairs']}", *(str(row[name]) for name in ("right", "changed", "lost")))
        pixels = (_figure(row["median_px"]), _figure(row["p90_px"]))
        shares = (_figure(row["median_diameters"], percent=True), _figure(row["p90_diameters"], percent=True))
        mark = _mark(row["passed"]) if row["enough"] else f"{_mark(row['passed'])} (few)"
        table.add_row(row["kind"], *counts, *pixels, *shares, mark)
    return table


def _figure(value: float | None, percent: bool = False) -> str:
    """None: infinite, or not a number."""
    if value is None:
        return "none"
    return f"{100 * value:.1g}%" if percent else f"{value:.2g}"


def _mark(passed: bool) -> str:
    return "[green]ok[/]" if passed else "[bold red]FAILS[/]"
