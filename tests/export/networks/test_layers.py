"""Attention and rotary positions, against their formulas."""

from __future__ import annotations

import torch

from export.networks.layers import SelfAttention, rotary_table, rotate


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
    # Each plane's first channel has the sine with the minus of a rotation.
    torch.testing.assert_close(sin.reshape(5, 7, 16)[0, :, 9], -(torch.arange(7.0) * 100**-0.25).sin())
    torch.testing.assert_close(sin.reshape(5, 7, 16)[0, :, 13], (torch.arange(7.0) * 100**-0.25).sin())


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
