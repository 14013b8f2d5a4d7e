"""Picks, once, the operations, renderer, solvers and runners of a device. The only room that knows the implementations.

``device="cpu"`` and ``device="cuda"`` mean what they say: what is missing raises ``BackendUnavailable`` with the probe
that failed. ``device="auto"`` takes CUDA where its probes pass, else the CPU, and says in the log which and why.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from coop_edge.errors import BackendUnavailable, EngineError, InputError, quoted
from coop_edge.kernels.device import current_device

if TYPE_CHECKING:
    from coop_edge.mesh.mesh import Mesh
    from coop_edge.ops.base import Operations
    from coop_edge.pnp.base import PnpSolver
    from coop_edge.render.base import Renderer, Shading
    from coop_edge.runtime.base import Runner
    from coop_edge.runtime.bundle import Bundle, Network
    from coop_edge.runtime.plan import Target
    from coop_edge.runtime.plan_lookup import LoadedPlan

log = logging.getLogger("coop_edge")
Checked = TypeVar("Checked")

RENDERERS = {"cpu": "coop_edge.render.cpu:CpuRenderer", "cuda": "coop_edge.render.cuda:CudaRenderer"}
OFFLINE_RENDERERS = {**RENDERERS, "open3d": "coop_edge.render.open3d:Open3dRenderer"}
OPERATIONS = {"cpu": "coop_edge.ops.cpu:CpuOperations", "cuda": "coop_edge.ops.cuda:CudaOperations"}
SOLVERS = {"cpu": "coop_edge.pnp.cpu:CpuPnpSolver", "cuda": "coop_edge.pnp.cuda:CudaPnpSolver"}
RUNNERS = {"onnx": "coop_edge.runtime.onnx:OnnxRunner", "tensorrt": "coop_edge.runtime.tensorrt:TensorRtRunner"}


@dataclass(frozen=True)
class Backend:
    """Makes what runs on one device: renderer, solvers, operations and network runners. Make it with ``Backend.pick``.

    Attributes:
        name: "cpu" or "cuda".
        reason: why it was picked, one readable line.
    """

    name: Literal["cpu", "cuda"]
    reason: str

    @classmethod
    def pick(cls, device: str = "auto", *, probe: Callable[[], str | None] | None = None) -> Backend:
        """Choose the backend of a device.

        Args:
            device: "cpu", "cuda", or "auto": CUDA where it works, else the CPU.
            probe: checks what else the caller needs on CUDA, and returns None or what is missing (``probe_networks``);
                called where CUDA itself works.

        Raises:
            InputError: ``device`` is another word.
            BackendUnavailable: the device, or a package that it needs, is missing; the message says which.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device: wanted 'auto', 'cpu' or 'cuda', got {device!r}")
        cuda_missing = None
        if device != "cpu":
            cuda_missing = probe_cuda() or (probe() if probe else None)
            if not cuda_missing:
                backend = cls("cuda", "CuPy and a CUDA device answer")
                log.info("backend: cuda (%s)", backend.reason)
                return backend
            if device == "cuda":
                raise BackendUnavailable(f"device='cuda' was asked for, but {cuda_missing}")
        if cpu_missing := probe_cpu():
            raise BackendUnavailable(f"device={device!r}: the CPU backend is not usable: {cpu_missing}")
        backend = cls("cpu", "asked for" if device == "cpu" else f"no CUDA: {cuda_missing}")
        log.info("backend: cpu (%s)", backend.reason)
        return backend

    def here(self) -> Callable[[], AbstractContextManager[Any]]:
        """Return a function that makes contexts in which the GPU that is current now is the current one, in any thread.

        Without one a thread starts on the first GPU. On the CPU the contexts do nothing.
        """
        if self.name == "cpu":
            return contextlib.nullcontext
        device = current_device()
        return lambda: device.xp.cuda.Device(device.id)

    def operations(self) -> Operations:
        """Make the array operations of this device; on CUDA, of the GPU that is current now."""
        operations: Operations = _load(OPERATIONS[self.name])(**self._options(0))
        return operations

    def renderer(
        self,
        meshes: Mesh | Sequence[Mesh],
        *,
        shading: Shading | None = None,
        supersample: int = 1,
        threads: int = 0,
    ) -> Renderer:
        """Make the renderer of this device.

        Args:
            meshes: one, or several that ``mesh_index`` tells apart.
            shading: light and background; the renderer's own if None.
            supersample: samples per pixel and axis.
            threads: of the CPU's renderer, 0 = all cores.
        """
        place, options = RENDERERS[self.name], self._options(threads)
        renderer: Renderer = _load(place)(meshes, shading=shading, supersample=supersample, **options)
        return renderer

    def pnp_solver(self, *, threads: int = 0) -> PnpSolver:
        """Make the pose solvers of this device; ``threads`` of the CPU's, 0 = all cores."""
        solver: PnpSolver = _load(SOLVERS[self.name])(**self._options(threads))
        return solver

    def _options(self, threads: int) -> dict[str, Any]:
        """Return options of this device's implementations: ``threads``, or the GPU whose kernels they share."""
        if self.name == "cuda":
            return {"device": current_device()}
        return {"threads": threads} if threads else {}

    def runner(
        self,
        bundle: Bundle,
        role: str,
        *,
        threads: int = 0,
        engine: Literal["auto", "onnx", "tensorrt"] = "auto",
    ) -> Runner:
        """Make the runner of the network of ``role`` on this device, not opened yet. The log says which, and why.

        Args:
            engine: "onnx" and "tensorrt" insist. "auto" is ONNX Runtime on the CPU; on CUDA it is TensorRT where a
                sound plan for this very device and TensorRT is there, else ONNX Runtime's CUDA provider.
            threads: of ONNX Runtime on the CPU, 0 = its own choice.

        Raises:
            InputError: ``engine``, ``role`` or ``threads`` is not one of the values above.
            BundleError: the bundle has no such network.
            BackendUnavailable: nothing here can run it; the message says what is missing and how to get it.
            EngineError: ``engine`` is "tensorrt" and no plan fits.
        """
        if engine not in ("auto", *RUNNERS):
            raise InputError(f"engine: wanted 'auto', {', '.join(map(repr, RUNNERS))}, got {engine!r}")
        network, label = bundle.network(role), f"{bundle.name}/{role}"
        reason, level = "asked for" if engine == "onnx" else "the engine of the CPU", logging.INFO
        if engine == "tensorrt" and self.name != "cuda":
            raise BackendUnavailable(f"{label}: engine='tensorrt' needs device='cuda', this backend is {self.name!r}")
        if engine != "onnx" and self.name == "cuda":
            try:
                plan = sound_plan(network)
            except (BackendUnavailable, EngineError) as error:
                if engine == "tensorrt":
                    raise
                if missing := probe_onnxruntime("cuda"):
                    raise BackendUnavailable(f"{label}: nothing runs it on CUDA; {error}; {missing}") from error
                reason, level = f"no TensorRT: {error}", logging.WARNING if isinstance(error, EngineError) else level
            else:
                log.info("%s: TensorRT (%s)", label, plan.path.name)
                return _runner("tensorrt", plan, network, label=label)
        log.log(level, "%s: ONNX Runtime on %s (%s)", label, self.name, reason)
        return _runner("onnx", network, device=self.name, threads=threads, label=label)


