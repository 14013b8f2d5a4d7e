"""Early fusion of render and query: neutral at first, and it sees a shift that each image alone does not show."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coop_edge.errors import ConfigError
from export.networks import RefinerNet, TrunkConfig, build
from export.networks.config import RefinerNetConfig
from export.networks.fusion import Fusion
from tests.export.small_nets import TRUNK


def refiner(**options):
    torch.manual_seed(0)
    trunk = TrunkConfig.from_dict({**TRUNK, "image_size": 64})
    net = build(RefinerNetConfig(trunk=trunk, match_dim=8, dpt_channels=8, **options))
    assert isinstance(net, RefinerNet)
    return net


def test_it_changes_nothing_at_first():
    with_it, without = refiner(fusion_channels=8).eval(), refiner().eval()
    missing, unexpected = with_it.load_state_dict(without.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("fusion.") for name in missing)
    images = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for a, b in zip(with_it(*images), without(*images), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("options", [{"fusion_channels": 6}, {"fusion_channels": 8, "stride": 16}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(ConfigError, match="fusion_channels"):
        refiner(**options)


def test_it_learns_a_shift_of_a_few_pixels():
    """The query is the render moved by up to 2 pixels: which way, and how far, only both together tell."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    fusion, errors = Fusion(64, 2), []
    optimiser = torch.optim.Adam(fusion.parameters(), lr=2e-3)
    for _ in range(300):
        shift = torch.randint(-2, 3, (8, 2), generator=generator)
        noise = 4 * nn.functional.avg_pool2d(torch.rand(8, 3, 60, 60, generator=generator), 5, stride=1) - 2
        query = torch.stack(
            [z[:, 4 - y : 52 - y, 4 - x : 52 - x] for z, (x, y) in zip(noise, shift.tolist(), strict=True)]
        )
        error = (fusion(query, noise[:, :, 4:52, 4:52]) - shift[:, :, None, None])[:, :, 1:-1, 1:-1].abs()
        optimiser.zero_grad()
        error.mean().backward()
        optimiser.step()
        errors.append(error.median().item())
    first, last = (sum(e) / len(e) for e in (errors[:5], errors[-10:]))
    assert last < 0.5 * first
