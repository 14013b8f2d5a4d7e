"""From rows to the verdict: what keeps an Estimator from running, and the shortest way to one that can."""

from __future__ import annotations

from collections.abc import Sequence

from coop_edge.doctor.report import DEVICES, Row

NO_BUNDLE = (
    "bring a model bundle: reinstall coop-edge from a checkout whose engines/ has one, or export one there "
    "(python -m export onnx --help)"
)


def blocked_by(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """Per device, the rows that are required for it and do not work."""
    return {device: tuple(row.name for row in _blockers(rows, device)) for device in DEVICES}


def next_steps(rows: Sequence[Row], installer: str) -> tuple[str, ...]:
    """The commands that lead to a first device with the fewest steps; none if one is ready. One pip call for all."""
    ways = [_steps(_blockers(rows, device), installer) for device in DEVICES]
    possible = [way for way in ways if way is not None]
    return min(possible, key=len)  # the CPU comes first and is always possible


def _blockers(rows: Sequence[Row], device: str) -> list[Row]:
    return [row for row in rows if device in row.required_for and row.status != "ok"]


def _steps(blockers: Sequence[Row], installer: str) -> tuple[str, ...] | None:
    """None if no command leads there: a GPU cannot be installed."""
    if any(row.name == "gpu" for row in blockers):
        return None
    simple = [row for row in blockers if row.fix.startswith(f"{installer} ") and "&&" not in row.fix]
    packages = [part for row in simple for part in row.fix.removeprefix(f"{installer} ").split(" ")]
    steps = [f"{installer} {' '.join(dict.fromkeys(packages))}"] if packages else []
    steps += [_step(row) for row in blockers if row not in simple]
    return tuple(dict.fromkeys(steps))


def _step(row: Row) -> str:
    if row.fix:
        return row.fix
    return NO_BUNDLE if row.name == "bundles" else f"{row.name}: {row.found}"
