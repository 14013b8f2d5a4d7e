"""What holds for the networks of every role: gradients, batches, resolutions, what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from coop_edge.errors import InputError
from export.networks import CoarseNet, RefinerNet
from export.networks.trunk import grid_of
from tests.export.networks.nets import images, small

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
    ("coarse", {"trunk": {"features": True}}),
    ("refiner", {"trunk": {"features": True}, "fine_channels": 8}),
]


def _outputs(net, n=2, size=64):
    query, other = images(n, size)
    if net.role == "coarse":
        index = torch.arange(size * size // 256).repeat(n, 1)
        return [o for o in net(query, other, index) if o is not None]
    out = net(query, other)
    return [out.flow, out.scale, out.certainty_logit, out.sensitivity]


@pytest.mark.parametrize(("role", "options"), OPTIONS)
def test_a_gradient_reaches_every_parameter(role, options):
    """Otherwise a part is dead, and DDP would stop on it."""
    net = small(role, **options)
    generator = torch.Generator().manual_seed(3)
    loss = sum((o * torch.randn(o.shape, generator=generator)).sum() for o in _outputs(net))
    loss.backward()
    trained = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    dead = [name for name, p in trained if p.grad is None or not (p.grad.abs().max() > 0)]
    # A key's bias shifts all logits of a query alike, which softmax ignores; in dot products it does not.
    dead = [name for name in dead if not name.endswith("projk.bias")]
    assert not dead
    assert all(torch.isfinite(p.grad).all() for _, p in trained)


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
    for a, b in zip(batch, single, strict=True):
        if a is not None:
            torch.testing.assert_close(a[1:2], b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("role", "size"), list(itertools.product(["coarse", "refiner"], [32, 96])))
def test_another_resolution_works(role, size):
    net = small(role).eval()
    with torch.no_grad():
        outputs = _outputs(net, size=size)
    assert all(torch.isfinite(o).all() for o in outputs)
    assert outputs[0].shape[-1] in (size // 4, (size // 16) ** 2 + 1)


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
