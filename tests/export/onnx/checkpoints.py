"""Saves small networks as checkpoints."""

from __future__ import annotations

from pathlib import Path

from export.train.checkpoint import save_network
from export.train.provenance import Provenance
from tests.export.small_graphs import small_net

PROVENANCE = Provenance(step=7, samples=112, seed=3, minutes=1.5, code="0.1 abc", data="procedural objects")


NETS = {"coarse": "hybrid", "refiner": "laplace"}


def save(folder: Path, *roles: str) -> Path:
    for role in roles:
        save_network(folder / f"{role}.safetensors", small_net(NETS[role]), PROVENANCE)
    return folder
