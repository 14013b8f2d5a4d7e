"""Solve poses, batched: EPnP inside RANSAC and weighted Levenberg-Marquardt. The contract is in ``pnp.base``.

All backends run the one algorithm below; the integers (samples, number of hypotheses, tie-breaking) agree exactly, the
floats to rounding. T maps object to camera, errors are in pixels, "in front" means z > 1e-6 m (``MIN_DEPTH``).

Samples
-------
Random words come from Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC
2011), a function of a key and a counter and nothing else: key = (seed mod 2^32, seed div 2^32), counter =
(hypothesis, substream, block, 0). Word i of a hypothesis is word (i mod 4) of block (i div 4). A problem's substream is
its index in the batch, or what the caller says (``substreams``): a problem with a substream of its own comes out the
same, to the last bit, alone and at any place of any batch.

A problem's n valid points are numbered 0..n-1 in the order of their indices. A sample of m of them, without
replacement: draw r_i = floor(word_i (n - i) / 2^32), one of the n - i points still free, counted in ascending order;
that is, go through the points already drawn in ascending order and add 1 to r_i for each that is <= r_i, stopping at
the first greater one. Exactly m words, no rejection; every ordered sample has the same probability, up to n / 2^32.
The order of drawing is kept. m = 3 for "p3p", min(sample_size, n) for "epnp".

Statuses, first that holds
--------------------------
NON_FINITE: K, or a valid entry of either point array, holds NaN or infinity. TOO_FEW_POINTS: n < 4. DEGENERATE: with
X_0 the first valid point, a the valid point farthest from it (lowest index among equals), d = |a - X_0|, and h the
largest distance of a valid point from the line X_0 a (0 if d = 0): h <= 1e-5 d + 1e-6 |X_0|. NO_HYPOTHESIS: no sample
gave a pose. TOO_FEW_INLIERS: fewer than min_inliers inliers at the end. Three points fit any mirror image, so a set
of points that all lie behind the camera shows up as one of the last two.

Hypotheses
----------
A pose's score is MSAC (Torr, Zisserman: MLESAC, CVIU 2000): sum over the valid points of min(e^2, threshold^2), with
e^2 = threshold^2 for a point that is not in front. An inlier has e^2 < threshold^2. A hypothesis is the best-scoring
pose of its sample (the first of equals):

* "p3p": up to four poses of the three points (``pnp.p3p``), all of them scored; none if the triangle is flat
  (|AB x AC|^2 <= 1e-10 |AB|^2 |AC|^2). Scoring a wrong root is cheap, since scoring stops early, and the number of
  samples then falls with the third power of the inlier share and not with the fourth.
* "epnp": EPnP of the m points (``pnp.epnp``); none if one of them comes out not in front.

Hypothesis h replaces the best so far if its score is strictly smaller: the lower index wins. Scoring may stop as soon
as the running sum reaches the best score of any lower index.

Hypotheses are drawn in rounds of 32 (``ROUND``), the last one cut at ``hypotheses``. After each round, with k the
inliers of the best pose, drawing stops if confidence < 1, k >= m and

    drawn * log(1 - p) <= log(1 - confidence),   p = prod_{i<m} (k - i) / (n - i)        (p = 1 stops)

A backend may evaluate several rounds at once if it discards what lies beyond the stop. No refinement happens inside.

Local refinement (``refine=True``)
----------------------------------
The near points of a pose are those with e^2 < (1.5 threshold)^2: a pose of three noisy points misses many inliers.

1. EPnP on the near points of the best hypothesis, if they are 4 at least and not collinear; it replaces the pose if its
   score is smaller.
2. Up to three times (``REFINE_ROUNDS``): Levenberg-Marquardt from the pose (unit weights, no robust loss, otherwise
   ``LmConfig()``), the first time on its near points, then on its inliers; stop if these are fewer than 3. A result
   with a smaller score replaces the pose; stop if its inliers are the points just used. One without is dropped; stop,
   unless it was the first.

EPnP (Lepetit, Moreno-Noguer, Fua: EPnP, IJCV 2009), as used here
------------------------------------------------------------------
K^-1 takes pixels to normalised coordinates. Control points: the centroid and the three principal axes, each a standard
deviation long and pointing so that its component of largest magnitude is positive. With principal variances l1 >= l2
>= l3: l3 < 1e-6 l2 is planar (three control points, 9 x 9), l3 > 1e-2 l2 is general (four, 12 x 12), in between both
are computed. Starts for the betas: N = 1 closed form; N = 2, 3 from the linear system in the products of N betas; N = 4
(planar: 3) from the products with beta_1 alone. From each, 10 Gauss-Newton steps over all four (planar: three) betas on
the squared control-point distances. Each candidate gets the sign that puts the centroid in front, and R, t by absolute
orientation (Horn 1987); the smallest sum of squared reprojection errors over the points wins, points not in front
counting as infinite; the first of equals. With 4 or 5 points that are not planar the null space has more than one
dimension and any basis of it is as good: what comes out then depends on the eigensolver.

Weighted Levenberg-Marquardt
----------------------------
Participants are points, lines and depths, fixed at T_init: weight > 0 and in front. Entries of weight 0 are never read
further. A point has two residuals, a line or a depth one. NON_FINITE: K, T_init, a weight or an entry of weight > 0
holds NaN or infinity, or a weight is negative; TOO_FEW_POINTS: fewer than 6 residuals of weight > 0; BEHIND_CAMERA:
none of those in front; TOO_FEW_POINTS: fewer than 6 in front. A step that takes a participant out of the space in front
of the camera has infinite cost and is refused, so the cost is one function throughout and cannot be lowered by losing
participants.

Coordinates are centred: X' = X - c, t' = t + R c with c the mean of the participating points weighted by w^2, or, if
there are none, of the lines, or, without those, of the depths. The step xi' = (rho', phi) moves R <- Exp(phi) R, t' <-
t' + rho'. With r = pi(K (R X' + t')) - u of a point, r = n . (pi(K (R X' + t')) - u) of a line with unit normal n, r =
n . (R X' + t' - q) of a depth measured at the place q with unit normal n, metres, and s = w^2 |r|^2:

    cost = sum f(s)      H = sum w^2 f'(s) J^T J      g = sum w^2 f'(s) J^T r
    f(s) = s  |  huber: s if s <= d^2 else 2 d sqrt(s) - d^2  |  cauchy: d^2 log(1 + s / d^2)

One pass gives the 28 sums (21 + 6 + 1) at a pose; a trial step is one pass. For each of ``iterations`` steps:

1. solve (H + lambda diag H) xi' = -g by Cholesky; if that fails the step counts as refused;
2. if max(|phi|, |rho'| / |t'|) < step_tolerance: stop (STEP), without the step;
3. cost' < cost: accept, lambda <- max(lambda / damping_down, 1e-12); if cost - cost' < cost_tolerance cost: stop
   (COST); otherwise: refuse, lambda <- max(lambda, 1e-12) damping_up; above 1e12: stop (DAMPING).

At the end, DEGENERATE if the undamped H, scaled to a unit diagonal, has a Cholesky pivot <= 1e-12 (a backend that
sums in FP32 takes a larger bound). Covariance: C' = H^-1 cost / (m - 6) for m residuals, then moved from the centroid
to the object's origin, C = A C' A^T with A = [I  hat(R c); 0  I], since rho = rho' - phi x R c. It is NaN for m = 6,
where nothing is left to estimate the variance from.

A Gaussian prior on the pose (``PosePrior``)
--------------------------------------------
adds e^T L e to the cost, whatever the loss; e = (p - p_anchor, log(R R_anchor^T)) with p = R (q - c) + t' the place of
the object's centre q, L the information. With a = R (q - c) it adds B^T L B to H and B^T L e to g,

    B = d e / d xi' = [I  -hat(a); 0  J(e_R)^-1],    J the left Jacobian of SO(3), e_R the last three of e.

J is exact, so the cost is minimised and not merely lowered; the prior is that of xi at its anchor however far the pose
goes. Three things change with a prior: if L has full rank (its Cholesky pivots, scaled to a unit diagonal, exceed
1e-12), it takes no residuals (TOO_FEW_POINTS does not occur, BEHIND_CAMERA still does: weights > 0, none of them in
front), and without any c is q; NON_FINITE also stands for its arrays; and the covariance is A H^-1 A^T without the
factor cost / (m - 6), for the weights have the prior's unit: they are inverse standard deviations. An information of
zero adds exact zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coop_edge.pnp.base import DepthTargets, LineTargets, LmResult, LmStop, PnpStatus, PosePrior, RansacResult

if TYPE_CHECKING:
    from coop_edge.config import LmConfig, RansacConfig, RansacSearchConfig
    from coop_edge.pnp.cpu import CpuPnpSolver

__all__ = [
    "DepthTargets",
    "LineTargets",
    "LmResult",
    "LmStop",
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
) -> RansacResult:
    """``PnpSolver.ransac_epnp`` on the CPU, NumPy arrays, all cores; see ``pnp.base.PnpSolver``."""
    return _solver().ransac_epnp(points_object, points_image, valid, K, config, search=search, substreams=substreams)


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
    """``PnpSolver.weighted_lm`` on the CPU, NumPy arrays, all cores; see ``pnp.base.PnpSolver``."""
    return _solver().weighted_lm(
        points_object, points_image, weights, K, T_init, config, prior=prior, lines=lines, depths=depths
    )
