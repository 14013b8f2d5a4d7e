"""Fits the score, the probability that a pose is right, to evidence.

The map is logistic with weights that are not negative, so that more evidence never lowers the score:

    P(right) = 1 / (1 + exp(-(intercept + sum of weight * evidence)))

Hypotheses are compared with each other by their presence: the probability with the evidence of ``ALIKE`` at one value
for all, as the Estimator compares them. Figures are cross-validated: those of an object come from a map fitted without
this object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit

from benchmarks.accuracy.calibration import auroc, calibration_error, intervals
from benchmarks.accuracy.reliability import BINS
from coop_edge.errors import InputError
from coop_edge.runtime.score_map import TYPICAL, nearness

FOLDS = 10
PENALTY = 1e-3
"""Weight of the squared weights beside the mean log loss, for evidence of unit variance."""
ALIKE = {"nearness": float(nearness(TYPICAL))}
"""Evidence that says how exact a pose can be and not which of two is right, and its value in the presence."""
FINISHED: Literal[""] = ""
"""In place of an effort: all hypotheses of the target were refined to the end."""


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
    chosen: dict[str, Quality]
    """By effort, of the hypothesis of each group with the most presence: of the poses that are returned."""
    auroc_within: float | None
    """Probability that of two hypotheses of one group, one right and one wrong, the right one has more presence."""
    top1: dict[str, float]
    """By effort, the share of the groups whose hypothesis with the most presence is right."""
    top1_possible: dict[str, float]
    """By effort, the share of the groups that have a right hypothesis."""
    cross_validated: np.ndarray
    """float64 [M], the probability of each hypothesis by the map that has not seen its object."""
    presence: np.ndarray
    """float64 [M], its presence by that map."""

    def probability(self, evidence: Mapping[str, ArrayLike]) -> np.ndarray:
        """Return the probability of being right, float64 [M]; evidence: by name, each [M].

        Raises:
            InputError: a kind of evidence is missing.
        """
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
    effort: ArrayLike | None = None,
    accepted: ArrayLike | None = None,
    absent: ArrayLike | None = None,
    penalty: float = PENALTY,
) -> ScoreFit:
    """Fit the map to M hypotheses, and measure it by cross-validation over objects.

    The weights are fitted to the hypotheses that were all refined to the end. If there are others, the probability is
    then made that of the hypothesis chosen at their efforts (by a factor on all weights and another intercept, which
    do not change the choice), for a choice is right more or less often than other hypotheses of equal evidence.

    Args:
        evidence: float [M] by name; larger speaks for the pose.
        right: bool [M], whether the pose is within a tenth of the diameter.
        group: integers [M], the target that a hypothesis is of.
        object: integers [M], the object of the target.
        effort: strings [M], of those that an effort's schedule left over the effort; else, or if None, ``FINISHED``.
        accepted: bool [M], whether nothing but its score speaks against a hypothesis; only these are fitted to and
            chosen. All are if None.
        absent: bool [M], whether the object searched is not there; such hypotheses get a probability and are not
            fitted to. None is if None.
        penalty: see ``PENALTY``. Larger makes weights smaller and more alike.

    Raises:
        InputError: columns are of unlike length, evidence is not finite, a group has two objects, there are fewer than
            two objects, or, without one of them, only right or only wrong hypotheses.
    """
    names, X, y, groups, objects = _checked(evidence, right, group, object)
    efforts = np.full(len(y), FINISHED) if effort is None else np.asarray(effort)
    usable = np.ones(len(y), np.bool_) if accepted is None else np.asarray(accepted, np.bool_)
    there = np.ones(len(y), np.bool_) if absent is None else ~np.asarray(absent, np.bool_)
    if shapes := {column.shape for column in (efforts, usable, there)} - {(len(y),)}:
        raise InputError(f"effort, accepted, absent: wanted [{len(y)}] each, got {sorted(shapes)}")
    level, fitted = X.copy(), usable & there
    for name in set(names) & set(ALIKE):
        level[:, names.index(name)] = ALIKE[name]
    probability, presence = np.empty(len(y)), np.empty(len(y))
    folds = np.unique(objects, return_inverse=True)[1].reshape(-1) % FOLDS
    for fold in np.unique(folds):
        out = folds == fold
        kept = fitted & ~out
        weights, intercept = _fit(X[kept], level[kept], y[kept], groups[kept], efforts[kept], penalty)
        probability[out] = expit(intercept + X[out] @ weights)
        presence[out] = expit(intercept + level[out] @ weights)
    weights, intercept = _fit(X[fitted], level[fitted], y[fitted], groups[fitted], efforts[fitted], penalty)
    finished = fitted & (efforts == FINISHED)
    chosen: dict[str, Quality] = {}
    top1: dict[str, float] = {}
    possible: dict[str, float] = {}
    for name in np.unique(efforts[there]).tolist():
        rows = np.flatnonzero(fitted & (efforts == name))
        best, count = rows[choose(presence[rows], groups[rows])], len(np.unique(groups[there & (efforts == name)]))
        chosen[name] = Quality.of(probability[best], y[best])
        top1[name] = float(y[best].sum() / count)
        possible[name] = len(np.unique(groups[rows][y[rows]])) / count
    return ScoreFit(
        weights=dict(zip(names, weights.tolist(), strict=True)),
        intercept=float(intercept),
        every=Quality.of(probability[finished], y[finished]),
        chosen=chosen,
        auroc_within=auroc_within(presence[finished], y[finished], groups[finished]),
        top1=top1,
        top1_possible=possible,
        cross_validated=probability,
        presence=presence,
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


def _fit(
    X: np.ndarray, level: np.ndarray, y: np.ndarray, group: np.ndarray, effort: np.ndarray, penalty: float
) -> tuple[np.ndarray, float]:
    finished = effort == FINISHED
    weights, intercept = _logistic(X[finished], y[finished], penalty)
    if not finished.all():
        logit, presence = X @ weights, level @ weights
        each = [np.flatnonzero(effort == name) for name in np.unique(effort[~finished])]
        best = np.concatenate([rows[choose(presence[rows], group[rows])] for rows in each])
        (factor,), intercept = _logistic(logit[best, None], y[best], penalty)
        weights = weights * factor
    return weights, intercept


def _logistic(X: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights >= 0 [K] and intercept of the smallest mean log loss; X: [M,K]; y: bool [M]."""
    if y.all() or not y.any():  # none at all are refused, too
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
