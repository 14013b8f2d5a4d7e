"""RANSAC, P3P and EPnP of docs/solvers.md, one problem, NumPy float64: short, slow, straight.

P3P is Grunert's quartic here (Haralick et al., IJCV 1994) and not the conics of ``coop_edge.pnp.p3p``: the two share
no step.
"""

from __future__ import annotations

import itertools

import numpy as np

from coop_edge.config import RansacConfig, RansacSearchConfig
from coop_edge.geometry import se3
from tests.oracles import pnp_lm

MIN_DEPTH = 1e-6
ROUND = 32


def philox(seed, hypothesis, problem, block):
    """Philox-4x32-10: four 32-bit words of a key and a counter, in Python's own integers."""
    mask = 0xFFFFFFFF
    c = [hypothesis, problem, block, 0]
    k = [seed & mask, seed >> 32]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b & mask, (a >> 32) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def sample(seed, problem, hypothesis, n, m):
    """m of n indices without replacement: each draw picks from the ascending list of those left."""
    words = philox(seed, hypothesis, problem, 0) + philox(seed, hypothesis, problem, 1)
    left = list(range(n))
    return [left.pop((words[i] * (n - i)) >> 32) for i in range(m)]


def p3p(X, rays):
    """All poses (R, t) that put three points on three rays, in front: Grunert's quartic in v = s3 / s1."""
    f = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    a, b, c = (np.linalg.norm(X[i] - X[j]) for i, j in ((1, 2), (0, 2), (0, 1)))
    ca, cb, cc = f[1] @ f[2], f[0] @ f[2], f[0] @ f[1]
    # u = s2/s1, v = s3/s1:  u^2 + v^2 - 2uv ca = (a/b)^2 W,  1 + u^2 - 2u cc = (c/b)^2 W,  W = 1 + v^2 - 2v cb.
    # Their difference is linear in u, u = N(v) / D(v); the second equation then is a quartic in v.
    v, W = np.poly1d([1, 0]), np.poly1d([1, -2 * cb, 1])
    q, p = (a / b) ** 2, (c / b) ** 2
    N, D = W * (q - p) - v**2 + 1, (np.poly1d([cc]) - v * ca) * 2
    poses = []
    for root in np.roots((D**2 + N**2 - N * D * (2 * cc) - W * D**2 * p).c):
        if abs(root.imag) > 1e-7 * max(1, abs(root)) or root.real <= 0 or abs(D(root.real)) < 1e-12:
            continue
        s = np.array([1, N(root.real) / D(root.real), root.real])
        s *= b / np.sqrt(W(root.real))
        if (s > 0).all():
            poses.append(absolute_orientation(X, s[:, None] * f))
    return poses


def absolute_orientation(X, Y):
    """R, t that minimise sum |R X + t - Y|^2, a rotation always (Umeyama 1991)."""
    U, _, Vt = np.linalg.svd((Y - Y.mean(0)).T @ (X - X.mean(0)))
    R = U @ np.diag([1, 1, np.linalg.det(U) * np.linalg.det(Vt)]) @ Vt
    return R, Y.mean(0) - R @ X.mean(0)


def epnp(X, u, K):
    """EPnP of n >= 4 points: (R, t), or None."""
    variances, axes = np.linalg.eigh((X - X.mean(0)).T @ (X - X.mean(0)) / len(X))
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0))  # the largest component positive
    best, best_error = None, np.inf
    for axis_count in (2, 3):
        ratio = variances[0] / variances[1]
        if (axis_count == 2 and ratio > 1e-2) or (axis_count == 3 and ratio < 1e-6):
            continue
        for pose in _epnp_candidates(X, u, K, variances[::-1][:axis_count], axes[:, ::-1][:, :axis_count]):
            r, z = pnp_lm.residuals(se3.from_rt(*pose), X, u, K)
            error = (r**2).sum() if (z > MIN_DEPTH).all() else np.inf
            if error < best_error:
                best, best_error = pose, error
    return best


def _epnp_candidates(X, u, K, variances, axes):
    n, k = len(X), len(variances) + 1
    control = np.vstack([X.mean(0), X.mean(0) + np.sqrt(variances)[:, None] * axes.T])
    local = (X - X.mean(0)) @ axes / np.sqrt(variances)
    alpha = np.hstack([1 - local.sum(1, keepdims=True), local])
    x = np.column_stack([u, np.ones(n)]) @ np.linalg.inv(K).T
    M = np.zeros((2 * n, 3 * k))
    for j in range(k):
        M[0::2, 3 * j], M[0::2, 3 * j + 2] = alpha[:, j], -alpha[:, j] * x[:, 0]
        M[1::2, 3 * j + 1], M[1::2, 3 * j + 2] = alpha[:, j], -alpha[:, j] * x[:, 1]
    V = np.linalg.eigh(M.T @ M)[1][:, :k].T.reshape(k, k, 3)  # null vectors, as control points
    pairs = list(itertools.combinations(range(k), 2))
    d = np.array([V[:, i] - V[:, j] for i, j in pairs])  # [pair, vector, 3]
    goal = np.array([((control[i] - control[j]) ** 2).sum() for i, j in pairs])
    gram = np.einsum("pax,pbx->pab", d, d)  # |sum beta_a d_a|^2 = beta^T gram beta
    for N in range(1, k + 1):
        beta = np.zeros(k)
        beta[:N] = _start(gram[:, :N, :N], goal, N, first_only=(k == N))
        for _ in range(10):
            residual = np.einsum("a,pab,b->p", beta, gram, beta) - goal
            J = 2 * np.einsum("pab,b->pa", gram, beta)
            beta -= np.linalg.lstsq(J, residual, rcond=None)[0]
        Y = np.einsum("a,ajx->jx", beta, V)
        points = alpha @ Y
        yield absolute_orientation(X, points if points[:, 2].mean() > 0 else -points)


