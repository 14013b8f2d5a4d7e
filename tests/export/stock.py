"""Objects and backgrounds that several tests of training pairs draw from."""

from __future__ import annotations

import numpy as np

from export.data import objects, pairs
from export.data.textures import background


def make_stock() -> pairs.Stock:
    things = [objects.procedural(np.random.default_rng(i), "train") for i in range(8)]
    return pairs.Stock(things, [background(np.random.default_rng(i), 128, "train") for i in range(2)])
