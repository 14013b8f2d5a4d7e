"""Configurations of networks: the presets, and what is refused."""

from __future__ import annotations

import pytest
import torch

from coop_edge.errors import ConfigError
from export.networks import CONFIGS, TrunkConfig, build, preset
from tests.export.networks.nets import count


@pytest.mark.parametrize("role", ["coarse", "refiner"])
@pytest.mark.parametrize(("size", "low", "high"), [("xs", 4e6, 7e6), ("s", 8e6, 15e6), ("b", 150e6, 250e6)])
def test_a_preset_has_the_size_it_promises(role, size, low, high):
    with torch.device("meta"):
        net = build(preset(role, size))
    assert low <= count(net) <= high


@pytest.mark.parametrize("role", ["coarse", "refiner"])
@pytest.mark.parametrize("size", ["xs", "s", "b", "l"])
def test_a_configuration_survives_plain_data(role, size):
    config = preset(role, size)
    assert CONFIGS[role].from_dict(config.to_dict()) == config


def test_a_wrong_configuration_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"no option 'stemm'.*did you mean 'stem'"):
        TrunkConfig.from_dict({"stemm": "conv"})
    with pytest.raises(ConfigError, match="multiple of 16"):
        TrunkConfig(image_size=100)
    with pytest.raises(ConfigError, match="multiple of 4"):
        TrunkConfig(encoder_dim=20, encoder_heads=2)
    with pytest.raises(ConfigError, match="wanted one of hybrid, classification, regression"):
        preset("coarse", "xs").updated(["head=both"])
    with pytest.raises(ConfigError, match="size: wanted one of xs, s, b, l"):
        preset("coarse", "m")
    with pytest.raises(ConfigError, match="role: wanted one of coarse, refiner, got"):
        preset("fine", "xs")
