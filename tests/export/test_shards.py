"""Networks in several small files: what goes in comes out, half precision where it may, and no mixture of two sets."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors import safe_open

from coop_edge.base.files import atomic_write
from coop_edge.errors import InputError
from export import shards
from export.networks import CONFIGS, build
from export.onnx.bundle import find_sources
from export.train.checkpoint import Provenance, load_network, read_metadata, save_network, save_sharded, start_from
from tests.export.small_nets import NET

PROVENANCE = Provenance(step=7, samples=112, seed=3, code="0.1 abc", data="x", licences={"x": "CC0"}, hardware="a CPU")
SMALL = 108 << 10
"""A limit that the small networks need several shards for."""


def network(role="coarse", seed=0):
    torch.manual_seed(seed)
    return build(CONFIGS[role].from_dict(NET[role]))


def test_nothing_is_one_shard():
    assert shards.split({}) == [{}]


@pytest.mark.parametrize("role", ["coarse", "refiner", "selector"])
def test_a_network_comes_back_from_any_of_its_shards(role, tmp_path):
    net = network(role)
    files = save_sharded(tmp_path, net, PROVENANCE, limit=SMALL)
    assert len(files) > 1
    assert [f.name for f in files] == [
        f"{role}-step00000007-{i}of{len(files)}.safetensors" for i in range(1, len(files) + 1)
    ]
    assert all(f.stat().st_size <= SMALL for f in files)
    wanted = net.state_dict()
    for file in (files[0], files[-1]):
        loaded, info = load_network(file, role)
        assert (info.role, info.config, info.provenance) == (role, net.config, PROVENANCE)
        assert read_metadata(file) == info
        found = loaded.state_dict()
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            kept = value.half().float() if value.ndim >= 2 else value
            assert torch.equal(found[name], kept), name
    assert sum(torch.equal(v, loaded.state_dict()[k]) for k, v in wanted.items()) < len(wanted)  # something is half


def test_what_half_precision_cannot_hold_stays_whole(tmp_path):
    net = network()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    matrix = next(k for k, v in state.items() if v.ndim == 2)
    state[matrix][0, 0] = 1e6
    variance = next(k for k in state if k.endswith("running_var"))
    state[variance][0] = 1e-9
    (file,) = save_sharded(tmp_path, net, PROVENANCE, state)
    found = load_network(file)[0].state_dict()
    assert torch.equal(found[matrix], state[matrix])
    assert torch.equal(found[variance], state[variance])


def test_a_tensor_larger_than_a_shard_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"takes \d+ bytes, a shard holds 8: wanted a smaller network"):
        save_sharded(tmp_path, network(), PROVENANCE, limit=shards._HEADER + 8)
    assert not list(tmp_path.iterdir())


def test_a_newer_set_takes_the_place_of_the_older_and_of_its_role_alone(tmp_path):
    save_network(tmp_path / "selector.safetensors", network("selector"), PROVENANCE)
    save_sharded(tmp_path, network("refiner"), PROVENANCE)
    save_sharded(tmp_path, network(), PROVENANCE, limit=SMALL)
    later = Provenance(step=9)
    files = save_sharded(tmp_path, network(seed=1), later, limit=SMALL)
    assert sorted(tmp_path.glob("coarse*")) == sorted(files)
    assert [p.name for p in shards.networks_in(tmp_path)] == [
        "selector.safetensors", files[0].name, "refiner-step00000007-1of1.safetensors"
    ]  # fmt: skip
    assert {role: s.path.name for role, s in find_sources([tmp_path]).items()}["coarse"] == files[0].name


def test_a_kill_between_two_shards_leaves_the_older_set(tmp_path, monkeypatch):
    old = save_sharded(tmp_path, network(), PROVENANCE, limit=SMALL)
    written = []

    def dies(path):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        return atomic_write(path)

    monkeypatch.setattr(shards, "atomic_write", dies)
    with pytest.raises(KeyboardInterrupt):
        save_sharded(tmp_path, network(seed=1), Provenance(step=9), limit=SMALL)
    assert written[0].is_file()
    assert shards.networks_in(tmp_path) == [old[0]]
    assert find_sources_step(tmp_path) == 7


def find_sources_step(folder):
    return read_metadata(shards.networks_in(folder)[0]).provenance.step


def test_a_missing_shard_is_named(tmp_path):
    files = save_sharded(tmp_path, network(), PROVENANCE, limit=SMALL)
    files[1].unlink()
    for refused in (lambda: load_network(files[0]), lambda: shards.networks_in(tmp_path)):
        with pytest.raises(InputError, match=f"a shard; beside it is no {files[1].name}"):
            refused()


def test_a_mixture_of_two_sets_is_refused(tmp_path):
    one = save_sharded(tmp_path / "one", network(), PROVENANCE, limit=SMALL)
    two = save_sharded(tmp_path / "two", network(seed=1), Provenance(step=7, samples=5), limit=SMALL)
    shutil.copy(two[1], one[1])
    with pytest.raises(InputError, match="not of one set"):
        load_network(one[0])


def test_a_file_that_is_no_shard_is_named(tmp_path):
    files = save_sharded(tmp_path, network(), PROVENANCE, limit=SMALL)
    files[1].write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=f"{files[1].name}: not a safetensors file"):
        load_network(files[0])


def test_a_trunk_starts_from_shards(tmp_path):
    coarse, net = network(), network("refiner", seed=1)
    (file,) = save_sharded(tmp_path, coarse, PROVENANCE)
    copied = start_from(net, file)
    name = next(k for k in copied if coarse.state_dict()[k].ndim >= 2)
    assert torch.equal(net.state_dict()[name], coarse.state_dict()[name].half().float())


def test_the_digest_depends_on_every_shard_and_is_the_files_own_for_one(tmp_path):
    files = save_sharded(tmp_path, network(), PROVENANCE, limit=SMALL)
    before = shards.digest_of(files[0])
    assert shards.digest_of(files[-1]) == before
    with safe_open(files[-1], framework="pt") as file:
        assert file.metadata()
    files[-1].write_bytes(files[-1].read_bytes()[:-1] + b"\x01")
    assert shards.digest_of(files[0]) != before
    save_network(tmp_path / "x.safetensors", network(), PROVENANCE)
    from coop_edge.runtime.bundle import sha256_of

    assert shards.digest_of(tmp_path / "x.safetensors") == sha256_of(tmp_path / "x.safetensors")
