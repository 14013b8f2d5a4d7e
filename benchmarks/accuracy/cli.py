"""The command line of the accuracy benchmark."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks.accuracy.dataset import DEPTH_HELP, SENSOR_DEPTH
from benchmarks.accuracy.find import measure_search
from benchmarks.accuracy.journal import Journal, journal_path, named_path
from benchmarks.accuracy.measure import measure
from benchmarks.accuracy.methods import METHODS, MethodOptions
from benchmarks.accuracy.reliability import CORRECT_HELP, RIGHT
from benchmarks.accuracy.tables import print_tables
from benchmarks.common import command
from coop_edge.base.hardware import available_cores
from coop_edge.config import EFFORTS, EstimatorConfig
from coop_edge.errors import ConfigError, InputError

_ONLY_OURS = ("engines", "effort", "iterations", "stage", "set", "device", "depth", "untextured")
_ONLY_RUNS = ("csv", "method", "boxes", "box_noise", "hypotheses", "seed", "processes", *_ONLY_OURS)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options, not yet checked against each other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description="Accuracy as the BOP benchmark measures it, on a data set in BOP layout.",
        epilog="A run that was stopped goes on where it was when the same command is given again. A finished one is "
        "scored anew, or gets its page, by --poses with the CSV file it wrote.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder of the data set")
    parser.add_argument("--split", default="test", help="its folder of scenes (default test)")
    parser.add_argument("--targets", metavar="FILE", help="targets file (default DATASET/test_targets_bop19.json)")
    parser.add_argument(
        "--boxes", metavar="visib|obj|FILE",
        help="what the method is given: boxes of the truth, around what is visible (default) or the whole object, or a "
        "detector's file in BOP's form",
    )  # fmt: skip
    parser.add_argument(
        "--box-noise", action="append", metavar="shift=SHARE|size=FACTOR|all",
        help="measure also with boxes that are off, and say what that costs; repeatable; all: shifts of 0.1 to 0.3 "
        "of the box's sides and sizes of 0.7 to 1.4",
    )  # fmt: skip
    parser.add_argument("--method", choices=METHODS, help="the Estimator (default), or a baseline without training")
    parser.add_argument("--engines", metavar="NAME", help="name or folder of a bundle (default coop-xs)")
    parser.add_argument("--depth", nargs="?", const=SENSOR_DEPTH, metavar="FOLDER", help=DEPTH_HELP)
    parser.add_argument(
        "--untextured", action="store_true", default=None, help="paint the models grey, as CAD without textures is"
    )
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="default cpu")
    parser.add_argument(
        "--effort", action="append", choices=tuple(EFFORTS),
        help="poses tried and kept (default balanced); repeatable: each is a run, whose files have its name in theirs",
    )  # fmt: skip
    parser.add_argument(
        "--hypotheses",
        type=int,
        metavar="K",
        help="per detection, in place of the effort's; templates of baselines (5)",
    )
    parser.add_argument("--iterations", type=int, metavar="I", help="renders per hypothesis (default 5)")
    parser.add_argument("--stage", choices=("coarse", "refined"), help="coarse: no refinement (default refined)")
    parser.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="any option of EstimatorConfig; repeatable"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--seed", type=int, metavar="N", help="of all that is drawn at random (default 0)")
    parser.add_argument("--poses", metavar="CSV", help="score the poses of this file instead of running a method")
    parser.add_argument("--processes", type=int, metavar="P", help="default: one per core, one on a GPU")
    parser.add_argument(
        "--detect", action="store_true",
        help="give no boxes: find the objects in the whole image, measure boxes and poses, and what is accepted of "
        "objects that are not there; the figures go into --json under --name, beside those of other data sets",
    )  # fmt: skip
    parser.add_argument(
        "--absent", type=int, metavar="N", help="with --detect: objects per image that are not in it (default: all)"
    )
    parser.add_argument("--name", help="with --detect: of the figures in --json (default: the data set's)")
    parser.add_argument("--correct", type=float, default=RIGHT, metavar="SHARE", help=CORRECT_HELP)
    parser.add_argument("--csv", metavar="CSV", help="the poses, in BOP's form; needed to run a method")
    parser.add_argument("--json", metavar="JSON", help="all figures")
    parser.add_argument("--report", metavar="HTML", help="a page with curves, tables and pictures")
    return parser.parse_args(arguments)


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns 0; 2 with one line on standard error for wrong use; 130 if interrupted."""
    options = parse(arguments)
    journals: list[Journal] = []
    try:
        if options.detect:
            measure_search(options, search_options(options))
            return 0
        if wrong := [name for name in ("absent", "name") if getattr(options, name) is not None]:
            raise InputError(f"--{wrong[0]}: only with --detect")
        for each in runs_of(options):
            result, finished = measure(each, method_options(each))
            journals += finished
            print_tables(result)
        for journal in journals:  # now that no run is left that could be stopped
            journal.remove()
    except KeyboardInterrupt:
        results = options.json if options.detect else options.csv and each.csv
        kept = f"; what is done is in {journal_path(results)}: the same command goes on" if results else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    return 0


