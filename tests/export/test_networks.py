"""Networks: sizes, shapes, what reaches which output, what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from coop_edge.errors import ConfigError, InputError
from export.networks import CONFIGS, CoarseNet, RefinerNet, SelectorNet, TrunkConfig, build, preset
from export.networks.layers import SelfAttention, rotary_table, rotate
from export.networks.refiner import cell_pixels
from export.networks.trunk import grid_of

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
    if role != "selector":
        options.setdefault("match_dim", 16)
    if role == "refiner":
        options.setdefault("dpt_channels", 8)
    return build(CONFIGS[role].from_dict({"trunk": trunk, **options}))


def images(n, size=64, seed=1):
    return torch.rand(2, n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("role", ["coarse", "refiner", "selector"])
@pytest.mark.parametrize(("size", "low", "high"), [("xs", 4e6, 7e6), ("s", 8e6, 15e6), ("b", 150e6, 250e6)])
def test_a_preset_has_the_size_it_promises(role, size, low, high):
    with torch.device("meta"):
        net = build(preset(role, size))
    assert low <= count(net) <= high


@pytest.mark.parametrize("role", ["coarse", "refiner", "selector"])
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
    with pytest.raises(ConfigError, match="wanted one of 'hybrid'"):
        preset("coarse", "xs", head="both")
    with pytest.raises(ConfigError, match="size: wanted one of xs, s, b, l"):
        preset("coarse", "m")
    with pytest.raises(ConfigError, match="role: wanted one of coarse, refiner, selector"):
        preset("fine", "xs")


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


@pytest.mark.parametrize("n", [0, 2])
def test_selector_scores(n):
    net = small("selector").eval()
    with torch.no_grad():
        score = net.export_outputs(*images(n))
    assert score.shape == (n,)
    assert ((score > 0) & (score < 1)).all()


OPTIONS = [
    ("coarse", {}),
    ("coarse", {"logits": "linear"}),
    ("coarse", {"head": "classification"}),
    ("coarse", {"head": "regression"}),
    ("coarse", {"trunk": {"stem": "linear"}}),
    ("refiner", {}),
    ("refiner", {"flow": "deterministic", "sensitivity": False}),
    ("refiner", {"stride": 8}),
    ("refiner", {"fine_channels": 8}),
    ("refiner", {"fine_channels": 8, "stride": 8}),
    ("selector", {}),
]


def _outputs(net, n=2, size=64):
    query, other = images(n, size)
    if net.role == "coarse":
        index = torch.arange(size * size // 256).repeat(n, 1)
        return [o for o in net(query, other, index) if o is not None]
    if net.role == "refiner":
        out = net(query, other)
        return [out.flow, out.scale, out.certainty_logit, out.sensitivity]
    return [net(query, other)]


@pytest.mark.parametrize(("role", "options"), OPTIONS)
def test_a_gradient_reaches_every_parameter(role, options):
    """Otherwise a part is dead, and DDP would stop on it."""
    net = small(role, **options)
    generator = torch.Generator().manual_seed(3)
    loss = sum((o * torch.randn(o.shape, generator=generator)).sum() for o in _outputs(net))
    loss.backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not (p.grad.abs().max() > 0)]
    # A key's bias shifts all logits of a query alike, which softmax ignores; in dot products it does not.
    dead = [name for name in dead if not name.endswith("projk.bias")]
    assert not dead
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize(("role", "options"), OPTIONS)
def test_the_same_input_gives_the_same_output_whatever_its_company(role, options):
    net = small(role, **options).eval()
    with torch.no_grad():
        once, twice = _outputs(net), _outputs(net)
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
        query, other = images(3)
        index = torch.zeros(3, 16, dtype=torch.long)
        batch = net(query, other, index) if role == "coarse" else net(query, other)
        single = net(query[1:2], other[1:2], index[1:2]) if role == "coarse" else net(query[1:2], other[1:2])
        pairs = [(batch, single)] if role == "selector" else list(zip(batch, single, strict=True))
    for a, b in pairs:
        if a is not None:
            torch.testing.assert_close(a[1:2], b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("role", "size"), list(itertools.product(["coarse", "refiner", "selector"], [32, 96])))
def test_another_resolution_works(role, size):
    net = small(role).eval()
    with torch.no_grad():
        outputs = _outputs(net, size=size)
    assert all(torch.isfinite(o).all() for o in outputs)
    assert role == "selector" or outputs[0].shape[-1] in (size // 4, (size // 16) ** 2 + 1)


def test_what_does_not_fit_is_refused():
    coarse, refiner = small("coarse"), small("refiner")
    with pytest.raises(InputError, match="multiple of 16"):
        coarse.encode(torch.zeros(1, 3, 60, 64))
    with pytest.raises(InputError, match="wanted the query's shape"):
        refiner(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match="got T = 15"):
        grid_of(torch.zeros(1, 15, 8))
    linear = small("coarse", logits="linear")
    with pytest.raises(InputError, match="linear head was made for T = 16"):
        linear.decode(*(linear.encode(x) for x in images(1, 32)))
    assert isinstance(linear, CoarseNet)
    assert isinstance(refiner, RefinerNet)
    assert isinstance(small("selector"), SelectorNet)


def test_rotary_positions_are_relative_and_two_dimensional():
    """Scores of rotated queries and keys depend on the difference of positions alone, along each axis."""
    cos, sin = rotary_table(5, 7, 16, 100.0)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 16, generator=generator)
    q = rotate(query.expand(1, 1, 35, 16), (cos, sin))[0, 0].reshape(5, 7, 16)
    k = rotate(key.expand(1, 1, 35, 16), (cos, sin))[0, 0].reshape(5, 7, 16)
    score = lambda a, b: (q[a] * k[b]).sum()  # noqa: E731
    torch.testing.assert_close(score((0, 0), (2, 3)), score((2, 1), (4, 4)))
    torch.testing.assert_close(score((1, 1), (1, 1)), (query * key).sum())
    assert (score((0, 0), (2, 3)) - score((0, 0), (3, 2))).abs() > 1e-3
    # The first half turns with the row alone, at base^0 = 1 radian a row in its first plane.
    assert torch.equal(cos.reshape(5, 7, 16)[:, 0, :8], cos.reshape(5, 7, 16)[:, 6, :8])
    torch.testing.assert_close(cos.reshape(5, 7, 16)[:, 0, 0], torch.arange(5.0).cos())
    torch.testing.assert_close(sin.reshape(5, 7, 16)[0, :, 9], (torch.arange(7.0) * 100**-0.25).sin())


def test_attention_equals_the_formula():
    torch.manual_seed(0)
    layer = SelfAttention(16, 2).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    identity = (torch.ones(5, 8, dtype=torch.float64), torch.zeros(5, 8, dtype=torch.float64))
    q, k, v = (layer.qkv(x) @ torch.eye(48, dtype=torch.float64)).split(16, dim=-1)
    heads = []
    for h in range(2):
        part = slice(8 * h, 8 * h + 8)
        share = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / 8**0.5, dim=-1)
        heads.append(share @ v[..., part])
    # Rotation runs in float32: seven digits.
    torch.testing.assert_close(layer(x, identity), layer.proj(torch.cat(heads, -1)), atol=1e-6, rtol=1e-5)


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
