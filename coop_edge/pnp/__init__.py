"""Solves poses, batched: EPnP inside RANSAC and weighted Levenberg-Marquardt.

The contract is in ``pnp.base``. docs/solvers.md states the algorithm, which all backends follow down to the random
numbers: integers (samples, number of hypotheses, tie-breaking) agree exactly, floats to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coop_edge.pnp.base import (
    DepthTargets,
    LineTargets,
    LmResult,
    LmStop,
    MeasuredDepths,
    PnpStatus,
    PosePrior,
    RansacResult,
)

if TYPE_CHECKING:
    from coop_edge.config import LmConfig, RansacConfig, RansacSearchConfig
    from coop_edge.pnp.cpu import CpuPnpSolver

__all__ = [
    "DepthTargets",
    "LineTargets",
    "LmResult",
    "LmStop",
    "MeasuredDepths",
    "PnpStatus",
    "PosePrior",
    "RansacResult",
    "ransac_epnp",
    "weighted_lm",
]

_shared: CpuPnpSolver | None = None


def _solver() -> CpuPnpSolver:
    global _shared
    if _shared is None:
        from coop_edge.pnp.cpu import CpuPnpSolver  # Numba is imported here and not before

        _shared = CpuPnpSolver()
    return _shared


def ransac_epnp(
    points_object: Any,
    points_image: Any,
    valid: Any,
    K: Any,
    config: RansacConfig | None = None,
    *,
    search: RansacSearchConfig | None = None,
    substreams: Any = None,
    measured: MeasuredDepths | None = None,
) -> RansacResult:
    """Do ``PnpSolver.ransac_epnp`` on the CPU, NumPy arrays, all cores; see ``pnp.base.PnpSolver``."""
    return _solver().ransac_epnp(
        points_object, points_image, valid, K, config, search=search, substreams=substreams, measured=measured
    )


def weighted_lm(
    points_object: Any,
    points_image: Any,
    weights: Any,
    K: Any,
    T_init: Any,
    config: LmConfig | None = None,
    *,
    prior: PosePrior | None = None,
    lines: LineTargets | None = None,
    depths: DepthTargets | None = None,
) -> LmResult:
    """Do ``PnpSolver.weighted_lm`` on the CPU, NumPy arrays, all cores; see ``pnp.base.PnpSolver``."""
    return _solver().weighted_lm(
        points_object, points_image, weights, K, T_init, config, prior=prior, lines=lines, depths=depths
    )
