"""Damaged network files, training states and tables: an error with a name or the content as it was, and no code run."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import signal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from coop_edge.errors import ConfigError, InputError
from export.networks import CONFIGS, build
from export.train.checkpoint import STATE_FILE, load_network, load_state, read_metadata, save_network, save_state
from export.train.provenance import Provenance
from export.train.report import Table
from tests.export.small_nets import NET, Repeated
from tests.export.train.runs import resume, start
from tests.mutations import damaged_bytes, damaged_data

NAMED = (InputError, ConfigError)
PROVENANCE = Provenance(step=7, samples=112, minutes=1.5, code="0.1 abc", data="objects", licences={"objects": "CC0"})


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "coarse.safetensors"
    save_network(path, build(CONFIGS["coarse"].from_dict(NET["coarse"])), PROVENANCE)
    return path


def test_a_description_with_anything_in_it(network, tmp_path):
    with safe_open(network, framework="pt") as file:
        description = json.loads(file.metadata()["coop_edge"])
    path, refused, count = tmp_path / "x.safetensors", 0, 0
    for damaged in damaged_data(description):
        save_file({"a": torch.zeros(1)}, path, {"coop_edge": json.dumps(damaged)})
        count += 1
        try:
            read_metadata(path)
        except NAMED:
            refused += 1
    assert count > 500
    assert refused > 0.7 * count  # the rest are legal sizes and texts
    for text in ("[" * 100_000, '{"schema": 1' + "0" * 5000 + "}", "nothing", ""):
        save_file({"a": torch.zeros(1)}, path, {"coop_edge": text})
        with pytest.raises(NAMED):
            read_metadata(path)


@pytest.mark.parametrize("size", [8192, 4096])
def test_a_size_that_would_take_all_memory_is_refused_before_it_is_taken(network, tmp_path, size):
    with safe_open(network, framework="pt") as file:
        description = json.loads(file.metadata()["coop_edge"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    huge = {"encoder_dim": size, "decoder_dim": size, "encoder_depth": 256, "mlp_ratio": 16.0}
    description["config"]["trunk"] |= huge
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"coop_edge": json.dumps(description)})
    with pytest.raises(InputError, match="its tensors do not fit its configuration"):
        load_network(path)


def test_a_network_file_with_damaged_bytes(network, tmp_path):
    data, path = network.read_bytes(), tmp_path / "x.safetensors"
    head = 8 + int.from_bytes(data[:8], "little")  # weights are numbers: any bytes will do there
    for damaged in (*damaged_bytes(data[:head], 350, 0), *(data[: len(data) * k // 10] for k in range(10))):
        path.write_bytes(damaged if len(damaged) < head - 70 else damaged + data[head:])
        with contextlib.suppress(NAMED):
            load_network(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    start("coarse", folder, 2)
    return folder


def test_a_training_state_that_is_cut_off_or_damaged(run, tmp_path):
    data = (run / STATE_FILE).read_bytes()
    cut = [data[: len(data) * k // 40] for k in range(40)] + [data[:k] for k in range(8)]
    for damaged in (*cut, b"hello", pickle.dumps([1]), *damaged_bytes(data, 140, 1)):
        (tmp_path / STATE_FILE).write_bytes(damaged)
        with contextlib.suppress(InputError):
            load_state(tmp_path)
    for damaged in cut:
        (tmp_path / STATE_FILE).write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            load_state(tmp_path)


@pytest.mark.parametrize("key", ["role", "config", "options", "counters", "net", "optimiser", "ema", "rng"])
@pytest.mark.parametrize("odd", [None, 3, "x", {}, [], {"x": 1}])
def test_a_state_with_something_else_in_it_is_refused_by_name(run, tmp_path, key, odd):
    save_state(tmp_path, load_state(run) | {key: odd})
    if (key, odd) != ("options", {}):  # all defaults
        with pytest.raises(NAMED, match=r"resume|TrainOptions|CoarseNetConfig"):
            resume("coarse", tmp_path, 1)
    state = load_state(run)
    del state[key]
    save_state(tmp_path, state)
    with pytest.raises(InputError, match=f"it lacks {key}"):
        resume("coarse", tmp_path, 1)


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


def test_no_code_of_a_state_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"role": Attack()}, tmp_path / STATE_FILE)
    with pytest.raises(InputError, match="is damaged"):
        load_state(tmp_path)
    (tmp_path / STATE_FILE).write_bytes(pickle.dumps(Attack()))
    with pytest.raises(InputError, match="is damaged"):
        load_state(tmp_path)
    assert not (tmp_path / "attacked").exists()


class TestTable:
    WHOLE = "step,samples,loss\r\n1,8,0.5\r\n2,16,0.25\r\n"

    def rows(self, path, text):
        path.write_bytes(text.encode())
        return [(row["step"], row["loss"]) for row in Table(path, 99).rows]

    def test_a_last_row_that_was_cut_off_is_no_row(self, tmp_path):
        path, wanted = tmp_path / "metrics.csv", [("1", "0.5"), ("2", "0.25")]
        last = "13,104,0.125\r\n"
        for cut in range(len(last)):
            assert self.rows(path, self.WHOLE + last[:cut]) == wanted, cut
            assert path.read_bytes().decode() == self.WHOLE  # gone from the file too
        assert self.rows(path, self.WHOLE + last) == [*wanted, ("13", "0.125")]

    def test_a_header_that_was_cut_off_and_rows_that_are_none(self, tmp_path):
        path = tmp_path / "metrics.csv"
        assert self.rows(path, "") == []
        assert self.rows(path, "step,samp") == []
        for bad in ("3,24\r\n", "x,24,0.1\r\n", "3,24,0.1,9\r\n", "\0\0\0\0\r\n", "nan,1,1\r\n"):
            assert self.rows(path, self.WHOLE + bad) == [("1", "0.5"), ("2", "0.25")], bad


def test_a_run_says_which_signal_ended_it(tmp_path):
    def hook(count, batch):
        if count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    assert start("coarse", tmp_path / "a", 9, streams=functools.partial(Repeated, hook=hook)) == signal.SIGTERM
    assert resume("coarse", tmp_path / "a", 1) == 0
