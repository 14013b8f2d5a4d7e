"""Draws the pairs that small networks learn by heart."""

from __future__ import annotations

from export.data.stream import make_stream
from export.verify.bundle import (
    SEED,
    DrawnPairs,
    centred,
)
from tests.export.small_bundles import (
    SIZE,
)

KINDS, TIMES = 4, 5
"""Pairs that the networks know by heart, and how often each is among those compared."""


OUTPUTS = {
    "coarse_encoder": {"tokens"},
    "coarse_decoder": {"probability", "index", "offset"},
    "refiner": {"flow", "scale", "certainty", "sensitivity"},
}


def easy(role, count):
    options = {"seed": SEED, "split": "heldout", "hardness": 0.0, "keep_scenes": role == "refiner"}
    with make_stream(role, SIZE, batch_size=count, workers=0, **options) as stream:
        return centred(next(stream))


def pairs_of(coarse, refiner):
    return DrawnPairs(coarse, refiner, len(coarse.query), len(refiner.query))
