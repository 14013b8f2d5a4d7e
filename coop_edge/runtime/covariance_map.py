"""Turns the refiner's covariance of a pose into one that its errors have: ``CovarianceMap``, part of a bundle.

Least squares takes the cells of a crop for independent, and the network for right on average. Neither holds: cells are
wrong together, and a part of the error is the network's own. So every axis gets a factor, and an error that is there
however sure the cells are; and a pose that is less probably right is farther off, too, where it is right. Axes are
those of the line of sight, along which errors are largest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import BundleError
from coop_edge.geometry import se3

PARTS = ("sideways", "depth", "rotation")
"""Across the line of sight, along it, and about any axis."""
LEAST_SCORE = 0.05
"""Lower scores count as this."""
_PART_OF = np.array([0, 0, 1, 2, 2, 2])
"""The part of each component of (translation, rotation) in axes whose third is the line of sight."""


@dataclass(frozen=True)
class CovarianceMap:
    """C -> (S C S + F^2) / score^(2 p) in the axes of the line of sight, for (translation m, rotation rad).

    Attributes:
        factor: of the standard deviations, by ``PARTS``.
        floor: standard deviations that are added (as variances): sideways and depth in diameters, rotation in radians.
        score_power: p; 0: the score does not count.

    Raises:
        BundleError: unless all are finite and not negative.
    """

    factor: tuple[float, float, float]
    floor: tuple[float, float, float]
    score_power: float

    def __post_init__(self) -> None:
        numbers = np.array([*self.factor, *self.floor, self.score_power], np.float64)
        if len(numbers) != 2 * len(PARTS) + 1 or not np.isfinite(numbers).all() or (numbers < 0).any():
            raise BundleError(
                "covariance: wanted three factors, three floors and a power of the score, finite and at least 0, "
                f"found {self.factor}, {self.floor} and {self.score_power}"
            )

    def apply(
        self,
        covariance: NDArray[np.float64],
        T_camera_object: NDArray[np.float64],
        diameter: NDArray[np.float64],
        score: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the covariances [N,6,6] that errors of poses T_camera_object [N,4,4] have; NaN stays.

        Args:
            covariance: [N,6,6] in camera axes, as the solver gives it.
            diameter: [N], of the objects, metres.
            score: [N], of the poses, 0 to 1.
        """
        R = line_of_sight_axes(T_camera_object[:, :3, 3])
        turned = se3.turn_covariances(R, covariance)
        factor = np.asarray(self.factor)[_PART_OF]
        floor = np.asarray(self.floor)[_PART_OF] * np.where(_PART_OF < 2, diameter[:, None], 1.0)
        mapped = factor[:, None] * turned * factor + (floor * floor)[:, :, None] * np.eye(6)
        mapped *= (np.maximum(score, LEAST_SCORE) ** (-2.0 * self.score_power))[:, None, None]
        return np.asarray(se3.turn_covariances(np.swapaxes(R, 1, 2), mapped))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {"factor": list(self.factor), "floor": list(self.floor)}


def line_of_sight_axes(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotations [N,3,3] that turn camera axes into those whose third points at positions t [N,3].

    The smallest rotation that does; the identity where t is NaN or not in front of the camera.
    """
    known = np.isfinite(t).all(axis=1) & (np.nan_to_num(t[:, 2]) > 0)
    return se3.smallest_rotation_to_z(np.where(known[:, None], t, [0.0, 0.0, 1.0]))
