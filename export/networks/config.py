"""Declares the options of the networks, one validated dataclass per role, and their size presets.

``to_dict`` and ``from_dict`` convert to plain data; every checkpoint stores it, so a network is rebuilt from its file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from coop_edge.base.options import Config
from coop_edge.errors import ConfigError

Size = Literal["xs", "s", "b", "l"]
SIZES = get_args(Size)


@dataclass(frozen=True)
class TrunkConfig(Config):
    """Encoder and decoder that all roles share."""

    image_size: int = 128
    """Side S of the square crops, pixels; a multiple of ``patch_size``. Other sizes work too, trained at this one."""
    patch_size: int = 16
    """Side of a patch, pixels."""
    stem: Literal["conv", "linear"] = "conv"
    """Patch embedding: "conv" = four stride-2 stages, learns with few samples; "linear" = one stride-16 convolution."""
    stem_channels: int = 24
    """Channels after the first stage of the "conv" stem; they double with every stage."""
    features: bool = False
    """Whether the maps of the frozen features (EfficientNet-Lite0, stride 4, 8 and 16) join the "conv" stem's."""
    encoder_dim: int = 192
    """Channels of the encoder."""
    encoder_depth: int = 6
    """Blocks of the encoder."""
    encoder_heads: int = 6
    """Attention heads of the encoder."""
    decoder_dim: int = 192
    """Channels of the decoder."""
    decoder_depth: int = 4
    """Blocks of the decoder."""
    decoder_heads: int = 6
    """Attention heads of the decoder."""
    mlp_ratio: float = 4.0
    """Hidden channels of the perceptrons over the channels of their block."""
    rope_base: float = 100.0
    """Base of the rotary frequencies."""

    def __post_init__(self) -> None:
        self._choice("stem", ("conv", "linear"))
        for name in ("image_size", "patch_size", "stem_channels", "encoder_dim", "encoder_heads", "decoder_dim"):
            self._int(name, 1, 8192)
        for name in ("encoder_depth", "decoder_depth", "decoder_heads"):
            self._int(name, 1, 256)
        self._number("mlp_ratio", 0.25, 16.0)
        self._number("rope_base", 1.0, 1e6)
        self._flag("features")
        if self.features and self.stem != "conv":
            raise ConfigError(
                f"TrunkConfig.features = True: joins maps of a stem: wanted stem 'conv', got {self.stem!r}"
            )
        if self.image_size % self.patch_size:
            raise ConfigError(f"TrunkConfig.image_size = {self.image_size}: wanted a multiple of {self.patch_size}")
        if self.stem == "conv" and self.patch_size != 16:
            raise ConfigError(f"TrunkConfig.patch_size = {self.patch_size}: the conv stem halves four times, wanted 16")
        for side in ("encoder", "decoder"):
            dim, heads = getattr(self, f"{side}_dim"), getattr(self, f"{side}_heads")
            if dim % heads or (dim // heads) % 4:
                raise ConfigError(
                    f"TrunkConfig.{side}_dim = {dim} with {heads} heads: wanted a head dimension that is a multiple "
                    "of 4 (two axes, each rotated in pairs)"
                )

    @property
    def grid(self) -> int:
        """Return the number of patches along a side at ``image_size``."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class CoarseNetConfig(Config):
    """Stage 1: which template patch each query patch shows, and where in it."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    """Encoder and decoder."""
    head: Literal["hybrid", "classification", "regression"] = "hybrid"
    """"hybrid" = class and offset (the method); the others are ablations: class alone, or coordinates alone."""
    logits: Literal["dot", "linear"] = "dot"
    """Class logits: "dot" = scaled dot products with the template's tokens, any resolution; "linear" = one layer."""
    match_dim: int = 128
    """Channels in which tokens are compared ("dot")."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choice("head", ("hybrid", "classification", "regression"))
        self._choice("logits", ("dot", "linear"))
        self._int("match_dim", 1, 4096)


@dataclass(frozen=True)
class RefinerNetConfig(Config):
    """Stage 2: flow from the render to the query, its scale, certainty and sensitivity."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    """Encoder and decoder."""
    match_dim: int = 128
    """Channels in which tokens are compared for the initial flow."""
    stride: int = 4
    """Pixels per output cell along a side: 4, 8 or 16."""
    dpt_channels: int = 64
    """Channels of the DPT head."""
    fine_channels: int = 0
    """Channels in which cells of 8 pixels are compared ("conv" stem, stride 4 or 8); 0 = tokens alone, the paper."""
    flow: Literal["laplace", "deterministic"] = "laplace"
    """"laplace" = a scale per cell; "deterministic" (ablation) = none, the scale output is 1 everywhere."""
    sensitivity: bool = True
    """Whether a sensitivity is predicted, and taught by the loss through PnP; false = neither, it is 1 everywhere."""
    scale_min_px: float = 0.25
    """Lower bound of the Laplace scale, pixels."""
    scale_max_px: float = 16.0
    """Upper bound of the Laplace scale, pixels: 4 cells at stride 4, one patch."""
    radius_px: float = 2.0
    """R of the flow probability P_R = 1 - exp(-R / b), pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._int("match_dim", 1, 4096)
        if self.stride not in (4, 8, 16):
            raise ConfigError(f"RefinerNetConfig.stride = {self.stride!r}: wanted 4, 8 or 16")
        self._int("dpt_channels", 4, 4096)
        self._int("fine_channels", 0, 4096)
        if self.fine_channels and (self.stride == 16 or self.trunk.stem != "conv"):
            given = f"stride {self.stride} and stem {self.trunk.stem!r}"
            raise ConfigError(
                f"RefinerNetConfig.fine_channels = {self.fine_channels}: cells of 8 pixels, from the maps of a stem: "
                f"wanted stride 4 or 8 and stem 'conv', got {given}; or fine_channels = 0"
            )
        self._choice("flow", ("laplace", "deterministic"))
        self._flag("sensitivity")
        self._number("scale_min_px", 1e-3, 1e3)
        self._number("scale_max_px", 1e-3, 1e4)
        self._number("radius_px", 1e-3, 1e3)
        if self.scale_max_px <= self.scale_min_px:
            raise ConfigError(
                f"RefinerNetConfig.scale_max_px = {self.scale_max_px}: wanted more than scale_min_px = "
                f"{self.scale_min_px}"
            )


@dataclass(frozen=True)
class FeaturesNetConfig(Config):
    """Frozen image features: EfficientNet-Lite0 up to stride 16."""

    image_size: int = 128
    """Side S of the square crops, pixels; a multiple of 16."""

    def __post_init__(self) -> None:
        self._int("image_size", 16, 8192)
        if self.image_size % 16:
            raise ConfigError(f"FeaturesNetConfig.image_size = {self.image_size}: wanted a multiple of 16")


NetConfig = CoarseNetConfig | RefinerNetConfig
CONFIGS: dict[str, type[Any]] = {"coarse": CoarseNetConfig, "refiner": RefinerNetConfig}

PRESETS: dict[str, dict[str, Any]] = {
    "xs": {"trunk": {}, "match_dim": 128, "dpt_channels": 48, "fine_channels": 64},
    "s": {
        "trunk": {
            "image_size": 224,
            "stem_channels": 32,
            "encoder_dim": 320,
            "encoder_depth": 6,
            "encoder_heads": 10,
            "decoder_dim": 256,
            "decoder_depth": 5,
            "decoder_heads": 8,
        },
        "match_dim": 192,
        "dpt_channels": 80,
        "fine_channels": 64,
    },
    # The encoders of ViT-B/16 and ViT-L/16 with a base decoder.
    "b": {
        "trunk": {
            "image_size": 224,
            "stem": "linear",
            "encoder_dim": 768,
            "encoder_depth": 12,
            "encoder_heads": 12,
            "decoder_dim": 768,
            "decoder_depth": 12,
            "decoder_heads": 12,
        },
        "match_dim": 256,
        "dpt_channels": 256,
        "fine_channels": 0,
    },
    "l": {
        "trunk": {
            "image_size": 224,
            "stem": "linear",
            "encoder_dim": 1024,
            "encoder_depth": 24,
            "encoder_heads": 16,
            "decoder_dim": 768,
            "decoder_depth": 12,
            "decoder_heads": 12,
        },
        "match_dim": 256,
        "dpt_channels": 256,
        "fine_channels": 0,
    },
}
"""Options of each size that differ from the defaults; a role takes those that it has."""


def preset(role: str, size: str) -> NetConfig:
    """Return the configuration of a role ("coarse", "refiner") at a size ("xs", "s", "b", "l").

    The radius R of the flow probability grows with the image: 1/64 of its side.

    Raises:
        ConfigError: there is no such role or size.
    """
    if role not in CONFIGS:
        raise ConfigError(f"role: wanted one of {', '.join(CONFIGS)}, got {role!r}")
    if size not in PRESETS:
        raise ConfigError(f"size: wanted one of {', '.join(SIZES)}, got {size!r}")
    known = {f.name for f in fields(CONFIGS[role])}
    config: NetConfig = CONFIGS[role].from_dict({k: v for k, v in PRESETS[size].items() if k in known})
    if isinstance(config, RefinerNetConfig):
        return replace(config, radius_px=config.trunk.image_size / 64)
    return config
