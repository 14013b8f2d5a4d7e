"""Starting from a CroCo-v2-shaped state dict: every key, and numerics held against a forward written from the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coop_edge.errors import ConfigError, InputError
from export.networks import TrunkConfig, load_croco, read_state_dict
from export.networks.croco import PRETRAINING_ONLY
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


def croco_shapes(pretraining=True):
    """Names and shapes as they are published: (name, shape) for an encoder and a decoder of two blocks."""
    shapes = {"patch_embed.proj.weight": (ENCODER, 3, PATCH, PATCH), "patch_embed.proj.bias": (ENCODER,)}

    def linear(name, out, into):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name, dim):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (dim,)

    def block(prefix, dim):
        linear(f"{prefix}.attn.qkv", 3 * dim, dim)
        linear(f"{prefix}.attn.proj", dim, dim)
        linear(f"{prefix}.mlp.fc1", 4 * dim, dim)
        linear(f"{prefix}.mlp.fc2", dim, 4 * dim)

    for i in range(2):
        block(f"enc_blocks.{i}", ENCODER)
        for n in ("norm1", "norm2"):
            norm(f"enc_blocks.{i}.{n}", ENCODER)
        block(f"dec_blocks.{i}", DECODER)
        for n in ("norm1", "norm2", "norm3", "norm_y"):
            norm(f"dec_blocks.{i}.{n}", DECODER)
        for n in ("projq", "projk", "projv", "proj"):
            linear(f"dec_blocks.{i}.cross_attn.{n}", DECODER, DECODER)
    norm("enc_norm", ENCODER)
    linear("decoder_embed", DECODER, ENCODER)
    norm("dec_norm", DECODER)
    if pretraining:
        shapes["mask_token"] = (1, 1, DECODER)
        linear("prediction_head", PATCH * PATCH * 3, DECODER)
    return shapes


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in croco_shapes().items()}


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


def test_every_key_is_accounted_for_and_the_forward_is_the_published_one(state):
    trunk = Trunk(CONFIG)
    assert sorted(load_croco(trunk, state)) == sorted(PRETRAINING_ONLY)
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, state[name]), name

    images = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))  # not square: rows are not columns
    with torch.no_grad():
        tokens = trunk.encode(images)
        decoded = trunk.decode(tokens[:1], tokens[1:], (4, 3))[-1]
    reference = Reference(state)
    query, positions = reference.encode(images[0].double().numpy())
    memory, _ = reference.encode(images[1].double().numpy())
    np.testing.assert_allclose(tokens[0].numpy(), query, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(decoded[0].numpy(), reference.decode(query, memory, positions), rtol=2e-3, atol=2e-4)


def test_the_memory_is_not_updated_between_blocks(state):
    trunk = Trunk(CONFIG)
    load_croco(trunk, state)
    tokens = torch.randn(2, 12, DECODER, generator=torch.Generator().manual_seed(1))
    before = tokens.clone()
    with torch.no_grad():
        trunk.decode(tokens[:1], tokens[1:], (4, 3))
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("how", ["bare.pth", "nested.pth", "flat.safetensors"])
def test_files_are_read(how, state, tmp_path):
    path = tmp_path / how
    if how.startswith("flat"):
        save_file(state, path)
    else:
        torch.save({"model": state, "croco_kwargs": {"enc_depth": 2}} if how.startswith("nested") else state, path)
    assert read_state_dict(path).keys() == state.keys()
    load_croco(Trunk(CONFIG), read_state_dict(path))


def test_what_does_not_fit_is_refused_and_changes_nothing(state, tmp_path):
    trunk = Trunk(CONFIG)
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    missing = {k: v for k, v in state.items() if k != "enc_norm.bias"}
    with pytest.raises(InputError, match=r"1 missing \(enc_norm.bias\)"):
        load_croco(trunk, missing)
    with pytest.raises(InputError, match=r"not CroCo v2: 1 unknown keys \(dec_pos_embed\)"):
        load_croco(trunk, {**state, "dec_pos_embed": torch.zeros(1)})
    with pytest.raises(InputError, match=r"enc_norm.bias: wanted \[32\], got \[8\].*--size b"):
        load_croco(trunk, {**state, "enc_norm.bias": torch.zeros(8)})
    assert all(torch.equal(before[k], v) for k, v in trunk.state_dict().items())
    with pytest.raises(ConfigError, match="stem='linear'"):
        load_croco(Trunk(TrunkConfig(**{**CONFIG.to_dict(), "stem": "conv"})), state)
    with pytest.raises(InputError, match="no such file"):
        read_state_dict(tmp_path / "absent.pth")
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"bad\.pth: not a"):
        read_state_dict(tmp_path / "bad.pth")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"model": {"x": Evil()}}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="not a"):
        read_state_dict(tmp_path / "evil.pth")
