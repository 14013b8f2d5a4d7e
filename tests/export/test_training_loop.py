"""The loop: it learns, goes on where it was, stops when asked, and never hides a number that is not finite."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from coop_edge.errors import ConfigError, InputError
from coop_edge.visual.draw import write_image
from export.train import loop
from export.train.checkpoint import load_network, load_state
from export.train.optimiser import Ema, adamw, learning_rate
from export.train.report import Table
from export.train.session import Plan, train
from export.train.watch import TrainingDivergedError
from tests.export.small_nets import NET, Repeated

QUICK = {
    "minutes": 60,
    "batch_size": 4,
    "workers": 0,
    "evaluate_samples": 0,
    "learning_rate": 3e-3,
    "precision": "float32",
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def steady(monkeypatch):
    """A constant rate and a row of metrics per step: nothing depends on the clock."""
    monkeypatch.setattr(loop, "learning_rate", lambda peak, progress, warmup: peak)
    monkeypatch.setattr(loop, "LOG_SECONDS", 0.0)


def plan(role, folder, steps, **options):
    net = {**NET[role], "fine_channels": 8} if role == "refiner" else NET[role]
    return Plan(role, {**QUICK, "max_steps": steps, **options}, net, out=folder)


def again(role, folder, steps, **options):
    return Plan(role, {"max_steps": steps, **options}, resume=folder)


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(
    ("role", "part", "factor", "net"),
    [
        ("coarse", "loss_class", 0.5, {}),
        ("coarse", "loss_offset", 0.6, {}),
        ("coarse", "loss_class", 0.5, {"head": "classification"}),
        ("coarse", "loss_position", 0.6, {"head": "regression"}),
        ("refiner", "loss_flow", 0.8, {}),
        ("refiner", "loss_flow", 0.8, {"flow": "deterministic"}),
        ("selector", "loss_score", 0.95, {}),
    ],
)
def test_a_few_pairs_are_learnt_by_heart(role, part, factor, net, tmp_path):
    p = plan(role, tmp_path, 100, learning_rate=1e-3)
    train(replace(p, net={**p.net, **net}), streams=Repeated)
    column = Table(tmp_path / "metrics.csv", 1 << 40).column(part)
    assert len(column) == 100
    assert column[-5:].mean() < factor * column[:5].mean()


@pytest.mark.usefixtures("steady")
def test_the_pose_loss_falls_too(tmp_path, monkeypatch):
    monkeypatch.setattr("export.train.refiner.POSE_RAMP", (-1.0, -0.5))
    train(plan("refiner", tmp_path, 120), streams=Repeated)
    pose = Table(tmp_path / "metrics.csv", 1 << 40).column("loss_pose")
    # Zero stands for a batch without a solved problem, as most are until there is a flow.
    early, late = pose[:30], pose[-15:]
    assert (late > 0).all()
    assert late.mean() < 0.3 * early[early > 0].mean()


def test_what_pairs_are_drawn_reaches_the_stream_and_can_change_on_resuming(tmp_path):
    asked = []

    def streams(role, size, **options):
        asked.append({name: options[name] for name in ("ramp", "hardness")})
        return Repeated(role, size, **options)

    train(plan("coarse", tmp_path, 1, ramp=100), streams=streams)
    train(again("coarse", tmp_path, 1, hardness=0.25), streams=streams)
    assert asked == [{"ramp": 100, "hardness": 1.0}, {"ramp": 100, "hardness": 0.25}]


@pytest.mark.usefixtures("steady")
def test_two_halves_are_one_run(tmp_path):
    """Weights, optimiser, average, data position and counters: all of them, or the second half would differ."""
    streams = functools.partial(Repeated, kinds=6)
    train(plan("coarse", tmp_path / "one", 6), streams=streams)
    train(plan("coarse", tmp_path / "two", 3), streams=streams)
    halfway = load_state(tmp_path / "two")
    assert halfway["counters"]["step"] == 3
    assert halfway["counters"]["position"] == 12
    train(again("coarse", tmp_path / "two", 3), streams=streams)
    one, two = load_state(tmp_path / "one"), load_state(tmp_path / "two")
    assert two["counters"]["step"] == 6
    assert two["counters"]["samples"] == 24
    for key in ("net", "ema"):
        a, b = (s[key] if key == "net" else s[key]["weights"] for s in (one, two))
        for name in a:
            torch.testing.assert_close(a[name], b[name], atol=1e-7, rtol=1e-5)
    assert Table(tmp_path / "two" / "metrics.csv", 99).column("step").tolist() == [1, 2, 3, 4, 5, 6]
    assert two["counters"]["minutes"] > halfway["counters"]["minutes"]


@pytest.mark.usefixtures("steady")
def test_the_published_file_holds_the_averaged_weights_and_says_what_they_are(tmp_path):
    train(plan("refiner", tmp_path, 4, seed=5), streams=Repeated)
    net, info = load_network(tmp_path / "refiner.safetensors", "refiner")
    state = load_state(tmp_path)
    assert (info.provenance.step, info.provenance.samples, info.provenance.seed) == (4, 16, 5)
    assert all(torch.equal(v, state["ema"]["weights"][k]) for k, v in net.state_dict().items())
    assert any(not torch.equal(v, state["net"][k]) for k, v in net.state_dict().items())
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["role"], report["samples"], report["steps"]) == ("refiner", 16, 4)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(number, tmp_path):
    before = signal.getsignal(number)

    def hook(count, batch):
        if count == 4:
            os.kill(os.getpid(), number)
        return batch

    train(plan("coarse", tmp_path, 50), streams=functools.partial(Repeated, hook=hook))
    assert load_state(tmp_path)["counters"]["step"] == 4
    assert signal.getsignal(number) is before
    train(again("coarse", tmp_path, 2), streams=Repeated)
    assert load_state(tmp_path)["counters"]["step"] == 6


def test_a_loss_that_is_not_finite_stops_the_run_with_the_pairs_saved_and_the_checkpoint_clean(tmp_path):
    train(plan("coarse", tmp_path, 2), streams=Repeated)
    clean = (tmp_path / "training_state.pt").read_bytes()

    def poison(count, batch):
        offset = batch.offset.copy()
        offset[2, 0, 1] = math.nan
        return replace(batch, offset=offset) if count == 4 else batch

    with pytest.raises(TrainingDivergedError, match=r"step 3: not finite: loss, .*offset; .*npz"):
        train(again("coarse", tmp_path, 10), streams=functools.partial(Repeated, hook=poison))
    saved = np.load(tmp_path / "diverged_step3_rank0.npz")
    assert np.isnan(saved["offset"][2, 0, 1])
    assert saved["query"].shape == (4, 32, 32, 3)
    assert (tmp_path / "training_state.pt").read_bytes() == clean


@pytest.mark.parametrize("minutes", [60, 6000])
def test_with_a_number_of_steps_the_rate_follows_their_share_on_any_machine(minutes, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_SECONDS", 0.0)
    train(plan("coarse", tmp_path / "a", 8, minutes=minutes), streams=Repeated)
    rates = Table(tmp_path / "a" / "metrics.csv", 99).column("learning_rate")
    # The row of a step is written when the next one is due, at that one's rate.
    assert rates.tolist() == [learning_rate(3e-3, done / 8, 0.01) for done in range(1, 9)]


def test_the_minutes_end_a_run_before_its_steps(tmp_path):
    train(plan("coarse", tmp_path, 10**9, minutes=0.01), streams=Repeated)
    assert 0 < load_state(tmp_path)["counters"]["step"] < 10**9


def test_background_can_be_left_without_a_label(tmp_path):
    """Without labels of the background a patch off the target does not count; one on it does, match or not."""

    def class_loss(folder, no_match, hidden):
        def hook(number, batch):  # the last patch has no match
            shown = np.ones_like(batch.on_target)
            shown[:, -1] = not hidden
            return replace(batch, on_target=shown)

        train(plan("coarse", folder, 1, no_match=no_match), streams=functools.partial(Repeated, hook=hook))
        return Table(folder / "metrics.csv", 9).column("loss_class")[0]

    labelled = class_loss(tmp_path / "a", True, hidden=True)
    assert class_loss(tmp_path / "b", False, hidden=False) == pytest.approx(labelled)
    assert class_loss(tmp_path / "c", False, hidden=True) != pytest.approx(labelled, rel=1e-3)
    with pytest.raises(ConfigError, match="its no_match is False, which cannot become another"):
        train(again("coarse", tmp_path / "c", 1, no_match=True), streams=Repeated)


def test_time_is_the_budget(tmp_path):
    """A run ends when its minutes are over, without a bound on the steps."""
    train(plan("coarse", tmp_path, 0, minutes=0.02), streams=Repeated)
    counters = load_state(tmp_path)["counters"]
    assert counters["step"] > 0
    assert counters["minutes"] >= 0.02


def test_the_stream_is_closed_and_gets_seed_position_and_pack(tmp_path):
    seen = []
    photos = tmp_path / "photos"
    write_image(photos / "grey.png", np.full((64, 64, 3), 128, np.uint8))

    def streams(*args, **options):
        seen.append((Repeated(*args, **options), options))
        return seen[-1][0]

    train(plan("coarse", tmp_path, 2, seed=3, workers=2, photos=str(photos)), streams=streams)
    train(again("coarse", tmp_path, 1), streams=streams)
    assert all(stream.closed for stream, _ in seen)
    first, second = (options for _, options in seen)
    assert (first["seed"], first["start"], first["workers"]) == (3 * loop.RANK_STRIDE, 0, 2)
    assert (second["seed"], second["start"]) == (3 * loop.RANK_STRIDE, 8)
    assert (second["photos"], second["pack"]) == (str(photos), None)
    assert (second["device"], second["data"]) == ("cpu", "auto")


def test_the_selector_and_the_ablations_leave_out_what_has_no_teacher(tmp_path):
    train(plan("refiner", tmp_path, 1, pose_loss=False), streams=Repeated)
    _, info = load_network(tmp_path / "refiner.safetensors")
    assert info.config.sensitivity is False


def test_a_refiner_starts_from_a_coarse_run(tmp_path):
    train(plan("coarse", tmp_path / "c", 1), streams=Repeated)
    p = replace(plan("refiner", tmp_path / "r", 1), init=tmp_path / "c" / "coarse.safetensors")
    train(p, streams=Repeated)
    with pytest.raises(InputError, match="a coarse run goes on from one by --resume"):
        train(replace(plan("coarse", tmp_path / "x", 1), init=tmp_path / "c" / "coarse.safetensors"), streams=Repeated)


def test_what_cannot_be_meant_is_refused(tmp_path):
    train(plan("coarse", tmp_path / "c", 1), streams=Repeated)
    with pytest.raises(InputError, match="holds a run already: --resume"):
        train(plan("coarse", tmp_path / "c", 1), streams=Repeated)
    with pytest.raises(InputError, match="holds a coarse run, wanted a refiner one"):
        train(again("refiner", tmp_path / "c", 1), streams=Repeated)
    with pytest.raises(ConfigError, match="its size is 'xs', which cannot become another"):
        train(again("coarse", tmp_path / "c", 1, size="s"), streams=Repeated)
    with pytest.raises(ConfigError, match="its head is 'hybrid', which cannot become another"):
        train(replace(again("coarse", tmp_path / "c", 1), net={"head": "regression"}), streams=Repeated)
    with pytest.raises(InputError, match="wanted one of them"):
        train(replace(again("coarse", tmp_path / "c", 1), init=tmp_path), streams=Repeated)
    with pytest.raises(ConfigError, match=r"TrainOptions.minutes = 0"):
        train(plan("coarse", tmp_path / "d", 1, minutes=0), streams=Repeated)
    with pytest.raises(ConfigError, match="role: wanted one of coarse, refiner, selector"):
        train(Plan("finder"))


def test_the_rate_rises_then_falls():
    rates = [learning_rate(1.0, p, 0.1) for p in np.linspace(0, 1, 101)]
    assert rates[0] < 0.02
    assert np.argmax(rates) == 10
    assert rates[10] == 1.0
    assert np.all(np.diff(rates[:11]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[-1] == pytest.approx(0.01)
    assert learning_rate(1.0, 1.7, 0.1) == pytest.approx(0.01)


def test_matrices_alone_decay():
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    decayed = {id(p) for g in adamw(net).param_groups if g["weight_decay"] > 0 for p in g["params"]}
    assert decayed == {id(net[0].weight)}


def test_the_average_follows_the_weights():
    """By hand: w_n = keep_n w_(n-1) + (1 - keep_n) x_n with keep_n = min(decay, (1 + n) / (10 + n))."""
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 2.0)
    ema = Ema(net, decay=0.25)
    wanted = 2.0
    for n, value in enumerate([1.0, -3.0, 5.0], start=1):
        torch.nn.init.constant_(net.weight, value)
        ema.update(net)
        keep = min(0.25, (1 + n) / (10 + n))
        wanted = keep * wanted + (1 - keep) * value
    assert ema.weights["weight"].item() == pytest.approx(wanted)
    other = Ema(net)
    other.load(ema.state())
    assert other.updates == 3
    assert torch.equal(other.weights["weight"], ema.weights["weight"])


def test_a_table_takes_new_columns_and_forgets_what_a_checkpoint_does_not_know(tmp_path):
    path = tmp_path / "t.csv"
    table = Table(path, 0)
    table.add({"step": 1, "a": 0.5})
    table.add({"step": 2, "a": 1.5, "b": 7})
    table.add({"step": 3, "a": 2.5})
    assert path.read_text().splitlines() == ["step,a,b", "1,0.5,", "2,1.5,7", "3,2.5,"]
    resumed = Table(path, 2)
    assert resumed.column("a").tolist() == [0.5, 1.5]
    assert np.isnan(resumed.column("b")[0])
    resumed.add({"step": 3, "a": 9.0})
    assert path.read_text().splitlines()[-1] == "3,9.0,"
