"""Finds TensorRT plans and checks that they fit, before anything is deserialised."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from coop_edge.errors import EngineError
from coop_edge.runtime.network import Network
from coop_edge.runtime.plan import PlanInfo, Target, plan_folders, plan_name, plan_stem, rebuild_command, sidecar_of

log = logging.getLogger("coop_edge")

_REPLACED_WITHIN = 0.05
"""Seconds in which a build gives plan and sidecar their names, one after the other."""


@dataclass(frozen=True)
class LoadedPlan:
    """A plan in memory: where it lies or will lie, its sidecar, and its bytes."""

    path: Path
    info: PlanInfo
    data: bytes


def find_plan(network: Network, target: Target) -> Path | None:
    """Return the path of the plan of ``network`` for ``target``, None if there is none. ``read_plan`` checks it.

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
    """Return the plans of the same graph that were built for something else than ``target``."""
    found = [path for folder in plan_folders(network) for path in sorted(folder.glob(f"{plan_stem(network)}-*.plan"))]
    return [path for path in found if path.name != plan_name(network, target)]


def no_plan(network: Network, target: Target) -> str:
    """Say why ``find_plan`` found nothing and what to do, as one readable line."""
    others = ", ".join(path.name for path in other_plans(network, target))
    where = " and ".join(map(str, plan_folders(network)))
    beside = f" (there is {others})" if others else ""
    return f"no plan {plan_name(network, target)} in {where}{beside}; build it with: {rebuild_command(network)}"


def read_info(plan: Path, network: Network) -> PlanInfo:
    """Read the sidecar of ``plan``.

    Raises:
        EngineError: it is missing, garbled or of another schema.
    """
    path, again = sidecar_of(plan), f"; build the plan again with: {rebuild_command(network)}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise EngineError(f"{plan}: not complete: its sidecar {path.name} is missing{again}") from None
    except OSError as error:
        raise EngineError(f"{path}: the plan's sidecar cannot be read: {error}{again}") from error
    try:
        return PlanInfo.from_json(data)
    except (TypeError, ValueError, KeyError) as error:  # ValueError also: not UTF-8, not JSON
        raise EngineError(f"{path}: not the sidecar of a plan: {error}{again}") from error


def check_sidecar(plan: Path, network: Network, target: Target) -> PlanInfo:
    """Check, by its sidecar and its size alone, that ``plan`` was built from ``network`` for ``target``.

    Raises:
        EngineError: it was not; says what the plan has, what is wanted, and the command that rebuilds it.
    """
    info, again = read_info(plan, network), _again(network)
    graph, made = network.path.name, target.gpu and f" ({target.gpu})"
    for what, fits, has, wanted in (
        ("role", info.role == network.role, info.role, network.role),
        ("runtime", info.flavour == target.flavour, info.target.runtime, target.runtime),
        ("runtime", info.version == target.version, info.target.runtime, target.runtime),
        ("SM", info.sm == target.sm, info.sm + (info.gpu and f" ({info.gpu})"), target.sm + made),
        ("SHA-256 of " + graph, info.onnx_sha256 == network.sha256, info.onnx_sha256, network.sha256),
    ):
        if not fits:
            raise EngineError(f"{plan}: {what}: the plan was built for {has}, wanted {wanted}{again}")
    try:
        size = plan.stat().st_size
    except OSError as error:
        raise EngineError(f"{plan}: cannot be read: {error.strerror or error}{again}") from error
    if size != info.plan_bytes:
        raise EngineError(f"{plan}: {size} bytes, wanted {info.plan_bytes} (truncated or replaced){again}")
    return info


def read_plan(plan: Path, network: Network, target: Target) -> LoadedPlan:
    """Read ``plan`` once, and check that it was built from ``network`` for ``target`` and is undamaged.

    A plan and its sidecar that do not fit are looked at once more: a build may be replacing them.

    Raises:
        EngineError: as ``check_sidecar``, or the bytes are not those that the sidecar describes.
    """
    try:
        return _read_once(plan, network, target)
    except EngineError:
        time.sleep(_REPLACED_WITHIN)
        return _read_once(plan, network, target)


def _read_once(plan: Path, network: Network, target: Target) -> LoadedPlan:
    info, again = check_sidecar(plan, network, target), _again(network)
    try:
        data = plan.read_bytes()
    except OSError as error:
        raise EngineError(f"{plan}: cannot be read: {error.strerror or error}{again}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != info.plan_sha256:
        raise EngineError(f"{plan}: damaged: SHA-256 {found}, wanted {info.plan_sha256}{again}")
    return LoadedPlan(plan, info, data)


def _again(network: Network) -> str:
    return f"; build it again with: {rebuild_command(network)}"
