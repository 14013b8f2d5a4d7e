"""The coarse network: what it decodes, on what its offset depends, where its training starts."""

from __future__ import annotations

import pytest
import torch

from export.networks import build, preset
from tests.export.networks.nets import images, small


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("head", ["hybrid", "classification", "regression"])
def test_coarse_decode_gives_what_the_bundle_promises(n, head):
    net = small("coarse", head=head).eval()
    query, template = images(n)
    with torch.no_grad():
        tokens = net.encode(query)
        probability, index, offset = net.decode(tokens, net.encode(template))
    assert tokens.shape == (n, 16, 32)
    assert probability.shape == index.shape == (n, 16)
    assert offset.shape == (n, 16, 2)
    assert (probability.dtype, index.dtype, offset.dtype) == (torch.float32, torch.int32, torch.float32)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert ((index >= 0) & (index < 16)).all()
    assert (offset.abs() <= 0.5).all()


def test_probability_is_zero_exactly_where_no_match_wins():
    net = small("coarse").eval()
    query, template = images(4)
    with torch.no_grad():
        q, t = net.encode(query), net.encode(template)
        out = net.compare(q, t)
        # A bias next to the median gap makes both answers occur.
        gap = out.logits[..., :-1].max(-1).values - out.logits[..., -1]
        net.no_match.bias += gap.median() + 1e-4
        logits = net.compare(q, t).logits
        probability, index, _ = net.decode(q, t)
    lost = logits.argmax(-1) == 16
    assert lost.any()
    assert not lost.all()
    assert torch.equal(probability == 0, lost)
    assert torch.equal(index.long(), logits[..., :16].argmax(-1))
    torch.testing.assert_close(probability[~lost], logits.softmax(-1).max(-1).values[~lost])


def test_the_offset_is_conditioned_on_the_true_match_in_training_and_on_the_best_one_in_use():
    net = small("coarse").eval()
    query, template = images(2)
    with torch.no_grad():
        q, t = net.encode(query), net.encode(template)
        best = net.compare(q, t)
        index = best.logits[..., :16].argmax(-1)
        torch.testing.assert_close(net(query, template, index).offset, best.offset)
        other = net(query, template, (index + 5) % 16)
    torch.testing.assert_close(other.logits, best.logits)
    assert (other.offset - best.offset).abs().min(-1).values.max() > 1e-4


def test_regression_positions_become_index_and_offset():
    net = small("coarse", head="regression")
    position = torch.tensor([[[0.0, 0.0], [3.25, 1.75], [4.0, 4.0], [1.5, 2.0]]])
    matched = torch.tensor([[9.0, 9.0, 9.0, -9.0]])
    probability, index, offset = net._decode_regression(position.repeat(1, 4, 1), matched.repeat(1, 4))
    assert index[0, :4].tolist() == [0, 7, 15, 9]
    assert offset[0, :3].tolist() == [[-0.5, -0.5], [-0.25, 0.25], [0.5, 0.5]]
    assert probability[0, 3] == 0
    assert probability[0, 0] > 0.99


def test_alike_patches_are_similar_before_any_training():
    """The start that matching grows from: of a picture and itself, most patches find themselves among all others.

    In training mode: the running statistics of the stem know no image yet.
    """
    torch.manual_seed(0)
    net = build(preset("coarse", "xs")).train()
    generator = torch.Generator().manual_seed(4)
    picture = torch.nn.functional.interpolate(torch.rand(2, 3, 24, 24, generator=generator), size=(128, 128))
    with torch.no_grad():
        tokens = net.encode(picture)
        logits = net.compare(tokens, tokens).logits[..., :64]
    assert (logits.argmax(-1) == torch.arange(64)).float().mean() > 0.5
