"""Defines the trunk of every role: patch embedding, ViT encoder, and the decoder in which tokens read another image's.

Images are [N,3,H,W] float32 RGB in [0, 1]; the normalisation is inside. Tokens are [N,T,D], T = (H/16)(W/16), row
by row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from coop_edge.errors import InputError
from export.networks.config import FeaturesNetConfig, TrunkConfig
from export.networks.features import OUTPUTS, STAGES, FeaturesNet
from export.networks.layers import NORM_EPS, DecoderBlock, EncoderBlock, rotary_table

# Mean and standard deviation of ImageNet's sRGB values: what pre-trained encoders of this family expect.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)


class LinearStem(nn.Module):
    """The plain patch embedding: one convolution whose stride is its width. There are no maps."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.proj(image), []


class ConvStem(nn.Module):
    """Four 3 x 3 convolutions of stride 2, then one of width 1 (Xiao et al., Early convolutions, NeurIPS 2021).

    Batch normalisation, not that of groups: statistics of a single image take away its colours and contrast, by which
    patches are told apart, and matching is learnt later. In use it is part of the convolutions.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        previous = 3
        for stage in range(4):
            width = channels << stage
            stages += [
                nn.Conv2d(previous, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            previous = width
        self.stages = nn.Sequential(*stages)
        self.proj = nn.Conv2d(previous, dim, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return patches [N,dim,H/16,W/16], and the maps of stride 4 and 8 before them: 2 and 4 times ``channels``."""
        # Channels last: twice as fast in oneDNN and cuDNN, the same numbers.
        x = image.contiguous(memory_format=torch.channels_last)
        maps = []
        for layer in self.stages:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return self.proj(x), maps[1:3]


class Projection(nn.Module):
    """Brings a map's channels to one scale and projects them, [N,inputs,H,W] -> [N,outputs,H,W]; 0 until trained."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.scale = nn.BatchNorm2d(inputs, affine=False)  # channels differ by tens of times
        self.project = nn.Conv2d(inputs, outputs, 1)
        assert self.project.bias is not None
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.project(self.scale(x))
        # One convolution: what exports networks joins a normalisation with the layer before it alone.
        mean, variance = self.scale.running_mean, self.scale.running_var
        assert mean is not None
        assert variance is not None
        assert self.project.bias is not None
        weight = self.project.weight / torch.sqrt(variance + self.scale.eps)[:, None, None]
        return functional.conv2d(x, weight, self.project.bias - weight[:, :, 0, 0] @ mean)


class FrozenMaps(nn.Module):
    """Projects maps of the frozen features to the widths of the "conv" stem's."""

    def __init__(self, widths: dict[str, int]) -> None:
        """widths: channels to give, by name of the map ("s4", "s8", "s16")."""
        super().__init__()
        self.net = FeaturesNet(FeaturesNetConfig())
        self.maps = nn.ModuleDict({name: Projection(STAGES[OUTPUTS[name]].channels, w) for name, w in widths.items()})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Images [N,3,H,W], RGB in [0, 1] -> maps [N,width,H/stride,W/stride] by name."""
        maps = self.net(image.contiguous(memory_format=torch.channels_last))._asdict()
        return {name: projection(maps[name]) for name, projection in self.maps.items()}


class Trunk(nn.Module):
    """Encoder and decoder that all roles share."""

    rgb_mean: Tensor
    rgb_std: Tensor

    def __init__(self, config: TrunkConfig, *, maps: bool = False) -> None:
        """maps: whether the maps of the stem are used too, see ``encode_with_maps``."""
        super().__init__()
        c = self.config = config
        self.register_buffer("rgb_mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("rgb_std", torch.tensor(RGB_STD).view(1, 3, 1, 1), persistent=False)
        self.patch_embed = (
            ConvStem(c.encoder_dim, c.stem_channels) if c.stem == "conv" else LinearStem(c.encoder_dim, c.patch_size)
        )
        if c.features:
            fine = {"s4": 2 * c.stem_channels, "s8": 4 * c.stem_channels} if maps else {}
            self.frozen = FrozenMaps({**fine, "s16": c.encoder_dim})
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(c.encoder_dim, c.encoder_heads, c.mlp_ratio) for _ in range(c.encoder_depth)
        )
        self.enc_norm = nn.LayerNorm(c.encoder_dim, eps=NORM_EPS)
        self.decoder_embed = nn.Linear(c.encoder_dim, c.decoder_dim)
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(c.decoder_dim, c.decoder_heads, c.mlp_ratio) for _ in range(c.decoder_depth)
        )
        self.dec_norm = nn.LayerNorm(c.decoder_dim, eps=NORM_EPS)
        _initialise_trunk(self)

    def encode(self, image: Tensor) -> Tensor:
        """Turn images [N,3,H,W] into tokens [N,T,decoder_dim], for ``decode`` on either side."""
        return self.encode_with_maps(image)[0]

    def encode_with_maps(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what ``encode`` does, and the maps of the stem (see ``ConvStem``; a linear one has none).

        Raises:
            InputError: the images' sides are not multiples of the patch size.
        """
        patch = self.config.patch_size
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % patch or image.shape[3] % patch:
            raise InputError(f"image: wanted [N,3,H,W] with sides a multiple of {patch}, got {list(image.shape)}")
        x, maps = self.patch_embed((image - self.rgb_mean) / self.rgb_std)
        if self.config.features:
            added = self.frozen(image)
            x = x + added["s16"]
            if "s8" in added:
                maps = [maps[0] + added["s4"], maps[1] + added["s8"]]
        height, width = x.shape[2:]
        rotation = self._rotation(height, width, "encoder", x.device)
        x = _full(x.flatten(2).transpose(1, 2))
        for block in self.enc_blocks:
            x = block(x, rotation)
        return _full(self.decoder_embed(self.enc_norm(x))), maps

    def decode(self, x: Tensor, memory: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Let tokens x [N,T,D] read memory [N,T,D], both on a grid of (rows, columns), and return x after each block.

        ``dec_norm`` has been applied to the last entry alone.
        """
        rotation = self._rotation(*grid, "decoder", x.device)
        outputs = []
        for block in self.dec_blocks:
            x = block(x, memory, rotation, rotation)
            outputs.append(x)
        outputs[-1] = self.dec_norm(x)
        return outputs

    def _rotation(self, height: int, width: int, side: str, device: torch.device) -> tuple[Tensor, Tensor]:
        c = self.config
        dim, heads = (c.encoder_dim, c.encoder_heads) if side == "encoder" else (c.decoder_dim, c.decoder_heads)
        return rotary_table(height, width, dim // heads, c.rope_base, device)


class Matcher(nn.Module):
    """Similarities of decoded tokens and the other image's: dot products over sqrt(D), times a learned factor."""

    def __init__(self, dim: int, match_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, match_dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.key = nn.Linear(dim, match_dim)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        # One projection for both at first, and one that keeps angles: alike tokens are similar before any training.
        nn.init.orthogonal_(self.query.weight)
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight)
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.key.bias)

    def forward(self, decoded: Tensor, memory: Tensor) -> Tensor:
        """Return logits float32 [N,T,M] of decoded tokens [N,T,D] against memory [N,M,D]."""
        query, key = self.query(decoded).float(), self.key(self.norm(memory)).float()
        return query @ key.transpose(1, 2) * (self.log_temperature.exp() / query.shape[-1] ** 0.5)


