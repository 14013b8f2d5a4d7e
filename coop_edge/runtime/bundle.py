"""A model bundle: one folder with ``bundle.json`` and an ONNX graph per role; what a network is to the runtime."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from coop_edge.errors import BundleError
from coop_edge.files import atomic_write
from coop_edge.runtime.base import TensorSpec

SCHEMA = 1
MANIFEST = "bundle.json"
REQUIRED = ("coarse_encoder", "coarse_decoder", "refiner")
ROLES = (*REQUIRED, "selector")
PRECISIONS = ("fp32", "fp16")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class TemplateSettings:
    """How the templates that the coarse network was trained with were rendered."""

    views: int = 42
    margin: float = 1.05
    """Side of a template over the diameter of the bounding sphere's image."""
    field_of_view: float = 15.0
    """Degrees."""


@dataclass(frozen=True)
class Network:
    """One graph of a bundle."""

    role: str
    path: Path
    sha256: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Bundle:
    """The manifest of a bundle, checked. Make it with ``Bundle.load``.

    radius_px: R of the refiner's flow probability, pixels of the S x S crop. training: data, samples, commit of every
    network. verification: the report of the export, empty if there is none.
    """

    folder: Path
    name: str
    version: str
    licence: str
    training: Mapping[str, Any]
    input_size: int
    patch_size: int
    radius_px: float
    template: TemplateSettings
    networks: Mapping[str, Network]
    verification: Mapping[str, Any] = field(default_factory=dict)
