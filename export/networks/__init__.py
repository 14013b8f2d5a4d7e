"""Defines the networks of Co-op in PyTorch: coarse and refiner; each is built from one configuration."""

from __future__ import annotations

from coop_edge.errors import ConfigError
from export.networks.coarse import CoarseNet, CoarseOutput
from export.networks.config import (
    CONFIGS,
    SIZES,
    CoarseNetConfig,
    NetConfig,
    RefinerNetConfig,
    TrunkConfig,
    preset,
)
from export.networks.refiner import RefinerNet, RefinerOutput

Net = CoarseNet | RefinerNet

__all__ = [
    "CONFIGS",
    "SIZES",
    "CoarseNet",
    "CoarseNetConfig",
    "CoarseOutput",
    "Net",
    "NetConfig",
    "RefinerNet",
    "RefinerNetConfig",
    "RefinerOutput",
    "TrunkConfig",
    "build",
    "preset",
]


def build(config: NetConfig) -> Net:
    """Return the network of a configuration, freshly initialised from PyTorch's global generator."""
    if isinstance(config, CoarseNetConfig):
        return CoarseNet(config)
    if isinstance(config, RefinerNetConfig):
        return RefinerNet(config)
    raise ConfigError(f"build: wanted a network configuration, got {type(config).__name__}")
