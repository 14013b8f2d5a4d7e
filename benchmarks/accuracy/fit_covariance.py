"""Fits a bundle's covariances: ``python -m benchmarks.accuracy.fit_covariance BUNDLE --dataset FOLDER --write``.

A pose's covariance is to have its errors: 95 % of right poses lie inside their 95 % ellipsoid, and where more error is
stated there is more; ``trust`` measures how far that holds. Errors are those of right poses
(MSSD below a tenth of the diameter, symmetries counted). ``runtime.covariance_map`` has the map.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2

from benchmarks.accuracy.dataset import DEPTH_HELP, SENSOR_DEPTH, BopDataset
from benchmarks.accuracy.methods import MethodOptions, OursMethod
from benchmarks.accuracy.trust import LEVEL, Errors, Truthfulness, distance, gather
from benchmarks.common import command, print_table, write_json
from coop_edge.base.hardware import hardware
from coop_edge.config import EFFORTS
from coop_edge.errors import InputError
from coop_edge.runtime.bundle import Bundle, write_manifest
from coop_edge.runtime.covariance_map import CovarianceMap

FOLDS = 5


def fit(errors: Errors) -> CovarianceMap:
    """Fit the scale so that ``LEVEL`` of the poses lie inside."""
    far = np.quantile(distance(errors.error, errors.covariance), LEVEL)
    return CovarianceMap(round(float(np.sqrt(far / chi2.ppf(LEVEL, 6))), 6))


def cross_validated(errors: Errors) -> Truthfulness:
    """Measure covariances that are mapped, each object's by a map fitted without it."""
    objects = np.unique(errors.object)
    covariance = np.empty_like(errors.covariance)
    for fold in range(min(FOLDS, len(objects))):
        out = np.isin(errors.object, objects[fold::FOLDS])
        if out.all():
            raise InputError("covariance: wanted right poses of at least two objects to validate across objects")
        covariance[out] = errors.rows(out).mapped(fit(errors.rows(~out)))
    return Truthfulness.of(errors, covariance)


def report(present: CovarianceMap | None, errors: Errors) -> tuple[CovarianceMap, dict[str, Any]]:
    """Fit, and return the map and the figures: as solved, as the bundle has it (``present``), as fitted."""
    found = fit(errors)
    figures = {
        "as solved": Truthfulness.of(errors, errors.covariance),
        "by the bundle's map": Truthfulness.of(errors, errors.mapped(present)),
        "fitted, cross-validated over objects": cross_validated(errors),
    }
    rows = [(name, f.count, f.inside, f.inside_translation, f.rank_correlation) for name, f in figures.items()]
    print_table("Right poses and their covariances", rows, ("", "poses", "inside", "translation", "rank correlation"))
    return found, {"map": found.to_dict(), "figures": {name: asdict(f) for name, f in figures.items()}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.fit_covariance", description=__doc__)
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder")
    parser.add_argument("--dataset", required=True, metavar="FOLDER", help="a data set in BOP layout")
    parser.add_argument("--split", default="test", help="its folder of scenes (default test)")
    parser.add_argument("--effort", choices=tuple(EFFORTS), default="fast", help="how poses are found (default fast)")
    parser.add_argument("--depth", nargs="?", const=SENSOR_DEPTH, metavar="FOLDER", help=DEPTH_HELP)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU (default 0, all cores)")
    parser.add_argument("--write", action="store_true", help="put the map into the bundle's manifest")
    parser.add_argument("--json", metavar="JSON", help="write map and figures")
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 with one line on standard error."""
    options = _parser().parse_args(arguments)
    bundle = Bundle.load(options.bundle)
    dataset = BopDataset(options.dataset, options.split, limit=options.limit)
    method = OursMethod(
        MethodOptions(engines=options.bundle, threads=options.threads, config={"effort": options.effort})
    )
    try:
        method.add_objects(dataset)
        errors = gather(method, dataset, options.depth).errors
    finally:
        method.close()
    found, content = report(bundle.covariance_maps[options.depth is not None], errors)
    if options.json:
        said = {"dataset": dataset.name, "engines": f"{bundle.name} {bundle.version}", "effort": options.effort}
        said["depth"] = options.depth
        write_json(options.json, {**said, "hardware": hardware(), **content})
    if options.write:
        of_depth = options.depth is not None
        path = write_manifest(
            replace(bundle, depth_covariance_map=found) if of_depth else replace(bundle, covariance_map=found)
        )
        print(f"written to {Path(path)}: {found.to_dict()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
