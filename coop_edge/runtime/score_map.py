"""Turns the evidence for a pose into the probability that it is right: ``ScoreMap``, part of a bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import BundleError

EVIDENCE = ("similarity", "inlier_ratio", "inlier_weight", "outline")
"""Names of the evidence; see ``stages.judge``."""
DEPTH_EVIDENCE = (*EVIDENCE, "agreement", "clear")
"""Names of the evidence where measured depth is used."""
OPTIONAL = frozenset({"outline"})
"""Evidence that came later: a map without it is valid, and it weighs nothing."""


@dataclass(frozen=True)
class ScoreMap:
    """A logistic map: p = 1 / (1 + exp(-(intercept + sum of weight x evidence))).

    Its evidence is ``EVIDENCE``, or ``DEPTH_EVIDENCE`` for poses that use measured depth; ``OPTIONAL`` may be missing.

    It is fitted so that p is the probability that the pose is off by less than a tenth of the object's diameter (MSSD).
    Weights are not negative: more evidence never makes a pose less probable.

    Raises:
        BundleError: weights are missing, not finite or negative.
    """

    intercept: float
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if OPTIONAL | set(self.weights) not in (set(EVIDENCE), set(DEPTH_EVIDENCE)):
            raise BundleError(
                f"score: wanted weights of {', '.join(EVIDENCE)} (optional), found {', '.join(self.weights) or 'none'}"
            )
        numbers = [self.intercept, *self.weights.values()]
        if not all(math.isfinite(number) for number in numbers) or min(numbers[1:]) < 0:
            raise BundleError(f"score: wanted finite numbers and weights of at least 0, found {numbers}")

    def probability(self, evidence: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return p [M] of evidence by name, each [M]."""
        logit = self.intercept + sum(weight * evidence[name] for name, weight in self.weights.items())
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)))  # no overflow

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"intercept": self.intercept, "weights": dict(self.weights)}
