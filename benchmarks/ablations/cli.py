"""Defines the command line of the ablations."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks.ablations.plan import QUESTIONS, SEED_BASE, VARIANTS, Settings, chosen
from benchmarks.common import command
from coop_edge.errors import InputError

JSON = Path("benchmarks/results/ablations_xs.json")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablations",
        description="Train each variant on equally many pairs, from the same seeds, and compare on held-out objects.",
        epilog="Finished runs are skipped when the command is given again, killed ones start anew; several processes "
        "with the same --out share the work. 'report' writes a table (.md) and a plot (.png) next to the JSON.",
    )
    parser.add_argument("action", nargs="?", choices=("run", "report"), default="run")
    parser.add_argument("--json", type=Path, default=JSON, metavar="FILE", help=f"results (default {JSON})")
    parser.add_argument("--out", type=Path, default=Path("out/ablations"), metavar="DIR", help="folders of the runs")
    names = f"a variant ({', '.join(VARIANTS)}) or a question ({', '.join(q.name for q in QUESTIONS)}); repeatable"
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=names)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="repetitions (default 3)")
    for name, value, text in Settings(init=None).described():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=value, help=text)
        elif value is None:
            parser.add_argument(flag, type=Path, metavar="FILE", help=text)
        else:
            parser.add_argument(flag, type=type(value), default=value, help=f"{text} (default {value})")
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="lower the priority of it all by N")
    return parser.parse_args(arguments)


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code.

    Returns:
        0; 1 if a run failed; 2 with one line on standard error for wrong use; 130 and 143 if it was ended.
    """
    options = parse(arguments)
    try:
        return report(options) if options.action == "report" else run(options)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with the runs that are missing", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    from benchmarks.ablations.run import run_all
    from benchmarks.ablations.store import Store

    variants, settings = chosen(options.only), settings_of(options)
    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: wanted at least 1")
    if settings.init is None and any(v.role == "refiner" for v in variants):
        raise InputError("refiners start from a coarse checkpoint: --init FILE, or --only head --only no_match")
    seeds = range(SEED_BASE, SEED_BASE + options.seeds)
    os.nice(options.nice)
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        failed = run_all(settings, variants, seeds, Store(options.json, options.out))
    finally:
        signal.signal(signal.SIGTERM, before)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def report(options: argparse.Namespace) -> int:
    from benchmarks.ablations.report import write_report
    from benchmarks.ablations.store import read_runs

    runs = read_runs(options.json)
    if not runs:
        raise InputError(f"{options.json}: no finished runs; python -m benchmarks.ablations makes them")
    print(write_report(options.json, runs))
    return 0


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings among the options.

    Raises:
        InputError: a file does not exist, or a number is less than 1.
    """
    for name in ("init", "pack"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            raise InputError(f"--{name} {path}: no such file")
    for name in ("coarse_steps", "refiner_steps"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: wanted at least 1")
    names: dict[str, Any] = {name: getattr(options, name) for name in Settings.__dataclass_fields__}
    return Settings(**names)


def _leave(number: int, frame: object) -> None:
    """As Ctrl-C does, so that the training at hand is ended too."""
    raise SystemExit(128 + number)
