"""The frozen features: shapes, weights folded in against an unfolded oracle, what is refused."""

from __future__ import annotations

import pytest
import torch

from coop_edge.errors import ConfigError, InputError
from coop_edge.runtime.network import FEATURES
from export.networks import FeatureMaps, FeaturesNet, FeaturesNetConfig, load_efficientnet_lite0
from tests.export.lite0 import random_state, unfolded


@pytest.fixture(scope="module")
def net():
    """The network with random weights."""
    made = FeaturesNet(FeaturesNetConfig(64)).eval()
    load_efficientnet_lite0(made, random_state())
    return made


def images(n, size):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize(("n", "size"), [(0, 64), (2, 64), (1, 16), (1, 48)])
def test_maps_have_the_channels_and_strides_of_the_role(net, n, size):
    maps = net(images(n, size))
    assert FeatureMaps._fields == tuple(FEATURES)
    for name, (channels, cell) in FEATURES.items():
        assert getattr(maps, name).shape == (n, channels, size // cell, size // cell)
        assert getattr(maps, name).dtype == torch.float32


@pytest.mark.parametrize("size", [32, 80])
def test_folded_weights_compute_what_the_published_layers_do(net, size):
    """Stride-2 layers too, whose padding is lopsided: pixels at the borders are compared."""
    image = images(2, size)
    for found, wanted in zip(net(image), unfolded(random_state(), image), strict=True):
        assert wanted.std() > 0.05
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_a_batch_of_images_is_each_of_them(net):
    image = images(3, 64)
    for batch, alone in zip(net(image), net(image[1:2]), strict=True):
        torch.testing.assert_close(batch[1:2], alone, rtol=0, atol=1e-5 * alone.abs().max().item())


def test_nothing_is_trained(net):
    assert not any(p.requires_grad for p in net.parameters())
    assert sum(p.numel() for p in net.parameters()) == 692_688


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_blocks.3._bn1.running_var": None}, r"wanted _blocks\.3\._bn1\.running_var \[144\] .*, found nothing"),
        ({"_conv_stem.weight": None}, r"wanted _conv_stem\.weight \[32, 3, 3, 3\] .*, found nothing"),
        ({"_bn0.bias": torch.zeros(1)}, r"wanted _bn0\.bias \[32\] .*, found \[1\]"),
        ({"_blocks.5._project_conv.weight": torch.zeros(80, 240, 3, 3)}, r"found \[80, 240, 3, 3\]"),
        ({"_blocks.1._se_reduce.bias": torch.zeros(4)}, r"_blocks\.1\._se_reduce\.bias is of a layer"),
        ({"_blocks.0._expand_conv.weight": torch.zeros(1)}, r"_blocks\.0\._expand_conv\.weight is of a layer"),
    ],
)
def test_weights_of_another_network_are_refused(change, message):
    """Squeeze-and-excitation, for one, which the network has that Lite0 was made of."""
    state = {name: value for name, value in {**random_state(), **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        load_efficientnet_lite0(FeaturesNet(FeaturesNetConfig(64)), state)


@pytest.mark.parametrize("size", [0, 40, 16.0])
def test_sizes_are_multiples_of_16(size):
    with pytest.raises(ConfigError, match=rf"FeaturesNetConfig\.image_size = {size}: wanted"):
        FeaturesNetConfig(size)
