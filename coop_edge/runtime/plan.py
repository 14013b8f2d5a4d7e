"""TensorRT plans as files: their names, the sidecar that describes them, and the checks before one is deserialised.

A plan is ``<role>-<onnx sha8>-trt<version>-sm<XY>.plan`` (``rtx<version>`` for TensorRT for RTX) and counts only with
the ``.json`` of the same name beside it, which is written last. The plan's bytes are TensorRT's own, untouched. Plans
lie beside the graphs of their bundle or, where that folder cannot be written to, in the user's cache
(``$XDG_CACHE_HOME``, else ``~/.cache``, ``coop_edge/plans/<bundle folder>``); both places are searched, in that order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coop_edge.errors import EngineError
from coop_edge.kernels.device import CupyDevice

if TYPE_CHECKING:
    from coop_edge.runtime.network import Network
    from coop_edge.runtime.tensorrt_api import TensorRt

log = logging.getLogger("coop_edge")

SCHEMA = 1
_FLAVOURS = {"trt": "TensorRT", "rtx": "TensorRT for RTX"}


@dataclass(frozen=True)
class Target:
    """What a plan is bound to: the exact TensorRT version and the SM of the GPU. Plans of others do not load.

    flavour: "trt" (TensorRT) or "rtx" (TensorRT for RTX). sm: compute capability without its dot, such as "87".
    gpu, driver, cuda: for the record; they do not decide whether a plan fits.
    """

    flavour: str
    version: str
    sm: str
    gpu: str = ""
    driver: str = ""
    cuda: str = ""

    @classmethod
    def here(cls, api: TensorRt, *, sm: str | None = None) -> Target:
        """The current CUDA device with ``api``, or the SM that is given (no GPU is looked at then).

        Raises BackendUnavailable if CuPy or the GPU does not answer.
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
            driver=_cuda_version(cuda.runtime.driverGetVersion()),
            cuda=_cuda_version(cuda.runtime.runtimeGetVersion()),
        )

    def __str__(self) -> str:
        return f"{_runtime(self)} on SM {self.sm}"


@dataclass(frozen=True)
class PlanInfo:
    """The sidecar of a plan.

    batch: smallest, optimal and largest N. shapes: input name -> these three shapes. plan_sha256, plan_bytes: of the
    plan file. verification: report of the comparison with ONNX Runtime, or why there is none. built_at: UTC, ISO 8601.
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
        """What the plan was built for."""
        return Target(self.flavour, self.version, self.sm, self.gpu, self.driver, self.cuda)

    def to_json(self) -> bytes:
        """The content of the sidecar; ``read_info`` is its inverse."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


def plan_name(network: Network, target: Target) -> str:
    """File name of the plan of ``network`` for ``target``."""
    return f"{plan_stem(network)}-{target.flavour}{target.version}-sm{target.sm}.plan"


def plan_stem(network: Network) -> str:
    """What the names of all plans of one graph begin with."""
    return f"{network.role}-{network.sha256[:8]}"


def sidecar_of(plan: Path) -> Path:
    """The path of a plan's sidecar."""
    return plan.with_suffix(".json")


def plan_folders(network: Network) -> tuple[Path, Path]:
    """Where plans of ``network`` may lie, in the order of search: beside the graph, and in the user's cache."""
    return network.path.parent, cache_folder() / "plans" / network.path.resolve().parent.name


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/coop_edge``, else ``~/.cache/coop_edge``. A relative XDG_CACHE_HOME does not count."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "coop_edge"


def find_plan(network: Network, target: Target) -> Path | None:
    """The plan of ``network`` for ``target``, None if there is none. ``check_plan`` says whether it is sound.

    Of two plans the one beside the graph is taken, unless only the other has a sidecar that fits it.
    """
    paths = [folder / plan_name(network, target) for folder in plan_folders(network)]
    there = [path for path in paths if path.is_file() and sidecar_of(path).is_file()]
    for path in there:
        try:
            if read_info(path, network).plan_bytes == path.stat().st_size:
                return path
        except EngineError as error:
            log.debug("passed over: %s", error)
    return there[0] if there else None


