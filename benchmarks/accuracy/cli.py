"""The command line of the accuracy benchmark."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from benchmarks.accuracy.journal import journal_path
from benchmarks.accuracy.measure import measure
from benchmarks.accuracy.methods import METHODS, MethodOptions
from benchmarks.accuracy.tables import print_tables
from coop_edge.errors import ConfigError, CoopEdgeError, InputError

_ONLY_OURS = ("engines", "iterations", "stage", "set", "device")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, not yet checked against each other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description="Accuracy as the BOP benchmark measures it, on a data set in BOP layout.",
        epilog="A run that was stopped goes on where it was when the same command is given again.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder of the data set")
    parser.add_argument("--split", default="test", help="its folder of scenes (default test)")
    parser.add_argument("--targets", metavar="FILE", help="targets file (default DATASET/test_targets_bop19.json)")
    parser.add_argument(
        "--boxes", default="visib", metavar="visib|obj|FILE", help="boxes of the truth, or of a detector"
    )
    parser.add_argument("--method", choices=METHODS, default="ours")
    parser.add_argument("--engines", metavar="NAME", help="name or folder of a bundle (default coop-xs)")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="default cpu")
    parser.add_argument("--hypotheses", type=int, metavar="K", help="templates per detection (default 1; baselines 5)")
    parser.add_argument("--iterations", type=int, metavar="I", help="renders per hypothesis (default 5)")
    parser.add_argument("--stage", choices=("coarse", "refined"), help="coarse: no refinement (default refined)")
    parser.add_argument("--set", action="append", metavar="A.B=VALUE", help="another option of EstimatorConfig")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random (default 0)")
    parser.add_argument("--poses", metavar="CSV", help="score the poses of this file instead of running a method")
    parser.add_argument("--processes", type=int, metavar="P", help="default: one per core, one on a GPU")
    parser.add_argument("--csv", metavar="CSV", help="the poses, in BOP's form; needed to run a method")
    parser.add_argument("--json", metavar="JSON", help="all figures")
    parser.add_argument("--report", metavar="HTML", help="a page with curves, tables and pictures")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """0; 2 with one line on standard error for wrong use; 130 if interrupted."""
    options = parse(arguments)
    try:
        result = measure(options, None if options.poses else method_options(options))
        print_tables(result)
    except (CoopEdgeError, OSError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = f"; what is done is in {journal_path(options.csv)}: the same command goes on" if options.csv else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    return 0


def method_options(options: argparse.Namespace) -> MethodOptions:
    """What the command line says of the method. Raises InputError, ConfigError."""
    if not options.csv:
        raise InputError("--csv: wanted a file for the poses (beside it lies what a stopped run needs to go on)")
    if options.method != "ours":
        if given := [name for name in _ONLY_OURS if getattr(options, name)]:
            raise InputError(f"--{given[0]}: only for --method ours, got --method {options.method}")
        return MethodOptions(options.method, hypotheses=options.hypotheses or 5, seed=options.seed)
    return MethodOptions(
        "ours",
        engines=options.engines or "coop-xs",
        device=options.device or "cpu",
        hypotheses=1 if options.hypotheses is None else options.hypotheses,
        config=_config(options),
        seed=options.seed,
    )


def _config(options: argparse.Namespace) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for text in options.set or ():
        name, equals, value = text.partition("=")
        *sections, last = name.split(".")
        if not equals or not all((*sections, last)):
            raise ConfigError(f"--set: wanted NAME=VALUE such as coarse.min_inliers=8, got {text!r}")
        inner = config
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {text}: {section} has been given a value itself")
        try:
            inner[last] = json.loads(value)
        except ValueError:
            inner[last] = value
    iterations = 0 if options.stage == "coarse" else options.iterations
    if options.stage == "coarse" and options.iterations:
        raise ConfigError(f"--iterations {options.iterations}: --stage coarse does none; leave one of the two out")
    if iterations is not None:
        if "iterations" in config.get("refine", {}):
            raise ConfigError("--set refine.iterations: given by --iterations or --stage too; leave one of the two out")
        config.setdefault("refine", {})["iterations"] = iterations
    return config
