"""Held-out pairs through the outline stage: it brings them nearer, and does not move what is right."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.config import OutlineConfig
from coop_edge.geometry import se3
from coop_edge.stages.outline import align
from export.data.batch import take
from export.data.stream import make_stream
from export.train.evaluate_refiner import pose_error
from export.train.poses import SOLVER, RerenderedPairs


@pytest.fixture(scope="module")
def drawn():
    with make_stream("refiner", 128, batch_size=8, workers=0, seed=3, hardness=0.0, keep_scenes=True) as stream:
        return next(stream)


def aligned_poses(batch, records, T, iterations=6):
    maker, index = RerenderedPairs(batch, records), np.arange(len(T))
    found = align(maker, T, index, solver=SOLVER, config=OutlineConfig(), iterations=iterations)
    return found.T_camera_object, found.aligned


def test_depth_is_found_again(drawn):
    """The truth, but 3 % too far away: whole objects before another colour are put back."""
    batch, records = drawn
    T = batch.T_true.copy()
    T[:, :3, 3] *= 1.03
    found, taken = aligned_poses(batch, records, T)
    assert taken.sum() >= 5
    before, after = pose_error(batch, T)[taken], pose_error(batch, found)[taken]
    assert np.median(after) < np.median(before) / 3
    np.testing.assert_array_equal(found[~taken], T[~taken])


def test_each_pair_for_itself_and_none_is_legal(drawn):
    batch, records = drawn
    T = batch.T_true @ se3.exp([0.0, 0, 0, 0.05, 0, 0])
    together, _ = aligned_poses(batch, records, T)
    alone, _ = aligned_poses(take(batch, slice(2, 3)), records[2:3], T[2:3])
    np.testing.assert_array_equal(together[2:3], alone)
    nothing, taken = aligned_poses(take(batch, slice(0, 0)), [], T[:0])
    assert nothing.shape == (0, 4, 4)
    assert taken.shape == (0,)


def test_without_iterations_poses_stay(drawn):
    batch, records = drawn
    found, taken = aligned_poses(batch, records, batch.T_init, 0)
    np.testing.assert_array_equal(found, batch.T_init)
    assert not taken.any()
