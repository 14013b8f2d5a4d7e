"""The loop learns, is paced by time or steps, stops when asked, and never hides a number that is not finite."""

from __future__ import annotations

import functools
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from coop_edge.visual.draw import write_image
from export.train import loop
from export.train.checkpoint import load_state
from export.train.monitor import TrainingDivergedError
from export.train.optimiser import learning_rate
from export.train.report import Table
from tests.export.small_nets import Repeated
from tests.export.train.runs import resume, start


@pytest.fixture
def steady(monkeypatch):
    """A constant rate and a row of metrics per step: nothing depends on the clock."""
    monkeypatch.setattr(loop, "learning_rate", lambda peak, progress, warmup: peak)
    monkeypatch.setattr(loop, "LOG_SECONDS", 0.0)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(
    ("role", "part", "factor", "network"),
    [
        ("coarse", "loss_class", 0.5, {}),
        ("coarse", "loss_offset", 0.6, {}),
        ("coarse", "loss_class", 0.5, {"head": "classification"}),
        ("coarse", "loss_position", 0.6, {"head": "regression"}),
        ("refiner", "loss_flow", 0.8, {}),
        ("refiner", "loss_flow", 0.8, {"flow": "deterministic"}),
    ],
)
def test_a_few_pairs_are_learnt_by_heart(role, part, factor, network, tmp_path):
    start(role, tmp_path, 100, learning_rate=1e-3, network=network)
    column = Table(tmp_path / "metrics.csv", 1 << 40).column(part)
    assert len(column) == 100
    assert column[-5:].mean() < factor * column[:5].mean()


@pytest.mark.usefixtures("steady")
def test_the_pose_loss_falls_too(tmp_path, monkeypatch):
    monkeypatch.setattr("export.train.refiner.POSE_RAMP", (-1.0, -0.5))
    start("refiner", tmp_path, 120)
    pose = Table(tmp_path / "metrics.csv", 1 << 40).column("loss_pose")
    # Zero stands for a batch without a solved problem, as most are until there is a flow.
    early, late = pose[:30], pose[-15:]
    assert (late > 0).all()
    assert late.mean() < 0.3 * early[early > 0].mean()


def test_without_a_sensitivity_there_is_no_pose_loss(tmp_path):
    start("refiner", tmp_path, 1, network={"sensitivity": False})
    assert not [name for name in Table(tmp_path / "metrics.csv", 9).rows[0] if "pose" in name]


def test_the_stream_is_closed_and_gets_seed_position_pack_and_hardness(tmp_path):
    seen = []
    photos = tmp_path / "photos"
    write_image(photos / "grey.png", np.full((64, 64, 3), 128, np.uint8))

    def streams(*args, **options):
        seen.append((Repeated(*args, **options), options))
        return seen[-1][0]

    start("coarse", tmp_path, 2, seed=3, workers=2, photos=str(photos), ramp=100, streams=streams)
    resume("coarse", tmp_path, 1, "hardness=0.25", streams=streams)
    assert all(stream.closed for stream, _ in seen)
    first, second = (options for _, options in seen)
    assert (first["seed"], first["start"], first["workers"]) == (3 * loop.RANK_STRIDE, 0, 2)
    assert (second["seed"], second["start"]) == (3 * loop.RANK_STRIDE, 8)
    assert (second["photos"], second["pack"]) == (str(photos), None)
    assert second["device"] == "cpu"
    assert [(o["ramp"], o["hardness"]) for o in (first, second)] == [(100, 1.0), (100, 0.25)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(number, tmp_path):
    before = signal.getsignal(number)

    def hook(count, batch):
        if count == 4:
            os.kill(os.getpid(), number)
        return batch

    start("coarse", tmp_path, 50, streams=functools.partial(Repeated, hook=hook))
    assert load_state(tmp_path)["counters"]["step"] == 4
    assert signal.getsignal(number) is before
    resume("coarse", tmp_path, 2)
    assert load_state(tmp_path)["counters"]["step"] == 6


def test_a_loss_that_is_not_finite_stops_the_run_with_the_pairs_saved_and_the_checkpoint_clean(tmp_path):
    start("coarse", tmp_path, 2)
    clean = (tmp_path / "training_state.pt").read_bytes()

    def poison(count, batch):
        offset = batch.offset.copy()
        offset[2, 0, 1] = math.nan
        return replace(batch, offset=offset) if count == 4 else batch

    with pytest.raises(TrainingDivergedError, match=r"step 3: not finite: loss, .*offset; .*npz"):
        resume("coarse", tmp_path, 10, streams=functools.partial(Repeated, hook=poison))
    saved = np.load(tmp_path / "diverged_step3_rank0.npz")
    assert np.isnan(saved["offset"][2, 0, 1])
    assert saved["query"].shape == (4, 32, 32, 3)
    assert (tmp_path / "training_state.pt").read_bytes() == clean


@pytest.mark.parametrize("minutes", [60.0, 6000.0])
def test_with_a_number_of_steps_the_rate_follows_their_share_on_any_machine(minutes, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_SECONDS", 0.0)
    start("coarse", tmp_path / "a", 8, minutes=minutes)
    rates = Table(tmp_path / "a" / "metrics.csv", 99).column("learning_rate")
    # The row of a step is written when the next one is due, at that one's rate.
    assert rates.tolist() == [learning_rate(3e-3, done / 8, 0.01) for done in range(1, 9)]


def test_the_minutes_end_a_run_before_its_steps(tmp_path):
    start("coarse", tmp_path, 10**9, minutes=0.01)
    assert 0 < load_state(tmp_path)["counters"]["step"] < 10**9


def test_time_is_the_budget(tmp_path):
    """A run ends when its minutes are over, without a bound on the steps."""
    start("coarse", tmp_path, 0, minutes=0.02)
    counters = load_state(tmp_path)["counters"]
    assert counters["step"] > 0
    assert counters["minutes"] >= 0.02


def test_background_can_be_left_without_a_label(tmp_path):
    """Without labels of the background a patch off the target does not count; one on it does, match or not."""

    def class_loss(folder, no_match, hidden):
        def hook(number, batch):  # the last patch has no match
            shown = np.ones_like(batch.on_target)
            shown[:, -1] = not hidden
            return replace(batch, on_target=shown)

        start("coarse", folder, 1, no_match=no_match, streams=functools.partial(Repeated, hook=hook))
        return Table(folder / "metrics.csv", 9).column("loss_class")[0]

    labelled = class_loss(tmp_path / "a", True, hidden=True)
    assert class_loss(tmp_path / "b", False, hidden=False) == pytest.approx(labelled)
    assert class_loss(tmp_path / "c", False, hidden=True) != pytest.approx(labelled, rel=1e-3)


@pytest.mark.usefixtures("steady")
def test_evaluation_sees_the_averaged_weights_and_training_goes_on_with_its_own(tmp_path, monkeypatch):
    seen = []

    def evaluate(self, net, device):
        assert not net.training
        seen.append({k: v.clone() for k, v in net.state_dict().items()})
        return {"class_accuracy": 0.5}

    monkeypatch.setattr("export.train.coarse.CoarseTask.evaluate", evaluate)
    start("coarse", tmp_path, 3)
    state = load_state(tmp_path)
    assert all(torch.equal(v, state["ema"]["weights"][k]) for k, v in seen[-1].items())
    assert any(not torch.equal(v, state["net"][k]) for k, v in seen[-1].items())
    assert Table(tmp_path / "evaluation.csv", 9).column("class_accuracy").tolist() == [0.5]
