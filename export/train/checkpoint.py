"""Networks on disk: a safetensors file that says what it is, and a folder from which training goes on.

A network file holds the weights (EMA) and, as JSON in its metadata, the role, the configuration and where the weights
come from. It is rebuilt from the file alone, or from a set of small ones: a path may be a shard's (``export.shards``).
A training folder holds that file, and ``training_state.pt`` with the raw weights, the optimiser and the random
generator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from coop_edge.base.files import atomic_write
from coop_edge.errors import ConfigError, InputError
from export.networks import CONFIGS, Net, NetConfig, RefinerNet, SelectorNet, build
from export.onnx.provenance import Provenance, code_version
from export.shards import LIMIT, metadata_of, read_tensors, shards_of, write_shards

__all__ = [
    "Checkpoint",
    "Provenance",
    "code_version",
    "load_network",
    "load_state",
    "parameters_of",
    "read_metadata",
    "save_network",
    "save_sharded",
    "save_state",
    "start_from",
]

SCHEMA = 1
_KEY = "coop_edge"


@dataclass(frozen=True)
class Checkpoint:
    """What a network file says about itself."""

    role: str
    config: NetConfig
    provenance: Provenance


def save_network(
    path: str | Path, net: Net, provenance: Provenance, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write a network file atomically; ``weights`` (an EMA's, say) take the place of the network's own."""
    state = net.state_dict() if weights is None else weights
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in state.items()}
    with atomic_write(path) as file:
        file.write(save(tensors, _metadata(net, provenance)))


def save_sharded(
    folder: str | Path,
    net: Net,
    provenance: Provenance,
    weights: Mapping[str, Tensor] | None = None,
    limit: int = LIMIT,
) -> list[Path]:
    """As ``save_network``, in shards of at most ``limit`` bytes that take the place of the role's older ones."""
    state = net.state_dict() if weights is None else weights
    return write_shards(folder, net.role, provenance.step, state, _metadata(net, provenance), limit)


def _metadata(net: Net, provenance: Provenance) -> dict[str, str]:
    content = {"schema": SCHEMA, "role": net.role, "config": net.config.to_dict(), "provenance": asdict(provenance)}
    return {_KEY: json.dumps(content, allow_nan=False)}


def read_metadata(path: str | Path) -> Checkpoint:
    """What is in a network file, without its weights. Raises InputError if it is not one, ConfigError if too new.

    Files of earlier versions say less of their provenance; what they do not say has its default.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    text = metadata_of(shards_of(path)[0]).get(_KEY)
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
        net.load_state_dict(read_tensors(path), strict=True)
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
