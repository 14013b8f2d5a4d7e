"""Builds plans from a bundle's graphs on the device that will run them: ``coop-edge build``; ``estimate`` never does.

A graph gets one optimisation profile: N from 1, tuned for ``opt``, up to ``max``. The defaults follow the pipeline. A
detection is encoded alone, and the 42 templates of an object at once, but only when it is registered. The decoder is
tuned for the 42 pairs of one detection and takes those that ``advanced.coarse.micro_batch`` lets share a run. The
refiner is tuned for 5 hypotheses of one object and takes 8 objects of 5. Features are tuned for 8 crops and take 64.
The stages split what is larger; a larger ``max`` costs activation memory.
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

from coop_edge.config import AdvancedCoarseConfig
from coop_edge.errors import EngineError, InputError
from coop_edge.runtime import tensorrt_api, timing_cache
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.network import ROLES, Network, read_graph
from coop_edge.runtime.plan import PlanInfo, Target, plan_folders, plan_name, sidecar_of
from coop_edge.runtime.plan_lookup import LoadedPlan, read_plan
from coop_edge.runtime.plan_store import exclusive, writable_folder, write_plan
from coop_edge.runtime.tensorrt_api import TensorRt
from coop_edge.runtime.tensorrt_callbacks import Progress

log = logging.getLogger("coop_edge")

OPT_BATCH = {"coarse_encoder": 1, "coarse_decoder": 42, "refiner": 5, "features": 8}
MAX_BATCH = {"coarse_encoder": 42, "coarse_decoder": AdvancedCoarseConfig.micro_batch, "refiner": 40, "features": 64}
WORKSPACE_MB = 1024


@dataclass(frozen=True)
class BuiltPlan:
    """A plan of one role.

    Attributes:
        reused: it was there already and fits.
    """

    role: str
    path: Path
    info: PlanInfo
    reused: bool


@dataclass(frozen=True)
class BuildOptions:
    """How plans are built.

    Attributes:
        opt_batch: N by role; a role that is not named keeps ``OPT_BATCH`` and ``MAX_BATCH``.
        max_batch: N by role; a role that is not named keeps ``OPT_BATCH`` and ``MAX_BATCH``.
        workspace_mb: limit on TensorRT's scratch memory.
        tf32: let FP32 products round to TF32 (10 bits); off, so that FP32 is FP32.
        timing_cache: file of measured kernel timings, which makes a second build quicker; "auto" keeps one per TensorRT
            and SM in the user's cache, None does without.
        folder: where plans go; None: beside the graphs or in the cache, where runners look for them
            (``plan.plan_folders``).
        sm: build for that GPU ("86") instead of the current one; TensorRT for RTX alone can, and such plans are not
            verified.
        force: build again what is there and fits.
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
        """Return the smallest, optimal and largest N of a role.

        Raises:
            InputError: an optimum above the largest.
        """
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

    Args:
        roles: of the plans, all if None.
        engine: "tensorrt" or "tensorrt_rtx", the first that is installed if None.
        device: index of the GPU, CuPy's current one if None. Two processes that build the same plan do so one after the
            other, and the second one takes what the first has made.

    Raises:
        EngineError: a graph does not build, a plan fails its verification, the disk is full, or no folder can be
            written to.
        BackendUnavailable: TensorRT, CuPy or the GPU is missing; the message says how to get it.
        BundleError: a graph is missing, damaged or replaced.
        InputError: there is no such role, engine or GPU, or an option is out of its range.
    """
    options = options or BuildOptions()
    networks = [bundle.network(role) for role in (bundle.networks if roles is None else dict.fromkeys(roles))]
    for network in networks:
        options.batch(network.role)  # wrong use is said before anything is built
    api = tensorrt_api.load(engine)
    if options.sm is not None and api.flavour != "rtx":
        raise InputError(f"sm: TensorRT builds for the GPU it runs on, not for SM {options.sm}; TensorRT for RTX can")
    with _on_device(device if options.sm is None else None):
        target = Target.here(api, sm=options.sm)
        log.info("building for %s", target)
        maker = _PlanMaker(api, bundle, target, options, progress)
        return [maker.plan(network) for network in networks]


@dataclass(frozen=True)
class _PlanMaker:
    """Builds the plans of one bundle for one target."""

    api: TensorRt
    bundle: Bundle
    target: Target
    options: BuildOptions
    progress: Progress | None

    def plan(self, network: Network) -> BuiltPlan:
        """Build and store the plan of a network, or take the one that is there and fits."""
        folder = writable_folder(network, self.options.folder)
        path = folder / plan_name(network, self.target)
        with exclusive(folder, network) as waited:
            info = self._fitting(path, network)
            if info is not None and (waited or not self.options.force):
                log.info("%s: is there and fits", path)
                return BuiltPlan(network.role, path, info, reused=True)
            plan = self._verified(network, self._build(network, path))
            write_plan(plan)
        log.info("%s: built in %.1f s", path, plan.info.build_seconds)
        if folder.resolve() not in [place.resolve() for place in plan_folders(network)]:
            log.warning("%s: is not looked for in that folder; put it, with its .json, beside %s", path, network.path)
        return BuiltPlan(network.role, path, plan.info, reused=False)

    def _fitting(self, path: Path, network: Network) -> PlanInfo | None:
        """Return the sidecar of the plan at ``path`` if it is sound and was built with these options, else None."""
        if not path.is_file() or not sidecar_of(path).is_file():
            return None
        try:
            info = read_plan(path, network, self.target).info
        except EngineError as error:
            log.warning("built again: %s", error)
            return None
        options = self.options
        wanted = (options.batch(network.role), options.workspace_mb, options.tf32)
        verified = info.verification.get("against") is not None  # not so if another machine built it for this SM
        fits = (info.batch, info.workspace_mb, info.tf32) == wanted and (verified or options.sm is not None)
        return info if fits else None

    def _build(self, network: Network, path: Path) -> LoadedPlan:
        """Build a plan that is to lie at ``path``, in memory."""
        options, batch = self.options, self.options.batch(network.role)
        graph, start = read_graph(network), time.perf_counter()
        timings = timing_cache.path_for(self.target, options.timing_cache)
        built = self.api.build(
            graph,
            network.label,
            batch,
            workspace_mb=options.workspace_mb,
            timing_cache=None if timings is None else timing_cache.read(timings),
            tf32=options.tf32,
            targets=[options.sm] if options.sm is not None else [],
            progress=self.progress,
        )
        seconds = time.perf_counter() - start
        if timings is not None and built.timing_cache is not None:
            timing_cache.write(timings, built.timing_cache)
        info = PlanInfo(
            role=network.role,
            **dataclasses.asdict(self.target),
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
        return LoadedPlan(path, info, built.plan)

    def _verified(self, network: Network, plan: LoadedPlan) -> LoadedPlan:
        """Return the plan with the report of its comparison with ONNX Runtime. Raises EngineError if that fails."""
        if self.options.sm is not None:
            report = {"against": None, "reason": f"built for SM {self.options.sm} without running it"}
        else:
            from coop_edge.runtime.plan_check import verify
            from coop_edge.runtime.tensorrt import TensorRtRunner

            with TensorRtRunner(plan, network) as runner:
                report = verify(runner, self.bundle, network.role)
        return dataclasses.replace(plan, info=dataclasses.replace(plan.info, verification=report))


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
