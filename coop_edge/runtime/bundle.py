"""Reads, checks and writes a model bundle: one folder with ``bundle.json`` and an ONNX graph per role.

``Bundle`` holds what the manifest says and refuses what does not fit together; ``runtime.manifest`` is its JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from coop_edge.base.files import atomic_write
from coop_edge.errors import BundleError, InputError
from coop_edge.runtime.base import TensorSpec
from coop_edge.runtime.catalog import available, find
from coop_edge.runtime.covariance_map import CovarianceMap
from coop_edge.runtime.manifest import SCHEMA, manifest_text, read_manifest
from coop_edge.runtime.network import (
    MANIFEST,
    PRECISIONS,
    REMEDY,
    REQUIRED,
    ROLES,
    Network,
    TemplateSettings,
    check_hash,
    sha256_of,
    specs,
)
from coop_edge.runtime.score_map import ScoreMap

__all__ = [
    "MANIFEST",
    "PRECISIONS",
    "REQUIRED",
    "ROLES",
    "SCHEMA",
    "Bundle",
    "Network",
    "TemplateSettings",
    "available",
    "check_hash",
    "find",
    "sha256_of",
    "specs",
    "write_manifest",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\.onnx")


@dataclass(frozen=True)
class Bundle:
    """A bundle as its manifest describes it. Make it with ``Bundle.load``; what does not fit raises BundleError.

    Attributes:
        radius_px: R of the refiner's flow probability, pixels of the S x S crop.
        training: data, samples, commit of every network.
        verification: the report of the export, empty if there is none.
        score_map, grey_score_map, depth_score_map: of the score, of that of models in plain grey, and of that with
            measured depth; None if the bundle has none.
        covariance_map, depth_covariance_map: of the covariance, likewise.
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
    score_map: ScoreMap | None = None
    covariance_map: CovarianceMap | None = None
    grey_score_map: ScoreMap | None = None
    depth_score_map: ScoreMap | None = None
    depth_covariance_map: CovarianceMap | None = None

    def __post_init__(self) -> None:
        self._check_header()
        self._check_roles()
        for network in self.networks.values():
            self._check_network(network)
        self._check_specs()

    @classmethod
    def load(cls, where: str | Path, *, check_hashes: bool = True) -> Bundle:
        """Read and check a bundle: a folder, or the name of one that ``find`` knows (an existing folder comes first).

        Args:
            check_hashes: read every graph and compare its SHA-256 (about 0.1 s per 100 MB); a runner does so in any
                case before it hands the bytes on.

        Raises:
            BundleError: there is no such bundle, or a file is missing, damaged or of an unknown schema; the message
                names the file, what it found and what it wanted.
        """
        folder = _folder_of(where)
        bundle = cls(folder=folder, **read_manifest(folder / MANIFEST))
        bundle.check_files(hashes=check_hashes)
        return bundle

    def network(self, role: str) -> Network:
        """Return the graph of a role.

        Raises:
            BundleError: this bundle has no graph of this role.
            InputError: there is no such role.
        """
        if role not in ROLES:
            raise InputError(f"role: wanted one of {', '.join(ROLES)}, got {role!r}")
        if role not in self.networks:
            raise BundleError(f"{self.manifest}: no network for {role}; this bundle has {', '.join(self.networks)}")
        return self.networks[role]

    @property
    def covariance_maps(self) -> tuple[CovarianceMap | None, CovarianceMap | None]:
        """Return the maps of covariances without and with measured depth."""
        return self.covariance_map, self.depth_covariance_map

    @property
    def manifest(self) -> Path:
        """Return the path of the file that describes the bundle."""
        return self.folder / MANIFEST

    @property
    def dim(self) -> int:
        """Return D, the length of a token."""
        return int(_spec(self.networks["coarse_encoder"].outputs, "tokens").shape[2] or 0)

    @property
    def stride(self) -> int:
        """Return the pixels of the crop per cell of the refiner's output."""
        return self.input_size // int(_spec(self.networks["refiner"].outputs, "flow").shape[2] or 1)

    def check_files(self, *, hashes: bool = True) -> None:
        """Raise BundleError unless every graph is there and, with ``hashes``, holds what the manifest says."""
        for network in self.networks.values():
            if not network.path.is_file():
                raise BundleError(f"{network.path}: missing; {self.manifest} names it for {network.role}; {REMEDY}")
            if hashes:
                check_hash(network, sha256_of(network.path))

    def _fail(self, what: str, wanted: str, found: object, then: str = REMEDY) -> NoReturn:
        raise BundleError(f"{self.manifest}: {what}: wanted {wanted}, found {found}; {then}")

    def _check_header(self) -> None:
        if not _NAME.fullmatch(self.name):
            self._fail("name", "1 to 64 of a-z, 0-9, '.', '_', '-', first a letter or digit", repr(self.name))
        if not _VERSION.fullmatch(self.version):
            self._fail("version", "1 to 64 letters, digits and '.+_-', such as 1.0.0", repr(self.version))
        if not self.licence.strip():
            self._fail("licence", "the licence of the weights, such as Apache-2.0", repr(self.licence))
        if self.input_size < 1 or self.patch_size < 1 or self.input_size % self.patch_size:
            self._fail("patch_size", f"a divisor of input_size ({self.input_size})", self.patch_size)
        if not (math.isfinite(self.radius_px) and self.radius_px > 0):
            self._fail("radius_px", "a number above 0", self.radius_px)
        template = self.template
        if template.views < 1:
            self._fail("template.views", "at least 1", template.views)
        if not 0 < template.margin <= 10:
            self._fail("template.margin", "a number in (0, 10]", template.margin)
        if not 0 < template.field_of_view < 180:
            self._fail("template.field_of_view", "degrees in (0, 180)", template.field_of_view)

    def _check_roles(self) -> None:
        if missing := [role for role in REQUIRED if role not in self.networks]:
            self._fail("networks", f"the roles {', '.join(REQUIRED)}", f"no {', no '.join(missing)}")
        if unknown := [role for role in self.networks if role not in ROLES]:
            self._fail("networks", f"only the roles {', '.join(ROLES)}", f"also {', '.join(unknown)}")
        users: dict[str, str] = {}
        for role, network in self.networks.items():
            if network.role != role:
                self._fail(f"networks.{role}", f"the role {role}", f"the role {network.role}")
            other = users.setdefault(network.path.name, role)
            if other != role:
                self._fail(f"networks.{role}.file", "a graph of its own", f"{network.path.name}, used for {other} too")

    def _check_network(self, network: Network) -> None:
        what = f"networks.{network.role}"
        if network.path.parent != self.folder or not _FILE.fullmatch(network.path.name):
            self._fail(f"{what}.file", f"the name of an .onnx file in {self.folder}", network.path)
        if not _SHA256.fullmatch(network.sha256):
            self._fail(f"{what}.sha256", "64 hexadecimal digits, lower case", repr(network.sha256))
        if network.precision not in PRECISIONS:
            self._fail(f"{what}.precision", f"one of {', '.join(PRECISIONS)}", repr(network.precision))

    def _check_specs(self) -> None:
        dim, cells = self._extent("coarse_encoder", "tokens", 3), self._extent("refiner", "flow", 4)
        if self.input_size % cells:
            divides = f"[N,2,H,W] with H a divisor of input_size ({self.input_size})"
            self._fail("networks.refiner.outputs: flow", divides, f"H = {cells}")
        sizes = {"input_size": self.input_size, "patch_size": self.patch_size, "dim": dim}
        for role, network in self.networks.items():
            try:
                inputs, outputs = specs(role, **sizes, stride=self.input_size // cells)
            except InputError as error:
                raise BundleError(f"{self.manifest}: networks.{role}: {error}; {REMEDY}") from error
            for side, found, wanted in (("inputs", network.inputs, inputs), ("outputs", network.outputs, outputs)):
                if {spec.name: spec for spec in found} != {spec.name: spec for spec in wanted} or len(found) != len(
                    wanted
                ):
                    self._fail(f"networks.{role}.{side}", _listed(wanted), _listed(found))

    def _extent(self, role: str, output: str, rank: int) -> int:
        """Return the length of an output's third axis in the manifest; the table of shapes leaves it free."""
        for spec in self.networks[role].outputs:
            if spec.name == output and len(spec.shape) == rank and spec.shape[2] is not None:
                return spec.shape[2]
        self._fail(f"networks.{role}.outputs", f"{output} of rank {rank}", _listed(self.networks[role].outputs))


def write_manifest(bundle: Bundle) -> Path:
    """Write ``bundle.json`` whole or not at all, and return its path. The graphs must be there already, and fit.

    Raises:
        BundleError: the bundle would not load again.
        OSError: the file cannot be written.
    """
    text = manifest_text(bundle.manifest, {item.name: getattr(bundle, item.name) for item in fields(bundle)})
    bundle.check_files()
    with atomic_write(bundle.manifest) as file:
        file.write(text.encode())
    return bundle.manifest


def _folder_of(where: str | Path) -> Path:
    folder = Path(where).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(where, str) and _NAME.fullmatch(where):
        return find(where)
    raise BundleError(f"{where}: no such folder; wanted a bundle's folder (the one that holds {MANIFEST}) or its name")


def _spec(side: tuple[TensorSpec, ...], name: str) -> TensorSpec:
    return next(spec for spec in side if spec.name == name)


def _listed(side: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, side)) or "nothing"
