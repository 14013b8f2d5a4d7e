"""Prints a report: a table of what is here, what to do about the rest, and last the verdict."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coop_edge.doctor.report import GROUPS, Report

STYLES = {"ok": "green", "missing": "bold red", "broken": "bold red", "optional": "dim"}
DEVICE_NAMES = {"cpu": "the CPU", "cuda": "the GPU"}


def show(report: Report, console: Console) -> None:
    """Print ``report``; commands stand alone on their lines and are never wrapped, so that they can be copied."""
    table = Table()
    table.add_column("what", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("found", overflow="fold")
    for group in GROUPS:
        for row in (row for row in report.rows if row.group == group):
            table.add_row(Text(row.name), Text(row.status, STYLES[row.status]), Text(row.found))
        table.add_section()
    console.print(table)
    _show_what_is_open(report, console)
    console.print()
    for device, names in report.blocked_by.items():
        if names:
            console.print(Text(f"An Estimator cannot run on {DEVICE_NAMES[device]}; it lacks: {', '.join(names)}."))
        else:
            console.print(Text(f"An Estimator can run on {DEVICE_NAMES[device]}.", "green"))
    if report.next_steps:
        console.print("[bold]The shortest way to one that runs:[/]")
        for number, step in enumerate(report.next_steps, 1):
            console.print(Text(f"  {number}. {step}"), soft_wrap=True)


def _show_what_is_open(report: Report, console: Console) -> None:
    """What each row that is not ok is for, and the command that brings it, once for all rows that it serves."""
    for title, statuses in (("To repair or install:", ("broken", "missing")), ("Optional:", ("optional",))):
        rows = [row for row in report.rows if row.status in statuses and (row.fix or row.status != "optional")]
        if rows:
            console.print(f"\n[bold]{title}[/]")
        for fix in dict.fromkeys(row.fix for row in rows):
            for row in (row for row in rows if row.fix == fix):
                devices = " and ".join(DEVICE_NAMES[device] for device in row.required_for)
                need = f" (required for {devices})" if devices else ""
                console.print(Text.assemble((row.name, STYLES[row.status]), f": {row.purpose}{need}"))
            if fix:
                console.print(Text(f"    {fix}"), soft_wrap=True)
