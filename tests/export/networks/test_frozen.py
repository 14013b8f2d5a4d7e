"""Trunks that read the frozen features beside their own stem: what is added, what stays, whence the weights."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch

from coop_edge.errors import ConfigError, InputError
from export.networks import TrunkConfig, efficientnet, load_efficientnet_lite0
from export.networks.trunk import RGB_MEAN, RGB_STD
from export.train.checkpoint import FROZEN, load_network, load_state, start_from
from export.train.run import options_from
from tests.export.lite0 import random_state, unfolded
from tests.export.networks.nets import images, small
from tests.export.small_nets import TRUNK
from tests.export.train.runs import start

READS = {"trunk": {"features": True}}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that is taken for the published weights."""
    path = tmp_path / "lite0.pth"
    torch.save(random_state(), path)
    monkeypatch.setattr(efficientnet, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_a_network_that_begins_to_read_them_computes_what_it_did():
    plain, net = small("refiner", fine_channels=8).eval(), small("refiner", fine_channels=8, **READS).eval()
    net.load_state_dict({**net.state_dict(), **plain.state_dict()})
    with torch.no_grad():
        for a, b in zip(net.export_outputs(*images(2)), plain.export_outputs(*images(2)), strict=True):
            assert torch.equal(a, b)


def test_the_maps_are_those_of_the_published_network_scaled_and_projected():
    """Against the layers as published, in float64, and sums written out."""
    trunk, state = small("refiner", fine_channels=8, **READS).trunk.double().eval(), random_state()
    load_efficientnet_lite0(trunk.frozen.net, state)
    generator = torch.Generator().manual_seed(2)
    frozen, wanted = trunk.frozen, {}
    with torch.no_grad():
        image = images(2)[0].double()
        for name, m in zip(("s4", "s8", "s16"), unfolded(state, image), strict=True):
            scale, project = frozen.maps[name].scale, frozen.maps[name].project
            scale.running_mean.normal_(generator=generator)
            scale.running_var.uniform_(0.5, 2.0, generator=generator)
            project.weight.normal_(generator=generator)
            project.bias.normal_(generator=generator)
            normal = (m - scale.running_mean[:, None, None]) / (scale.running_var[:, None, None] + 1e-5).sqrt()
            wanted[name] = torch.einsum("oc,nchw->nohw", project.weight[:, :, 0, 0], normal)
            wanted[name] += project.bias[:, None, None]
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (RGB_MEAN, RGB_STD))
        _, stem = trunk.patch_embed((image - mean) / std)
        found = frozen(image)
        _, maps = trunk.encode_with_maps(image)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-4, rtol=1e-4)
    for got, own, name in zip(maps, stem, ("s4", "s8"), strict=True):
        torch.testing.assert_close(got, own + wanted[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": True, "stem": "linear"}, "wanted stem 'conv', got 'linear'"),
        ({"features": 1}, "TrunkConfig.features = 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrunkConfig(**options)


def test_training_moves_the_projections_and_leaves_the_features(tmp_path, file):
    start("refiner", tmp_path / "r", 2, network={"trunk": {**TRUNK, "features": True}}, features_weights=str(file))
    net, info = load_network(tmp_path / "r" / "refiner.safetensors")
    fresh = copy.deepcopy(net)
    load_efficientnet_lite0(fresh.trunk.frozen.net, random_state())
    own, published = net.trunk.frozen.net.state_dict(), fresh.trunk.frozen.net.state_dict()
    assert all(torch.equal(own[name], published[name]) for name in own)
    assert all(layer.project.weight.abs().max() > 0 for layer in net.trunk.frozen.maps.values())
    assert any("EfficientNet-Lite0" in source for source in info.provenance.licences)
    trained = load_state(tmp_path / "r")["optimiser"]["state"]
    assert len(trained) == sum(p.requires_grad for p in net.parameters())


def test_a_run_that_starts_from_one_needs_no_weights_and_keeps_them(tmp_path, file):
    reading = {"trunk": {**TRUNK, "features": True}}
    start("refiner", tmp_path / "a", 1, network=reading, features_weights=str(file))
    file.unlink()
    start("refiner", tmp_path / "b", 1, network=reading, init=tmp_path / "a", features_weights=str(file))
    a, b = (load_state(tmp_path / run)["net"] for run in "ab")
    assert all(np.array_equal(a[name], b[name]) for name in a if name.startswith(f"{FROZEN}net."))


def test_options_follow_what_a_run_starts_from(tmp_path, file):
    reading = {"trunk": {**TRUNK, "features": True}}
    start("refiner", tmp_path / "reads", 1, network=reading, features_weights=str(file))
    start("refiner", tmp_path / "plain", 1)
    for run, reads in (("reads", True), ("plain", False)):
        assert options_from("refiner", [], tmp_path / run)[1].trunk.features is reads
    assert not options_from("refiner", ["network.trunk.features=false"], tmp_path / "reads")[1].trunk.features
    with pytest.raises(InputError, match="no such file"):
        options_from("refiner", [], tmp_path / "nothing")


def test_a_plain_network_is_a_start_and_the_other_way_round_is_refused(tmp_path, file):
    start("refiner", tmp_path / "plain", 1)
    reading = {"trunk": {**TRUNK, "features": True}}
    start("refiner", tmp_path / "reads", 1, network=reading, init=tmp_path / "plain", features_weights=str(file))
    net, _ = load_network(tmp_path / "plain" / "refiner.safetensors")
    with pytest.raises(InputError, match=r"reads frozen features, this one does not: give --set network\.trunk"):
        start_from(net, tmp_path / "reads")