def other_plans(network: Network, target: Target) -> list[Path]:
    """Plans of the same graph that were built for something else than ``target``."""
    found = [path for folder in plan_folders(network) for path in sorted(folder.glob(f"{plan_stem(network)}-*.plan"))]
    return [path for path in found if path.name != plan_name(network, target)]


def rebuild_command(network: Network) -> str:
    """The command that builds the plans of the network's bundle again."""
    return f"coop-edge build {shlex.quote(str(network.path.parent))}"


def no_plan(network: Network, target: Target) -> str:
    """Why ``find_plan`` found nothing and what to do, as one readable line."""
    others = ", ".join(path.name for path in other_plans(network, target))
    where = " and ".join(map(str, plan_folders(network)))
    beside = f" (there is {others})" if others else ""
    return f"no plan {plan_name(network, target)} in {where}{beside}; build it with: {rebuild_command(network)}"


def read_info(plan: Path, network: Network) -> PlanInfo:
    """The sidecar of ``plan``. Raises EngineError if it is missing, garbled or of another schema."""
    path, again = sidecar_of(plan), f"; build the plan again with: {rebuild_command(network)}"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise EngineError(f"{plan}: not complete: its sidecar {path.name} is missing{again}") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, not JSON
        raise EngineError(f"{path}: the plan's sidecar cannot be read: {error}{again}") from error
    try:
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, wanted {SCHEMA}")
        info = PlanInfo(**{**content, "batch": tuple(content["batch"])})
        _check_types(info)
    except (TypeError, ValueError, KeyError) as error:
        raise EngineError(f"{path}: not the sidecar of a plan: {error}{again}") from error
    return info


def check_plan(plan: Path, network: Network, target: Target) -> PlanInfo:
    """Check that ``plan`` was built from ``network`` for ``target`` and is undamaged; nothing is deserialised.

    Raises EngineError that gives what the plan has, what is wanted, and the command that rebuilds it.
    """
    return read_plan(plan, network, target)[0]


def read_plan(plan: Path, network: Network, target: Target) -> tuple[PlanInfo, bytes]:
    """As ``check_plan``; also gives the very bytes that were checked."""
    info, again = read_info(plan, network), f"; build it again with: {rebuild_command(network)}"
    graph, made = network.path.name, target.gpu and f" ({target.gpu})"
    for what, fits, has, wanted in (
        ("role", info.role == network.role, info.role, network.role),
        ("runtime", info.flavour == target.flavour, _runtime(info.target), _runtime(target)),
        ("runtime", info.version == target.version, _runtime(info.target), _runtime(target)),
        ("SM", info.sm == target.sm, info.sm + (info.gpu and f" ({info.gpu})"), target.sm + made),
        ("SHA-256 of " + graph, info.onnx_sha256 == network.sha256, info.onnx_sha256, network.sha256),
    ):
        if not fits:
            raise EngineError(f"{plan}: {what}: the plan was built for {has}, wanted {wanted}{again}")
    try:
        data = plan.read_bytes()
    except OSError as error:
        raise EngineError(f"{plan}: cannot be read: {error.strerror or error}{again}") from error
    if len(data) != info.plan_bytes:
        raise EngineError(f"{plan}: {len(data)} bytes, wanted {info.plan_bytes} (truncated or replaced){again}")
    found = hashlib.sha256(data).hexdigest()
    if found != info.plan_sha256:
        raise EngineError(f"{plan}: damaged: SHA-256 {found}, wanted {info.plan_sha256}{again}")
    return info, data


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


def _runtime(target: Target) -> str:
    return f"{_FLAVOURS.get(target.flavour, target.flavour)} {target.version}"


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
