"""Fine matching: where cells and features lie, what is looked up, and that it learns a flow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from coop_edge.errors import ConfigError
from export.losses import fine_loss
from export.networks import RefinerNet, TrunkConfig, build, preset
from export.networks.config import RefinerNetConfig
from export.networks.fine import CELL, RADII, STEP, FineMatcher, cell_positions, look_up, similarities
from export.networks.refiner import cell_pixels
from tests.export.small_nets import TRUNK


def refiner(iterations=2, **options):
    torch.manual_seed(0)
    trunk = TrunkConfig.from_dict({**TRUNK, "image_size": 64})
    net = build(
        RefinerNetConfig(
            trunk=trunk, match_dim=8, dpt_channels=8, fine_iterations=iterations, fine_channels=8, **options
        )
    )
    assert isinstance(net, RefinerNet)
    return net


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_look_up_is_bilinear_interpolation_with_zeros_outside(radius):
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(2 * 6, 1, 9, 7)).astype(np.float32)
    at = rng.uniform(-6, 14, (2, 2, 2, 3)).astype(np.float32)
    got = look_up(torch.from_numpy(volume), torch.from_numpy(at), radius).numpy()
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    for n, i, j in np.ndindex(2, 2, 3):
        x, y = at[n, 0, i, j] + dx, at[n, 1, i, j] + dy
        wanted = ndimage.map_coordinates(volume[n * 6 + i * 3 + j, 0], [y, x], order=1, mode="grid-constant", cval=0.0)
        assert np.allclose(got[n, :, i, j], wanted.ravel(), atol=2e-5)


def test_similarities_peak_where_the_query_shows_the_cell_at_both_levels():
    """Query features that hold a code of their place, and cells that ask for a place: found there, not beside it."""
    h = w = 16
    y, x = torch.meshgrid(
        torch.arange(2 * h, dtype=torch.float32), torch.arange(2 * w, dtype=torch.float32), indexing="ij"
    )
    wanted = torch.stack([3.25 * STEP + 0 * x[:h, :w], 20.5 * STEP + 0 * y[:h, :w]])[None]  # pixels, for every cell

    def code(px, py):  # random Fourier features: similar if near, in both axes
        f = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) * 0.15
        phase = px[..., None] * f[0] + py[..., None] * f[1]
        return torch.cat([phase.cos(), phase.sin()], dim=-1).movedim(-1, -3)

    query = code(x * STEP, y * STEP)[None]
    cells = code(wanted[:, 0], wanted[:, 1])
    matcher = FineMatcher(dim=8, channels=8, iterations=1)
    windows = matcher._around(similarities(cells, query), wanted)
    for part, radius, expected in zip(windows, RADII, matcher._expected(windows), strict=True):
        side = 2 * radius + 1
        window = part[0].reshape(side, side, h, w)[:, :, 5, 5]
        assert window.argmax() == side * side // 2
        # The truth lies in the middle of the window: what lies left and right of it is alike.
        assert torch.allclose(window[radius, radius - 1], window[radius, radius + 1], rtol=0.1)
        assert torch.allclose(window[radius - 1, radius], window[radius + 1, radius], rtol=0.1)
        assert expected[0, :, 5, 5].abs().max() < 0.5


def test_cells_of_the_render_and_features_of_the_query_are_centred_on_their_pixels():
    """The gradient of one output reaches pixels around its place, as far to the left as to the right."""
    net = refiner()
    for module in net.modules():  # every path open, so that the whole receptive field shows
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.ones_(module.weight)
    net.eval()
    image = torch.ones(1, 3, 64, 64, requires_grad=True)
    stem = net.fine.features.stem(image)
    stem[0, :, 5, 7].sum().backward()
    rows, columns = image.grad[0].abs().sum(dim=0).nonzero().T
    assert (rows.min() + rows.max()) / 2 == STEP * 5
    assert (columns.min() + columns.max()) / 2 == STEP * 7

    image.grad = None
    stem = net.fine.features.stem(image)
    net.fine.cells(functional.pad(stem, (0, 1, 0, 1)))[0, :, 3, 4].sum().backward()
    rows, columns = image.grad[0].abs().sum(dim=0).nonzero().T
    assert (rows.min() + rows.max()) / 2 == CELL * 3 + CELL // 2
    assert (columns.min() + columns.max()) / 2 == CELL * 4 + CELL // 2
    assert torch.equal(cell_positions((8, 8), image)[0, :, 3, 4], torch.tensor([CELL * 4 + 4.0, CELL * 3 + 4.0]))


def test_an_affine_flow_keeps_its_values_from_patches_to_cells_to_outputs():
    def at(stride):
        pixels = torch.arange(64, dtype=torch.float32)[cell_pixels(stride)]
        x, y = pixels.expand(len(pixels), -1), pixels[:, None].expand(-1, len(pixels))
        return torch.stack([0.1 * x - 0.05 * y + 1, 0.2 * y])[None]

    net = refiner()
    fine = net.fine
    torch.nn.init.zeros_(fine.step.weight)
    with torch.no_grad():
        fine.step.bias[2:] = -100.0  # follow nothing
    render, query = torch.randn(2, 1, 8, 16, 16)
    flows, _ = fine(render, query, torch.randn(1, 16, 16), (4, 4), at(16))
    inside = (..., slice(1, -1), slice(1, -1))  # the border has nothing to interpolate towards
    assert torch.allclose(flows[-1][inside], at(8)[inside], atol=1e-4)
    raw = torch.zeros(1, sum(net.channels.values()), 16, 16)
    out = net._outputs(raw, at(8), torch.zeros(1))
    assert torch.allclose(out.flow[inside], at(4)[inside], atol=1e-4)


@pytest.mark.parametrize("n", [0, 2])
def test_there_is_a_flow_before_and_after_each_correction(n):
    net = refiner(iterations=3).eval()
    query, render = torch.rand(2, n, 3, 64, 64)
    out = net(query, render)
    assert [tuple(f.shape) for f in out.fine_flows] == [(n, 2, 8, 8)] * 4
    assert out.coarse_flow.shape == (n, 2, 4, 4)
    assert out.flow.shape == (n, 2, 16, 16)
    assert all(torch.isfinite(f).all() for f in out.fine_flows)


def test_without_corrections_the_network_is_the_papers():
    net = refiner(iterations=0)
    assert not hasattr(net, "fine")
    assert net(*torch.rand(2, 1, 3, 64, 64)).fine_flows == ()
    assert preset("refiner", "xs").fine_iterations == 0
    with pytest.raises(ConfigError, match="stride"):
        refiner(stride=16)


def test_a_pair_gives_the_same_whatever_its_company():
    net = refiner().eval()
    query, render = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        together, alone = net(query, render), net(query[1:2], render[1:2])
    assert torch.allclose(together.flow[1:2], alone.flow, atol=1e-4)


def test_fine_loss_weighs_the_last_flow_most_and_counts_visible_cells_alone():
    target = torch.zeros(1, 2, 2, 2)
    visible = torch.tensor([[[True, False], [False, False]]])
    flows = [torch.full((1, 2, 2, 2), v) for v in (4.0, 1.0)]
    flows[1][..., 1, 1] = torch.nan
    assert fine_loss(flows, target, visible).item() == pytest.approx((0.8 * 8 + 2) / 1.8)
    assert fine_loss(flows, target, torch.zeros_like(visible)).item() == 0


def test_it_learns_to_follow_shifted_noise_within_half_a_pixel():
    """The query is the render moved by up to 6 pixels, the flow it starts from is zero: only fine matching can know."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    fine = FineMatcher(dim=4, channels=32, iterations=3)
    optimiser = torch.optim.Adam(fine.parameters(), lr=2e-3)
    tokens, grid = torch.zeros(8, 16, 4), (4, 4)
    ends = []
    for _ in range(150):
        shift = torch.randint(-6, 7, (8, 2), generator=generator)
        noise = 4 * functional.avg_pool2d(torch.rand(8, 3, 100, 100, generator=generator), 5, stride=1)
        render = noise[:, :, 16:80, 16:80]
        query = torch.stack(
            [z[:, 16 - dy : 80 - dy, 16 - dx : 80 - dx] for z, (dx, dy) in zip(noise, shift.tolist(), strict=True)]
        )
        a, b = fine.features(torch.cat([render, query]), torch.cat([tokens, tokens]), grid).chunk(2)
        flows, _ = fine(a, b, tokens, grid, torch.zeros(8, 2, 4, 4))
        target = shift[:, :, None, None].float().expand(-1, -1, 8, 8)
        inner = torch.zeros(8, 8, 8, dtype=torch.bool)
        inner[:, 1:-1, 1:-1] = True
        loss = fine_loss(flows, target, inner)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ends.append((flows[-1] - target).abs()[:, :, 1:-1, 1:-1].median().item())
    assert np.median(ends[-20:]) < 0.5, ends[-20:]
    assert np.median(ends[:5]) > 2
