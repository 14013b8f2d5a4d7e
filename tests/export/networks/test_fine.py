"""Fine matching: positions against closed forms, its conventions against the labels', and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from coop_edge.errors import ConfigError
from export.networks import RefinerNet, TrunkConfig, build
from export.networks.config import RefinerNetConfig
from export.networks.fine import CELL, STEP, FineMatcher, expected_match
from export.train import refiner as train_refiner
from export.train.task import to_tensors
from tests.export.small_nets import TRUNK, refiner_batch

SIDE = 64
THERE = torch.tensor([[x, y] for y in range(0, SIDE, STEP) for x in range(0, SIDE, STEP)], dtype=torch.float32)
HERE = torch.tensor(
    [[x, y] for y in range(CELL // 2, SIDE, CELL) for x in range(CELL // 2, SIDE, CELL)], dtype=torch.float32
)


def refiner(**options):
    torch.manual_seed(0)
    trunk = TrunkConfig.from_dict({**TRUNK, "image_size": SIDE, **options.pop("trunk", {})})
    net = build(RefinerNetConfig(trunk=trunk, match_dim=8, dpt_channels=8, **options))
    assert isinstance(net, RefinerNet)
    return net


def waves(pixels, channels=32):
    """Smooth features that differ from place to place, [P,channels] at pixels [P,2]."""
    generator = torch.Generator().manual_seed(1)
    phase = pixels @ (0.15 * torch.randn(2, channels, generator=generator))
    return torch.cat([phase.cos(), phase.sin()], dim=1)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (4.0, -8.0), (2.5, 1.0), (-5.7, 3.3)])
def test_features_that_have_moved_are_found_where_they_are(shift):
    """Similarities that fall off like a Gaussian of three pixels, and a prior that hardly matters."""
    moved = torch.tensor(shift)
    matcher = FineMatcher(4, 8, 64, 8).eval()
    with torch.no_grad():
        matcher.log_temperature.fill_(np.log(1.5))
        matcher.log_prior_power.fill_(np.log(1e-3))
        expected = (moved + torch.tensor([2.0, -1.5])).view(1, 2, 1, 1).expand(1, 2, 4, 4)
        found = matcher(waves(THERE + moved)[None], waves(THERE)[None], expected, 4)
    assert found.flow.shape == (1, 2, SIDE // CELL, SIDE // CELL)
    inside = (HERE + moved > 8).all(dim=1) & (HERE + moved < SIDE - 12).all(dim=1)
    error = (found.flow[0].flatten(1).T - moved)[inside].abs()
    assert len(error) > 15
    assert error.max() < 0.5


def test_of_two_places_that_look_alike_the_expected_one_is_taken():
    """Features that repeat every 16 pixels, as on a checker board."""
    matcher = FineMatcher(4, 8, 64, 8).eval()
    same = waves(THERE % 16)[None]
    for shift in ([16.0, 0.0], [0.0, -16.0]):
        with torch.no_grad():
            found = matcher(same, same, (torch.tensor(shift) + 2.0).view(1, 2, 1, 1).expand(1, 2, 4, 4), 4)
        torch.testing.assert_close(found.flow[0, :, 3, 3], torch.tensor(shift), atol=1.5, rtol=0)


def test_the_mean_is_that_of_the_best_candidate_not_of_all():
    probability = torch.full((1, 1, len(THERE)), 1e-12)
    near = {(20, 24): 0.3, (24, 24): 0.1, (24, 28): 0.1, (52, 8): 0.29, (56, 8): 0.2}
    for (x, y), p in near.items():
        probability[0, 0, (y // STEP) * (SIDE // STEP) + x // STEP] = p
    mean, share, spread = expected_match(probability.log(), SIDE // STEP)
    x = (0.3 * 20 + 0.2 * 24) / 0.5
    y = (0.4 * 24 + 0.1 * 28) / 0.5
    torch.testing.assert_close(mean[0, 0], torch.tensor([x, y]))
    assert share.item() == pytest.approx(0.5 / 0.99, rel=1e-4)
    square = (0.3 * ((20 - x) ** 2 + (24 - y) ** 2) + 0.1 * ((24 - x) ** 2 + (24 - y) ** 2)
              + 0.1 * ((24 - x) ** 2 + (28 - y) ** 2)) / 0.5  # fmt: skip
    assert spread.item() == pytest.approx(square**0.5, rel=1e-4)


def test_what_is_taught_is_the_labels_flow():
    """The least loss is that of similarities whose mean position is the flow at the middles of the cells."""
    generator = torch.Generator().manual_seed(2)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    flow = torch.stack([3.0 + 0.1 * rows - 0.05 * columns, -2.0 + 0.07 * columns])[None].float()
    middle = slice(CELL // 2, None, CELL)
    position = HERE + flow[0, :, middle, middle].flatten(1).T
    visible = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    inside = ((position > 2) & (position < SIDE - 6)).all(dim=1)
    visible[:, middle, middle] = inside.view(1, SIDE // CELL, SIDE // CELL)
    batch = {"flow": flow, "visible": visible}
    hats = (1 - (position[:, None] - THERE).abs() / STEP).clamp(min=0).prod(dim=2)
    best = (hats + 1e-12).log()[None]

    def loss(logits):
        return train_refiner._matching_on_grid(logits, batch, CELL, STEP, 0).item()

    noise = torch.randn(best.shape, generator=generator)
    assert loss(best) < min(loss(best + 0.1 * noise), loss(best.roll(1, dims=2)), loss(0.9 * best))
    mean, _, _ = expected_match(best, SIDE // STEP)
    assert int(inside.sum()) > 30
    torch.testing.assert_close(mean[0][inside], position[inside], atol=1e-3, rtol=0)


def test_the_loss_adds_fine_matching_to_that_of_the_patches():
    """Each with the weight of matching, against labels of its own grid."""
    net = refiner(fine_channels=8)
    task = train_refiner.RefinerTask.__new__(train_refiner.RefinerTask)
    task.config = net.config
    batch = to_tensors(refiner_batch(np.random.default_rng(0), 2, SIDE), torch.device("cpu"))
    assert batch["visible"].any()
    with torch.no_grad():
        losses = task.losses(net.eval(), batch, 0.0)
        out = net(batch["query"], batch["render"])
        patches = train_refiner._matching_on_grid(out.match_logits, batch, 16, 16, 8)
        cells = train_refiner._matching_on_grid(out.fine_logits, batch, CELL, STEP, 0)
    assert cells > 0.1
    torch.testing.assert_close(losses["matching"], train_refiner.MATCHING_WEIGHT * (patches + cells))


def test_similarities_are_not_rounded_under_autocast():
    matcher = FineMatcher(4, 8, 64, 8).eval()
    given = (waves(THERE + 1.3)[None], waves(THERE)[None], torch.zeros(1, 2, 4, 4), 4)
    with torch.no_grad():
        exact = matcher(*given)
        with torch.autocast("cpu", torch.bfloat16):
            found = matcher(*given)
    assert torch.equal(found.logits, exact.logits)
    assert torch.equal(found.flow, exact.flow)


def test_the_dense_head_loses_nothing_at_first():
    with_it, without = refiner(fine_channels=8).eval(), refiner().eval()
    missing, unexpected = with_it.load_state_dict(without.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("fine.") for name in missing)
    images = torch.rand(2, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, other = with_it(*images), without(*images)
    assert one.fine_logits is not None
    assert one.fine_logits.shape == (3, len(HERE), len(THERE))
    assert other.fine_logits is None
    for name in ("scale", "certainty_logit", "sensitivity", "coarse_flow"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("options", [{"fine_channels": -1}, {"stride": 16}, {"trunk": {"stem": "linear"}}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(ConfigError, match=r"fine_channels = -1: wanted|; or fine_channels = 0$"):
        refiner(**{"fine_channels": 8, **options})


def test_it_learns_a_shift_of_a_few_pixels():
    """The query is the render moved by up to 6 pixels: which way, and how far, only both together tell."""
    generator = torch.Generator().manual_seed(0)
    net, errors = refiner(fine_channels=16), []
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    inner = slice(2, -2)
    for _ in range(150):
        shift = torch.randint(-6, 7, (8, 2), generator=generator)
        noise = nn.functional.avg_pool2d(torch.rand(8, 3, SIDE + 16, SIDE + 16, generator=generator), 5, stride=1)
        noise = 0.5 + 3 * (noise - 0.5)
        render = noise[:, :, 6 : 6 + SIDE, 6 : 6 + SIDE]
        query = torch.stack(
            [z[:, 6 - y : 6 - y + SIDE, 6 - x : 6 - x + SIDE] for z, (x, y) in zip(noise, shift.tolist(), strict=True)]
        )
        flow = shift[:, :, None, None].expand(-1, -1, SIDE, SIDE).float()
        out = net(query, render)
        batch = {"flow": flow, "visible": torch.ones(8, SIDE, SIDE, dtype=torch.bool)}
        optimiser.zero_grad()
        train_refiner._matching_on_grid(out.fine_logits, batch, CELL, STEP, 0).backward()
        optimiser.step()
        errors.append((out.flow - flow[:, :, ::STEP, ::STEP])[:, :, inner, inner].abs().median().item())
    first, last = (sum(e) / len(e) for e in (errors[:5], errors[-10:]))
    assert last < 0.5 * first
    assert last < 1.5
