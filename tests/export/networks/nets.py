"""Makes networks small enough for a test, and images for them."""

from __future__ import annotations

import torch

from export.networks import CONFIGS, TrunkConfig, build

SMALL = {
    "image_size": 64,
    "stem_channels": 8,
    "encoder_dim": 32,
    "encoder_depth": 2,
    "encoder_heads": 2,
    "decoder_dim": 32,
    "decoder_depth": 3,
    "decoder_heads": 2,
}


def small(role, **options):
    trunk = TrunkConfig.from_dict({**SMALL, **options.pop("trunk", {})})
    torch.manual_seed(0)
    options.setdefault("match_dim", 16)
    if role == "refiner":
        options.setdefault("dpt_channels", 8)
    return build(CONFIGS[role].from_dict({"trunk": trunk, **options}))


def images(n, size=64, seed=1):
    return torch.rand(2, n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def count(net):
    return sum(p.numel() for p in net.parameters())
