"""Names TensorRT plans and describes them: what a plan is bound to, its sidecar, the folders it may lie in.

A plan is ``<role>-<onnx sha8>-trt<version>-sm<XY>.plan`` (``rtx<version>`` for TensorRT for RTX) and counts only with
the ``.json`` of the same name beside it, which is written last. The plan's bytes are TensorRT's own, untouched. Plans
lie beside the graphs of their bundle or, where that folder cannot be written to, in the user's cache
(``$XDG_CACHE_HOME``, else ``~/.cache``, ``coop_edge/plans/<bundle folder>``); both places are searched, in that order.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from coop_edge.base.hardware import cuda_version
from coop_edge.base.plain import parse_json
from coop_edge.kernels.device import CupyDevice
from coop_edge.runtime.network import Network
from coop_edge.runtime.tensorrt_api import TensorRt

SCHEMA = 1
_FLAVOURS = {"trt": "TensorRT", "rtx": "TensorRT for RTX"}


@dataclass(frozen=True)
class Target:
    """What a plan is bound to: the exact TensorRT version and the SM of the GPU. Plans of others do not load.

    Attributes:
        flavour: "trt" (TensorRT) or "rtx" (TensorRT for RTX).
        sm: compute capability without its dot, such as "87".
        gpu: for the record; they do not decide whether a plan fits.
        driver: for the record; they do not decide whether a plan fits.
        cuda: for the record; they do not decide whether a plan fits.
    """

    flavour: str
    version: str
    sm: str
    gpu: str = ""
    driver: str = ""
    cuda: str = ""

    @classmethod
    def here(cls, api: TensorRt, *, sm: str | None = None) -> Target:
        """Return the current CUDA device with ``api``, or the SM that is given (no GPU is looked at then).

        Raises:
            BackendUnavailable: if CuPy or the GPU does not answer.
        """
        if sm is not None:
            return cls(api.flavour, api.version, sm)
        current = CupyDevice()
        cuda = current.xp.cuda
        name = cuda.runtime.getDeviceProperties(current.id)["name"]
        return cls(
            api.flavour,
            api.version,
            str(cuda.Device(current.id).compute_capability),
            gpu=name.decode() if isinstance(name, bytes) else str(name),
            driver=cuda_version(cuda.runtime.driverGetVersion()),
            cuda=cuda_version(cuda.runtime.runtimeGetVersion()),
        )

    def __str__(self) -> str:
        return f"{self.runtime} on SM {self.sm}"

    @property
    def runtime(self) -> str:
        """Return TensorRT and its version, as messages name them."""
        return f"{_FLAVOURS.get(self.flavour, self.flavour)} {self.version}"


@dataclass(frozen=True)
class PlanInfo:
    """The sidecar of a plan.

    Attributes:
        batch: smallest, optimal and largest N.
        shapes: input name -> these three shapes.
        plan_sha256: of the plan file.
        plan_bytes: of the plan file.
        verification: report of the comparison with ONNX Runtime, or why there is none.
        built_at: UTC, ISO 8601.
    """

    role: str
    flavour: str
    version: str
    sm: str
    onnx_sha256: str
    plan_sha256: str
    plan_bytes: int
    precision: str
    batch: tuple[int, int, int]
    shapes: Mapping[str, Any]
    gpu: str = ""
    driver: str = ""
    cuda: str = ""
    workspace_mb: int = 0
    tf32: bool = False
    built_at: str = ""
    build_seconds: float = 0.0
    verification: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def target(self) -> Target:
        """Return what the plan was built for."""
        return Target(self.flavour, self.version, self.sm, self.gpu, self.driver, self.cuda)

    def to_json(self) -> bytes:
        """Return the content of the sidecar; ``from_json`` is its inverse."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> PlanInfo:
        """Read the content of a sidecar.

        Raises:
            ValueError, TypeError, KeyError: it is none of this schema.
        """
        content = parse_json(data)
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, wanted {SCHEMA}")
        info = cls(**{**content, "batch": tuple(content["batch"])})
        _check_types(info)
        return info


def plan_name(network: Network, target: Target) -> str:
    """Return the file name of the plan of ``network`` for ``target``."""
    return f"{plan_stem(network)}-{target.flavour}{target.version}-sm{target.sm}.plan"


def plan_stem(network: Network) -> str:
    """Return what the names of all plans of one graph begin with."""
    return f"{network.role}-{network.sha256[:8]}"


def sidecar_of(plan: Path) -> Path:
    """Return the path of a plan's sidecar."""
    return plan.with_suffix(".json")


def plan_folders(network: Network) -> tuple[Path, Path]:
    """Return where plans of ``network`` may lie, in the order of search: beside the graph, and in the user's cache."""
    return network.path.parent, cache_folder() / "plans" / network.path.resolve().parent.name


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/coop_edge``, else ``~/.cache/coop_edge``. A relative XDG_CACHE_HOME does not count."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "coop_edge"


def rebuild_command(network: Network) -> str:
    """Return the command that builds the plans of the network's bundle again."""
    return f"coop-edge build {shlex.quote(str(network.path.parent))}"


def _check_types(info: PlanInfo) -> None:
    texts = ("role", "flavour", "version", "sm", "onnx_sha256", "plan_sha256", "precision", "gpu", "driver", "cuda")
    wanted: dict[str, Any] = dict.fromkeys(texts, str)
    wanted.update(plan_bytes=int, workspace_mb=int, tf32=bool, shapes=dict, verification=dict, built_at=str)
    for entry in fields(info):
        value = getattr(info, entry.name)
        if entry.name in wanted and not isinstance(value, wanted[entry.name]):
            raise ValueError(f"{entry.name} = {value!r}, wanted {wanted[entry.name].__name__}")
    low, best, high = info.batch
    if not all(isinstance(n, int) for n in info.batch) or not 1 <= low <= best <= high:
        raise ValueError(f"batch = {list(info.batch)}, wanted 1 <= min <= opt <= max")
