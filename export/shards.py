"""A network in several small files: for ways that carry only small ones.

The shards of a set are named ``ROLE-stepSTEP-iofN.safetensors``, for instance ``coarse-step00012000-1of2.safetensors``.
Each holds whole tensors and, in its metadata, all that a network file says. Matrices and kernels are stored as float16,
biases, norms and statistics as they are: they are few, and a variance may be smaller than float16 holds. A tensor with
a value that float16 cannot hold stays as it is too, so that writing never fails for one.

Whatever reads a network file takes any shard in its place, and reads the whole set. A folder may hold an older set
beside a newer one, complete or not, as a kill between two files leaves it: the newest complete set counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from coop_edge.base.files import atomic_write
from coop_edge.errors import InputError

LIMIT = 15 << 20
"""Bytes of a shard at most."""
_HEADER = 64 << 10
"""Kept free of it for the file's header."""
_NAME = re.compile(r"(?P<role>[a-z]+)-step(?P<step>\d+)-(?P<part>\d+)of(?P<parts>\d+)\.safetensors")


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as shards store them, on the CPU."""
    return {name: _stored(value.detach().to("cpu")).contiguous() for name, value in tensors.items()}


def split(tensors: Mapping[str, Tensor], limit: int = LIMIT) -> list[dict[str, Tensor]]:
    """The tensors in their order, in as few runs of at most ``limit`` bytes as that order allows; one of no tensors.

    Raises InputError if one tensor alone is larger.
    """
    room = limit - _HEADER
    parts: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        if size > room:
            raise InputError(f"{name} takes {size} bytes, a shard holds {room}: wanted a smaller network")
        if used + size > room:
            parts.append({})
            used = 0
        parts[-1][name] = value
        used += size
    return parts


def write_shards(
    folder: str | Path,
    role: str,
    step: int,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    limit: int = LIMIT,
) -> list[Path]:
    """Write a set into ``folder``, then remove the role's other sets; gives the files. Each is written atomically.

    A kill in between leaves the old set whole: it goes when the new one is complete. Raises InputError, OSError.
    """
    folder = Path(folder)
    parts = split(halved(tensors), limit)
    files = []
    for i, part in enumerate(parts, 1):
        files.append(folder / f"{role}-step{step:08d}-{i}of{len(parts)}.safetensors")
        with atomic_write(files[-1]) as file:
            file.write(save(part, dict(metadata)))
    for path in folder.glob(f"{role}-step*.safetensors"):
        if path not in files and _NAME.fullmatch(path.name):
            path.unlink()
    return files


def shards_of(path: str | Path) -> list[Path]:
    """The files of the set that ``path`` belongs to, in order; ``path`` alone if its name is not a shard's.

    Raises InputError if one is missing.
    """
    path = Path(path)
    found = _NAME.fullmatch(path.name)
    if found is None:
        return [path]
    role, step, parts = found["role"], found["step"], int(found["parts"])
    files = [path.with_name(f"{role}-step{step}-{i}of{parts}.safetensors") for i in range(1, parts + 1)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise InputError(f"checkpoint {path}: a shard; beside it is no {', no '.join(missing)}")
    return files


def networks_in(folder: str | Path) -> list[Path]:
    """One file for each network in a folder: plain network files, and of each role the newest complete set's first.

    Raises InputError if a role has shards, but no complete set.
    """
    plain: list[Path] = []
    sets: dict[str, set[tuple[int, int, Path]]] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        if (found := _NAME.fullmatch(path.name)) is None:
            plain.append(path)
        else:
            first = path.with_name(f"{found['role']}-step{found['step']}-1of{found['parts']}.safetensors")
            sets.setdefault(found["role"], set()).add((int(found["step"]), int(found["parts"]), first))
    return plain + [_newest(sets[role]) for role in sorted(sets)]


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a network file or of a shard's whole set, float16 as float32.

    Raises InputError: a shard is missing, is no safetensors file, or says other things than the first.
    """
    tensors: dict[str, Tensor] = {}
    files = shards_of(path)
    for file in files:
        if file != files[0] and metadata_of(file) != metadata_of(files[0]):
            raise InputError(f"checkpoint {file}: not of one set with {files[0].name}: what they say differs")
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise InputError(f"checkpoint {file}: not a safetensors file: {error}") from None
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in tensors.items()}


def metadata_of(path: str | Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors. Raises InputError if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise InputError(f"checkpoint {path}: not a safetensors file: {error}") from None


def digest_of(path: str | Path) -> str:
    """SHA-256 of a network file; of a set, that of its files' SHA-256 as a JSON list."""
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in shards_of(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _stored(value: Tensor) -> Tensor:
    if value.ndim < 2 or not value.is_floating_point():
        return value
    half = value.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else value


def _newest(sets: set[tuple[int, int, Path]]) -> Path:
    errors: list[Any] = []
    for _, _, first in sorted(sets, reverse=True):
        try:
            return shards_of(first)[0]
        except InputError as error:
            errors.append(error)
    raise errors[0]
