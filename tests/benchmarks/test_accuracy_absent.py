"""Boxes without their object: they are what they say, and the figures of made-up answers are right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.accuracy import absent
from benchmarks.accuracy.absent import (
    KINDS,
    PRESENT,
    Tried,
    TriedImage,
    boxes_of,
    figures,
    main,
    try_image,
)
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.methods import object_name
from benchmarks.accuracy.models import without_colours
from coop_edge import Detection, Estimator, PoseEstimate
from tests.benchmarks.bop import scene_of, write_dataset
from tests.runtime.networks import tiny_bundle
from tests.stages.scene import colored_box

BOX = (1.0, 2.0, 3.0, 4.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    first, second = scene_of(0)
    images = {(1, 0): [first], (1, 3): [second], (1, 4): scene_of(1)}
    return write_dataset(tmp_path_factory.mktemp("bop") / "boxes", images, depth=True)


def test_boxes_without_the_object_are_without_it(root):
    dataset = BopDataset(root)
    seen = set()
    for image in dataset.images:
        truths = {truth.obj_id: truth for truth in dataset.truth(*image)}
        for kind, sought in boxes_of(dataset, image):
            obj_id, (x, y, width, height) = sought.box.obj_id, sought.box.bbox
            seen.add(kind)
            if kind == PRESENT:
                assert sought.box.bbox == truths[obj_id].bbox_visib
                np.testing.assert_array_equal(sought.T_camera_object, truths[obj_id].T_camera_object)
                continue
            assert sought.T_camera_object is None
            assert 0 <= x <= x + width <= 64
            assert 0 <= y <= y + height <= 48
            if kind == "elsewhere":
                u, v, w, h = truths[obj_id].bbox_obj
                assert x >= u + w or u >= x + width or y >= v + h or v >= y + height
            else:
                assert obj_id not in truths
            if kind == "other":
                assert sought.box.bbox in [truth.bbox_visib for truth in truths.values()]
    assert seen == {PRESENT, *KINDS}
    again = [[(kind, sought.box) for kind, sought in boxes_of(dataset, image)] for image in dataset.images]
    assert again == [[(kind, sought.box) for kind, sought in boxes_of(dataset, image)] for image in dataset.images]


def test_an_estimator_that_believes_everything_invents_every_pose(root, monkeypatch):
    dataset, image = BopDataset(root), (1, 0)
    (truth,) = dataset.truth(*image)

    def believer(estimator, picture, camera, detections, depth):
        T = truth.T_camera_object
        all_ = [PoseEstimate(True, T_camera_object=T, score=0.7, object=each.object) for each in detections]
        return all_, all_

    monkeypatch.setattr(absent, "answers", believer)
    tried = try_image(dataset, None, image)
    assert [each.right for each in tried.boxes] == [each.kind == PRESENT for each in tried.boxes]
    assert figures(tried.boxes, 0.3)["absent_accepted"] == 1
    assert figures(tried.boxes, 0.3)["right_kept"] == 1
    assert figures(tried.boxes, 0.8)["absent_accepted"] == 0
    assert TriedImage.from_plain(json.loads(json.dumps(tried.to_plain()))) == tried


@pytest.mark.parametrize("folder", [None, "depth"])
def test_answers_are_those_of_estimate(root, tmp_path, folder):
    """With and without a least score, and without what does not look alike only where there is one."""
    dataset = BopDataset(root)
    picture, camera = dataset.image(1, 4), dataset.camera(1, 4)
    depth = None if folder is None else dataset.depth(1, 4, folder=folder)
    detections = [Detection(object_name(each.obj_id), each.bbox_visib) for each in dataset.truth(1, 4)]
    open_options = {"min_inlier_ratio": 0.0, "min_inliers": 0}
    kept, little = {}, 1e-9
    for least in (0.0, little):
        own = {"min_appearance": 1.0, "min_presence": 0.0}
        config = {"select": {"min_score": least, **open_options}, "advanced": {"select": own}}
        with Estimator.from_engines(
            tiny_bundle(tmp_path / f"{least}", input_size=64), device="cpu", config=config, threads=1
        ) as estimator:
            for obj_id, model in dataset.models.items():
                estimator.add_object(object_name(obj_id), model.load_mesh(), symmetries=model.symmetries)
            wanted = estimator.estimate(picture, camera, detections, depth=depth)
            every, believed = absent.answers(estimator, picture, camera, detections, depth)
            kept[least] = wanted
        for found, one in zip(every if least == 0.0 else believed, wanted, strict=True):
            assert (found.success, found.score, found.reason) == (one.success, one.score, one.reason)
            assert found.presence == one.presence
            assert found.used_depth == one.used_depth
            if one.success:
                np.testing.assert_array_equal(found.T_camera_object, one.T_camera_object)
    assert any(each.success for each in kept[0.0])
    assert any(each.used_depth for each in kept[0.0]) == (folder is not None)
    assert not any(each.success for each in kept[little])


def test_figures_of_made_up_answers():
    def tried(kind, score, *, found=True, right=False):
        return Tried(kind, 1, BOX, found, score, right)

    boxes = [
        *(tried(PRESENT, score, right=True) for score in (0.9, 0.5, 0.3, 0.2)),
        tried(PRESENT, 0.8),  # wrong: neither kept nor invented
        tried(PRESENT, 0.9, found=False, right=True),
        tried("other", 0.5),
        tried("other", 0.7, found=False),  # refused for another reason
        tried("random", 0.29),
        tried("elsewhere", 0.3),
    ]
    found = figures(boxes, 0.3)
    assert (found["absent_accepted"], found["right_kept"]) == (0.5, 0.6)
    assert found["accepted"] == {"other": 0.5, "random": 0, "elsewhere": 1}
    assert found["counts"] == {"present": 6, "right": 5, "other": 2, "random": 1, "elsewhere": 1}
    assert [0.4, 0.25, 0.4] in found["thresholds"]
    assert figures([], 0.3)["absent_accepted"] == 0


def test_a_mesh_without_colours_is_the_same_in_grey():
    mesh = colored_box((0.1, 0.1, 0.1))
    grey = without_colours(mesh)
    np.testing.assert_array_equal(grey.vertices, mesh.vertices)
    assert np.ptp(grey.corner_colors) == 0
    assert (grey.face_texture == -1).all()
    assert np.ptp(mesh.corner_colors) > 0


def test_the_command_goes_on_where_it_was_and_writes(root, tmp_path, monkeypatch, capsys):
    tiny, out = str(tiny_bundle(tmp_path / "tiny", input_size=64)), tmp_path / "absent.json"
    command = [str(root), "--engines", tiny, "--effort", "fast", "--limit", "2", "--json", str(out)]
    real, looked = absent.try_image, []

    def stop(dataset, estimator, image, depth):
        if looked:
            raise KeyboardInterrupt
        looked.append(image)
        return real(dataset, estimator, image, depth)

    monkeypatch.setattr(absent, "try_image", stop)
    assert main(command) == 130
    assert "absent.json.part" in capsys.readouterr().err
    monkeypatch.setattr(absent, "try_image", lambda *given: looked.append(given[2]) or real(*given))
    assert main([*command, "--untextured"]) == 2
    assert "untextured was false, now true" in capsys.readouterr().err
    assert main([*command, "--depth"]) == 2
    assert 'depth was null, now "depth_sensor"' in capsys.readouterr().err
    assert main(command) == 0
    assert looked == [(1, 0), (1, 3)]
    result = json.loads(out.read_text())
    assert result["counts"]["present"] == 2
    assert result["min_presence"] == result["config"]["advanced"]["select"]["min_presence"] == 0.27
    assert not (tmp_path / "absent.json.part").exists()
    assert main([*command, "--depth", "depth"]) == 0
    measured = json.loads(out.read_text())
    assert (measured["depth"], result["depth"]) == ("depth", None)
    assert measured["counts"]["present"] == 2
    assert "absent objects accepted" in " ".join(capsys.readouterr().out.split())


def test_wrong_use_is_one_line(root, tmp_path, capsys):
    assert main([str(root), "--limit", "0", "--json", str(tmp_path / "a.json")]) == 2
    assert "--limit: wanted at least 1, got 0" in capsys.readouterr().err
