"""Says why a refined hypothesis is not to be believed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.config import EstimatorConfig
from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.stages.refine import Refined
from coop_edge.stages.scoring import Fit, Judged

Floats = NDArray[np.float64]


class Least(NamedTuple):
    """What a pose needs to be believed.

    Without a box little evidence is not enough, however well it agrees: nothing says that the object is there, and of
    many places one may look like it.
    """

    weight: float  # of its inliers (``Fit``)
    score: float  # 0: nothing is too little, and no looks too unlike
    presence: float
    option: str = "advanced.select.min_presence"  # that says which presence

    @classmethod
    def of(cls, config: EstimatorConfig, *, tracking: bool) -> Least:
        """Return what is asked of a pose in a box, or of a tracked one."""
        own = config.advanced.select
        return cls(own.min_weight if tracking else 0.0, config.select.min_score, own.min_presence)

    @classmethod
    def found(cls, config: EstimatorConfig) -> Least:
        """Return what is asked of a pose that was found without a box."""
        score, least, own = config.select.min_score, config.advanced.select.min_presence, config.advanced.find
        if least >= own.min_presence:
            return cls(own.min_weight, score, least)
        return cls(own.min_weight, score, own.min_presence, "advanced.find.min_presence")


def rejection(
    refined: Refined,
    found: Fit,
    judged: Judged,
    config: EstimatorConfig,
    i: int,
    *,
    least: Least,
    filled: Floats | None = None,
) -> str:
    """Return why hypothesis i, which has a pose, is not to be believed; "" if it is.

    filled: as of ``select``. A box that the object does not fill shows something else, and where nothing is known of
    the object's looks, as of a model in plain grey, that is what tells.
    """
    if refined.iterations[i] and (reason := _too_little(refined, found, config, i, least=least.weight)):
        return f"select: {reason}"
    score, presence = judged.score[i], judged.presence[i]
    if least.score and presence < least.presence:
        return f"select: presence {presence:.3f} is below {least.option} = {least.presence:g}"
    if score < least.score:
        return f"select: score {score:.3f} is below select.min_score = {least.score:g}"
    if not least.score or not refined.iterations[i] or judged.appearance is None:
        return ""
    looks, options = judged.appearance[i], config.advanced.select
    if judged.with_depth is not None and judged.with_depth[i] and presence >= options.trusted_presence:
        return ""  # what fits in depth may have other colours
    if looks < options.min_appearance:
        wanted = f"wanted at least {options.min_appearance:g}"
        return f"select: render and image do not look alike (similarity {looks:.2f}, {wanted})"
    share = np.nan if filled is None else filled[i]
    if share < options.min_filled and np.isnan(looks) and presence < options.unfilled_presence:
        wanted = f"wanted {options.min_filled:g} at least, or a presence of {options.unfilled_presence:g}"
        return f"select: the object fills {share:.2f} of its box at a presence of {presence:.2f} ({wanted})"
    return ""


def _too_little(refined: Refined, found: Fit, config: EstimatorConfig, i: int, *, least: float) -> str:
    """Return what hypothesis i, which was refined, has too little of; "" if nothing."""
    options, advanced = config.select, config.advanced.select
    size_px = refined.image_px[i] * refined.crop_size / config.advanced.refine.margin
    if size_px < advanced.min_size_px:
        return f"the object is too small in the image ({size_px:.1f} px, wanted at least {advanced.min_size_px:g})"
    if found.inlier_ratio[i] < options.min_inlier_ratio:
        ratio = f"weighted inlier ratio {found.inlier_ratio[i]:.2f}, wanted at least {options.min_inlier_ratio:g}"
        return f"render and image disagree ({ratio})"
    area = (refined.crop_size / REFERENCE_SIZE) ** 2  # as the number of cells grows
    if found.n_inliers[i] < (wanted := math.ceil(options.min_inliers * area)):
        return f"too little of the object matches the image ({found.n_inliers[i]} inliers, wanted at least {wanted})"
    if found.weight[i] < least * area:
        weight = f"inlier weight {found.weight[i]:.1f}, wanted at least {least * area:g}"
        return f"too little of the object is matched with certainty ({weight})"
    return ""