def make_renderer(
    name: str, meshes: Mesh | Sequence[Mesh], *, shading: Shading | None = None, supersample: int = 1
) -> Renderer:
    """Return a renderer by name: "cpu", "cuda", or "open3d" (offline).

    Raises:
        InputError: there is no renderer of this name.
        BackendUnavailable: Open3D, CuPy or the GPU is missing; the message says how to get it.
    """
    if name not in OFFLINE_RENDERERS:
        raise InputError(f"renderer: wanted one of {', '.join(map(repr, OFFLINE_RENDERERS))}, got {name!r}")
    renderer: Renderer = _load(OFFLINE_RENDERERS[name])(meshes, shading=shading, supersample=supersample)
    return renderer


def probe_networks(bundle: Bundle) -> str | None:
    """Return None if each network of ``bundle`` finds what runs it on CUDA, else what is missing and how to get it.

    Of a plan only the sidecar and the size are looked at: ``Backend.runner`` reads it, once.
    """
    from coop_edge.runtime.plan_lookup import check_sidecar

    for network in bundle.networks.values():
        try:
            _first_plan(network, check_sidecar)
        except (BackendUnavailable, EngineError) as error:
            if missing := probe_onnxruntime("cuda"):
                return f"nothing runs {bundle.name}/{network.role} on CUDA; {error}; {missing}"
            return None  # ONNX Runtime runs every network
    return None


