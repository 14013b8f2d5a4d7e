"""Network files: what goes in comes out, what is not ours is refused, a torn write leaves the old file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from coop_edge.errors import ConfigError, InputError
from export.networks import CONFIGS, build
from export.train import checkpoint
from export.train.checkpoint import load_network, load_state, read_metadata, save_network, save_state, start_from
from export.train.provenance import Provenance
from tests.export.small_nets import NET, TRUNK

PROVENANCE = Provenance(step=7, samples=112, seed=3, minutes=1.5, code="0.1 abc", data="procedural objects")


def network(role, seed=0, **options):
    torch.manual_seed(seed)
    return build(CONFIGS[role].from_dict({**NET[role], **options}))


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_a_network_comes_back_from_its_file_alone(role, tmp_path):
    net = network(role)
    save_network(tmp_path / "x.safetensors", net, PROVENANCE)
    loaded, info = load_network(tmp_path / "x.safetensors", role)
    assert (info.role, info.config, info.provenance) == (role, net.config, PROVENANCE)
    assert read_metadata(tmp_path / "x.safetensors") == info
    assert not loaded.training
    assert loaded.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in net.state_dict().items())


def test_given_weights_take_the_place_of_the_networks_own(tmp_path):
    net = network("coarse")
    doubled = {k: 2 * v for k, v in net.state_dict().items()}
    save_network(tmp_path / "x.safetensors", net, PROVENANCE, doubled)
    loaded, _ = load_network(tmp_path / "x.safetensors")
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in doubled.items())


def test_another_role_is_refused_by_name(tmp_path):
    save_network(tmp_path / "c.safetensors", network("coarse"), PROVENANCE)
    with pytest.raises(InputError, match=r"c\.safetensors holds a coarse network, wanted a refiner one.*--init"):
        load_network(tmp_path / "c.safetensors", "refiner")


def _rewrite(path, **changes):
    """The file with other metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["coop_edge"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (no mapping)
    save_file(tensors, path, {"coop_edge": json.dumps({**metadata, **changes})})


def test_what_is_not_one_of_ours_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load_network(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_network(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="none that this project wrote"):
        load_network(path)
    save_network(path, network("coarse"), PROVENANCE)
    _rewrite(path, schema=99)
    with pytest.raises(ConfigError, match="schema 99, this version reads 1"):
        load_network(path)
    _rewrite(path, schema=1, role="finder")
    with pytest.raises(ConfigError, match="unknown role 'finder'"):
        load_network(path)
    _rewrite(path, role="coarse", config={"hed": "hybrid"})
    with pytest.raises(ConfigError, match="did you mean 'head'"):
        load_network(path)
    _rewrite(path, config={**NET["coarse"], "match_dim": 4})
    with pytest.raises(InputError, match="tensors do not fit"):
        load_network(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_network(path, network("coarse"), PROVENANCE)
    before = path.read_bytes()

    def torn(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        save_network(path, network("coarse", seed=1), PROVENANCE)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_trunk_starts_from_a_coarse_network(tmp_path):
    coarse, net = network("coarse"), network("refiner", seed=1)
    save_network(tmp_path / "c.safetensors", coarse, PROVENANCE)
    copied = start_from(net, tmp_path / "c.safetensors")
    own, theirs = net.state_dict(), coarse.state_dict()
    assert {k for k in own if k.startswith("trunk.")} <= set(copied)
    assert all(torch.equal(own[k], theirs[k]) for k in copied)
    assert copied != list(own), "another role's network has parts of its own"
    assert {"matcher.query.weight", "offset.out.weight"} <= set(copied)


def test_a_network_starts_from_one_of_its_role_as_a_whole(tmp_path):
    theirs, net = network("coarse"), network("coarse", seed=1)
    save_network(tmp_path / "c.safetensors", theirs, PROVENANCE)
    assert start_from(net, tmp_path / "c.safetensors") == list(net.state_dict())
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in net.state_dict().items())
    other = network("coarse", seed=1, head="regression")
    with pytest.raises(InputError, match=r"its coarse network does not fit: regression\.bias wanted .* got nothing"):
        start_from(other, tmp_path / "c.safetensors")


def test_a_file_of_half_precision_is_read_as_float32(tmp_path):
    net = network("coarse")
    save_network(tmp_path / "c.safetensors", net, PROVENANCE, half=True)
    save_network(tmp_path / "full.safetensors", net, PROVENANCE)
    assert (tmp_path / "c.safetensors").stat().st_size < 0.7 * (tmp_path / "full.safetensors").stat().st_size
    loaded, _ = load_network(tmp_path / "c.safetensors")
    for name, value in loaded.state_dict().items():
        own = net.state_dict()[name]
        assert value.dtype == own.dtype
        assert torch.equal(value, own.half().to(own.dtype) if own.is_floating_point() else own)


def test_what_half_precision_cannot_hold_is_named(tmp_path):
    net = network("coarse")
    with torch.no_grad():
        net.get_parameter("trunk.enc_norm.weight")[0] = 7e4
    with pytest.raises(InputError, match=r"trunk\.enc_norm\.weight holds 70000"):
        save_network(tmp_path / "c.safetensors", net, PROVENANCE, half=True)
    assert not list(tmp_path.iterdir())


def test_a_trunk_of_another_size_is_refused_and_nothing_changes(tmp_path):
    save_network(tmp_path / "c.safetensors", network("coarse"), PROVENANCE)
    deeper = network("refiner", trunk={**TRUNK, "encoder_depth": 2})
    wider = network("refiner", trunk={**TRUNK, "encoder_dim": 32})
    for net in (deeper, wider):
        before = {k: v.clone() for k, v in net.state_dict().items()}
        with pytest.raises(InputError, match=r"its coarse network does not fit: trunk.*are the sizes the same"):
            start_from(net, tmp_path / "c.safetensors")
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_a_training_state_comes_back(tmp_path):
    state = {"counters": {"step": 3}, "net": {"a": torch.arange(3.0)}, "rng": torch.get_rng_state()}
    save_state(tmp_path, state)
    loaded = load_state(tmp_path)
    assert loaded["counters"] == {"step": 3}
    assert torch.equal(loaded["net"]["a"], torch.arange(3.0))
    assert torch.equal(loaded["rng"], state["rng"])
    with pytest.raises(InputError, match=r"holds no training_state\.pt"):
        load_state(tmp_path / "empty")