def _start(gram, goal, N, first_only):
    if N == 1:
        lengths = np.sqrt(gram[:, 0, 0])
        return (lengths @ np.sqrt(goal)) / (lengths @ lengths)
    products = [(a, b) for a in range(N) for b in range(a, N) if a == 0 or not first_only]
    A = np.array([[g[a, b] * (1 if a == b else 2) for a, b in products] for g in gram])
    B = dict(zip(products, np.linalg.lstsq(A, goal, rcond=None)[0], strict=True))
    lead = 0 if first_only else max(range(N), key=lambda a: abs(B[a, a]))
    beta = np.zeros(N)
    beta[lead] = np.sqrt(abs(B[lead, lead]))
    for a in range(N):
        if a != lead:
            beta[a] = B[min(a, lead), max(a, lead)] / beta[lead]
    return beta


def msac(R, t, X, u, K, threshold, measured=None):
    """Score and inliers of a pose; measured: depths and their weights, pixels / metre, [n] each."""
    r, z = pnp_lm.residuals(se3.from_rt(R, t), X, u, K)
    e2 = np.where(z > MIN_DEPTH, (r**2).sum(1), np.inf)
    if measured is not None:
        depth, weight = measured
        e2 = e2 + np.where(weight > 0, weight * (z - depth), 0) ** 2
    return np.minimum(e2, threshold**2).sum(), e2 < threshold**2


def ransac(X, u, K, config: RansacConfig, search: RansacSearchConfig, problem=0, measured=None):
    """One problem, valid points only: (R, t, inliers, hypotheses drawn, score), or None; measured: see ``msac``."""
    n = len(X)
    m = 3 if search.minimal == "p3p" else min(search.sample_size, n)
    rays = np.column_stack([u, np.ones(n)]) @ np.linalg.inv(K).T
    best, best_score, drawn = None, np.inf, 0
    while drawn < search.hypotheses:
        for h in range(drawn, min(drawn + ROUND, search.hypotheses)):
            s = sample(config.seed, problem, h, n, m)
            poses = _minimal(X[s], u[s], rays[s], K, search)
            if measured is not None and search.minimal == "p3p" and (measured[1][s] > 0).all():
                places = measured[0][s, None] * rays[s]  # of depth 1 each
                if not (_flat(X[s]) or _flat(places)):
                    poses = [*poses, absolute_orientation(X[s], places)]
            for R, t in poses:
                score, _ = msac(R, t, X, u, K, config.threshold_px, measured)
                if score < best_score:
                    best, best_score = (R, t), score
        drawn = min(drawn + ROUND, search.hypotheses)
        if best is not None and search.confidence < 1:
            k = msac(*best, X, u, K, config.threshold_px, measured)[1].sum()
            p = np.prod([(k - i) / (n - i) for i in range(m)])
            if k >= m and (p == 1 or drawn * np.log1p(-p) <= np.log1p(-search.confidence)):
                break
    if best is None:
        return None
    if search.refine:
        best = refine(*best, X, u, K, config, measured)
    score, inliers = msac(*best, X, u, K, config.threshold_px, measured)
    return *best, inliers, drawn, score


def _minimal(X, u, rays, K, search):
    if search.minimal == "epnp":
        pose = epnp(X, u, K)
        return [] if pose is None else [pose]
    return [] if _flat(X) else p3p(X, rays)


def _flat(X):
    ab, ac = X[1] - X[0], X[2] - X[0]
    return (np.cross(ab, ac) ** 2).sum() <= 1e-10 * (ab @ ab) * (ac @ ac)


def refine(R, t, X, u, K, config, measured=None):
    """EPnP, then up to three times LM, on the points that fit; each kept only if its score is smaller."""
    threshold, near = config.threshold_px, 1.5 * config.threshold_px
    score, _ = msac(R, t, X, u, K, threshold, measured)
    used = msac(R, t, X, u, K, near, measured)[1]
    if used.sum() >= 4:
        pose = epnp(X[used], u[used], K)
        if pose is not None and msac(*pose, X, u, K, threshold, measured)[0] < score:
            R, t = pose
            score = msac(R, t, X, u, K, threshold, measured)[0]
    for attempt in range(3):
        used = msac(R, t, X, u, K, threshold if attempt else near, measured)[1]
        if used.sum() < 3:
            break
        deep = None
        if measured is not None:
            some = used & (measured[1] > 0)
            deep = X[some], measured[0][some], measured[1][some]
        T = pnp_lm.weighted_lm(X, u, used.astype(float), K, se3.from_rt(R, t), depths=deep)[0]
        new_score, inliers = msac(T[:3, :3], T[:3, 3], X, u, K, threshold, measured)
        if new_score < score:
            R, t, score = T[:3, :3], T[:3, 3], new_score
            if (inliers == used).all():
                break
        elif attempt:
            break
    return R, t
