"""The counter-based generator and the samples drawn from it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from coop_edge.pnp.sampling import MAX_SAMPLE, draw_sample, philox
from tests.oracles import pnp_ransac as oracle


def sample(seed, problem, hypothesis, n, m):
    out, scratch = np.empty((2, MAX_SAMPLE), np.int64)
    draw_sample(seed, problem, hypothesis, n, m, out, scratch)
    return tuple(out[:m].tolist())


PINNED_3 = [(78, 172, 143), (190, 70, 135), (3, 63, 28)]
PINNED_6 = [(5, 7, 1, 0, 2, 3), (7, 0, 6, 1, 4, 3)]

# Known answers of Random123's philox4x32-10: all zeros, all ones, digits of pi.
KNOWN = [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("key", "counter", "words"), KNOWN)
def test_philox_known_answers(key, counter, words):
    assert philox(*map(np.uint64, key), *map(np.uint64, counter)) == words


def test_philox_equals_the_oracle_in_pythons_integers():
    for seed, hypothesis, problem, block in [(0, 1, 2, 0), (2**63 - 1, 65535, 41, 1), (12345 << 33, 7, 0, 0)]:
        words = philox(*map(np.uint64, (seed & 0xFFFFFFFF, seed >> 32, hypothesis, problem, block, 0)))
        assert list(words) == oracle.philox(seed, hypothesis, problem, block)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 3), (4, 4), (5, 5), (6, 6), (7, 6), (196, 3), (65536, 6)])
def test_samples_equal_the_oracle_and_repeat_nothing(n, m):
    for hypothesis in range(200):
        drawn = sample((3 << 40) + 7, 11, hypothesis, n, m)
        assert list(drawn) == oracle.sample((3 << 40) + 7, 11, hypothesis, n, m)
        assert len(set(drawn)) == m
        assert min(drawn) >= 0
        assert max(drawn) < n


def test_reference_samples():
    """Pinned: any backend, any version must draw these."""
    assert [sample(0, 0, h, 196, 3) for h in range(3)] == PINNED_3
    assert [sample(2**40 + 5, 17, h, 8, 6) for h in range(2)] == PINNED_6


def test_every_ordered_sample_is_equally_likely():
    counts = Counter(sample(1, 0, h, 5, 3) for h in range(30000))
    assert len(counts) == 60
    assert chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("position", range(6))
def test_every_point_is_equally_likely_at_every_position(position):
    drawn = [sample(2, h // 100, h % 100, 40, 6)[position] for h in range(20000)]
    assert chisquare(np.bincount(drawn, minlength=40)).pvalue > 1e-3


def test_seed_problem_and_hypothesis_each_change_the_sample():
    base = sample(1, 2, 3, 60000, 6)
    others = [sample(*a, 60000, 6) for a in ((2, 2, 3), (1 + (1 << 32), 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2))]
    assert len({base, *others}) == 6
    assert sample(1, 2, 3, 60000, 6) == base
