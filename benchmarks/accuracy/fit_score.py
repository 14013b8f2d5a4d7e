"""Fits the score, the probability that a pose is right, to evidence: ``python -m benchmarks.accuracy.fit_score``.

The map is logistic with weights that are not negative, so that more evidence never lowers the score:

    P(right) = 1 / (1 + exp(-(intercept + sum of weight * evidence)))

Its figures are cross-validated: those of an object come from a map fitted without this object.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit

from benchmarks.accuracy.calibration import auroc, calibration_error, intervals
from benchmarks.accuracy.reliability import BINS, with_interval
from benchmarks.common import print_table, write_json
from coop_edge.errors import CoopEdgeError, InputError

FOLDS = 10
PENALTY = 1e-3
"""Weight of the squared weights beside the mean log loss, for evidence of unit variance."""
COLUMNS = ("right", "group", "object")
"""Fields of a table beside those of the evidence."""


@dataclass(frozen=True)
class Quality:
    """How good the probabilities of some poses are; see ``calibration``. None where a figure is undefined."""

    count: int
    right: int
    auroc: float | None
    auroc_interval: tuple[float, float] | None
    ece: float | None
    ece_interval: tuple[float, float] | None

    @classmethod
    def of(cls, probability: np.ndarray, right: np.ndarray) -> Quality:
        """Measure probabilities [N] of poses that are ``right``, bool [N], or not."""
        area, error = intervals(probability, right, BINS)
        figures = auroc(probability, right), area, calibration_error(probability, right, BINS), error
        return cls(len(right), int(right.sum()), *figures)


@dataclass(frozen=True)
class ScoreFit:
    """A map from evidence to probability, and its cross-validated figures."""

    weights: dict[str, float]
    """By the evidence's name, not negative."""
    intercept: float
    every: Quality
    """Of all hypotheses."""
    chosen: Quality
    """Of the most probable hypothesis of each group: of the poses that are returned."""
    auroc_within: float | None
    """Probability that of two hypotheses of one group, one right and one wrong, the right one is the more probable."""
    top1: float
    """Share of the groups whose most probable hypothesis is right."""
    top1_possible: float
    """Share of the groups that have a right hypothesis."""

    def probability(self, evidence: Mapping[str, ArrayLike]) -> np.ndarray:
        """Return the probability of being right, float64 [M]; evidence: by name, each [M]. Raises InputError."""
        if set(evidence) != set(self.weights):
            raise InputError(f"evidence: wanted {', '.join(self.weights)}, got {', '.join(evidence) or 'none'}")
        columns = [np.asarray(evidence[name], np.float64) * weight for name, weight in self.weights.items()]
        return expit(self.intercept + np.sum(columns, axis=0))


def fit_score(
    evidence: Mapping[str, ArrayLike],
    right: ArrayLike,
    group: ArrayLike,
    object: ArrayLike,
    *,
    penalty: float = PENALTY,
    for_chosen: bool = False,
) -> ScoreFit:
    """Fit the map to M hypotheses, and measure it by cross-validation over objects.

    Args:
        evidence: float [M] by name; larger speaks for the pose.
        right: bool [M], whether the pose is within a tenth of the diameter.
        group: integers [M], the target that a hypothesis is of.
        object: integers [M], the object of the target.
        penalty: see ``PENALTY``. Larger makes weights smaller and more alike.
        for_chosen: make the probability that of each group's most probable hypothesis (by a factor on all weights and
            another intercept, which do not change the choice), for a choice is right more or less often than other
            hypotheses of equal evidence.

    Raises InputError: columns of unlike length, evidence that is not finite, a group of two objects, fewer than two
    objects, or, without one of them, only right or only wrong hypotheses.
    """
    names, X, y, groups, objects = _checked(evidence, right, group, object)
    probability = np.empty(len(y))
    folds = np.unique(objects, return_inverse=True)[1].reshape(-1) % FOLDS
    for fold in np.unique(folds):
        out = folds == fold
        weights, intercept = _fit(X[~out], y[~out], groups[~out], penalty, for_chosen)
        probability[out] = expit(intercept + X[out] @ weights)
    weights, intercept = _fit(X, y, groups, penalty, for_chosen)
    best = choose(probability, groups)
    return ScoreFit(
        weights=dict(zip(names, weights.tolist(), strict=True)),
        intercept=float(intercept),
        every=Quality.of(probability, y),
        chosen=Quality.of(probability[best], y[best]),
        auroc_within=auroc_within(probability, y, groups),
        top1=float(y[best].mean()),
        top1_possible=len(np.unique(groups[y])) / len(best),
    )


