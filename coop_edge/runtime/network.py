"""Defines what a bundle is made of: roles, the shapes of their graphs, and the file that holds a graph."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from coop_edge.errors import BundleError, InputError
from coop_edge.runtime.base import TensorSpec
from coop_edge.runtime.external_data import has_external_data

MANIFEST = "bundle.json"
REQUIRED = ("coarse_encoder", "coarse_decoder", "refiner")
ROLES = (*REQUIRED, "features")
FEATURES = {"s4": (24, 4), "s8": (40, 8), "s16": (112, 16)}
"""Maps of the role ``features`` by name, in their order: channels, and pixels of the crop per cell."""
PRECISIONS = ("fp32", "fp16")
REMEDY = "fetch the bundle again, or export it again (python -m export onnx)"


@dataclass(frozen=True)
class TemplateSettings:
    """How the templates that the coarse network was trained with were rendered."""

    views: int
    margin: float
    """Side of a template over the diameter of the bounding sphere's image."""
    field_of_view: float
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

    @property
    def label(self) -> str:
        """Return the network's name in errors where nothing else is given: folder and role."""
        return f"{self.path.parent.name}/{self.role}"


def specs(
    role: str, *, input_size: int, patch_size: int, dim: int, stride: int
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a role's graph.

    Crops are of ``input_size`` S, with T = (S / patch_size)^2 tokens of ``dim`` D.

    Args:
        stride: pixels of the crop per cell of the refiner's output.

    Raises:
        InputError: an unknown role, and on a size that ``features`` cannot have.
    """
    if role not in ROLES:
        raise InputError(f"role: wanted one of {', '.join(ROLES)}, got {role!r}")
    tokens, cells = (input_size // patch_size) ** 2, input_size // stride
    image = (None, 3, input_size, input_size)
    if role == "coarse_encoder":
        return (TensorSpec("image", image),), (TensorSpec("tokens", (None, tokens, dim)),)
    if role == "coarse_decoder":
        return (
            (TensorSpec("query", (None, tokens, dim)), TensorSpec("template", (None, tokens, dim))),
            (
                TensorSpec("probability", (None, tokens)),
                TensorSpec("index", (None, tokens), "int32"),
                TensorSpec("offset", (None, tokens, 2)),
            ),
        )
    if role == "features":
        coarsest = max(cell for _, cell in FEATURES.values())
        if input_size % coarsest:
            raise InputError(f"features: wanted crops of a multiple of {coarsest} pixels, got {input_size}")
        maps = ((name, channels, input_size // cell) for name, (channels, cell) in FEATURES.items())
        outputs = tuple(TensorSpec(name, (None, channels, side, side)) for name, channels, side in maps)
        return (TensorSpec("image", image),), outputs
    pair = (TensorSpec("query", image), TensorSpec("render", image))
    fields = (("flow", 2), ("scale", 1), ("certainty", 1), ("sensitivity", 1))
    return pair, tuple(TensorSpec(name, (None, channels, cells, cells)) for name, channels in fields)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        BundleError: if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def read_graph(network: Network) -> bytes:
    """Read a graph once and compare those very bytes with the manifest's SHA-256.

    Raises:
        BundleError: unreadable, another file, or weights that lie in files of their own, outside the hash.
    """
    try:
        graph = network.path.read_bytes()
    except OSError as error:
        raise BundleError(f"{network.path}: cannot be read: {error.strerror or error}; {REMEDY}") from error
    check_hash(network, hashlib.sha256(graph).hexdigest())
    if _keeps_weights_elsewhere(network, graph):
        raise BundleError(
            f"{network.path}: keeps weights in another file (ONNX external data), outside its SHA-256, which is not "
            "read; save it as one file: onnx.save(onnx.load(PATH), PATH)"
        )
    return graph


def _keeps_weights_elsewhere(network: Network, graph: bytes) -> bool:
    try:
        return has_external_data(graph)
    except BundleError as error:
        raise BundleError(f"{network.path}: {error}; {REMEDY}") from None


def check_hash(network: Network, found: str) -> None:
    """Raise BundleError unless ``found`` is the SHA-256 that the manifest gives for the graph."""
    if found != network.sha256:
        raise BundleError(
            f"{network.path}: not the file that {MANIFEST} describes for {network.role} (damaged or replaced): wanted "
            f"SHA-256 {network.sha256}, found {found}; {REMEDY}"
        )
