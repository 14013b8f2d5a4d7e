"""Defines the networks in PyTorch, each built from one configuration: coarse and refiner, and the frozen features."""

from __future__ import annotations

from coop_edge.errors import ConfigError
from export.networks.coarse import CoarseNet, CoarseOutput
from export.networks.config import (
    CONFIGS,
    SIZES,
    CoarseNetConfig,
    FeaturesNetConfig,
    NetConfig,
    RefinerNetConfig,
    TrunkConfig,
    preset,
)
from export.networks.features import FeatureMaps, FeaturesNet, load_efficientnet_lite0
from export.networks.refiner import RefinerNet, RefinerOutput

Net = CoarseNet | RefinerNet

__all__ = [
    "CONFIGS",
    "SIZES",
    "CoarseNet",
    "CoarseNetConfig",
    "CoarseOutput",
    "FeatureMaps",
    "FeaturesNet",
    "FeaturesNetConfig",
    "Net",
    "NetConfig",
    "RefinerNet",
    "RefinerNetConfig",
    "RefinerOutput",
    "TrunkConfig",
    "build",
    "load_efficientnet_lite0",
    "preset",
]


def build(config: NetConfig) -> Net:
    """Return the network of a configuration, freshly initialised from PyTorch's global generator."""
    if isinstance(config, CoarseNetConfig):
        return CoarseNet(config)
    if isinstance(config, RefinerNetConfig):
        return RefinerNet(config)
    raise ConfigError(f"build: wanted a network configuration, got {type(config).__name__}")
