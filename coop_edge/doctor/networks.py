"""Probes of model bundles and of the TensorRT plans of their graphs. Each returns plain data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coop_edge.doctor.isolate import Facts
from coop_edge.doctor.machine import storage
from coop_edge.errors import quoted

if TYPE_CHECKING:
    from coop_edge.runtime.bundle import Bundle, Network
    from coop_edge.runtime.plan import Target


def bundles() -> Facts:
    """All installed bundles, read and with their hashes compared, and the state of their plans."""
    return _look(run=False)


def bundles_deep() -> Facts:
    """As ``bundles``; every graph is also loaded by the CPU's runner (seconds)."""
    return _look(run=True)


def targets() -> tuple[list[Target], str]:
    """What a plan may be built for to run here, one for each TensorRT; else none and why."""
    from coop_edge.runtime.plan import Target
    from coop_edge.runtime.tensorrt_api import installed

    try:
        return [Target.here(api) for api in installed()], ""
    except Exception as error:  # TensorRT's bindings and CuPy each raise kinds of their own
        return [], quoted(error)


def _look(run: bool) -> Facts:
    from coop_edge.runtime.bundle import available

    folders = available()
    here, why = targets() if folders else ([], "")
    return {
        "target": " or ".join(map(str, here)) or None,
        "no_target": why,
        "bundles": [_bundle(folder, here, run) for folder in folders],
    }


def _bundle(folder: Path, here: list[Target], run: bool) -> Facts:
    from coop_edge.runtime.bundle import Bundle

    facts: Facts = {"name": folder.name, "folder": str(folder), "fails": None, "roles": [], "plans": []}
    try:
        bundle = Bundle.load(folder)
        facts |= {"version": bundle.version, "licence": bundle.licence, "input_size": bundle.input_size}
        facts["precisions"] = sorted({network.precision for network in bundle.networks.values()})
        facts["graph_bytes"] = sum(network.path.stat().st_size for network in bundle.networks.values())
        facts["roles"] = list(bundle.networks)
        facts["plans"] = [plan for network in bundle.networks.values() for plan in _plans(network, here)]
        facts["storage"] = _plan_storage(bundle)
        if run:
            facts["loaded"] = _load_all(bundle)
    except Exception as error:  # one bundle that cannot be read leaves the others to be looked at
        facts["fails"] = quoted(error)
    return facts


def _plans(network: Network, here: list[Target]) -> list[Facts]:
    """Every plan of a role: ``fits`` is None where nothing here could run any, ``why`` says what does not fit."""
    from coop_edge.errors import EngineError
    from coop_edge.runtime.plan import plan_folders
    from coop_edge.runtime.plan_lookup import read_plan

    found = []
    for path in [path for folder in plan_folders(network) for path in sorted(folder.glob(f"{network.role}-*.plan"))]:
        plan: Facts = {"role": network.role, "file": str(path), "fits": None, "why": ""}
        if here:
            try:
                read_plan(path, network, next((t for t in here if f"-{t.flavour}" in path.name), here[0]))
                plan["fits"] = True
            except EngineError as error:
                why = str(error).removeprefix(f"{path}: ").partition("; build it again")[0]  # its row says how
                plan |= {"fits": False, "why": why}
        found.append(plan)
    return found


def _plan_storage(bundle: Bundle) -> Facts:
    """Where plans of the bundle would be written: beside its graphs, else in the user's cache."""
    from coop_edge.runtime.plan import plan_folders

    places = [storage(folder) for folder in plan_folders(bundle.network("refiner"))]
    return next((place for place in places if place["writable"]), places[0])


def _load_all(bundle: Bundle) -> bool:
    """Whether every graph loads; False where there is no ONNX Runtime to load them, which is not the bundle's fault."""
    from coop_edge.backend import Backend
    from coop_edge.errors import BackendUnavailable

    backend = Backend("cpu", "to load every graph")  # not picked: that would ask for Numba, which is not needed here
    try:
        for role in bundle.networks:
            with backend.runner(bundle, role):
                continue
    except BackendUnavailable:
        return False
    return True
