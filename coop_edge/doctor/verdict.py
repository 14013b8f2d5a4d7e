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
    ways = []
    for device in DEVICES:
        blockers = _blockers(rows, device)
        if not any(row.name == "gpu" for row in blockers):  # no command brings a GPU
            steps = _steps(blockers, installer)
            ways.append((len(steps), len(blockers), steps))
    return min(ways)[2]


def _blockers(rows: Sequence[Row], device: str) -> list[Row]:
    return [row for row in rows if device in row.required_for and row.status != "ok"]


def _steps(blockers: Sequence[Row], installer: str) -> tuple[str, ...]:
    simple = [row for row in blockers if row.fix.startswith(f"{installer} ") and "&&" not in row.fix]
    packages = [part for row in simple for part in row.fix.removeprefix(f"{installer} ").split(" ")]
    steps = [f"{installer} {' '.join(dict.fromkeys(packages))}"] if packages else []
    steps += [_step(row) for row in blockers if row not in simple]
    return tuple(dict.fromkeys(steps))


def _step(row: Row) -> str:
    if row.fix:
        return row.fix
    return NO_BUNDLE if row.name == "bundles" else f"{row.name}: {row.found}"
