"""Flow at start poses that are off by a known angle: what is right against the image's depth, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.accuracy import flow
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.flow import FlowPairs, flow_errors, flow_pairs, main, shown_by
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.geometry.camera import rays
from tests.benchmarks.bop import scene_of, write_dataset

SIZE = 64


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    images = {(1, 3): scene_of(1), (1, 4): scene_of(2), (2, 0): scene_of(3)}
    return BopDataset(write_dataset(tmp_path_factory.mktemp("data") / "set", images, depth=True))


class Says:
    """A runner that answers with what a function makes of the right flow, in the order of the pairs."""

    def __init__(self, pairs, answer):
        self._right, self._answer = iter(pairs), answer

    def run(self, feed):
        right = next(p for p in self._right if len(p.query))
        assert feed["query"].shape == feed["render"].shape == (len(right.flow), 3, SIZE, SIZE)
        return {"flow": self._answer(np.nan_to_num(right.flow[:, :, 2::4, 2::4]))}


def test_without_a_turn_nothing_flows(dataset):
    pairs = list(flow_pairs(dataset, 0.0, SIZE))
    assert sum(len(p.query) for p in pairs) == 6
    for each in pairs:
        shown = np.isfinite(each.flow)
        assert shown.any(axis=(1, 2, 3)).all()
        assert np.abs(each.flow[shown]).max() < 1e-3


@pytest.mark.parametrize("degrees", [5.0, 15.0])
def test_flow_ends_where_the_image_shows_the_same_point(dataset, degrees, monkeypatch):
    """The pixel at its end, back through the crop's homography, the depth image and the true pose, is the point."""
    crops, views = [], []
    make, project_back = flow.pose_crop, flow.back_project
    monkeypatch.setattr(flow, "pose_crop", lambda *a: crops.append(make(*a)) or crops[-1])
    monkeypatch.setattr(flow, "back_project", lambda *a: views.append(project_back(*a)) or views[-1])
    pairs = list(flow_pairs(dataset, degrees, SIZE))
    errors, lengths = [], []
    for image, each, crop, points in zip(dataset.images, pairs, crops, views, strict=True):
        depth, camera = dataset.depth(*image), dataset.camera(*image)
        truths = [t for target in dataset.targets_of(*image) for t in dataset.sought(target)]
        assert len(each.flow) == len(truths)
        for i, truth in enumerate(truths):
            v, u = np.nonzero(np.isfinite(each.flow[i, 0]))
            length = each.flow[i][:, v, u]
            there = np.stack([u, v], axis=1) + length.T
            pixel = np.c_[there, np.ones(len(u))] @ np.linalg.inv(crop.H[i]).T
            pixel = pixel[:, :2] / pixel[:, 2:]
            x, y = np.rint(pixel).astype(int).T
            in_camera = rays(camera.K, pixel) * depth[y.clip(0, 47), x.clip(0, 63), None]
            model = dataset.models[truth.obj_id]
            gaps = []
            for S in model.T_symmetries:  # of poses that look alike the one nearest to the start counts
                own = se3.transform(se3.invert(truth.T_camera_object @ S), in_camera)
                gaps.append(np.linalg.norm(own - points[i, v, u], axis=1) / model.diameter)
            errors += min(gaps, key=np.median).tolist()
            lengths += np.linalg.norm(length, axis=0).tolist()
    assert len(errors) > 1000
    assert np.median(errors) < 0.02  # half a pixel of a tiny image
    assert np.median(lengths) == pytest.approx(degrees * np.pi / 180 * SIZE / 1.2 / 2 * 0.55, rel=0.5)


def test_figures_are_those_of_what_is_predicted(dataset):
    pairs = list(flow_pairs(dataset, 10.0, SIZE))
    right = flow_errors(pairs, Says(pairs, lambda flow: flow), 4)
    assert right["targets"] == 6
    assert right["flow_epe"] == pytest.approx(0.0, abs=1e-6)
    assert right["smaller"] == 1.0
    nothing = flow_errors(pairs, Says(pairs, lambda flow: 0 * flow), 4)
    assert nothing["flow_epe"] == nothing["flow_epe_before"] == right["flow_epe_before"] > 1.0
    assert nothing["smaller"] == 0.0
    beside = flow_errors(pairs, Says(pairs, lambda flow: flow + [[[3.0]], [[4.0]]]), 4)
    assert beside["flow_epe"] == pytest.approx(5.0)
    none = FlowPairs(*(np.zeros((0, c, SIZE, SIZE)) for c in (3, 3, 2)))
    assert flow_errors([none], None, 4) == flow_errors([], None, 4) == {"targets": 0.0}


def test_what_stands_before_a_point_hides_it():
    depth = np.full((8, 8), 2.0, np.float32)
    depth[:, :3] = 1.0
    depth[6:] = 0.0
    K = np.array([[10.0, 0, 0], [0, 10.0, 0], [0, 0, 1]])
    u = np.array([1.0, 2.5, 5.0, 5.0, 5.0, 5.0, 9.0, 5.0])
    v = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 6.5, 1.0, 1.0])
    z = np.array([2.0, 2.0, 2.0, 2.04, 1.9, 2.0, 2.0, np.nan])
    points = np.stack([u * z / 10, v * z / 10, z], axis=1)
    found = shown_by(depth, K, points[None], np.array([0.05]))[0]
    assert found.tolist() == [False, True, True, True, False, False, False, False]
    assert shown_by(depth, K, np.zeros((0, 4, 3)), np.zeros(0)).shape == (0, 4)


def test_the_command_measures_the_shipped_refiner(dataset, tmp_path, capsys):
    pytest.importorskip("torch")
    arguments = ["engines/coop-xs/refiner.safetensors", "--dataset", str(dataset.root), "--limit", "1"]
    assert main([*arguments, "--start", "5", "--json", str(tmp_path / "f.json")]) == 0
    found = json.loads((tmp_path / "f.json").read_text())["checkpoints"][arguments[0]]
    assert [row["start_degrees"] for row in found] == [5.0]
    assert found[0]["targets"] == 2
    assert 0 < found[0]["flow_epe"] < 50
    assert "flow_epe_before" in capsys.readouterr().out
    assert main([*arguments, "--start", "200"]) == 2
    assert "wanted degrees from 0 to 180" in capsys.readouterr().err


def test_without_depth_there_is_an_error(tmp_path):
    bare = BopDataset(write_dataset(tmp_path / "set", {(1, 3): scene_of(1)}))
    with pytest.raises(InputError, match="has no depth, wanted it to tell what is hidden"):
        list(flow_pairs(bare, 5.0, SIZE))
