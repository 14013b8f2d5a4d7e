"""The refiner: shapes and ranges of its outputs, its matching, its confidence."""

from __future__ import annotations

import pytest
import torch

from export.networks.refiner import cell_pixels
from tests.export.networks.nets import count, images, small


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("stride", [4, 8, 16])
def test_refiner_outputs(n, stride):
    net = small("refiner", stride=stride).eval()
    with torch.no_grad():
        flow, scale, certainty, sensitivity = net.export_outputs(*images(n))
    side = 64 // stride
    assert flow.shape == (n, 2, side, side)
    assert scale.shape == certainty.shape == sensitivity.shape == (n, 1, side, side)
    assert ((scale >= 0.25) & (scale <= 16)).all()
    assert all(((x >= 0) & (x <= 1)).all() for x in (certainty, sensitivity))
    assert len(range(64)[cell_pixels(stride)]) == side


def test_refiner_ablations_have_constant_outputs_and_no_idle_parameters():
    net = small("refiner", flow="deterministic", sensitivity=False).eval()
    with torch.no_grad():
        out = net(*images(2))
    assert (out.scale == 1).all()
    assert (out.sensitivity == 1).all()
    assert count(net) < count(small("refiner"))


def test_identical_tokens_at_identity_match_give_zero_coarse_flow():
    """With sharp similarities of each patch with itself, the expected position is the patch's own."""
    net = small("refiner").eval()
    memory = torch.eye(16, 32)[None]
    with torch.no_grad():
        net.matcher.query.weight.copy_(torch.eye(16, 32) * 100)
        net.matcher.key.weight.copy_(torch.eye(16, 32) * 100)
        net.offset.out.weight.zero_()
        still, _ = net._match(memory, memory, (4, 4))
        # Rendered patch (r, c) finds its like one column to the right: a flow of one patch in x.
        shifted = torch.roll(memory.reshape(1, 4, 4, 32), 1, dims=2).reshape(1, 16, 32)
        moved, _ = net._match(memory, shifted, (4, 4))
    assert still.abs().max() < 1e-3
    torch.testing.assert_close(moved[0, 0, :, :3], torch.full((4, 3), 16.0), atol=1e-3, rtol=0)
    assert moved[0, 1].abs().max() < 1e-3


def test_confidence_is_certainty_times_sensitivity_times_flow_probability():
    net = small("refiner")
    out = net(*images(2))
    W = net.confidence(out)
    wanted = out.certainty_logit.sigmoid() * out.sensitivity * (1 - torch.exp(-net.config.radius_px / out.scale))
    torch.testing.assert_close(W, wanted)
    (gradient,) = torch.autograd.grad(W.sum(), out.certainty_logit, allow_unused=True)
    assert gradient is None, "the certainty must be detached"
