"""Fits a bundle's score to a data set: ``python -m benchmarks.accuracy.fit_score BUNDLE --dataset FOLDER --write``.

The score is to be the probability that a pose is right: off by less than a tenth of the diameter (MSSD, symmetries
counted). See ``score_fit`` for the map and ``evidence`` for what it is fitted to.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.dataset import DEPTH_HELP, SENSOR_DEPTH, BopDataset
from benchmarks.accuracy.evidence import DEPTH_ROW, ROW, TARGET, gather, write_table
from benchmarks.accuracy.measure import progress
from benchmarks.accuracy.methods import MethodOptions, OursMethod
from benchmarks.accuracy.reliability import with_interval
from benchmarks.accuracy.score_fit import FINISHED, PENALTY, ScoreFit, choose, fit_score
from benchmarks.common import command, print_table, write_json
from coop_edge import EstimatorConfig
from coop_edge.config import EFFORTS
from coop_edge.errors import InputError
from coop_edge.runtime.bundle import Bundle, write_manifest
from coop_edge.runtime.score_map import DEPTH_EVIDENCE, EVIDENCE, ScoreMap

THRESHOLDS = (0.05, 0.1, 0.2, 0.27, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ABSENT_ACCEPTED = 0.03
"""Share of the objects that are not there which the threshold looked for accepts."""


def read_tables(paths: Sequence[str | Path]) -> list[np.ndarray]:
    """Read files of ``evidence.write_table``.

    Raises:
        InputError: a file is not such a table, or has other fields than the first.
    """
    names = [name for name, _ in TARGET]
    tables: list[np.ndarray] = []
    for path in paths:
        try:
            table = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: not a table that NumPy reads: {error}") from None
        found = () if not isinstance(table, np.ndarray) else table.dtype.names or ()
        if not set(names) < set(found):
            raise InputError(f"{path}: wanted fields {', '.join(names)} and evidence, got {', '.join(found) or 'none'}")
        if tables and set(found) != set(tables[0].dtype.names or ()):
            raise InputError(f"{path}: wanted the fields of {paths[0]}, got {', '.join(found)}")
        tables.append(table)
    return tables


def columns_of(tables: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return tables of the same fields as one, columns by name; their groups and objects are different ones."""
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0].dtype.names or ()}
    source = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    for name in ("group", "object"):
        both = np.stack([source, columns[name]])
        columns[name] = np.unique(both, axis=1, return_inverse=True)[1].reshape(-1)
    return columns


def fit_columns(columns: dict[str, np.ndarray], evidence: Sequence[str] | None, penalty: float) -> ScoreFit:
    """Fit the score to columns of ``columns_of``; evidence: which kinds, None: all.

    Raises:
        InputError: the tables lack a kind of evidence, or cannot be fitted to (``fit_score``).
    """
    target = {name: columns[name] for name, _ in TARGET}
    known = [name for name in columns if name not in target]
    if missing := set(evidence or ()) - set(known):
        raise InputError(f"--evidence {min(missing)}: the tables have {', '.join(known)}")
    return fit_score({name: columns[name] for name in evidence or known}, penalty=penalty, **target)


def accepted_and_kept(columns: dict[str, np.ndarray], presence: np.ndarray, effort: str) -> dict[str, Any]:
    """Tell what a least presence does to the answers of an effort.

    Args:
        columns: of ``columns_of``.
        presence: [M], of each hypothesis.
        effort: one of those in the table.

    Returns "absent" and "right", how many targets of either kind there are (right ones: those answered with a right
    pose); "thresholds": of ``THRESHOLDS`` each, [threshold, share of the absent ones accepted, share of the right ones
    kept]; "wanted": the same of the least threshold that accepts ``ABSENT_ACCEPTED`` of the absent ones or fewer.
    """
    rows = np.flatnonzero(columns["effort"] == effort)
    gone = columns["absent"][rows]
    value = np.where(columns["accepted"][rows], presence[rows], -1.0)  # what is not accepted is so at no threshold
    best = choose(value, columns["group"][rows])
    absent, right = value[best][gone[best]], value[best][columns["right"][rows][best] & (value[best] >= 0)]

    def shares(threshold: float) -> list[float]:
        return [threshold, *(float(np.mean(v >= threshold)) if len(v) else 0.0 for v in (absent, right))]

    above = np.sort(absent)[::-1][int(ABSENT_ACCEPTED * len(absent)) :]  # the first of these is the first refused
    least = float(np.nextafter(max(above[0], 0.0), 2.0)) if len(above) else 0.0
    thresholds = [shares(threshold) for threshold in THRESHOLDS]
    return {"absent": len(absent), "right": len(right), "thresholds": thresholds, "wanted": shares(least)}


def write_score(bundle: str, fit: ScoreFit, *, grey: bool = False) -> Path:
    """Put the map into a bundle's manifest, and return its path; evidence that was left out weighs 0.

    A map of depth's evidence is that for poses that use depth; grey: it is that for models in plain grey.

    Raises:
        BundleError: the folder is not a bundle.
    """
    of_depth = bool(set(fit.weights) - set(EVIDENCE))
    names = DEPTH_EVIDENCE if of_depth else EVIDENCE
    score = ScoreMap(fit.intercept, {name: fit.weights.get(name, 0.0) for name in names} | fit.weights)
    loaded = Bundle.load(bundle)
    if of_depth:
        return write_manifest(replace(loaded, depth_score_map=score))
    return write_manifest(replace(loaded, grey_score_map=score) if grey else replace(loaded, score_map=score))


