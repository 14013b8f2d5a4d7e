"""Which of the poses found in an image are kept: those with more presence, whatever their scores."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from coop_edge import PoseEstimate
from coop_edge.stages import instances as module
from coop_edge.stages.instances import Instance, answers, instances


def pose(name, score, presence, x=0.0):
    T = np.eye(4)
    T[:3, 3] = x, 0.0, 1.0
    return PoseEstimate(True, T_camera_object=T, score=score, presence=presence, object=name)


def mask(*columns):
    out = np.zeros((4, 8), np.bool_)
    out[:, list(columns)] = True
    return out


@pytest.mark.parametrize(("most", "kept"), [(1, [0.3]), (2, [0.3, 0.2])])
def test_of_two_poses_in_one_place_the_one_with_more_presence_stays(monkeypatch, most, kept):
    near, far, beside = pose("cup", 0.8, 0.6), pose("cup", 0.3, 0.9), pose("cup", 0.2, 0.5, x=1.0)

    def silhouettes(renderer, T, index, camera, ops):
        return [mask(4, 5) if each[0, 3] else mask(1, 2) for each in T]

    monkeypatch.setattr(module, "silhouettes", silhouettes)
    found = instances(SimpleNamespace(), SimpleNamespace(), SimpleNamespace(), 0, [near, far, beside], most)
    assert [each.result.score for each in found] == kept


def test_of_two_objects_in_one_place_the_one_with_more_presence_stays():
    """The other one is not found, and keeps its score and its presence."""
    cup, pot = pose("cup", 0.9, 0.6), pose("pot", 0.4, 0.8)
    found = [Instance(0, cup, mask(1, 2)), Instance(1, pot, mask(1, 2))]
    first, second = answers(np.array([0, 1]), found, {})
    assert (first.success, first.score, first.presence) == (False, 0.9, 0.6)
    assert "'pot' fits better" in first.reason
    assert second is pot
