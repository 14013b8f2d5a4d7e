"""From rows to the verdict: what keeps an Estimator from running, and the shortest way to one that can."""

from __future__ import annotations

from collections.abc import Sequence

from coop_edge.doctor.advice import AGAIN
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
    commands: dict[str, list[str]] = {}
    for row in blockers:
        step = _step(row)
        prefix = next((start for start in (f"{installer} {AGAIN} ", f"{installer} ") if step.startswith(start)), "")
        alone = not prefix or "&&" in step
        commands.setdefault(step if alone else prefix, []).append("" if alone else step.removeprefix(prefix))
    return tuple(start + " ".join(dict.fromkeys(" ".join(rest).split())) for start, rest in commands.items())


def _step(row: Row) -> str:
    if row.fix:
        return row.fix
    return NO_BUNDLE if row.name == "bundles" else f"{row.name}: {row.found}"