def runs_of(options: argparse.Namespace) -> list[argparse.Namespace]:
    """Return the options of each run, one per effort; where there are several, the files have the effort's name."""
    efforts = list(dict.fromkeys(options.effort or ()))
    if len(efforts) < 2:
        return [options]
    files = {name: path for name in ("csv", "json", "report") if (path := getattr(options, name)) is not None}
    named = [{name: str(named_path(path, effort)) for name, path in files.items()} for effort in efforts]
    return [
        argparse.Namespace(**(vars(options) | paths | {"effort": [effort]}))
        for effort, paths in zip(efforts, named, strict=True)
    ]


def method_options(options: argparse.Namespace) -> MethodOptions | None:
    """Return what the command line says of the method; None if poses that are there are scored.

    Raises:
        InputError: options contradict each other.
        ConfigError: an option of the Estimator is unknown, or its value does not fit.
    """
    given = {name for name in _ONLY_RUNS if getattr(options, name) is not None}
    if options.poses is not None:
        if given:
            names = ", ".join(f"--{name}".replace("_", "-") for name in _ONLY_RUNS if name in given)
            raise InputError(f"{names}: --poses scores poses that are there and runs nothing; leave one of the two out")
        return None
    if not options.csv:
        raise InputError("--csv: wanted a file for the poses (beside it lies what a stopped run needs to go on)")
    seed = options.seed or 0
    if options.method not in (None, "ours"):
        if wrong := [name for name in _ONLY_OURS if name in given]:
            raise InputError(f"--{wrong[0]}: only for --method ours, got --method {options.method}")
        hypotheses = 5 if options.hypotheses is None else options.hypotheses
        return MethodOptions(options.method, hypotheses=hypotheses, seed=seed)
    return MethodOptions(
        "ours",
        engines=options.engines or "coop-xs",
        device=options.device or "cpu",
        config=_config(options),
        seed=seed,
        depth=options.depth or "",
        untextured=bool(options.untextured),
    )


def search_options(options: argparse.Namespace) -> MethodOptions:
    """Return what the command line says of a search.

    Raises:
        InputError: it has options that a search has no use for.
        ConfigError: an option of the Estimator is unknown, or its value does not fit.
    """
    used = ("engines", "device", "effort", "set", "seed", "iterations", "hypotheses", "stage")
    unused = ("poses", "csv", "method", "boxes", "box_noise", "processes", "report", "depth", "untextured")
    if wrong := [name for name in unused if getattr(options, name) is not None]:
        name = wrong[0].replace("_", "-")
        raise InputError(f"--{name}: not with --detect, which takes --{', --'.join(used)}, --limit, --absent, --json")
    if len(options.effort or ()) > 1:
        raise InputError("--effort: with --detect wanted once")
    if options.absent is not None and options.absent < 0:
        raise InputError(f"--absent: wanted at least 0, got {options.absent}")
    return MethodOptions(
        "ours",
        engines=options.engines or "coop-xs",
        device=options.device or "cpu",
        config=_config(options),
        seed=options.seed or 0,
        threads=available_cores(),
    )


def _config(options: argparse.Namespace) -> dict[str, Any]:
    """Options of EstimatorConfig as nested plain data, of the flags that stand for one and of ``--set``."""
    if options.stage == "coarse" and options.iterations:
        raise ConfigError(f"--iterations {options.iterations}: --stage coarse does none; leave one of the two out")
    flags = {
        "effort": options.effort[0] if options.effort else None,
        "coarse.hypotheses": options.hypotheses,
        "refine.iterations": 0 if options.stage == "coarse" else options.iterations,
        "ransac.seed": options.seed,
    }
    given = [f"{name}={value}" for name, value in flags.items() if value is not None]
    return EstimatorConfig.parse([*given, *(options.set or [])])
