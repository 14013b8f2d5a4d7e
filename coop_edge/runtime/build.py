"""Plans from a bundle's graphs, on the device that will run them: ``coop-edge build``. ``estimate`` never builds.

One optimisation profile per graph: N from 1, tuned for ``opt``, up to ``max``. The defaults follow the pipeline. A
detection is encoded alone, while the 42 templates are encoded at once but a single time per object; its decoder sees 42
pairs, and several detections share a run up to 4 x 42; the refiner is tuned for 5 hypotheses of one object, and takes
8 objects of 5. Larger batches are the caller's to split; a larger ``max`` costs activation memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from coop_edge.base.files import atomic_write
from coop_edge.errors import EngineError, InputError
from coop_edge.runtime import tensorrt_api
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.network import ROLES, Network
from coop_edge.runtime.plan import PlanInfo, Target, cache_folder, check_plan, plan_folders, plan_name, sidecar_of
from coop_edge.runtime.plan_store import exclusive, writable_folder, write_plan
from coop_edge.runtime.tensorrt_api import TensorRt
from coop_edge.runtime.tensorrt_callbacks import Progress

log = logging.getLogger("coop_edge")

OPT_BATCH = {"coarse_encoder": 1, "coarse_decoder": 42, "refiner": 5, "selector": 5}
MAX_BATCH = {"coarse_encoder": 42, "coarse_decoder": 168, "refiner": 40, "selector": 40}
WORKSPACE_MB = 1024


@dataclass(frozen=True)
class BuiltPlan:
    """A plan of one role. reused: it was there already and fits."""

    role: str
    path: Path
    info: PlanInfo
    reused: bool


@dataclass(frozen=True)
class BuildOptions:
    """How plans are built.

    opt_batch, max_batch: N by role; what is not named keeps ``OPT_BATCH`` and ``MAX_BATCH``. workspace_mb: limit on
    TensorRT's scratch memory. tf32: let FP32 products round to TF32 (10 bits); off, so that FP32 is FP32. timing_cache:
    file of measured kernel timings, which makes a second build quicker; "auto" keeps one per TensorRT and SM in the
    user's cache, None does without. folder: where plans go; None: beside the graphs or in the cache, where runners look
    for them (``plan.plan_folders``). sm: build for that GPU ("86") instead of the current one; TensorRT for RTX alone
    can, and such plans are not verified. force: build again what is there and fits.
    """

    opt_batch: Mapping[str, int] = dataclasses.field(default_factory=dict)
    max_batch: Mapping[str, int] = dataclasses.field(default_factory=dict)
    workspace_mb: int = WORKSPACE_MB
    tf32: bool = False
    timing_cache: Path | Literal["auto"] | None = "auto"
    folder: Path | None = None
    sm: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        for what, given in (("opt_batch", self.opt_batch), ("max_batch", self.max_batch)):
            for role, n in given.items():
                if role not in ROLES or not isinstance(n, int) or isinstance(n, bool) or n < 1:
                    raise InputError(f"{what}: wanted N >= 1 for one of {', '.join(ROLES)}, got {role}={n!r}")
        if not isinstance(self.workspace_mb, int) or self.workspace_mb < 1:
            raise InputError(f"workspace_mb: wanted megabytes, at least 1, got {self.workspace_mb!r}")

    def batch(self, role: str) -> tuple[int, int, int]:
        """Smallest, optimal and largest N of a role. Raises InputError if a given optimum is above the largest."""
        largest = self.max_batch.get(role, MAX_BATCH[role])
        best = self.opt_batch.get(role, min(OPT_BATCH[role], largest))
        if best > largest:
            raise InputError(f"opt_batch: {role}={best} is above its max_batch, {largest}")
        return 1, best, largest


def build_plans(
    bundle: Bundle,
    *,
    roles: Sequence[str] | None = None,
    options: BuildOptions | None = None,
    engine: str | None = None,
    device: int | None = None,
    progress: Progress | None = None,
) -> list[BuiltPlan]:
    """Build the plans of a bundle for the current GPU, verify them against ONNX Runtime, and keep those that pass.

    roles: of the plans, all if None. engine: "tensorrt" or "tensorrt_rtx", the first that is installed if None. device:
    index of the GPU, CuPy's current one if None. Two processes that build the same plan do so one after the other, and
    the second one takes what the first has made. Raises EngineError (a graph that does not build, a plan that fails its
    verification, a full disk, no folder to write to), BackendUnavailable, BundleError, InputError.
    """
    options = options or BuildOptions()
    networks = [bundle.network(role) for role in (bundle.networks if roles is None else dict.fromkeys(roles))]
    batches = [options.batch(network.role) for network in networks]  # wrong use is said before anything is built
    api = tensorrt_api.load(engine)
    if options.sm is not None and api.flavour != "rtx":
        raise InputError(f"sm: TensorRT builds for the GPU it runs on, not for SM {options.sm}; TensorRT for RTX can")
    with _on_device(device if options.sm is None else None):
        target = Target.here(api, sm=options.sm)
        log.info("building for %s", target)
        return [
            _build_plan(api, bundle, network, target, batch, options, progress)
            for network, batch in zip(networks, batches, strict=True)
        ]


def _build_plan(
    api: TensorRt,
    bundle: Bundle,
    network: Network,
    target: Target,
    batch: tuple[int, int, int],
    options: BuildOptions,
    progress: Progress | None,
) -> BuiltPlan:
    folder = writable_folder(network, options.folder)
    path = folder / plan_name(network, target)
    with exclusive(folder, network) as waited:
        info = _fitting(path, network, target, batch, options)
        if info is not None and (waited or not options.force):
            log.info("%s: is there and fits", path)
            return BuiltPlan(network.role, path, info, reused=True)
        info, plan = _make(api, bundle, network, target, batch, options, progress)
        write_plan(path, plan, info)
    log.info("%s: built in %.1f s", path, info.build_seconds)
    if folder.resolve() not in [place.resolve() for place in plan_folders(network)]:
        log.warning("%s: is not looked for in that folder; put it, with its .json, beside %s", path, network.path)
    return BuiltPlan(network.role, path, info, reused=False)


def _fitting(
    path: Path, network: Network, target: Target, batch: tuple[int, int, int], options: BuildOptions
) -> PlanInfo | None:
    if not path.is_file() or not sidecar_of(path).is_file():
        return None
    try:
        info = check_plan(path, network, target)
    except EngineError as error:
        log.warning("built again: %s", error)
        return None
    same = (info.batch, info.workspace_mb, info.tf32) == (batch, options.workspace_mb, options.tf32)
    verified = info.verification.get("against") is not None  # not so if it was built for this SM on another machine
    return info if same and (verified or options.sm is not None) else None


def _make(
    api: TensorRt,
    bundle: Bundle,
    network: Network,
    target: Target,
    batch: tuple[int, int, int],
    options: BuildOptions,
    progress: Progress | None,
) -> tuple[PlanInfo, bytes]:
    """A verified plan and its sidecar, in memory."""
    onnx, start, cache = _graph(network), time.perf_counter(), _timing_cache_path(options, target)
    built = api.build(
        onnx,
        f"{network.path.parent.name}/{network.role}",
        batch,
        workspace_mb=options.workspace_mb,
        timing_cache=None if cache is None else _timings(cache),
        tf32=options.tf32,
        targets=[options.sm] if options.sm is not None else [],
        progress=progress,
    )
    seconds = time.perf_counter() - start
    if cache is not None and built.timing_cache is not None:
        _keep_timings(cache, built.timing_cache)
    info = PlanInfo(
        role=network.role,
        **dataclasses.asdict(target),
        onnx_sha256=network.sha256,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=len(built.plan),
        precision=network.precision,
        batch=batch,
        shapes=built.shapes,
        workspace_mb=options.workspace_mb,
        tf32=options.tf32,
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        build_seconds=round(seconds, 3),
    )
    return dataclasses.replace(info, verification=_verify(bundle, network, info, built.plan, options)), built.plan


def _verify(bundle: Bundle, network: Network, info: PlanInfo, plan: bytes, options: BuildOptions) -> dict[str, Any]:
    if options.sm is not None:
        return {"against": None, "reason": f"built for SM {options.sm} without running it"}
    from coop_edge.runtime.plan_check import verify
    from coop_edge.runtime.tensorrt import TensorRtRunner

    with TensorRtRunner((info, plan), network) as runner:
        return verify(runner, bundle, network.role)


def _graph(network: Network) -> bytes:
    """The bytes of a graph, held against the manifest. Raises BundleError."""
    from coop_edge.runtime.network import check_hash

    try:
        data = network.path.read_bytes()
    except OSError as error:
        raise EngineError(f"{network.path}: cannot be read: {error.strerror or error}") from error
    check_hash(network, hashlib.sha256(data).hexdigest())
    return data


def _on_device(index: int | None) -> contextlib.AbstractContextManager[Any]:
    if index is None:
        return contextlib.nullcontext()
    from coop_edge.kernels.device import CupyDevice

    cupy = CupyDevice().xp
    count = int(cupy.cuda.runtime.getDeviceCount())
    if not 0 <= index < count:
        raise InputError(f"device: wanted the index of a GPU, 0 to {count - 1}, got {index}")
    chosen: contextlib.AbstractContextManager[Any] = cupy.cuda.Device(index)
    return chosen


def _timing_cache_path(options: BuildOptions, target: Target) -> Path | None:
    if target.flavour == "rtx":
        return None
    if options.timing_cache == "auto":
        return cache_folder() / "timing" / f"{target.flavour}{target.version}-sm{target.sm}.cache"
    return options.timing_cache


def _timings(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        log.warning("%s: the timing cache cannot be read (%s); starting a new one", path, error.strerror or error)
        return b""


def _keep_timings(path: Path, content: bytes) -> None:
    """A lost timing cache costs time, not correctness: a warning is enough."""
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        log.warning("%s: the timing cache cannot be written (%s)", path, error.strerror or error)
