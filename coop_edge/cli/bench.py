"""The command `coop-edge bench`: how fast the installed engines are on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table

from coop_edge.cli import options
from coop_edge.cli.output import print_what_ran
from coop_edge.errors import BundleError


def bench(
    engines: Annotated[
        list[str] | None, typer.Option(help="Name or folder of a bundle; may be given several times. Default: all.")
    ] = None,
    device: options.Device = options.DeviceName.auto,
    threads: options.Threads = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Calls timed per case.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.0, help="Stop repeating a case after so many seconds.")] = 10.0,
    efforts: options.Efforts = None,
    find: Annotated[
        list[int] | None, typer.Option(min=1, help="Time finding so many objects too; may be given several times.")
    ] = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Time the installed engines on the demo's scene: one object and eight with each effort, and tracking."""
    from coop_edge.cli.latency import measure
    from coop_edge.config import EFFORTS
    from coop_edge.runtime.bundle import available

    wanted: list[str | Path] = [*engines] if engines else [*available()]
    if not wanted:
        raise BundleError("no engines are installed; give a bundle's folder with --engines")
    reports = [
        measure(
            each,
            device=device.value,
            threads=threads,
            repeats=repeats,
            seconds=seconds,
            efforts=[effort.value for effort in efforts or map(options.EffortName, EFFORTS)],
            settings=settings or (),
            find=find or (),
        )
        for each in wanted
    ]
    if as_json:
        typer.echo(json.dumps(reports))
        return
    for report in reports:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    console, cold = Console(), report["cold"]
    print_what_ran(report)
    console.print(table(report))
    peak = report["memory"]["peak_mb"]
    memory = "" if peak is None else f"; memory of this process at its peak {peak:.0f} MB"
    compiled = f"; compiled once, in {report['compile_s']:.0f} s" if report["compile_s"] >= 1.0 else ""
    console.print(
        f"opened in {cold['load_s']:.2f} s, an object added in {cold['object_s']:.2f} s, first call "
        f"{cold['first_call_ms']:.0f} ms{compiled}{memory}",
        highlight=False,
        soft_wrap=True,
    )


def table(report: dict[str, Any]) -> Group:
    """Make two tables of what ``latency.measure`` returns, a row per case: whole calls, and their stages; milliseconds.

    Both fit into 80 columns.
    """
    stages = list(next(iter(report["cases"].values()))["stages"])
    whole = Table("ms per call", "p50", "p90", "p99", "networks", "found", "calls")
    parts = Table("p50 of stages, ms", *stages)
    for column in (*whole.columns[1:], *parts.columns[1:]):
        column.justify = "right"
    for name, case in report["cases"].items():
        numbers = [f"{value:.1f}" for value in case["ms"].values()]
        network = f"{case['network']['ms']:.1f} ({case['network']['share']:.0%})"
        whole.add_row(name, *numbers, network, f"{case['found']} of {case['of']}", str(case["n"]))
        parts.add_row(name, *(f"{case['stages'][stage]['p50']:.1f}" for stage in stages))
    return Group(whole, parts)
