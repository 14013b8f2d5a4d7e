"""Turns the evidence for a pose into the probability that it is right: ``ScoreMap``, part of a bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import BundleError

EVIDENCE = ("similarity", "inlier_ratio", "inlier_weight", "outline", "nearness")
"""Names of the evidence; see ``stages.judge``."""
DEPTH_EVIDENCE = (*EVIDENCE, "agreement", "clear")
"""Names of the evidence where measured depth is used."""
OPTIONAL = frozenset({"outline", "nearness"})
"""Evidence that came later: a map without it is valid, and it weighs nothing."""
NEAREST, FARTHEST = 2.0, 20.0
"""Distances, diameters, between which ``nearness`` changes. Of the synthetic set's poses, to which the maps that ship
are fitted, 90 % lie from 3.4 to 11.3 diameters away, all from 1.9 to 18.1. Other values want maps fitted anew."""
TYPICAL = 6.0
"""Distance, diameters, of ``ScoreMap.presence``; the median of those poses is 6.5. Least presences depend on it."""


def nearness(distance: ArrayLike) -> NDArray[np.float64]:
    """Return how near objects are, by the logarithm of their distance: 1 at ``NEAREST`` and below, 0 at ``FARTHEST``.

    An error of a percent in size is one of a percent in distance, hence the more diameters the farther the object is.

    Args:
        distance: [M] from the camera's centre to the object's, diameters of the object, positive.
    """
    clipped = np.clip(np.asarray(distance, np.float64), NEAREST, FARTHEST)
    return np.asarray(np.log(FARTHEST / clipped) / math.log(FARTHEST / NEAREST))


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
            wanted = ", ".join(f"{name} (optional)" if name in OPTIONAL else name for name in EVIDENCE)
            raise BundleError(f"score: wanted weights of {wanted}, found {', '.join(self.weights) or 'none'}")
        numbers = [self.intercept, *self.weights.values()]
        if not all(math.isfinite(number) for number in numbers) or min(numbers[1:]) < 0:
            raise BundleError(f"score: wanted finite numbers and weights of at least 0, found {numbers}")

    def probability(self, evidence: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return p [M] of evidence by name, each [M]."""
        logit = self.intercept + sum(weight * evidence[name] for name, weight in self.weights.items())
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)))  # no overflow

    def presence(self, evidence: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return p [M] as it would be at ``TYPICAL``: far away a pose is seldom exact, but the object is there."""
        return self.probability({**evidence, "nearness": np.full_like(evidence["nearness"], nearness(TYPICAL))})

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"intercept": self.intercept, "weights": dict(self.weights)}