def print_fit(fit: ScoreFit) -> None:
    """Print the weights and the figures."""
    print_table("Weights", [*fit.weights.items(), ("intercept", fit.intercept)])
    rows: list[tuple[Any, ...]] = []
    chosen = [(f"chosen, {name or 'all refined to the end'}", each) for name, each in fit.chosen.items()]
    for name, each in (("all hypotheses", fit.every), *chosen):
        figures = with_interval(each.auroc, each.auroc_interval), with_interval(each.ece, each.ece_interval)
        rows.append((name, each.count, each.right, *figures))
    print_table("Cross-validated over objects", rows, ("poses", "count", "right", "AUROC (95 %)", "ECE (95 %)"))
    within = "undefined" if fit.auroc_within is None else f"{fit.auroc_within:.3f}"
    print(f"AUROC within a target {within}")
    for name, share in fit.top1.items():
        said = name or "all refined to the end"
        print(f"{said}: {share:.3f} of the targets right, {fit.top1_possible[name]:.3f} possible")


def print_presence(effort: str, found: dict[str, Any]) -> None:
    """Print what ``accepted_and_kept`` found."""
    rows = [tuple(f"{value:.3f}" for value in each) for each in (*found["thresholds"], found["wanted"])]
    title = f"{effort}: {found['absent']} absent objects, {found['right']} right poses"
    print_table(title, rows, ("presence at least", "absent accepted", "right kept"))


def gather_table(options: argparse.Namespace) -> np.ndarray:
    """Run the Estimator on the data set and write the table, if one is asked for, after each image."""
    dataset = BopDataset(options.dataset, options.split, targets=options.targets, limit=options.limit)
    efforts = list(dict.fromkeys(options.effort or ["balanced"]))
    given = {"engines": options.bundle, "device": options.device, "threads": options.threads}
    method = OursMethod(
        MethodOptions("ours", config=EstimatorConfig.parse(options.set or []), untextured=options.untextured, **given)
    )
    parts = [np.empty(0, ROW if options.depth is None else DEPTH_ROW)]
    try:
        method.add_objects(dataset)
        with progress(f"gathering {dataset.name}", len(dataset.images)) as advance:
            for rows in gather(method.estimator, dataset, efforts, absent=options.absent, depth=options.depth):
                parts.append(rows)
                if options.table:
                    write_table(options.table[0], parts)
                advance()
    finally:
        method.close()
    return np.concatenate(parts)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options, not yet checked against each other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.fit_score",
        description="Fits the map from the evidence for a pose to the probability that it is right.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="name or folder of a bundle with features")
    parser.add_argument("--dataset", metavar="FOLDER", help="in BOP layout, on which the Estimator is run")
    parser.add_argument(
        "--table", metavar="FILE.npy", action="append",
        help="where the hypotheses found on it are kept; without --dataset: read them from there; then repeatable",
    )  # fmt: skip
    parser.add_argument("--split", default="test", help="the data set's folder of scenes (default test)")
    parser.add_argument("--targets", metavar="FILE", help="targets file (default FOLDER/test_targets_bop19.json)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument(
        "--effort", action="append", choices=tuple(EFFORTS),
        help="make the score the probability of the pose chosen at this effort (default balanced); repeatable",
    )  # fmt: skip
    parser.add_argument("--absent", action="store_true", help="search each box for an object that is not there, too")
    parser.add_argument("--depth", nargs="?", const=SENSOR_DEPTH, metavar="FOLDER", help=DEPTH_HELP)
    parser.add_argument(
        "--untextured", action="store_true", help="paint the models grey, and fit the map of such models' scores"
    )
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu", help="default cpu")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU (default 0: all cores)")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="an option of EstimatorConfig; repeatable")
    parser.add_argument("--evidence", metavar="NAME", action="append", help="fit these alone (default all); repeatable")
    parser.add_argument("--penalty", type=float, default=PENALTY, help=f"of squared weights (default {PENALTY:g})")
    parser.add_argument("--json", metavar="JSON", help="all figures")
    parser.add_argument("--write", action="store_true", help="put the map into the bundle")
    return parser.parse_args(arguments)


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns 0, or 2 with one line on standard error."""
    options = parse(arguments)
    if options.untextured and options.depth:
        raise InputError("--untextured and --depth: with depth there is one map for all models; give one of the two")
    if (not options.dataset and not options.table) or (options.dataset and len(options.table or ()) > 1):
        raise InputError("--table: wanted files to read without --dataset, at most one to write with it")
    fit_and_report(options, [gather_table(options)] if options.dataset else read_tables(options.table))
    return 0


def fit_and_report(options: argparse.Namespace, tables: Sequence[np.ndarray]) -> None:
    """Fit the score to tables, print its figures, and write what the options ask for."""
    columns = columns_of(tables)
    fit = fit_columns(columns, options.evidence, options.penalty)
    print_fit(fit)
    gone = sorted(set(columns["effort"][columns["absent"]].tolist()) - {FINISHED})
    absent = {effort: accepted_and_kept(columns, fit.presence, effort) for effort in gone}
    for effort, found in absent.items():
        print_presence(effort, found)
    if options.json:
        figures = asdict(fit)
        del figures["cross_validated"], figures["presence"]
        write_json(options.json, {"benchmark": "fit_score", **figures, "absent": absent})
    if options.write:
        print(f"wrote {write_score(options.bundle, fit, grey=options.untextured)}")


if __name__ == "__main__":
    sys.exit(main())
