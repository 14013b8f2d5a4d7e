"""The pairs that a bundle is verified on."""

from __future__ import annotations

import numpy as np
import pytest

from export.verify import bundle as verify
from export.verify.bundle import (
    SEED,
    draw_pairs,
)
from export.verify.engines import Reference
from export.verify.poses import Poses
from tests.export.small_bundles import (
    SIZE,
)
from tests.export.small_nets import coarse_batch


def test_pairs_are_the_same_every_time(originals, files):
    bundle, reference = originals["fp32"], Reference.of(originals["fp32"], files)
    first, second = (draw_pairs(bundle, reference, 2, most=2) for _ in range(2))
    assert first.digest == second.digest
    assert first.digest != draw_pairs(bundle, reference, 2, seed=SEED + 1, most=2).digest
    assert first.coarse.query.shape == first.refiner.render.shape == (2, SIZE, SIZE, 3)
    assert first.coarse.query.std() > 5, "rendered crops, not a flat colour"


class Counted:
    """A stream of batches of 8 noise pairs."""

    position = 0

    def __next__(self):
        self.position += 8
        return coarse_batch(np.random.default_rng(self.position), 8, 32)


@pytest.mark.parametrize(("solvable", "added", "drawn"), [((), 0, 40), ((3, 5), 14, 64), (range(8), 8, 16)])
def test_pairs_are_added_until_pytorch_has_poses_enough(solvable, added, drawn, monkeypatch):
    """A stream of batches of 8 pairs in which PyTorch finds poses for the same few."""
    made = []

    def poses(bundle, reference, batch):
        made.append(batch)
        return Poses(np.zeros((8, 4, 4)), np.isin(np.arange(8), solvable))

    monkeypatch.setattr(verify, "_reference_poses", poses)
    most = drawn if not solvable else 1024
    batch, count = verify._with_poses(Counted(), None, None, most)
    assert count == drawn
    wanted = [made[0].query, *(later.query[list(solvable)] for later in made[1:])]
    np.testing.assert_array_equal(batch.query, np.concatenate(wanted))
    assert len(batch.query) == 8 + added
