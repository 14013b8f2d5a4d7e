"""Defines attention with 2-D rotary positions, the perceptron, and the blocks of encoder and decoder.

Pre-norm transformer blocks (Dosovitskiy et al., ICLR 2021), with the operations in the order of Weinzaepfel et al.,
CroCo v2, ICCV 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6
Rotation = tuple[Tensor, Tensor]


def rotary_table(height: int, width: int, head_dim: int, base: float, device: torch.device | None = None) -> Rotation:
    """Return cosines and signed sines [T,head_dim], float32, for the T = height x width cells of a grid, row by row.

    They are what ``rotate`` multiplies with: the sines of the first channel of a plane are negative. The first
    half of the channels turns with the row y, the second with the column x. Within a half of D channels,
    channels k and k + D/2 form a plane that turns by position * base^(-2k/D) (Su et al., RoFormer, 2021).
    """
    half = head_dim // 2
    frequency = base ** (-torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    rows = torch.arange(height, dtype=torch.float32, device=device).repeat_interleave(width)
    columns = torch.arange(width, dtype=torch.float32, device=device).repeat(height)
    y, x = rows[:, None] * frequency, columns[:, None] * frequency
    angle = torch.cat([y, y, x, x], dim=-1)
    sine = angle.sin()
    y, x = sine.chunk(2, dim=-1)
    low = frequency.shape[0]
    return angle.cos(), torch.cat([-y[:, :low], y[:, low:], -x[:, :low], x[:, low:]], dim=-1)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys [N,heads,T,head_dim] by their positions."""
    cos, sin = rotation
    full = x.float()
    y1, y2, x1, x2 = full.chunk(4, dim=-1)
    return (full * cos + torch.cat([y2, y1, x2, x1], dim=-1) * sin).to(x.dtype)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention on [N,heads,T,head_dim] -> [N,T,heads * head_dim].

    The fused kernel on a GPU; on a CPU two matrix products, faster there at a few hundred tokens, and what is exported.
    """
    if query.is_cuda:
        out = functional.scaled_dot_product_attention(query, key, value)
    else:
        share = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        out = functional.softmax(share, dim=-1).to(value.dtype) @ value
    return out.transpose(1, 2).flatten(2)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, x.shape[-1] // heads)).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention, [N,T,D] -> [N,T,D]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        query, key, value = (_split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(_attend(rotate(query, rotation), rotate(key, rotation), value))


class CrossAttention(nn.Module):
    """Multi-head attention of x [N,T,D] to a memory [N,M,D] -> [N,T,D]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor, rotation: Rotation, memory_rotation: Rotation) -> Tensor:
        query = rotate(_split_heads(self.projq(x), self.heads), rotation)
        key = rotate(_split_heads(self.projk(memory), self.heads), memory_rotation)
        return self.proj(_attend(query, key, _split_heads(self.projv(memory), self.heads)))


class Mlp(nn.Module):
    """Two layers with a GELU between them, [...,D] -> [...,D]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.attn(self.norm1(x), rotation)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Self-attention, attention to the normalised memory, perceptron; the memory itself is not updated."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm_y = nn.LayerNorm(dim, eps=NORM_EPS)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, memory: Tensor, rotation: Rotation, memory_rotation: Rotation) -> Tensor:
        x = x + self.attn(self.norm1(x), rotation)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(memory), rotation, memory_rotation)
        return x + self.mlp(self.norm3(x))
