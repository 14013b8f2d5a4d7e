"""The errors and thresholds of the BOP challenge 2019 and after (Hodan et al., "BOP Challenge 2020", section 2.2).

Points are those of the evaluation mesh, metres in the object's frame. A row of symmetries S_k leads to the poses T S_k
that look the same; every error but ADD takes the best of them. Arrays are batched over N pose pairs; N = 0 is legal.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial import cKDTree

from coop_edge.geometry import se3
from coop_edge.geometry.camera import project, rays

SHARES = np.arange(1, 11) * 0.05
"""Thresholds of MSSD and the taus of VSD, in diameters; thresholds of VSD itself."""
PIXELS = np.arange(1, 11) * 5.0
"""Thresholds of MSPD, pixels of an image 640 wide."""
REFERENCE_WIDTH = 640
VSD_DELTA = 0.015
"""Tolerance of the visibility test, metres."""
ADD_SHARE = 0.1
"""Threshold of ADD(-S), in diameters."""
_MOST_POINTS = 1 << 20  # transformed at once; bounds the memory


def mssd(T_estimate: np.ndarray, T_truth: np.ndarray, T_symmetries: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the maximum symmetry-aware surface distance: min over k of max over x of |T_est x - T_truth S_k x|.

    T_estimate, T_truth [N,4,4], T_symmetries [S,4,4] with the identity, points [V,3] metres -> [N] metres.
    """
    out = np.empty(len(T_estimate))
    for i, (T, truth) in enumerate(zip(T_estimate, T_truth, strict=True)):
        moved = se3.transform(T, points)
        out[i] = min(
            np.linalg.norm(same - moved, axis=-1).max(axis=-1).min() for same in _equals(truth, T_symmetries, points)
        )
    return out


def mspd(
    T_estimate: np.ndarray, T_truth: np.ndarray, K: np.ndarray, T_symmetries: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Return the maximum symmetry-aware projection distance: as ``mssd``, of the projected points. [N] pixels.

    Infinite where a point of either pose is not in front of the camera. K [3,3].
    """
    out = np.empty(len(T_estimate))
    for i, (T, truth) in enumerate(zip(T_estimate, T_truth, strict=True)):
        seen = project(K, se3.transform(T, points))
        worst = (
            np.linalg.norm(project(K, same) - seen, axis=-1).max(axis=-1)
            for same in _equals(truth, T_symmetries, points)
        )
        out[i] = min(np.nan_to_num(each, nan=np.inf).min() for each in worst)
    return out


def add(T_estimate: np.ndarray, T_truth: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the average distance of the model's points (Hinterstoisser et al., ACCV 2012). [N] metres."""
    moved, true = se3.transform(T_estimate, points), se3.transform(T_truth, points)
    return np.linalg.norm(moved - true, axis=-1).mean(axis=-1)


def adi(T_estimate: np.ndarray, T_truth: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return ADD-S: the average distance of the truth's points to the nearest one of the estimate. [N] metres."""
    out = np.empty(len(T_estimate))
    for i, (T, truth) in enumerate(zip(T_estimate, T_truth, strict=True)):
        out[i] = cKDTree(se3.transform(T, points)).query(se3.transform(truth, points))[0].mean()
    return out


def vsd(
    range_estimate: np.ndarray,
    range_truth: np.ndarray,
    range_scene: np.ndarray,
    taus: np.ndarray,
    delta: float = VSD_DELTA,
) -> np.ndarray:
    """Return the visible surface discrepancy for each of ``taus`` [K] metres. [K], in [0, 1].

    Three images [H,W] of the distance to the camera's centre, metres, 0 = nothing (of the scene: unknown); see
    ``depth_to_range``. The truth is visible where it lies at most ``delta`` behind the scene, or the scene is unknown;
    the estimate likewise, and besides wherever it covers the visible truth. The error is the share of the pixels
    visible in either that are not in both or whose distances differ by tau or more; 1 if there are none.
    """
    visible_truth = _visible(range_truth, range_scene, delta)
    visible_estimate = _visible(range_estimate, range_scene, delta) | (visible_truth & (range_estimate > 0))
    both, either = visible_truth & visible_estimate, visible_truth | visible_estimate
    count = int(either.sum())
    if count == 0:
        return np.ones(len(taus))
    gaps = np.sort(np.abs(range_estimate[both].astype(np.float64) - range_truth[both]))
    far = len(gaps) - np.searchsorted(gaps, taus, side="left")
    return (far + (count - len(gaps))) / count


def depth_to_range(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Convert depth along the axis [...,H,W] to distance to the camera's centre, in its unit; 0 stays 0."""
    height, width = depth.shape[-2:]
    v, u = np.mgrid[:height, :width]
    lengths = np.linalg.norm(rays(K, np.stack([u, v], axis=-1).reshape(-1, 2)), axis=-1)
    return depth * lengths.reshape(height, width)


def matched(errors: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which instances are found: bool [G] from errors [E,G] of E estimates, best score first.

    As in BOP: each estimate in turn takes the instance, of those not yet taken, at which its error is least, if that is
    below the threshold.
    """
    count, instances = errors.shape
    taken = np.zeros(instances, bool)
    for e in range(count):
        free = np.where(taken, np.inf, errors[e])
        best = int(free.argmin()) if instances else 0
        if instances and free[best] < threshold:
            taken[best] = True
    return taken


def assigned(errors: np.ndarray) -> np.ndarray:
    """Return the estimate that each instance gets without a threshold, int [G], -1 for none; errors as ``matched``."""
    out = np.full(errors.shape[1], -1)
    for e in range(errors.shape[0]):
        free = np.flatnonzero(out < 0)
        if len(free):
            out[free[errors[e, free].argmin()]] = e
    return out


def _equals(T_truth: np.ndarray, T_symmetries: np.ndarray, points: np.ndarray) -> Iterator[np.ndarray]:
    """The points at all poses that look like the truth, [s,V,3] at a time."""
    step = max(1, _MOST_POINTS // max(len(points), 1))
    for first in range(0, len(T_symmetries), step):
        yield se3.transform(T_truth @ T_symmetries[first : first + step], points)


def _visible(distance: np.ndarray, scene: np.ndarray, delta: float) -> np.ndarray:
    return (distance > 0) & ((scene == 0) | (distance - scene <= delta))