def choose(score: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the row of the highest score of each group, by group; ties go to the earlier row."""
    order = np.lexsort((-score, group))  # stable: equal keys stay in order
    return order[np.unique(group[order], return_index=True)[1]]


def auroc_within(score: np.ndarray, right: np.ndarray, group: np.ndarray) -> float | None:
    """Return the share of pairs (right, wrong) of one group whose right one scores higher, ties counting one half.

    None if there is no such pair.
    """
    pairs = won = 0.0
    for each in np.unique(group[right]):
        rows = group == each
        area, n = auroc(score[rows], right[rows]), float(right[rows].sum() * (~right[rows]).sum())
        won, pairs = won + n * (area or 0.0), pairs + n
    return won / pairs if pairs else None


def _fit(X: np.ndarray, y: np.ndarray, group: np.ndarray, penalty: float, for_chosen: bool) -> tuple[np.ndarray, float]:
    weights, intercept = _logistic(X, y, penalty)
    if for_chosen:
        logit = X @ weights
        best = choose(logit, group)
        (factor,), intercept = _logistic(logit[best, None], y[best], penalty)
        weights = weights * factor
    return weights, intercept


def _logistic(X: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights >= 0 [K] and intercept of the smallest mean log loss; X: [M,K]; y: bool [M]."""
    if y.all() or not y.any():
        raise InputError(f"right: wanted right and wrong hypotheses to fit, got {int(y.sum())} right of {len(y)}")
    mean, spread = X.mean(axis=0), X.std(axis=0)
    spread = np.where(spread > 0, spread, np.inf)  # what is constant says nothing
    Z = (X - mean) / spread

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        logit = values[-1] + Z @ values[:-1]
        slope = (expit(logit) - y) / len(y)
        value = np.mean(np.logaddexp(0.0, logit) - y * logit) + penalty / 2 * np.sum(values[:-1] ** 2)
        return value, np.append(slope @ Z + penalty * values[:-1], slope.sum())

    count = X.shape[1]
    start = np.append(np.zeros(count), np.log(y.mean() / (1 - y.mean())))
    bounds = [(0.0, None)] * count + [(None, None)]
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-12, "gtol": 1e-8}).x
    weights = found[:-1] / spread
    return weights, float(found[-1] - mean @ weights)


