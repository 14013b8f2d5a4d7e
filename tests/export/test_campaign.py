"""Training in trips: what is carried is enough to go on, whenever a trip is cut off."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from coop_edge.errors import ConfigError, InputError
from export.campaign import luggage as luggage_module
from export.campaign import trip as trip_module
from export.campaign.luggage import LOG, MOST_FILES, PICTURE, Luggage
from export.campaign.picture import predicted
from export.campaign.trip import Trip, run_trip
from export.networks import preset
from export.shards import networks_in
from export.train import loop
from export.train.checkpoint import load_network, read_metadata
from export.train.coarse import CoarseTask
from export.train.options import TrainOptions
from export.train.watch import TrainingDivergedError
from tests.export.small_nets import Repeated, coarse_batch

TRUNK = {"image_size": 32, "stem_channels": 8, "encoder_dim": 16, "encoder_depth": 1, "encoder_heads": 2,
         "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}  # fmt: skip
NETS = {
    "coarse": {"trunk": TRUNK, "match_dim": 8},
    "refiner": {"trunk": TRUNK, "match_dim": 8, "dpt_channels": 8, "fine_channels": 8, "radius_px": 0.5},
}
QUICK = {"size": "xs", "device": "cpu", "batch_size": 2, "workers": 0, "threads": 1, "evaluate_samples": 0,
         "precision": "float32", "max_steps": 2}  # fmt: skip


def plan(out: Path, brought: Path | None = None, **options):
    train = {**QUICK, **options.pop("train", {})}
    return Trip(out, brought, **{"minutes": 60.0, "train": train, "nets": NETS, **options})


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch):
    """Pictures want rendered pairs, which the test of the command has."""
    monkeypatch.setattr(trip_module, "write_matches", lambda path, *_: path.write_bytes(b"x") and path)


def log_of(folder):
    return json.loads((folder / LOG).read_text())["trips"]


def test_two_trips_go_on_from_each_other(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert run_trip(plan(one), Repeated)
    before = {p.name: p.read_bytes() for p in one.iterdir()}
    assert sorted(before) == [
        LOG, "coarse-step00000002-1of1.safetensors", PICTURE, "refiner-step00000002-1of1.safetensors"
    ]  # fmt: skip
    starts, drawn = [], []

    def streams(role, size, **options):
        starts.append((role, options["start"], options["seed"]))
        drawn.append((options["device"], options["data"], options["workers"]))
        return Repeated(role, size, **options)

    assert run_trip(plan(two, one, train={"max_steps": 3, "seed": 5, "data": "device"}), streams)
    assert drawn == [("cpu", "device", 0)] * 2
    assert {p.name: p.read_bytes() for p in one.iterdir()} == before
    # The same data goes on where it ended: the seed is that of the first trip.
    assert starts == [("coarse", 4, 0), ("refiner", 4, 0)]
    for path in networks_in(two):
        stated = read_metadata(path).provenance
        assert (stated.step, stated.samples, stated.seed) == (5, 10, 0)
        assert "cores of" in stated.hardware
        assert ";" not in stated.hardware  # one machine, named once
        assert stated.licences
    first, second = log_of(two)
    assert [t["number"] for t in (first, second)] == [1, 2]
    assert first == log_of(one)[0]
    for t, steps in ((first, 2), (second, 3)):
        assert t["finished"]
        assert t["roles"]["coarse"]["steps"] == t["roles"]["refiner"]["steps"] == steps
        assert {"hardware", "code", "seed", "minutes", "torch"} <= t.keys()
    assert second["roles"]["coarse"]["in_all"]["samples"] == 10
    assert second["roles"]["coarse"]["curve"]


def test_weights_and_average_start_as_they_were_carried(tmp_path, monkeypatch):
    run_trip(plan(tmp_path / "one", coarse_share=1.0), Repeated)
    carried = load_network(networks_in(tmp_path / "one")[0])[0].state_dict()
    seen = {}

    class Looked(trip_module.TripTrainer):
        def run(self):
            seen["net"] = {k: v.clone() for k, v in self.net.state_dict().items()}
            seen["ema"] = {k: v.clone() for k, v in self.ema.weights.items()}
            return super().run()

    monkeypatch.setattr(trip_module, "TripTrainer", Looked)
    run_trip(plan(tmp_path / "two", tmp_path / "one", coarse_share=1.0), Repeated)
    for name, value in carried.items():
        assert torch.equal(seen["net"][name], value)
        assert torch.equal(seen["ema"][name], value)


def test_a_new_refiner_has_the_trunk_of_the_coarse_network_of_the_trip(tmp_path, monkeypatch):
    started = []
    start_from = trip_module.start_from
    monkeypatch.setattr(trip_module, "start_from", lambda net, path: started.append(path.name) or start_from(net, path))
    run_trip(plan(tmp_path), Repeated)
    assert started == ["coarse-step00000002-1of1.safetensors"]


@pytest.mark.parametrize("last", [False, True])
def test_the_rate_rises_then_stays_and_falls_in_the_last_trip(last, tmp_path, monkeypatch):
    rates = []
    monkeypatch.setattr(loop, "set_learning_rate", lambda optimiser, value: rates.append(value))
    run_trip(plan(tmp_path, coarse_share=1.0, last=last, train={"max_steps": 40, "learning_rate": 1e-3}), Repeated)
    assert len(rates) == 40
    assert rates[0] < 0.1e-3
    progress = np.arange(2, 40) / 40
    wanted = np.full(38, 1e-3)
    if last:
        phase = (progress - trip_module.WARMUP) / (1 - trip_module.WARMUP)
        wanted *= 0.01 + 0.99 * 0.5 * (1 + np.cos(math.pi * phase))
    np.testing.assert_allclose(rates[2:], wanted, rtol=1e-9)


@pytest.mark.parametrize(("share", "roles"), [(1.0, ["coarse"]), (0.0, ["refiner"])])
def test_one_role_alone_leaves_the_other_as_it_was_brought(share, roles, tmp_path):
    run_trip(plan(tmp_path / "one"), Repeated)
    run_trip(plan(tmp_path / "two", tmp_path / "one", coarse_share=share), Repeated)
    steps = {read_metadata(p).role: read_metadata(p).provenance.step for p in networks_in(tmp_path / "two")}
    assert steps == {role: 4 if role in roles else 2 for role in ("coarse", "refiner")}
    assert list(log_of(tmp_path / "two")[1]["roles"]) == roles


def test_a_folder_may_be_its_own_successor(tmp_path):
    run_trip(plan(tmp_path), Repeated)
    run_trip(plan(tmp_path, tmp_path), Repeated)
    assert {read_metadata(p).provenance.step for p in networks_in(tmp_path)} == {4}
    assert len(log_of(tmp_path)) == 2
    assert len(list(tmp_path.iterdir())) == 4


def test_each_checkpoint_is_carried_and_never_more_files_than_allowed(tmp_path, monkeypatch):
    """Shards so small that each network takes two, a checkpoint at every look, and a count whenever a file is made."""
    for name in ("save_sharded", "split"):
        limited = functools.partial(getattr(luggage_module, name), limit=128 << 10)
        monkeypatch.setattr(luggage_module, name, limited)
    run_trip(plan(tmp_path), Repeated)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    steps, counts = [], []
    fsync = os.fsync

    def counted(number):
        counts.append(len(list(tmp_path.iterdir())))
        fsync(number)

    monkeypatch.setattr(os, "fsync", counted)

    def hook(number, batch):
        steps.append(read_metadata(networks_in(tmp_path)[0]).provenance.step)
        time.sleep(0.1)
        return batch

    streams = functools.partial(Repeated, hook=hook)
    run_trip(plan(tmp_path, tmp_path, train={"checkpoint_minutes": 1e-3, "max_steps": 8}), streams)
    assert 2 < steps[7] < 10  # while the coarse network was being trained
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    assert len(list(tmp_path.iterdir())) < max(counts) <= MOST_FILES


def test_a_signal_ends_the_trip_with_everything_written(tmp_path):
    def hook(number, batch):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    assert not run_trip(plan(tmp_path, train={"max_steps": 50}), functools.partial(Repeated, hook=hook))
    (network,) = networks_in(tmp_path)
    assert read_metadata(network).provenance.step == 2
    (trip,) = log_of(tmp_path)
    assert not trip["finished"]
    assert list(trip["roles"]) == ["coarse"]
    assert run_trip(plan(tmp_path / "next", tmp_path), Repeated)


def test_a_network_for_which_no_time_is_left_is_not_begun(tmp_path, monkeypatch):
    """The first one took an hour to judge."""
    now = [0.0]
    monkeypatch.setattr(trip_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(CoarseTask, "evaluate", lambda *_: now.__setitem__(0, 3600.0) or {"class_accuracy": 0.5})
    assert not run_trip(plan(tmp_path, minutes=30.0), Repeated)
    (trip,) = log_of(tmp_path)
    assert (trip["finished"], trip["skipped"], list(trip["roles"])) == (False, "refiner", ["coarse"])
    assert trip["roles"]["coarse"]["figures"] == {"class_accuracy": 0.5}
    assert [read_metadata(p).role for p in networks_in(tmp_path)] == ["coarse"]


def test_a_loss_that_is_not_finite_leaves_what_was_trained_before(tmp_path):
    def streams(role, size, **options):
        def hook(number, batch):
            if role == "refiner":
                batch.flow[:] = np.nan
            return batch

        return Repeated(role, size, hook=hook, **options)

    with pytest.raises(TrainingDivergedError):
        run_trip(plan(tmp_path), streams)
    assert [read_metadata(p).role for p in networks_in(tmp_path)] == ["coarse"]
    assert not log_of(tmp_path)[0]["finished"]


class TestWrongUse:
    def test_of_folders(self, tmp_path):
        run_trip(plan(tmp_path / "one", coarse_share=1.0), Repeated)
        with pytest.raises(InputError, match="one holds a trip already"):
            run_trip(plan(tmp_path / "one"), Repeated)
        with pytest.raises(InputError, match="nowhere: no such folder"):
            run_trip(plan(tmp_path / "two", tmp_path / "nowhere"), Repeated)
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="empty: holds no network"):
            run_trip(plan(tmp_path / "two", tmp_path / "empty"), Repeated)
        (tmp_path / "one" / LOG).write_text("{")
        with pytest.raises(InputError, match=f"{LOG}: not a campaign's log"):
            run_trip(plan(tmp_path / "two", tmp_path / "one"), Repeated)
        (tmp_path / "one" / LOG).write_text('{"schema": 9}')
        with pytest.raises(InputError, match="schema 9, this version reads 1"):
            run_trip(plan(tmp_path / "two", tmp_path / "one"), Repeated)

    def test_of_another_size(self, tmp_path):
        run_trip(plan(tmp_path / "one", coarse_share=1.0), Repeated)
        with pytest.raises(InputError, match="its network is not of size xs"):
            run_trip(Trip(tmp_path / "two", tmp_path / "one", 60.0, train=QUICK), Repeated)

    def test_of_minutes(self, tmp_path):
        with pytest.raises(ConfigError, match=r"refiner gets 0\.8 of them, wanted more than the 1 "):
            plan(tmp_path, minutes=8.0, coarse_share=0.9)
        with pytest.raises(ConfigError, match="--coarse-share: wanted a number from 0 to 1, got 2"):
            plan(tmp_path, coarse_share=2.0)

    def test_a_network_of_too_many_shards_is_refused_before_it_is_trained(self, tmp_path, monkeypatch):
        monkeypatch.setattr(luggage_module, "split", lambda tensors: [{}] * 7)
        with pytest.raises(InputError, match="7 shards, with log and picture more than 8 files"):
            run_trip(plan(tmp_path), Repeated)
        assert not networks_in(tmp_path)


def test_the_edge_model_keeps_its_bounds():
    """At most 15 M parameters a network, and with both, log and picture no more files than may be carried."""
    from export.networks import build
    from export.shards import halved, split
    from export.train.checkpoint import parameters_of

    count = 2
    for role in ("coarse", "refiner"):
        with torch.device("meta"):
            parameters = parameters_of(build(preset(role, "s")))
        assert parameters <= 15_000_000, f"{role}: {parameters}"
        state = {k: torch.empty(v.shape, dtype=v.dtype) for k, v in build(preset(role, "s")).state_dict().items()}
        count += len(split(halved(state)))
    assert count <= MOST_FILES


def test_predicted_matches_take_the_place_of_the_true_ones(tmp_path):
    run_trip(plan(tmp_path, coarse_share=1.0), Repeated)
    net, _ = load_network(networks_in(tmp_path)[0])
    batch = coarse_batch(np.random.default_rng(0), 3, 32)
    found = predicted(net, batch, torch.device("cpu"))
    assert found.match_index.shape == batch.match_index.shape
    assert found.match_index.max() <= batch.match_index.shape[1]
    with torch.no_grad():
        images = [torch.from_numpy(x).permute(0, 3, 1, 2) / 255 for x in (batch.query, batch.template)]
        probability, index, offset = net.decode(*(net.encode(x) for x in images))
    assert ((found.match_index == batch.match_index.shape[1]) == (probability == 0).numpy()).all()
    np.testing.assert_allclose(found.offset, offset, atol=1e-5)
    matched = probability.numpy() > 0
    np.testing.assert_array_equal(found.match_index[matched], index.numpy()[matched])


def test_options_of_a_trip_are_options_of_training(tmp_path):
    options = trip_module._options(plan(tmp_path, train={"hardness": 0.5}))
    assert isinstance(options, TrainOptions)
    assert (options.hardness, options.warmup, options.evaluate_samples) == (0.5, trip_module.WARMUP, 0)
    with pytest.raises(ConfigError, match="has no option 'hardnes'"):
        trip_module._options(plan(tmp_path, train={"hardnes": 0.5}))


def test_what_was_brought_is_there_with_its_history_before_anything_is_trained(tmp_path):
    """A trip that is killed before its first save has lost nothing, and its folder can be gone on from."""
    one, two = tmp_path / "one", tmp_path / "two"
    run_trip(plan(one), Repeated)
    started = Luggage(two, one)
    assert started.trip["number"] == 2
    wanted = {p.name: p.read_bytes() for p in one.iterdir() if p.name != PICTURE}
    assert {p.name: p.read_bytes() for p in two.iterdir()} == wanted
    (one / LOG).unlink()
    assert not (Luggage(tmp_path / "three", one).folder / LOG).exists()


def test_an_empty_campaign_folder_is_a_first_trip(tmp_path):
    (tmp_path / "out").mkdir()
    assert Luggage(tmp_path / "out", None).network("coarse") is None
