"""States where weights come from, as plain data that a bundle keeps: training data with licences, machine, code."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

import coop_edge
from coop_edge.base.hardware import hardware
from coop_edge.errors import InputError
from export.data.packs import Pack
from export.data.textures import photographs

PROCEDURAL = "procedural objects and textures"
COMMIT_VARIABLE = "COOP_EDGE_COMMIT"
"""Environment variable that names the commit of a copy of the code without its history."""
_LICENCE_FILES = ("LICENCE", "LICENSE", "LICENCE.txt", "LICENSE.txt", "LICENCE.md", "LICENSE.md")
NOT_STATED = "not stated"
SAMPLES = "CC0, public domain or without known restrictions, by picture (see skimage.data)"


@dataclass(frozen=True)
class Provenance:
    """States where weights come from."""

    step: int = 0
    """Optimiser steps taken."""
    samples: int = 0
    """Pairs seen."""
    seed: int = 0
    """Seed of the data and the first weights."""
    minutes: float = 0.0
    """Minutes of training."""
    code: str = ""
    """Version and commit of the code."""
    data: str = ""
    """What the pairs were made of."""
    licences: Mapping[str, str] = field(default_factory=dict)
    """Licences of that data, by source."""
    hardware: str = ""
    """Machine that the training ran on."""

    @classmethod
    def from_dict(cls, values: object) -> Provenance:
        """Build from plain data.

        Raises:
            TypeError: a field is missing, unknown or of another type; the message names it.
        """
        if not isinstance(values, Mapping):
            raise TypeError("the provenance")
        kinds = {entry.name: Mapping if entry.name == "licences" else type(entry.default) for entry in fields(cls)}
        for name, value in values.items():
            fits = isinstance(value, (int, float) if kinds.get(name) is float else kinds.get(name, ()))
            if not fits or isinstance(value, bool):
                raise TypeError(f"provenance.{name} = {value!r:.80}")
        return cls(**values)


def code_version() -> str:
    """Return the package's version and the commit, where it can be known: ``COOP_EDGE_COMMIT``, else the checkout's
    (with "+" behind it if tracked files were changed)."""
    commit = os.environ.get(COMMIT_VARIABLE, "").strip() or _checkout(Path(__file__).parents[2])
    return f"{coop_edge.__version__} {commit}".strip()


def hardware_name(device: torch.device) -> str:
    """Name the GPU where one is used, and the CPU with its usable cores."""
    machine = hardware()
    cpu = f"{machine['cores']} cores of {machine['cpu']}"
    return f"{torch.cuda.get_device_name(device)}, {cpu}" if device.type == "cuda" else cpu


def licences_of(pack: str | Path | None, photos: str | Path | None) -> dict[str, str]:
    """Return the licences of what pairs are drawn from, by source: a pack's objects, counted, and the photographs.

    ``photos``: a folder, whose licence is the first line of a LICENCE file in it; None stands for scikit-image's sample
    data, where that is installed. Errors are those of ``pack_licences``.
    """
    found = {PROCEDURAL: f"{coop_edge.__name__}'s own, Apache-2.0"}
    if pack:
        found |= pack_licences(pack)
    if photos:
        found[f"photographs in {Path(photos).name}"] = _folder_licence(Path(photos))
    else:
        if photographs("train"):
            found["photographs: sample data of scikit-image"] = SAMPLES
    return found


def pack_licences(pack: str | Path) -> dict[str, str]:
    """Return an asset pack's licences with the number of objects of each, by source.

    Raises:
        InputError: there is no such file, or it is not a pack.
    """
    if not Path(pack).is_file():
        raise InputError(f"pack: {os.fspath(pack)!r} does not exist")
    counted: dict[str, Counter[str]] = {}
    for asset in Pack(pack).assets:
        counted.setdefault(asset.source, Counter())[asset.licence or NOT_STATED] += 1
    return {
        source: ", ".join(f"{licence} ({count} objects)" for licence, count in sorted(licences.items()))
        for source, licences in sorted(counted.items())
    }


def _folder_licence(folder: Path) -> str:
    for name in _LICENCE_FILES:
        if (folder / name).is_file():
            lines = [line.strip() for line in (folder / name).read_text(errors="replace").splitlines()]
            return next(filter(None, lines), NOT_STATED)
    return NOT_STATED


def _checkout(root: Path) -> str:
    """Return the commit of the checkout that this file belongs to; "" for a copy, even inside another repository."""
    try:
        _git(root, "ls-files", "--error-unmatch", str(Path(__file__).with_name("__init__.py")))
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}{'+' if changed else ''}"


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