def _checked(
    evidence: Mapping[str, ArrayLike], right: ArrayLike, group: ArrayLike, of_object: ArrayLike
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    names = list(evidence)
    if not names:
        raise InputError("evidence: wanted at least one kind, got none")
    columns = [np.asarray(evidence[name], np.float64) for name in names]
    y, groups, objects = np.asarray(right), np.asarray(group), np.asarray(of_object)
    if shapes := {column.shape for column in (*columns, y, groups, objects)} - {(len(y),)}:
        raise InputError(f"evidence, right, group, object: wanted [{len(y)}] each, got also {sorted(shapes)}")
    if y.dtype != np.bool_:
        raise InputError(f"right: wanted bool, got {y.dtype}")
    for name, column in zip(names, columns, strict=True):
        if not np.isfinite(column).all():
            raise InputError(
                f"evidence {name}: wanted finite numbers, row {int(np.argmin(np.isfinite(column)))} is not"
            )
    if len(np.unique(objects)) < 2:
        raise InputError(f"object: wanted at least two for the cross-validation, got {len(np.unique(objects))}")
    of_group = np.unique(np.stack([groups, objects]), axis=1)[0]
    if len(np.unique(of_group)) < len(of_group):
        raise InputError("group: wanted the hypotheses of one target, hence of one object, in each; one has several")
    return names, np.stack(columns, axis=1), y, groups, objects


def read_tables(
    paths: Sequence[str | Path],
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Read the arguments of ``fit_score`` from files of structured arrays, a row per hypothesis (``numpy.save``).

    Fields: ``right`` (bool), ``group`` and ``object`` (integers); every other one is evidence. Groups and objects of
    different files are different ones. Raises InputError.
    """
    tables: list[np.ndarray] = []
    for path in paths:
        try:
            table = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: not a table that NumPy reads: {error}") from None
        found = () if not isinstance(table, np.ndarray) else table.dtype.names or ()
        if not set(COLUMNS) < set(found):
            raise InputError(
                f"{path}: wanted fields {', '.join(COLUMNS)} and evidence, got {', '.join(found) or 'none'}"
            )
        if tables and set(found) != set(tables[0].dtype.names or ()):
            raise InputError(f"{path}: wanted the fields of {paths[0]}, got {', '.join(found)}")
        tables.append(table)
    source = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0].dtype.names or ()}
    apart = (np.unique(np.stack([source, columns[name]]), axis=1, return_inverse=True)[1] for name in COLUMNS[1:])
    group, of_object = (rows.reshape(-1) for rows in apart)
    evidence = {name: column for name, column in columns.items() if name not in COLUMNS}
    return evidence, columns["right"], group, of_object


def print_fit(fit: ScoreFit) -> None:
    """Print the weights and the figures."""
    print_table("Weights", [*fit.weights.items(), ("intercept", fit.intercept)])
    rows: list[tuple[Any, ...]] = []
    for name, each in (("all hypotheses", fit.every), ("chosen", fit.chosen)):
        figures = with_interval(each.auroc, each.auroc_interval), with_interval(each.ece, each.ece_interval)
        rows.append((name, each.count, each.right, *figures))
    print_table("Cross-validated over objects", rows, ("poses", "count", "right", "AUROC (95 %)", "ECE (95 %)"))
    within = "undefined" if fit.auroc_within is None else f"{fit.auroc_within:.3f}"
    print(f"AUROC within a target {within}; {fit.top1:.3f} of the targets right, {fit.top1_possible:.3f} possible")


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.fit_score",
        description="Fits the map from the evidence for a pose to the probability that it is right.",
    )
    parser.add_argument("tables", metavar="TABLE.npy", nargs="+", help=f"fields {', '.join(COLUMNS)}, and evidence")
    parser.add_argument("--evidence", metavar="NAME", action="append", help="fit these alone (default all); repeatable")
    parser.add_argument("--penalty", type=float, default=PENALTY, help=f"of squared weights (default {PENALTY:g})")
    parser.add_argument("--for-chosen", action="store_true", help="make it the probability of the pose that is chosen")
    parser.add_argument("--json", metavar="JSON", help="all figures")
    options = parser.parse_args(arguments)
    try:
        evidence, *rest = read_tables(options.tables)
        if missing := set(options.evidence or ()) - set(evidence):
            raise InputError(f"--evidence {min(missing)}: the tables have {', '.join(evidence)}")
        evidence = {name: evidence[name] for name in options.evidence or evidence}
        fit = fit_score(evidence, *rest, penalty=options.penalty, for_chosen=options.for_chosen)
        print_fit(fit)
        if options.json:
            write_json(options.json, {"benchmark": "fit_score", **asdict(fit)})
    except (CoopEdgeError, OSError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
