"""Turns the refiner's covariance of a pose into one that its errors have: ``CovarianceMap``, part of a bundle.

Least squares takes the cells of a crop for independent, and the network for right on average. Neither holds: cells are
wrong together. So the covariance gets a factor, after ``stages.turns`` has added by how much its turns disagree. A
floor, factors of each axis' own and the score would tell no more of how far off a pose is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import BundleError


@dataclass(frozen=True)
class CovarianceMap:
    """C -> scale^2 C.

    Attributes:
        scale: factor of all standard deviations.

    Raises:
        BundleError: unless it is finite and above 0.
    """

    scale: float

    def __post_init__(self) -> None:
        if not 0.0 < self.scale < np.inf:
            raise BundleError(f"covariance: wanted a finite scale above 0, found {self.scale}")

    def apply(self, covariance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the covariances [N,6,6] that errors of poses have, of those that the solver gives; NaN stays."""
        return self.scale**2 * covariance

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)
