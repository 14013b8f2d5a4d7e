"""Networks on disk: a safetensors file that says what it is, and a folder from which training goes on.

A network file holds the weights (EMA) and, as JSON in its metadata, the role, the configuration and where the weights
come from. It is rebuilt from the file alone. A training folder holds that file, and ``training_state.pt`` with the raw
weights, the optimiser and the random generator.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

import coop_edge
from coop_edge.errors import ConfigError, InputError
from coop_edge.files import atomic_write
from export.networks import CONFIGS, Net, NetConfig, RefinerNet, SelectorNet, build

SCHEMA = 1
_KEY = "coop_edge"


@dataclass(frozen=True)
class Provenance:
    """Where weights come from.

    step: optimiser steps. samples: pairs seen. seed: of the data and the first weights. minutes: of training. code:
    version and commit. data: what the pairs were made of.
    """

    step: int = 0
    samples: int = 0
    seed: int = 0
    minutes: float = 0.0
    code: str = ""
    data: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """What a network file says about itself."""

    role: str
    config: NetConfig
    provenance: Provenance


def code_version() -> str:
    """Version of the package, with the commit of the checkout ("+" behind it if files differ) where there is one."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return coop_edge.__version__
    return f"{coop_edge.__version__} {commit}{'+' if changed else ''}"


def save_network(
    path: str | Path, net: Net, provenance: Provenance, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a network file atomically; ``weights`` (an EMA's, say) take the place of the network's own."""
    metadata = {
        "schema": SCHEMA,
        "role": net.role,
        "config": net.config.to_dict(),
        "provenance": asdict(provenance),
    }
    state = net.state_dict() if weights is None else weights
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in state.items()}
    with atomic_write(path) as file:
        file.write(save(tensors, {_KEY: json.dumps(metadata, allow_nan=False)}))


def read_metadata(path: str | Path) -> Checkpoint:
    """What is in a network file, without its weights. Raises InputError if it is not one, ConfigError if too new."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except SafetensorError as error:
        raise InputError(f"checkpoint {path}: not a safetensors file: {error}") from None
    if text is None:
        raise InputError(f"checkpoint {path}: a safetensors file, but none that this project wrote (no {_KEY!r} entry)")
    data = json.loads(text)
    if data.get("schema") != SCHEMA:
        raise ConfigError(f"checkpoint {path}: schema {data.get('schema')!r}, this version reads {SCHEMA}")
    if data["role"] not in CONFIGS:
        raise ConfigError(f"checkpoint {path}: unknown role {data['role']!r}; known are {', '.join(CONFIGS)}")
    known = {f.name for f in fields(Provenance)}
    provenance = Provenance(**{k: v for k, v in data["provenance"].items() if k in known})
    return Checkpoint(data["role"], CONFIGS[data["role"]].from_dict(data["config"]), provenance)


def load_network(path: str | Path, role: str | None = None) -> tuple[Net, Checkpoint]:
    """The network of a file, in eval mode, and what the file says.

    Raises InputError if the file is none of ours, holds another role than ``role``, or its tensors do not fit.
    """
    info = read_metadata(path)
    if role is not None and info.role != role:
        raise InputError(
            f"checkpoint {path} holds a {info.role} network, wanted a {role} one"
            + (" (train refiner --init takes a coarse file for its trunk)" if role == "refiner" else "")
        )
    net = build(info.config)
    try:
        net.load_state_dict(load_file(path), strict=True)
    except RuntimeError as error:
        raise InputError(f"checkpoint {path}: its tensors do not fit its configuration: {error}") from None
    return net.eval(), info


def start_from(net: RefinerNet | SelectorNet, path: str | Path) -> list[str]:
    """Copy what a network of another role shares with ``net`` (trunk, matcher, offset head); returns the names copied.

    The trunk must fit whole. Raises InputError.
    """
    source, info = load_network(path)
    theirs, own = source.state_dict(), net.state_dict()
    shared = [k for k in own if k in theirs and k.split(".")[0] in ("trunk", "matcher", "offset")]
    trunk = {k for k in own if k.startswith("trunk.")}
    wrong = [k for k in shared if theirs[k].shape != own[k].shape]
    if wrong or not trunk <= set(shared):
        key = (wrong or sorted(trunk - set(shared)))[0]
        given = list(theirs[key].shape) if key in theirs else "nothing"
        raise InputError(
            f"--init {path}: its {info.role} network does not fit: {key} wanted {list(own[key].shape)}, got {given}; "
            "are the sizes the same?"
        )
    net.load_state_dict({**own, **{k: theirs[k] for k in shared}}, strict=True)
    return shared


STATE_FILE = "training_state.pt"


def save_state(folder: str | Path, state: Mapping[str, Any]) -> None:
    """Write the state of a training run (tensors and plain data) atomically into ``folder``."""
    with atomic_write(Path(folder) / STATE_FILE) as file:
        torch.save(dict(state), file)


def load_state(folder: str | Path) -> dict[str, Any]:
    """The state that ``save_state`` wrote, on the CPU. No code in it is run. Raises InputError."""
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise InputError(f"--resume {folder}: holds no {STATE_FILE}")
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def parameters_of(net: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in net.parameters())


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
