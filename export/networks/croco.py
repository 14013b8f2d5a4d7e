"""Start a trunk from a state dict of CroCo v2's shape (Weinzaepfel et al., ICCV 2023).

Such weights come under a licence of their own and are not part of this project; users who hold one can load them. Every
key is accounted for: it goes into the trunk, or it is one of the two things that only the pre-training task needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from coop_edge.errors import ConfigError, InputError
from export.networks.trunk import Trunk

PRETRAINING_ONLY = ("mask_token", "prediction_head.weight", "prediction_head.bias")
"""The mask token and the pixel decoder: nothing here masks patches or paints them."""

_FAMILY = re.compile(r"(patch_embed\.proj|enc_norm|decoder_embed|dec_norm)\.|(enc|dec)_blocks\.\d+\.")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file or of a PyTorch file (bare or under "model"). Raises InputError.

    A PyTorch file is read without running any code it may hold.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"--init {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise InputError(f"--init {path}: not a readable state dict: {error}") from None
    except Exception as error:  # pickle's own errors have no common base below Exception
        raise InputError(f"--init {path}: not a file of plain tensors: {type(error).__name__}: {error}") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise InputError(f"--init {path}: wanted a mapping of names to tensors, bare or under 'model'")
    return dict(loaded)


def load_croco(trunk: Trunk, state: Mapping[str, Tensor]) -> list[str]:
    """Copy a CroCo-v2-shaped state dict into ``trunk``; returns the keys left out, all of ``PRETRAINING_ONLY``.

    Raises ConfigError if the trunk has another stem, InputError if a key is unknown, missing or of another shape;
    the trunk is then unchanged.
    """
    if trunk.config.stem != "linear":
        raise ConfigError(
            "a CroCo v2 state dict starts a trunk with stem='linear' (sizes b, l); this one has "
            f"stem={trunk.config.stem!r}"
        )
    left_out = [key for key in state if key in PRETRAINING_ONLY]
    given = {key: value for key, value in state.items() if key not in PRETRAINING_ONLY}
    own = trunk.state_dict()
    unknown = sorted(given.keys() - own.keys())
    missing = sorted(own.keys() - given.keys())
    if unknown or missing:
        kind = (
            "deeper or shallower than this trunk" if all(map(_FAMILY.match, [*unknown, *missing])) else "not CroCo v2"
        )
        raise InputError(
            f"state dict is {kind}: {len(unknown)} unknown keys ({', '.join(unknown[:4])}), "
            f"{len(missing)} missing ({', '.join(missing[:4])})"
        )
    shapes = [k for k in own if given[k].shape != own[k].shape]
    if shapes:
        key = shapes[0]
        raise InputError(
            f"state dict: {len(shapes)} tensors of another shape; {key}: wanted {list(own[key].shape)}, got "
            f"{list(given[key].shape)}; --size b has a ViT-B encoder, --size l a ViT-L one"
        )
    trunk.load_state_dict(given, strict=True)
    return left_out