class OffsetHead(nn.Module):
    """Position within the matched patch, in patch units, from the decoded token and the matched token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.decoded = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.matched = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, 2)
        self.apply(_initialise_linear)
        start_small(self.out)

    def forward(self, decoded: Tensor, matched: Tensor) -> Tensor:
        """Return offsets (x, y) float32 [N,T,2] of decoded tokens [N,T,D] and the tokens [N,T,D] they match."""
        hidden = functional.gelu(self.decoded(decoded) + self.matched(self.norm(matched)))
        return self.out(hidden).float()


def grid_of(tokens: Tensor) -> tuple[int, int]:
    """Return (rows, columns) of the square image that gave tokens [N,T,D].

    Raises:
        InputError: T is not a square.
    """
    count = int(tokens.shape[1])
    side = round(count**0.5)
    if side * side != count:
        raise InputError(f"tokens: wanted [N,T,D] of a square crop, T = (S / 16)^2, got T = {count}")
    return side, side


def start_small(layer: nn.Linear) -> None:
    """Let outputs be near zero at first: a head that starts with large errors sends noise through the whole trunk."""
    nn.init.normal_(layer.weight, std=0.01)


def _full(x: Tensor) -> Tensor:
    """Return x in float32 at least: under autocast the branches of a block are bfloat16, their sum must not be."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _initialise_linear(module: nn.Module) -> None:
    """Draw a linear layer's weights with a quarter of the variance that would keep the input's; zero its biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.5 / math.sqrt(module.in_features))
        nn.init.zeros_(module.bias)


@torch.no_grad()
def _initialise_trunk(trunk: Trunk) -> None:
    """Start the trunk so that tokens of patches that look alike are alike from the first step on, at every depth.

    Random projections everywhere bury what a patch shows under what all patches share, and matching then has to be
    discovered: the first thousands of pairs teach where objects tend to lie, no more. Hence residual branches that
    start small (by the root of how many there are), an embedding between encoder and decoder that keeps angles, and
    cross-attention whose queries and keys start as one projection.
    """
    trunk.apply(_initialise_linear)
    for blocks, branches in ((trunk.enc_blocks, 2), (trunk.dec_blocks, 3)):
        for name, module in blocks.named_modules():
            if isinstance(module, nn.Linear) and name.endswith((".proj", ".fc2")):
                module.weight.div_(math.sqrt(branches * len(blocks)))
    for block in trunk.dec_blocks:
        assert isinstance(block, DecoderBlock)
        block.cross_attn.projk.weight.copy_(block.cross_attn.projq.weight)
    nn.init.orthogonal_(trunk.decoder_embed.weight)
