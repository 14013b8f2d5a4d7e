"""Evaluation held against truth: a network that knows the answer scores full marks, one that guesses does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coop_edge.geometry.patches import template_pixels
from export.data.batch import PATCH
from export.data.stream import make_stream
from export.networks import CONFIGS, CoarseOutput, build
from export.train import evaluate_refiner as refiner
from export.train.evaluate_coarse import evaluate_coarse
from export.train.task import EVALUATION_SEED, to_tensors
from tests.export.small_nets import NET, refiner_batch
from tests.export.train.knowing import know, small_refiner

CPU = torch.device("cpu")


def held_out(role, n, size, **options):
    with make_stream(role, size, batch_size=n, workers=0, seed=EVALUATION_SEED, split="heldout", **options) as stream:
        return next(stream)


class Knowing:
    """A coarse network that has seen the labels; ``shift`` pixels off, its probability kept."""

    def __init__(self, batch, shift=0.0):
        self.batch, self.shift = batch, shift

    def encode(self, image):
        return image

    def decode(self, query, template):
        count = self.batch.match_index.shape[1]
        matched = torch.from_numpy(self.batch.match_index < count)
        index = torch.from_numpy(np.where(matched, self.batch.match_index, 0)).int()
        offset = torch.from_numpy(self.batch.offset) + self.shift / 16
        return matched.float(), index, offset


def test_a_network_that_knows_the_matches_finds_them_and_the_poses():
    batch = held_out("coarse", 24, 128)
    figures = evaluate_coarse(Knowing(batch), [batch], CPU)
    for name in ("class_accuracy", "within_5px", "within_16px", "match_recall", "no_match_accuracy"):
        assert figures[name] == 1.0
    assert figures["pose_pairs"] >= 8
    # The truth is known to a template pixel: what is left is rounding, worst for the few with 8 matches.
    assert figures["pose_recall_10"] > 0.8
    assert figures["pose_recall_20"] >= figures["pose_recall_10"]


def test_matches_that_are_off_count_by_their_distance():
    batch = held_out("coarse", 8, 64)
    figures = evaluate_coarse(Knowing(batch, shift=5.0), [batch], CPU)  # 7.07 px, both axes
    assert figures["class_accuracy"] == 1.0
    assert figures["within_5px"] == 0.0
    assert figures["within_16px"] == 1.0


def knowing_head(head, batch, monkeypatch):
    """A network whose raw outputs, those of ``head``, are the labels: what ``decode`` makes of them is its own."""
    net = build(CONFIGS["coarse"].from_dict({**NET["coarse"], "head": head}))
    count = batch.match_index.shape[1]
    side = round(count**0.5)
    index, offset = torch.from_numpy(batch.match_index), torch.from_numpy(batch.offset)
    sure = 20 * torch.nn.functional.one_hot(index, count + 1).float()
    position = torch.stack([index % side, index // side], dim=-1) + 0.5 + offset
    matched = 20.0 * (index < count).float() - 10
    outputs = {
        "hybrid": CoarseOutput(sure, offset, None, None),
        "classification": CoarseOutput(sure, None, None, None),
        "regression": CoarseOutput(None, None, position, matched),
    }
    monkeypatch.setattr(net, "compare", lambda query, template: outputs[head])
    return net


@pytest.mark.parametrize("head", ["hybrid", "classification", "regression"])
def test_every_head_is_judged_by_the_positions_it_gives(head, monkeypatch):
    """With right answers a head that gives offsets is at full marks; one without is as far off as the offsets are."""
    batch = held_out("coarse", 12, 128)
    matched = batch.match_index < batch.match_index.shape[1]
    figures = evaluate_coarse(knowing_head(head, batch, monkeypatch), [batch], CPU)
    for name in ("class_accuracy", "within_16px", "match_recall", "no_match_accuracy"):
        assert figures[name] == 1.0
    distance = PATCH * np.linalg.norm(batch.offset[matched], axis=-1) if head == "classification" else np.zeros(1)
    assert figures["within_5px"] == pytest.approx((distance < 5).mean())
    assert figures["pose_recall_20"] > (0.3 if head == "classification" else 0.7)


def test_an_untrained_coarse_network_is_scored_without_a_crash_and_no_pairs_give_no_figures():
    torch.manual_seed(0)
    net = build(CONFIGS["coarse"].from_dict(NET["coarse"])).eval()
    figures = evaluate_coarse(net, [held_out("coarse", 8, 32)], CPU)
    assert 0 <= figures["class_accuracy"] <= 1
    assert evaluate_coarse(net, [], CPU) == {}


def test_template_pixels_follow_the_agreement_on_patches():
    index, offset = np.array([0, 5]), np.array([[0.0, 0.0], [0.5, -0.5]])
    assert template_pixels(index, offset, 4, PATCH).tolist() == [[7.5, 7.5], [31.5, 15.5]]


@pytest.fixture
def net():
    return small_refiner()


def test_a_network_that_knows_the_flow_finds_the_pose_at_once(net, monkeypatch):
    pairs = held_out("refiner", 24, 64, keep_scenes=True)
    know(monkeypatch, net, pairs[0])
    figures = refiner.evaluate_refiner(net, [pairs], CPU)
    assert figures["flow_epe"] == 0
    assert figures["error_after_1"] < 0.02 * figures["error_before"]
    assert figures["error_after_5"] < 0.02 * figures["error_before"]
    assert figures["certainty_accuracy"] == 1.0
    assert figures["certainty_calibration_error"] == 0.0
    assert figures["flow_calibration_error"] < 1e-3
    assert figures["reduction_5"] == pytest.approx(figures["error_before"] / figures["error_after_5"])


def test_half_the_flow_needs_iterations(net, monkeypatch):
    """Rendering again at each new pose halves the error anew: the loop is closed the right way round."""
    pairs = held_out("refiner", 24, 64, keep_scenes=True)
    know(monkeypatch, net, pairs[0], 0.5)
    figures = refiner.evaluate_refiner(net, [pairs], CPU)
    assert 0.3 * figures["error_before"] < figures["error_after_1"] < 0.75 * figures["error_before"]
    assert figures["error_after_5"] < 0.15 * figures["error_before"]


def test_an_untrained_refiner_is_scored_without_a_crash(net):
    pairs = held_out("refiner", 4, 32, keep_scenes=True)
    figures = refiner.evaluate_refiner(net, [pairs], CPU)
    assert all(np.isfinite(v) for v in figures.values())
    assert figures["error_before"] > 0
    assert refiner.evaluate_refiner(net, [], CPU) == {}


def test_pose_error_is_the_mean_distance_of_model_points_in_diameters():
    batch = refiner_batch(np.random.default_rng(0), 3, 32)
    assert refiner.pose_error(batch, batch.T_true).tolist() == [0, 0, 0]
    moved = batch.T_true.copy()
    moved[:, :3, 3] += (0.03, 0.0, 0.04)
    np.testing.assert_allclose(refiner.pose_error(batch, moved), 0.05 / 0.6)
    start = [
        np.mean([np.linalg.norm(i[:3, :3] @ x + i[:3, 3] - t[:3, :3] @ x - t[:3, 3]) for x in points]) / 0.6
        for i, t, points in zip(batch.T_init, batch.T_true, batch.model_points.astype(float), strict=True)
    ]
    np.testing.assert_allclose(refiner.pose_error(batch, batch.T_init), start)


def test_calibration_error_by_hand():
    p = np.array([0.05, 0.05, 0.95, 0.95])
    assert refiner.calibration_error(p, np.array([0, 0, 1, 1])) == pytest.approx(0.05)
    assert refiner.calibration_error(p, np.array([1, 1, 0, 0])) == pytest.approx(0.95)
    assert refiner.calibration_error(np.array([0.5, 0.5, 1.0]), np.array([0, 1, 1])) == 0
    assert refiner.calibration_error(np.array([]), np.array([])) is None


def test_tensors_keep_labels_and_turn_images():
    batch = refiner_batch(np.random.default_rng(0), 2, 32)
    query = batch.query.copy()
    query[0, 3, 5] = (255, 0, 51)
    tensors = to_tensors(replace(batch, query=query), CPU)
    assert tensors["query"].shape == (2, 3, 32, 32)
    torch.testing.assert_close(tensors["query"][0, :, 3, 5], torch.tensor([1.0, 0.0, 0.2]))
    assert tensors["K"].dtype == torch.float64
    assert tensors["visible"].dtype == torch.bool
    np.testing.assert_array_equal(tensors["flow"].numpy(), batch.flow)
