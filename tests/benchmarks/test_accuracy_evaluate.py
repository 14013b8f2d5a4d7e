"""Average recalls of results that are off by known amounts."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from benchmarks.accuracy.boxes import read_boxes
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.evaluate import evaluate
from benchmarks.accuracy.results import Failure, ImageResult, Row, read_rows
from benchmarks.accuracy.summary import NO_BOX, NO_ESTIMATE, summary
from coop_edge.geometry import se3
from tests.benchmarks.bop import DIAMETERS, read, scene_of, truth_rows, write, write_dataset

IMAGES = {(1, 0): scene_of(1, count=2), (1, 3): scene_of(0), (7, 2): scene_of(2)}
LMO = "COOP_EDGE_LMO"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("bop") / "boxes", IMAGES)


@pytest.fixture(scope="module")
def dataset(root):
    return BopDataset(root)


@pytest.fixture(scope="module")
def with_depth(tmp_path_factory):
    return BopDataset(write_dataset(tmp_path_factory.mktemp("bop") / "boxes", IMAGES, depth=True))


def change(row: Row, *, by=(0.0, 0.0, 0.0), turn=None, **fields) -> Row:
    """A row shifted by metres, and turned in its own frame."""
    R = row.R if turn is None else row.R @ se3.so3_exp(np.asarray(turn, float))
    return dataclasses.replace(row, R=R, t=row.t + np.asarray(by), **fields)


def test_the_truth_is_found(dataset):
    result = evaluate(dataset, truth_rows(dataset))
    assert result.total.count == 7
    assert [result.per_object[i].count for i in (1, 2)] == [4, 3]
    for scores in (result.total, *result.per_object.values()):
        assert (scores.ar_mssd, scores.ar_mspd, scores.ar_vsd, scores.recall_add, scores.ar) == (1, 1, None, 1, 1)
    assert all(target.ar == 1 and target.mssd == pytest.approx(0, abs=1e-12) for target in result.targets)
    assert not result.has_vsd


def test_nothing_finds_nothing(dataset):
    result = evaluate(dataset, [])
    assert (result.total.count, result.total.ar, result.total.recall_add) == (7, 0, 0)
    assert all(t.row is None and t.ar == 0 and t.mssd == np.inf and not t.add_found for t in result.targets)


def test_no_targets(root):
    result = evaluate(BopDataset(root, limit=0), [])
    assert (result.targets, result.per_object, result.total.count, result.total.ar) == ((), {}, 0, 0)


def test_a_shift_across_the_view_passes_the_thresholds_above_it(dataset):
    """0.12 diameters of object 1: MSSD passes 0.15 to 0.5 (8 of 10), ADD fails at 0.1. In pixels: 60 d / z at the
    nearest point, of an image 64 wide, whose thresholds are 0.5 to 5 px."""
    d = DIAMETERS[1] / 1e3
    rows = [change(row, by=(0.12 * d, 0, 0)) if row.obj_id == 1 else row for row in truth_rows(dataset)]
    result = evaluate(dataset, rows)
    one = result.per_object[1]
    assert one.recall_mssd.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert one.recall_add == 0
    for target in (t for t in result.targets if t.obj_id == 1):
        depths = se3.transform(target.truth.T_camera_object, dataset.models[1].vertices)[:, 2]
        assert target.mspd == pytest.approx(60 * 0.12 * d / depths.min())
        assert target.mspd_640 == pytest.approx(10 * target.mspd)
    expected = [np.mean([t.mspd < px / 10 for t in result.targets if t.obj_id == 1]) for px in range(5, 55, 5)]
    assert one.recall_mspd.tolist() == pytest.approx(expected)
    assert 0 < one.ar_mspd < 1
    assert result.per_object[2].ar == 1
    assert result.total.ar_mssd == pytest.approx((4 * 0.8 + 3) / 7)  # over targets, not over objects


def test_a_half_turn_of_the_symmetric_object_is_found(dataset):
    rows = [change(row, turn=(0, 0, np.pi)) for row in truth_rows(dataset)]
    result = evaluate(dataset, rows)
    assert result.per_object[2].ar == 1
    assert result.per_object[2].recall_add == 1
    assert result.per_object[1].ar_mssd == 0
    assert result.per_object[1].recall_add == 0


def test_as_many_estimates_count_as_instances_are_sought(dataset):
    """The third best of two sought does not, however right it is."""
    truth = [row for row in truth_rows(dataset) if (row.scene_id, row.im_id, row.obj_id) == (1, 0, 1)]
    wrong = change(truth[0], by=(0, 0, 5), score=2.0)
    right = [change(truth[0], score=0.5), change(truth[1], score=0.7)]
    found = [t for t in evaluate(dataset, [right[0], wrong, right[1]]).targets if (t.im_id, t.obj_id) == (0, 1)]
    assert sorted(t.ar for t in found) == [0, 1]
    assert evaluate(dataset, right).total.ar == pytest.approx(2 / 7)


def test_two_estimates_of_one_instance_find_one(dataset):
    truth = [row for row in truth_rows(dataset) if (row.scene_id, row.im_id, row.obj_id) == (1, 0, 1)]
    assert evaluate(dataset, [truth[0], truth[0]]).total.ar == pytest.approx(1 / 7)


def test_an_instance_that_is_not_sought_does_not_count(root, tmp_path):
    """One of two is sought: the more visible one. An estimate at the other is wrong, and takes nothing away."""
    targets = read(root / "test_targets_bop19.json")
    targets[0]["inst_count"] = 1
    write(tmp_path / "one.json", targets)
    one = BopDataset(root, targets=tmp_path / "one.json")
    sought = one.sought(one.targets_of(1, 0)[0])[0]
    truth = [row for row in truth_rows(one) if (row.scene_id, row.im_id, row.obj_id) == (1, 0, 1)]
    results = {}
    for truth_index, row in enumerate(truth):
        results[truth_index] = evaluate(one, [row]).total.ar * 6
    assert results == {sought.index: pytest.approx(1), 1 - sought.index: 0}


def test_rows_of_other_images_and_objects_are_left_out(dataset):
    rows = truth_rows(dataset)
    more = [dataclasses.replace(rows[0], im_id=99), dataclasses.replace(rows[0], obj_id=77)]
    assert evaluate(dataset, [*more, *rows]).total.ar == 1


def test_vsd_of_the_truth_and_of_what_is_beside(with_depth):
    result = evaluate(with_depth, truth_rows(with_depth))
    assert result.has_vsd
    assert result.total.ar_vsd == 1
    assert result.total.ar == 1
    beside = evaluate(with_depth, [change(row, by=(2.0, 0, 0)) for row in truth_rows(with_depth)])
    assert beside.total.ar_vsd == 0
    assert all((t.vsd == 1).all() for t in beside.targets)
    assert evaluate(with_depth, []).total.ar_vsd == 0


def test_vsd_of_a_shift_along_the_view(with_depth):
    """By 0.22 diameters: the surfaces are that far apart, so taus up to 0.2 fail at every threshold."""
    d = {i: DIAMETERS[i] / 1e3 for i in (1, 2)}
    rows = []
    for row in truth_rows(with_depth):
        sight = row.t / np.linalg.norm(row.t)
        rows.append(change(row, by=0.22 * d[row.obj_id] * sight))
    recall = evaluate(with_depth, rows).total.recall_vsd
    assert (recall[:4] == 0).all()
    assert recall[6:, 9].min() > 0.8  # from 0.35 on they are near enough, at the most lenient threshold
    assert (np.diff(recall, axis=1) >= 0).all()
    assert (np.diff(recall, axis=0) >= 0).all()


def test_each_target_is_counted(dataset):
    calls = []
    evaluate(dataset, [], advance=lambda: calls.append(1))
    assert len(calls) == len(dataset.targets) == 6


def test_summary_says_why_each_one_was_missed(dataset):
    rows = truth_rows(dataset)
    last = [row for row in rows if row.scene_id == 7]
    flipped = change(last[0], turn=(np.pi, 0, 0), by=(0, 0, 0.9))
    boxes = read_boxes(dataset, "visib")
    boxes[7, 2] = [box for box in boxes[7, 2] if box.obj_id == 1]
    images = [
        ImageResult(1, 0, 0.6, tuple(r for r in rows if r.im_id == 0), (), {"crop": 1.0, "coarse": 30.0}),
        ImageResult(1, 3, 0.2, (), (Failure(1, "coarse: 5 inliers"), Failure(2, "coarse: 6 inliers"))),
        ImageResult(7, 2, 0.3, (flipped,), ()),
    ]
    result = summary(dataset, evaluate(dataset, [r for i in images for r in i.rows]), images, boxes)
    assert [(m["im_id"], m["obj_id"], m["why"]) for m in result["misses"]] == [
        (3, 1, "coarse: 5 inliers"),
        (3, 2, "coarse: 6 inliers"),
        (2, 1, "pose turned by more than 150 degrees"),
        (2, 2, NO_BOX),
    ]
    counts = {"coarse: # inliers": 2, "pose turned by more than 150 degrees": 1, NO_BOX: 1}
    assert result["miss_counts"] == counts
    assert result["misses"][2]["rotation_deg"] == pytest.approx(180)
    assert result["time"]["image_s"]["p50"] == pytest.approx(0.3)
    assert result["time"]["object_s"]["p50"] == pytest.approx(0.2)  # 0.6 / 3, 0.2 / 2, 0.3 / 1
    assert result["time"]["stages_ms_per_object"] == {"crop": pytest.approx(1 / 3), "coarse": 10.0}
    assert result["targets"] == {"images": 3, "instances": 7}
    assert sum(c["instances"] for c in result["by_visibility"]) == 7
    assert result["poses"]["count"] == 4


def test_summary_of_poses_from_a_file(dataset):
    result = summary(dataset, evaluate(dataset, []), [])
    assert result["time"] is None
    assert result["poses"] is None
    assert result["miss_counts"] == {NO_ESTIMATE: 7}


@pytest.mark.skipif(LMO not in os.environ, reason=f"{LMO} names no folder of LM-O's images in BOP layout")
def test_published_poses_score_what_is_published():
    """MegaPose's poses on half of LM-O: AR_MSSD 0.466 and AR_MSPD 0.564, as the images came with them."""
    dataset = BopDataset(os.environ[LMO])
    result = evaluate(dataset, read_rows(dataset.root / "megapose_cnos.csv"))
    assert result.total.count == 747
    assert result.total.ar_mssd == pytest.approx(0.466, abs=0.01)
    assert result.total.ar_mspd == pytest.approx(0.564, abs=0.01)