def sound_plan(network: Network) -> LoadedPlan:
    """Read the TensorRT plan of ``network`` for this device: found, whole, and built for just this.

    TensorRT is asked first, then TensorRT for RTX.

    Raises:
        BackendUnavailable: no TensorRT is installed, or there is no GPU.
        EngineError: there is no plan that fits; the message has the command that builds it.
    """
    from coop_edge.runtime.plan_lookup import read_plan

    return _first_plan(network, read_plan)


def _first_plan(network: Network, check: Callable[[Path, Network, Target], Checked]) -> Checked:
    """Return what ``check`` returns of the first plan that passes it; one for each TensorRT that is installed."""
    from coop_edge.runtime.plan import Target
    from coop_edge.runtime.plan_lookup import find_plan, no_plan
    from coop_edge.runtime.tensorrt_api import installed

    reasons = []
    for api in installed():
        target = Target.here(api)
        plan = find_plan(network, target)
        try:
            if plan is not None:
                return check(plan, network, target)
            reasons.append(no_plan(network, target))
        except EngineError as error:
            reasons.append(str(error))
    raise EngineError("; ".join(reasons))


def probe_cpu() -> str | None:
    """Return None if the CPU backend can run, else what is missing and how to get it. Imports Numba, as it will."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed (pip install numba)"
    try:
        importlib.import_module("numba")
    except (
        Exception
    ) as error:  # it refuses versions of NumPy, llvmlite loads a native library: whatever it is, it is said
        return f"Numba does not import: {quoted(error)} (pip install --force-reinstall numba)"
    return None


def probe_cuda() -> str | None:
    """Return None if CuPy works with a device here, else the probe that failed, as one readable line."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (pip install cupy-cuda12x or cupy-cuda13x, by your CUDA version)"
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        if count == 0:
            return "CuPy finds no CUDA device"
        if int(cupy.arange(3).sum()) != 3:
            return "CuPy computes a wrong sum on the device"
    except Exception as error:  # the probe's whole purpose: whatever fails here is quoted, not hidden
        return f"CuPy fails on this machine: {quoted(error)}"
    return None


def probe_onnxruntime(device: str) -> str | None:
    """Return None if ONNX Runtime runs a network on ``device`` ("cpu", "cuda"), else what is missing and its remedy."""
    from coop_edge.runtime.onnx_session import probe

    return probe(device)


def probe_tensorrt() -> str | None:
    """Return None if a TensorRT that this package can use is installed, else what is missing and how to get it."""
    from coop_edge.runtime.tensorrt_api import load

    try:
        load()
    except BackendUnavailable as error:
        return str(error)
    return None


def _runner(engine: str, *arguments: object, **options: object) -> Runner:
    runner: Runner = _load(RUNNERS[engine])(*arguments, **options)
    return runner


def _load(place: str) -> type:
    module, name = place.split(":")
    loaded: type = getattr(importlib.import_module(module), name)
    return loaded
