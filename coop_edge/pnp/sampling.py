"""Draws minimal samples from a counter-based generator: a function of (seed, substream, hypothesis) in any order.

Philox-4x32-10: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

import numpy as np

from coop_edge.pnp.jit import compiled

Array = np.ndarray

MAX_SAMPLE = 6
_MASK = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@compiled
def philox(
    key0: np.uint64, key1: np.uint64, c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return four random 32-bit words, in uint64, of a 64-bit key and a 128-bit counter (32-bit parts, in uint64)."""
    for _ in range(10):
        a = c0 * _MULTIPLIER_0
        b = c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (b >> _32) ^ c1 ^ key0, b & _MASK, (a >> _32) ^ c3 ^ key1, a & _MASK
        key0 = (key0 + _WEYL_0) & _MASK
        key1 = (key1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


@compiled
def draw_sample(seed: int, substream: int, hypothesis: int, n: int, m: int, out: Array, ascending: Array) -> None:
    """Write m <= 6 distinct numbers of 0..n-1 into ``out`` [>= m] int64; ``ascending`` is scratch of the same size."""
    key0 = np.uint64(seed) & _MASK
    key1 = np.uint64(seed) >> _32
    zero = np.uint64(0)
    words = philox(key0, key1, np.uint64(hypothesis), np.uint64(substream), zero, zero)
    for i in range(m):
        if i == 4:
            words = philox(key0, key1, np.uint64(hypothesis), np.uint64(substream), np.uint64(1), zero)
        r = np.int64((words[i & 3] * np.uint64(n - i)) >> _32)
        # r counts among the points still free: step over those already drawn, and keep their list ascending.
        at = 0
        while at < i and ascending[at] <= r:
            r += 1
            at += 1
        for j in range(i, at, -1):
            ascending[j] = ascending[j - 1]
        ascending[at] = r
        out[i] = r
