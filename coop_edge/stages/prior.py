"""Says what refinement believes before it looks: the pose that it started from, give or take.

An object without texture or edges leaves depth and rotation nearly free, and iterated refinement then walks at random:
each comparison's error is the next one's start. A Gaussian about the start of the *first* iteration, which stays where
it is over all of them, holds such an object back and gives way where there is evidence.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import AdvancedRefineConfig
from coop_edge.ops.base import Array
from coop_edge.pnp.base import PosePrior

Floats = NDArray[np.float64]


def pose_prior(config: AdvancedRefineConfig, T_anchor: Floats, centre: Floats, diameter: Floats) -> PosePrior | None:
    """Make the prior about poses [M,4,4] of objects of centres [M,3] (object's frame) and diameters [M], metres.

    Sideways and depth are those of the camera that ``T_anchor`` is given in. None if the options leave all axes free.
    """
    if not any(_sigmas(config)):
        return None
    sideways, depth, turn = (value or math.inf for value in _sigmas(config))
    sigma = np.empty((len(T_anchor), 6))
    sigma[:, :2], sigma[:, 2], sigma[:, 3:] = (sideways * diameter)[:, None], depth * diameter, turn
    return PosePrior.from_sigmas(T_anchor, centre, sigma)


def lm_weights(config: AdvancedRefineConfig, weight: Array, precision: Array) -> Array:
    """Return what the pose solver weighs cells by; weight, precision: see ``Correspondences``; of any shape.

    Without a prior the confidence W, whose unit means nothing. With one inverse standard deviations, 1/px: certainty
    times sensitivity over the flow's scale b, less what cells share with their neighbours (``prior_information``). W
    would not do: it hardly rises any more where b is below R, so that the prior would bias poses that are known to a
    fraction of R.
    """
    if not any(_sigmas(config)):
        return weight
    return precision * precision.dtype.type(math.sqrt(config.prior_information))


def _sigmas(config: AdvancedRefineConfig) -> tuple[float, float, float]:
    return config.prior_sideways, config.prior_depth, config.prior_rotation
