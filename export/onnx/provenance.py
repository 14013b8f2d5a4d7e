"""Where weights come from, in words that a bundle can keep: data with licences, machine, code."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import coop_edge
from coop_edge.errors import InputError

PROCEDURAL = "procedural objects and textures"
COMMIT_VARIABLE, COMMIT_FILE = "COOP_EDGE_COMMIT", "COMMIT"
"""Where a copy of the code without its history says what it is a copy of; the file lies in the copy's root."""
_LICENCE_FILES = ("LICENCE", "LICENSE", "LICENCE.txt", "LICENSE.txt", "LICENCE.md", "LICENSE.md")
NOT_STATED = "not stated"
SAMPLES = "CC0, public domain or without known restrictions, by picture (see skimage.data)"


@dataclass(frozen=True)
class Provenance:
    """Where weights come from.

    step: optimiser steps. samples: pairs seen. seed: of the data and the first weights. minutes: of training. code:
    version and commit. data: what the pairs were made of. licences: of that data, by source. hardware: what it ran on.
    """

    step: int = 0
    samples: int = 0
    seed: int = 0
    minutes: float = 0.0
    code: str = ""
    data: str = ""
    licences: Mapping[str, str] = field(default_factory=dict)
    hardware: str = ""


def completed(stated: Provenance, unstated: Provenance) -> Provenance:
    """``stated`` with the licences, the hardware and the commit (last word of ``code``) of ``unstated`` where it has
    none: files of earlier versions name no licence and no machine, and code that ran from a bare copy no commit."""
    commit = unstated.code if " " not in stated.code else ""
    return replace(
        stated,
        licences=stated.licences or unstated.licences,
        hardware=stated.hardware or unstated.hardware,
        code=f"{stated.code} {commit}".strip(),
    )


def code_version() -> str:
    """Version of the package, and the commit where it can be known: ``COOP_EDGE_COMMIT``, else the checkout's ("+"
    behind it if files differ), else the first word of the file ``COMMIT`` in the root of a copy."""
    root = Path(__file__).parents[2]
    commit = os.environ.get(COMMIT_VARIABLE, "").strip() or _checkout(root) or _noted(root / COMMIT_FILE)
    return f"{coop_edge.__version__} {commit}".strip()


def hardware_name(device: torch.device) -> str:
    """The GPU where one is used, and the CPU with its usable cores."""
    from coop_edge.base.hardware import hardware

    machine = hardware()
    cpu = f"{machine['cores']} cores of {machine['cpu']}"
    return f"{torch.cuda.get_device_name(device)}, {cpu}" if device.type == "cuda" else cpu


def licences_of(pack: str | Path | None, photos: str | Path | None) -> dict[str, str]:
    """Licences of what pairs are drawn from, by source: those of a pack's objects with their number, and photographs'.

    ``photos``: a folder, whose licence is the first line of a LICENCE file in it; None stands for scikit-image's sample
    data, where that is installed. Raises InputError if the pack is none.
    """
    found = {PROCEDURAL: f"{coop_edge.__name__}'s own, Apache-2.0"}
    if pack:
        found |= pack_licences(pack)
    if photos:
        found[f"photographs in {Path(photos).name}"] = _folder_licence(Path(photos))
    else:
        from export.data.textures import photographs

        if photographs("train"):
            found["photographs: sample data of scikit-image"] = SAMPLES
    return found


def pack_licences(pack: str | Path) -> dict[str, str]:
    """Of an asset pack: by source, the licences and how many objects each is of. Raises InputError."""
    from export.data.packs import Pack

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
    """Commit of the checkout that this file belongs to; a copy inside some other repository has none."""
    try:
        _git(root, "ls-files", "--error-unmatch", str(Path(__file__).with_name("__init__.py")))
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}{'+' if changed else ''}"


def _noted(file: Path) -> str:
    words = file.read_text().split() if file.is_file() else []
    return words[0] if words else ""


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
