"""Probes of model bundles and of the TensorRT plans of their graphs. Each returns plain data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coop_edge.doctor.isolate import Facts
from coop_edge.doctor.machine import storage
from coop_edge.errors import BackendUnavailable, EngineError, quoted

if TYPE_CHECKING:
    from coop_edge.runtime.bundle import Bundle, Network
    from coop_edge.runtime.plan import Target


def bundles(*, load: bool = False) -> Facts:
    """Read all installed bundles, compare their hashes, and look at their plans.

    Args:
        load: also load every graph with the CPU's runner (seconds).
    """
    from coop_edge.runtime.bundle import available

    folders = available()
    here, why = targets() if folders else ([], "")
    return {
        "target": " or ".join(map(str, here)) or None,
        "no_target": why,
        "bundles": [_bundle(folder, here, load) for folder in folders],
    }


def bundles_loaded() -> Facts:
    """Return what ``bundles`` does, with every graph loaded."""
    return bundles(load=True)


def targets() -> tuple[list[Target], str]:
    """Return what a plan may be built for to run here, one for each TensorRT; else none and why."""
    from coop_edge.runtime.plan import Target
    from coop_edge.runtime.tensorrt_api import installed

    try:
        return [Target.here(api) for api in installed()], ""
    except BackendUnavailable as error:
        return [], str(error)
    except Exception as error:  # TensorRT's bindings and CuPy each raise kinds of their own
        return [], quoted(error)


def _bundle(folder: Path, here: list[Target], load: bool) -> Facts:
    from coop_edge.runtime.bundle import Bundle
    from coop_edge.runtime.plan import plan_folders

    facts: Facts = {"name": folder.name, "folder": str(folder), "fails": None, "roles": [], "plans": []}
    try:
        bundle = Bundle.load(folder)
        networks = bundle.networks.values()
        facts |= {"version": bundle.version, "licence": bundle.licence, "input_size": bundle.input_size}
        facts["precisions"] = sorted({network.precision for network in networks})
        facts["graph_bytes"] = sum(network.path.stat().st_size for network in networks)
        facts["roles"] = list(bundle.networks)
        facts["plans"] = [plan for network in networks for plan in _plans(network, here)]
        # Plans would be written beside the graphs, else into the user's cache.
        places = [storage(folder) for folder in plan_folders(bundle.network("refiner"))]
        facts["storage"] = next((place for place in places if place["writable"]), places[0])
        if load:
            facts["loaded"] = _load_all(bundle)
    except Exception as error:  # one bundle that cannot be read leaves the others to be looked at
        facts["fails"] = quoted(error)
    return facts


def _plans(network: Network, here: list[Target]) -> list[Facts]:
    """Every plan of a role: ``fits`` is None where nothing here could run any, ``why`` says what does not fit."""
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


def _load_all(bundle: Bundle) -> bool:
    """Whether every graph loads; False where there is no ONNX Runtime to load them, which is not the bundle's fault."""
    from coop_edge.backend import Backend

    backend = Backend("cpu", "to load every graph")  # not picked: that would ask for Numba, which is not needed here
    try:
        for role in bundle.networks:
            with backend.runner(bundle, role):
                continue
    except BackendUnavailable:
        return False
    return True
