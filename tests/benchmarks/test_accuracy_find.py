"""The search, measured: average precision against a loop over recalls, and figures of made-up answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.accuracy import find
from benchmarks.accuracy.average_precision import Answers, average_precision, mean_average_precision
from benchmarks.accuracy.cli import main, parse, search_options
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.find import write_into
from benchmarks.accuracy.searched import Searched, SearchedImage, figures, times
from coop_edge.errors import InputError
from tests.benchmarks.bop import scene_of, write_dataset
from tests.runtime.networks import tiny_bundle

INF = np.inf


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("bop") / "boxes", {(1, 0): scene_of(0), (1, 3): scene_of(1)})


def slow(images, threshold):
    """By the definition: at each of 101 recalls the highest precision of any cut that reaches it."""
    instances = sum(a.errors.shape[1] for a in images)
    rows = []
    for a in images:
        free = set(range(a.errors.shape[1]))
        for score, errors in zip(a.scores, a.errors, strict=True):
            best = min(free, key=lambda g: errors[g], default=None)
            hit = best is not None and errors[best] < threshold
            free -= {best} if hit else set()
            rows.append((score, hit))
    rows.sort(key=lambda row: -row[0])
    cuts = [(sum(h for _, h in rows[:n]) / instances, sum(h for _, h in rows[:n]) / n) for n in range(1, len(rows) + 1)]
    levels = [max((p for r, p in cuts if r >= k / 100 - 1e-12), default=0.0) for k in range(101)]
    return sum(levels) / 101


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_by_its_definition(seed):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(8):
        answers, instances = rng.integers(0, 5), rng.integers(0, 3)
        scores = -np.sort(-rng.random(answers))
        images.append(Answers(scores, rng.random((answers, instances))))
    for threshold in (0.2, 0.5, 0.9):
        assert average_precision(images, threshold) == pytest.approx(slow(images, threshold), abs=1e-12)


def test_average_precision_of_nothing():
    none = Answers(np.zeros(0), np.zeros((0, 0)))
    missed = Answers(np.zeros(0), np.zeros((0, 1)))
    wrong = Answers(np.ones(1), np.zeros((1, 0)))
    assert average_precision([], 0.5) is None
    assert average_precision([none, wrong], 0.5) is None
    assert average_precision([missed], 0.5) == 0
    right = Answers(np.array([0.5]), np.array([[0.1]]))
    assert average_precision([right], 0.5) == 1
    assert average_precision([right, Answers(np.array([0.9]), np.zeros((1, 0)))], 0.5) == 0.5
    assert mean_average_precision([[right], [missed], [none]], [np.array([0.5])] * 3) == 0.5
    assert mean_average_precision([], []) == 0


def searched(dataset, image, obj_id, *, box_rank=0, mssd=0.0, mspd=0.0, accepted=True, score=0.8, there=True):
    truth = tuple(t for t in dataset.truth(*image) if t.obj_id == obj_id) if there else ()
    boxes = np.array([[0.0, 0.0, 1.0, 1.0]] * 6)
    if there and box_rank < 6:
        boxes[box_rank] = truth[0].bbox_obj
    scores = np.linspace(0.9, 0.4, 6)
    return Searched(image, obj_id, truth, boxes, scores, accepted, score, mssd, mspd, 0.0, 0.0)


def test_figures_of_made_up_answers(root):
    dataset = BopDataset(root)
    right, late = searched(dataset, (1, 0), 1), searched(dataset, (1, 3), 1, box_rank=3, mssd=0.12, mspd=12.0)
    missed = searched(dataset, (1, 0), 2, box_rank=9, mssd=INF, mspd=INF, accepted=False, score=0.1)
    absent = [
        searched(dataset, (1, 3), 2, there=False, accepted=yes, score=0.4, mssd=INF, mspd=INF) for yes in (True, False)
    ]
    found = figures([right, late, missed, *absent], dataset)
    assert (found["recall_1"], found["recall_5"], found["recall_10"]) == pytest.approx((1 / 3, 2 / 3, 2 / 3))
    assert found["absent_accepted"] == 0.5
    assert (found["found"], found["oracle_boxes_found"], found["accepted"]) == pytest.approx((1 / 3, 1, 2 / 3))
    late_ar = (0.8 + 0.8) / 2  # 0.15 and 15 pixels are the third thresholds of ten
    assert found["ar"] == pytest.approx((1 + late_ar) / 3)
    assert found["ar_of_oracle_boxes"] == pytest.approx(found["ar"] / found["oracle_boxes_ar"])
    assert found["found_of_oracle_boxes"] == pytest.approx(1 / 3)
    # Object 1: both instances at 8 of 10 thresholds, else one of two (both answers have one score). Object 2: none.
    one_of_two = 51 / 101
    assert found["ap_mssd"] == pytest.approx((0.8 * 1 + 0.2 * one_of_two) / 2)
    assert found["ap"] == pytest.approx((found["ap_mssd"] + found["ap_mspd"]) / 2)
    assert found["counts"] == {"images": 2, "targets": 3, "visible": 3, "absent": 2}
    assert figures([], dataset)["recall_5"] == 0


def test_hidden_objects_do_not_count_for_the_recall(root):
    from dataclasses import replace

    dataset = BopDataset(root)
    one = searched(dataset, (1, 0), 1)
    hidden = replace(
        one, truth=(replace(one.truth[0], visib_fract=0.5),), boxes=one.boxes[:0], box_scores=one.box_scores[:0]
    )
    assert figures([one, hidden], dataset)["recall_1"] == 1


def test_files_keep_the_figures_of_other_data_sets(tmp_path):
    path = tmp_path / "find.json"
    write_into(path, "synthetic", {"recall_1": 0.5})
    write_into(path, "other", {"recall_1": 0.1})
    write_into(path, "synthetic", {"recall_1": 0.6})
    assert json.loads(path.read_text()) == {"synthetic": {"recall_1": 0.6}, "other": {"recall_1": 0.1}}


def test_an_image_is_the_same_after_its_journal(root):
    dataset = BopDataset(root)
    objects = (searched(dataset, (1, 0), 1, mssd=INF), searched(dataset, (1, 0), 2, there=False, accepted=False))
    image = SearchedImage((1, 0), 2.5, objects)
    read = SearchedImage.from_plain(json.loads(json.dumps(image.to_plain())), dataset)
    assert read.to_plain() == image.to_plain()
    assert figures(read.objects, dataset) == figures(objects, dataset)
    assert [t.bbox_obj for t in read.objects[0].truth] == [t.bbox_obj for t in objects[0].truth]
    assert times([image, read]) == {"cpu_s_per_image": 2.5, "cpu_s_per_object": 1.25}
    assert times([]) == {"cpu_s_per_image": 0, "cpu_s_per_object": 0}


def test_a_stopped_search_goes_on(root, tmp_path, monkeypatch, capsys):
    tiny, out = str(tiny_bundle(tmp_path / "tiny", input_size=64)), tmp_path / "find.json"
    command = [str(root), "--detect", "--engines", tiny, "--set", "find.places=2", "--absent", "1", "--json", str(out)]
    looked = []

    def stop(dataset, estimator, image, *options):
        if len(looked) == 1 and looked[0] != image:
            raise KeyboardInterrupt
        looked.append(image)
        return find.search_image_(dataset, estimator, image, *options)

    monkeypatch.setattr(find, "search_image_", find.search_image, raising=False)
    monkeypatch.setattr(find, "search_image", stop)
    assert main(command) == 130
    assert "find.json.part" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--seed", "1"]) == 2  # another run than the one that was stopped
    assert "seed was 0, now 1" in capsys.readouterr().err
    monkeypatch.setattr(find, "search_image", lambda *given: looked.append(given[2]) or find.search_image_(*given))
    assert main(command) == 0
    assert looked == [(1, 0), (1, 3)]  # the first one once
    assert not (tmp_path / "find.json.part").exists()
    assert next(iter(json.loads(out.read_text()).values()))["counts"]["images"] == 2


def test_the_command_searches_and_writes(root, tmp_path, capsys):
    tiny, out = str(tiny_bundle(tmp_path / "tiny", input_size=64)), tmp_path / "find.json"
    options = ["--engines", tiny, "--set", "find.places=2", "--absent", "0", "--limit", "1"]
    assert main([str(root), "--detect", *options, "--json", str(out), "--name", "mine"]) == 0
    result = json.loads(out.read_text())["mine"]
    assert {"recall_1", "recall_5", "recall_10", "absent_accepted", "ap", "ap_boxes", "time"} <= set(result)
    assert result["engines"] == "tiny"
    assert result["config"]["find"]["places"] == 2
    assert result["counts"]["targets"] == 2
    assert result["time"]["cpu_s_per_image"] > 0
    assert "recall_5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--detect", "--csv", "a.csv"], "--csv: not with --detect"),
        (["--detect", "--boxes", "obj"], "--boxes: not with --detect"),
        (["--detect", "--absent", "-1"], "--absent: wanted at least 0"),
        (["--detect", "--effort", "fast", "--effort", "best"], "--effort: with --detect wanted once"),
    ],
)
def test_wrong_use(arguments, says):
    with pytest.raises(InputError, match=says):
        search_options(parse(["root", *arguments]))


def test_options_of_a_search_alone(root, capsys):
    assert main([str(root), "--absent", "2", "--csv", "a.csv"]) == 2
    assert "--absent: only with --detect" in capsys.readouterr().err


def test_several_instances_are_refused(tmp_path, capsys):
    root = write_dataset(tmp_path / "two", {(1, 0): scene_of(1, count=2)})
    assert main([str(root), "--detect"]) == 2
    assert "--detect measures one per object" in capsys.readouterr().err
