"""Reads and writes networks: a safetensors file that says what it is, and the state from which training resumes.

A network file holds the (averaged) weights and, as JSON in its metadata, the role, the configuration and the provenance
of the weights; the network is rebuilt from the file alone. A training folder holds that file, and
``training_state.pt`` with the raw weights, the optimiser and the random generator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from coop_edge.base.files import atomic_write
from coop_edge.base.plain import parse_json
from coop_edge.errors import ConfigError, InputError
from export.networks import CONFIGS, Net, NetConfig, build
from export.train.provenance import Provenance

SCHEMA = 1
_KEY = "coop_edge"
FROZEN = "trunk.frozen."
"""Beginning of the names of the tensors of the frozen features and their projections."""


@dataclass(frozen=True)
class Checkpoint:
    """What a network file says about itself."""

    role: str
    config: NetConfig
    provenance: Provenance


def save_network(
    path: str | Path,
    net: Net,
    provenance: Provenance,
    weights: Mapping[str, Tensor] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write a network file atomically.

    Args:
        path: file to write, .safetensors.
        net: network to save.
        provenance: what it was trained on, and how.
        weights: take the place of the network's own (those of an EMA, say).
        half: store numbers in FP16, half the size; whoever loads the file computes in FP32.

    Raises:
        InputError: FP16 cannot hold a weight.
    """
    state = net.state_dict() if weights is None else weights
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in state.items()}
    if half:
        tensors = {name: _halved(path, name, value) for name, value in tensors.items()}
    content = {"schema": SCHEMA, "role": net.role, "config": net.config.to_dict(), "provenance": asdict(provenance)}
    with atomic_write(path) as file:
        file.write(save(tensors, {_KEY: json.dumps(content, allow_nan=False)}))


def _halved(path: str | Path, name: str, value: Tensor) -> Tensor:
    """Return a tensor of floating-point numbers as FP16; others stay."""
    if not value.is_floating_point():
        return value
    half = value.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        most = float(value.abs().max())
        raise InputError(f"{path}: {name} holds {most:g}, which FP16 cannot; wanted at most 65504: train on, or longer")
    return half


def read_metadata(path: str | Path) -> Checkpoint:
    """Read what a network file says about itself, without its weights.

    Raises:
        InputError: the file does not exist, is damaged or is not a network file.
        ConfigError: the file is of another version, or has an unknown role.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except (SafetensorError, UnicodeDecodeError) as error:
        raise InputError(f"checkpoint {path}: not a safetensors file: {error}") from None
    if text is None:
        raise InputError(f"checkpoint {path}: a safetensors file, but none that this project wrote (no {_KEY!r} entry)")
    try:
        data = parse_json(text)
    except ValueError as error:
        raise InputError(f"checkpoint {path}: damaged: its description is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        schema = data.get("schema") if isinstance(data, dict) else data
        raise ConfigError(f"checkpoint {path}: schema {schema!r:.80}, this version reads {SCHEMA}")
    role = data.get("role")
    if not isinstance(role, str) or role not in CONFIGS:
        raise ConfigError(f"checkpoint {path}: unknown role {role!r:.80}; known are {', '.join(CONFIGS)}")
    try:
        return Checkpoint(role, CONFIGS[role].from_dict(data["config"]), Provenance.from_dict(data["provenance"]))
    except (KeyError, TypeError) as error:
        raise InputError(f"checkpoint {path}: damaged: its description lacks or garbles {error}") from None


def load_network(path: str | Path, role: str | None = None) -> tuple[Net, Checkpoint]:
    """Return the network of a file, in eval mode, and what the file says about itself.

    Raises:
        InputError: the file is not a network file, holds another role than ``role``, or its tensors do not fit.
    """
    info = read_metadata(path)
    if role is not None and info.role != role:
        raise InputError(
            f"checkpoint {path} holds a {info.role} network, wanted a {role} one"
            + (" (train refiner --init takes a coarse file for its trunk)" if role == "refiner" else "")
        )
    try:
        weights = load_file(path)
        with torch.device("meta"):  # shapes without memory: a garbled size may ask for terabytes
            build(info.config).load_state_dict(weights, strict=True, assign=True)
        net = build(info.config)
        net.load_state_dict(weights, strict=True)
    except (RuntimeError, SafetensorError, ValueError, ArithmeticError) as error:
        raise InputError(f"checkpoint {path}: its tensors do not fit its configuration: {error}") from None
    return net.eval(), info


def network_file(path: str | Path, role: str) -> Path:
    """Return the network file that ``path`` names: itself, or ROLE.safetensors in a folder (a bundle, or a run)."""
    path = Path(path)
    return path / f"{role}.safetensors" if path.is_dir() else path


def start_from(net: Net, path: str | Path) -> list[str]:
    """Copy a network file's weights into ``net``, and return the names of the tensors copied.

    path: a network file, or a folder (a bundle, or a run) that holds ROLE.safetensors. Of another role's network, what
    both share is copied: trunk, matcher and offset head.

    Raises:
        InputError: the file is not a network file, or its trunk does not fit.
    """
    source, info = load_network(network_file(path, net.role))
    theirs, own = source.state_dict(), net.state_dict()
    same = info.role == net.role
    shared = [k for k in own if k in theirs and (same or k.split(".")[0] in ("trunk", "matcher", "offset"))]
    if (frozen := [k for k in theirs if k.startswith(FROZEN)]) and frozen[0] not in own:
        raise InputError(
            f"--init {path}: its {info.role} network reads frozen features, this one does not: "
            "give --set network.trunk.features=true too"
        )
    needed = {k for k in own if (same or k.startswith("trunk.")) and not k.startswith(FROZEN)}
    wrong = [k for k in shared if theirs[k].shape != own[k].shape]
    if wrong or not needed <= set(shared):
        key = (wrong or sorted(needed - set(shared)))[0]
        given = list(theirs[key].shape) if key in theirs else "nothing"
        raise InputError(
            f"--init {path}: its {info.role} network does not fit: {key} wanted {list(own[key].shape)}, got {given}; "
            "are the sizes the same?"
        )
    net.load_state_dict({**own, **{k: theirs[k] for k in shared}}, strict=True)
    return shared


STATE_FILE = "training_state.pt"
STATE_KEYS = ("role", "config", "options", "counters", "net", "optimiser", "ema", "rng")
"""What a training state holds."""


def save_state(folder: str | Path, state: Mapping[str, Any]) -> None:
    """Write the state of a training run (tensors and plain data) atomically into ``folder``."""
    with atomic_write(Path(folder) / STATE_FILE) as file:
        torch.save(dict(state), file)


def load_state(folder: str | Path) -> dict[str, Any]:
    """Read the state that ``save_state`` wrote, onto the CPU. No code in it is run.

    Raises:
        InputError: the folder holds none, or it is damaged.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise InputError(f"--resume {folder}: holds no {STATE_FILE}; wanted the folder of an earlier run")
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # half a file, or another one: PyTorch has no kind of its own for it
        raise InputError(f"--resume {folder}: {STATE_FILE} is damaged ({type(error).__name__}: {error})") from None
    if not isinstance(loaded, dict):
        raise InputError(f"--resume {folder}: {STATE_FILE} is damaged (it holds a {type(loaded).__name__})")
    return loaded


def parameters_of(net: nn.Module) -> int:
    """Count the parameters of a network, those of frozen features included."""
    return sum(p.numel() for p in net.parameters())
