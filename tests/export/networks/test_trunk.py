"""The trunk against a forward pass written from the papers (ViT, CroCo v2), in NumPy float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from export.networks import TrunkConfig
from export.networks.trunk import RGB_MEAN, RGB_STD, Trunk

ENCODER, DECODER, PATCH, HEADS = 32, 16, 16, 2
CONFIG = TrunkConfig(
    image_size=64,
    stem="linear",
    encoder_dim=ENCODER,
    encoder_depth=2,
    encoder_heads=HEADS,
    decoder_dim=DECODER,
    decoder_depth=2,
    decoder_heads=HEADS,
)


@pytest.fixture
def trunk():
    """A trunk whose parameters are all drawn at random, norms and biases too."""
    net = Trunk(CONFIG)
    generator = torch.Generator().manual_seed(0)
    net.load_state_dict({k: 0.3 * torch.randn(v.shape, generator=generator) for k, v in net.state_dict().items()})
    return net


class Reference:
    """The published network in NumPy float64: one token, one head, one channel pair at a time where it can be."""

    def __init__(self, state):
        self.p = {name: value.double().numpy() for name, value in state.items()}

    def linear(self, name, x):
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def norm(self, name, x):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-6) * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def mlp(self, name, x):
        hidden = self.linear(f"{name}.fc1", x)
        gelu = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        return self.linear(f"{name}.fc2", gelu)

    @staticmethod
    def rope(x, position):
        """One head's vector at (row, column): channels k and k + D/2 of each half turn by p * 100^(-2k/D)."""
        out = x.copy()
        half = len(x) // 2
        for axis in range(2):
            for k in range(half // 2):
                angle = position[axis] * 100.0 ** (-2 * k / half)
                i, j = axis * half + k, axis * half + k + half // 2
                out[i] = x[i] * math.cos(angle) - x[j] * math.sin(angle)
                out[j] = x[j] * math.cos(angle) + x[i] * math.sin(angle)
        return out

    def attention(self, q, k, v, positions):
        out = np.zeros_like(q)
        size = q.shape[1] // HEADS
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            Q = np.stack([self.rope(x, p) for x, p in zip(q[:, part], positions, strict=True)])
            K = np.stack([self.rope(x, p) for x, p in zip(k[:, part], positions, strict=True)])
            share = np.exp(Q @ K.T / math.sqrt(size))
            out[:, part] = share / share.sum(1, keepdims=True) @ v[:, part]
        return out

    def self_attention(self, name, x, positions):
        q, k, v = np.split(self.linear(f"{name}.qkv", x), 3, axis=1)
        return self.linear(f"{name}.proj", self.attention(q, k, v, positions))

    def encoder_block(self, name, x, positions):
        x = x + self.self_attention(f"{name}.attn", self.norm(f"{name}.norm1", x), positions)
        return x + self.mlp(f"{name}.mlp", self.norm(f"{name}.norm2", x))

    def decoder_block(self, name, x, memory, positions):
        x = x + self.self_attention(f"{name}.attn", self.norm(f"{name}.norm1", x), positions)
        y = self.norm(f"{name}.norm_y", memory)
        n = self.norm(f"{name}.norm2", x)
        cross = f"{name}.cross_attn"
        q, k, v = self.linear(f"{cross}.projq", n), self.linear(f"{cross}.projk", y), self.linear(f"{cross}.projv", y)
        x = x + self.linear(f"{cross}.proj", self.attention(q, k, v, positions))
        return x + self.mlp(f"{name}.mlp", self.norm(f"{name}.norm3", x))

    def encode(self, image):
        image = (image - np.array(RGB_MEAN)[:, None, None]) / np.array(RGB_STD)[:, None, None]
        rows, columns = image.shape[1] // PATCH, image.shape[2] // PATCH
        positions = [(r, c) for r in range(rows) for c in range(columns)]
        kernel = self.p["patch_embed.proj.weight"].reshape(ENCODER, -1)
        x = np.stack([kernel @ image[:, r * 16 : r * 16 + 16, c * 16 : c * 16 + 16].reshape(-1) for r, c in positions])
        x = x + self.p["patch_embed.proj.bias"]
        for i in range(2):
            x = self.encoder_block(f"enc_blocks.{i}", x, positions)
        return self.linear("decoder_embed", self.norm("enc_norm", x)), positions

    def decode(self, x, memory, positions):
        for i in range(2):
            x = self.decoder_block(f"dec_blocks.{i}", x, memory, positions)
        return self.norm("dec_norm", x)


def test_the_forward_pass_is_the_published_one(trunk):
    images = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))  # not square: rows are not columns
    with torch.no_grad():
        tokens = trunk.encode(images)
        decoded = trunk.decode(tokens[:1], tokens[1:], (4, 3))[-1]
    reference = Reference(trunk.state_dict())
    query, positions = reference.encode(images[0].double().numpy())
    memory, _ = reference.encode(images[1].double().numpy())
    np.testing.assert_allclose(tokens[0].numpy(), query, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(decoded[0].numpy(), reference.decode(query, memory, positions), rtol=2e-3, atol=2e-4)


def test_the_memory_is_not_updated_between_blocks(trunk):
    tokens = torch.randn(2, 12, DECODER, generator=torch.Generator().manual_seed(1))
    before = tokens.clone()
    with torch.no_grad():
        trunk.decode(tokens[:1], tokens[1:], (4, 3))
    assert torch.equal(tokens, before)
