"""Where the outline of an object is: search lines across it, and how probable an edge is at each place on them.

Region-based: colours inside and outside a rendered silhouette, as histograms, tell how probably a pixel shows the
object; the edge on a line is where that changes. So an object needs no texture, and no edge detector a threshold.
(Tjaden et al., TPAMI 2018; Stoiber et al., SRT3D, IJCV 2022: smoothed step functions, whose mean and variance make each
line a measurement.) Everything is float64 of one crop, on the host.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = 16
"""Of a histogram, per channel."""
INSET, RING = 1.5, 20.0
"""Pixels from the outline: nearer ones are blurred and count for neither histogram; outside, farther ones neither."""
REACH, SHIFT = 12, 9
"""Half the length of a line, and how far along it the edge is looked for; pixels."""
BELIEF, SOFTNESS = 0.43, 0.8
"""Of the step function 1/2 -+ BELIEF tanh(r / (2 SOFTNESS)): how far a colour is trusted, and the edge's blur, px."""
LOGISTIC = 1.6
"""Slope of the logistic function that is the normal distribution's between -1 and 1."""
CONTRAST_SPAN = 4
"""Pixels on either side of an edge whose mean probabilities make its contrast."""
LEAST_PIXELS, LEAST_LINES = 30, 10
"""Pixels on each side, and lines, below which there is no outline to speak of."""
_FLOOR = 1e-5  # of a colour's probability: one never seen says nothing


class Lines(NamedTuple):
    """P lines across an outline."""

    centre: Floats  # [P,2] pixels (x, y), on the outline
    normal: Floats  # [P,2] unit, outwards
    depth: Floats  # [P] metres, of the surface at the outline


class Edges(NamedTuple):
    """What P lines say."""

    shift: Floats  # [P] expected position of the edge, pixels along the normal
    variance: Floats  # [P] of it, pixels^2
    contrast: Floats  # [P] in [-1, 1]: probability of the object within the expected edge less that beyond it
    contrast_here: Floats  # [P] the same at the line's centre


def find_lines(depth: NDArray[np.floating], count: int) -> Lines | None:
    """At most ``count`` lines, evenly chosen, across the outline of a render's depth [S,S] (0 = nothing); None if there
    are too few. The outline is where half of what is around is covered."""
    mask = depth > 0
    signed = cv2.GaussianBlur(_signed_distance(mask), (0, 0), 1.0)
    gradient = [cv2.Sobel(signed, cv2.CV_32F, *axes, scale=0.125) for axes in ((1, 0), (0, 1))]
    border = mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    border[[0, -1]] = border[:, [0, -1]] = False
    rows, columns = np.nonzero(border)
    normal = np.stack([g[rows, columns] for g in gradient], axis=1).astype(np.float64)
    length = np.linalg.norm(normal, axis=1)
    kept = np.flatnonzero(length > 0.3)  # where sides meet, as on a wire, there is no normal
    if len(kept) < LEAST_LINES:
        return None
    if len(kept) > count:
        kept = kept[np.linspace(0, len(kept) - 1, count).round().astype(int)]
    rows, columns, normal = rows[kept], columns[kept], normal[kept] / length[kept, None]
    # How deep inside: a mask blurred by a Gaussian of one pixel is the normal distribution of the distance to a
    # straight edge, and that nearly a logistic one. The distance transform counts from pixel to pixel, which would put
    # slanted edges 0.1 px too far inside.
    share = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)[rows, columns].astype(np.float64).clip(0.05, 0.95)
    inside = np.log(share / (1 - share)) / LOGISTIC
    centre = np.stack([columns, rows], axis=1) + normal * inside[:, None]
    return Lines(centre, normal, depth[rows, columns].astype(np.float64))


def object_probability(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """How probably each pixel of ``image`` [S,S,3] shows the object, by its colour: float32 [S,S]; None where either
    side of the outline of ``mask`` [S,S] has too few pixels to tell."""
    signed = _signed_distance(mask)
    inside, outside = signed < -INSET, (signed > INSET) & (signed < RING)
    if min(np.count_nonzero(inside), np.count_nonzero(outside)) < LEAST_PIXELS:
        return None
    bins = (image.astype(np.int64) * BINS) >> 8
    index = (bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]
    here, beyond = (_histogram(index[side])[index] + _FLOOR for side in (inside, outside))
    probability: NDArray[np.float32] = (here / (here + beyond)).astype(np.float32)
    return probability


def find_edges(probability: NDArray[np.float32], lines: Lines) -> Edges:
    """Posterior mean and variance of the edge's position on each line, all positions equally likely before."""
    along = np.arange(-REACH, REACH + 1, dtype=np.float64)
    x, y = ((lines.centre[:, k, None] + along * lines.normal[:, k, None]).astype(np.float32) for k in range(2))
    remapped = cv2.remap(probability, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0.5,))
    seen = remapped.astype(np.float64)  # [P,along]
    shifts = np.arange(-SHIFT, SHIFT + 1, dtype=np.float64)
    step = 0.5 - BELIEF * np.tanh((along - shifts[:, None]) / (2 * SOFTNESS))  # [shifts,along]
    # log(step p + (1 - step)(1 - p)) summed along the line.
    odds = (2 * step - 1) * seen[:, None] + (1 - step)
    log_likelihood = np.log(odds).sum(axis=2)
    posterior = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    mean = posterior @ shifts
    variance = (posterior * (shifts - mean[:, None]) ** 2).sum(axis=1)
    return Edges(mean, variance, _contrast(seen, mean), _contrast(seen, np.zeros_like(mean)))


def _contrast(seen: Floats, shift: Floats) -> Floats:
    total = np.concatenate([np.zeros((len(seen), 1)), np.cumsum(seen, axis=1)], axis=1)
    k, rows, last = np.rint(shift).astype(int) + REACH, np.arange(len(seen)), seen.shape[1]

    def mean(first: Any, end: Any) -> Any:
        return (total[rows, np.clip(end, 0, last)] - total[rows, np.clip(first, 0, last)]) / CONTRAST_SPAN

    return np.asarray(mean(k - CONTRAST_SPAN, k) - mean(k + 1, k + 1 + CONTRAST_SPAN))


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Pixels to the outline between covered and other pixels, negative inside."""
    within = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    without = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return np.where(mask, 0.5 - within, without - 0.5).astype(np.float32)


def _histogram(index: NDArray[np.int64]) -> Floats:
    """Shares of the colours, smoothed by (1, 2, 1) / 4 along each channel, flat."""
    h = np.bincount(index, minlength=BINS**3).reshape(BINS, BINS, BINS).astype(np.float64)
    for axis in range(3):
        padded = np.pad(h, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = (np.take(padded, range(k, k + BINS), axis) for k in (0, 2))
        h = (before + 2 * h + after) / 4
    return h.ravel() / len(index)
