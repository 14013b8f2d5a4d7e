"""Right poses whose covariances are known."""

from __future__ import annotations

import numpy as np

from benchmarks.accuracy.trust import Errors
from coop_edge.runtime.covariance_map import CovarianceMap

TRUE = CovarianceMap(2.5)


def drawn(count, seed=0):
    """Right poses whose errors have the covariances that ``TRUE`` makes of what was stated."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(count, 6, 6)) * [4e-4, 4e-4, 2e-3, 0.02, 0.02, 0.02]
    stated = np.exp(rng.normal(0, 0.7, count))[:, None, None] * np.swapaxes(A, 1, 2) @ A
    error = np.einsum("mij,mj->mi", np.linalg.cholesky(TRUE.apply(stated)), rng.normal(size=(count, 6)))
    return Errors(error, stated, rng.integers(12, size=count))
