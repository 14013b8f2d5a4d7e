"""Which hypotheses go on after the first iteration."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.config import SelectConfig
from coop_edge.stages.refine import OUT_OF_SIGHT
from coop_edge.stages.select import survivors
from tests.stages.test_select import cells, refined_of


def kept(rows, detection, count, evidence=None):
    evidence = np.ones(len(rows)) if evidence is None else np.array(evidence)
    return survivors(refined_of(rows), evidence, np.array(detection, np.int64), SelectConfig(), count).tolist()


def test_none_of_none():
    assert kept([], [], 1) == []


def test_the_best_of_each_detection_in_their_order():
    good, fair, poor = cells(95, 5), cells(60, 40), cells(20, 80)
    rows, detection = [fair, good, poor, poor, fair, fair], [0, 0, 0, 1, 1, 1]
    assert kept(rows, detection, 1) == [1, 4]  # of the two equal ones the earlier
    assert kept(rows, detection, 2) == [0, 1, 4, 5]
    assert kept(rows, detection, 3) == kept(rows, detection, 42) == list(range(6))


def test_detections_may_come_in_any_order():
    good, poor = cells(95, 5), cells(20, 80)
    assert kept([poor, good, good, poor], [1, 0, 1, 0], 1) == [1, 2]


def test_coarse_evidence_counts():
    assert kept([cells(80, 20), cells(80, 20)], [0, 0], 1, evidence=[0.2, 0.9]) == [1]


@pytest.mark.parametrize("count", [1, 2])
def test_failed_ones_go_on_for_want_of_others_alone(count):
    """So that a detection that has nothing else still says why."""
    nothing = cells(0, 100)
    rows = [OUT_OF_SIGHT, nothing, OUT_OF_SIGHT, OUT_OF_SIGHT]
    assert kept(rows, [0, 0, 1, 1], count) == ([1, 2] if count == 1 else [0, 1, 2, 3])
