"""What the doctor says: rows, and from them the verdict whether an Estimator could run, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SCHEMA = 1
"""Of the JSON; raised when a key changes its meaning or goes away, not when one is added."""
Status = Literal["ok", "missing", "broken", "optional"]
GROUPS = ("machine", "packages", "cuda", "networks")
DEVICES = ("cpu", "cuda")
AGAIN = "--force-reinstall"
NO_BUNDLE = (
    "bring a model bundle: reinstall coop-edge from a checkout whose engines/ has one, or export one there "
    "(python -m export onnx --help)"
)


@dataclass(frozen=True)
class Row:
    """One thing that was looked at.

    Attributes:
        name: stable key, such as "onnxruntime" or "bundle:coop-xs".
        status: "ok" (here and works), "missing" (not here and needed), "broken" (here and does not work, or looking at
            it failed), "optional" (not here and not needed).
        found: what is here, one readable line.
        purpose: what it is for.
        required_for: the devices whose Estimator cannot run without it.
        fix: the command that brings or repairs it on this machine, "" if nothing is to be done or no command would.
        data: what was measured, as plain data.
    """

    name: str
    group: str
    status: Status
    found: str
    purpose: str
    required_for: tuple[str, ...] = ()
    fix: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All rows and the verdict.

    Attributes:
        installer: the command before the names of packages, as ``findings.pip`` returns it.
    """

    version: str
    rows: tuple[Row, ...]
    installer: str

    @property
    def blocked_by(self) -> dict[str, tuple[str, ...]]:
        """Return per device the names of the rows that keep an Estimator from running there; none: it could run."""
        return {device: tuple(row.name for row in self._blockers(device)) for device in DEVICES}

    @property
    def ready(self) -> bool:
        """Tell whether an Estimator could run on some device of this machine."""
        return not all(self.blocked_by.values())

    @property
    def next_steps(self) -> tuple[str, ...]:
        """Return the shortest way to a first device that is ready, one command or sentence each; empty when one is."""
        ways = []
        for blockers in map(self._blockers, DEVICES):
            if not any(row.name == "gpu" for row in blockers):  # no command brings a GPU
                steps = self._steps(blockers)
                ways.append((len(steps), len(blockers), steps))
        return min(ways)[2]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; see the package's docstring."""
        return {
            "schema": SCHEMA,
            "coop_edge": self.version,
            "ready": self.ready,
            "devices": {d: {"ready": not names, "blocked_by": list(names)} for d, names in self.blocked_by.items()},
            "next_steps": list(self.next_steps),
            "rows": [asdict(row) | {"required_for": list(row.required_for)} for row in self.rows],
        }

    def _blockers(self, device: str) -> list[Row]:
        return [row for row in self.rows if device in row.required_for and row.status != "ok"]

    def _steps(self, blockers: list[Row]) -> tuple[str, ...]:
        """What brings each of them; what pip installs, in one command."""
        commands: dict[str, list[str]] = {}
        for row in blockers:
            step = row.fix or (NO_BUNDLE if row.name == "bundles" else f"{row.name}: {row.found}")
            starts = (f"{self.installer} {AGAIN} ", f"{self.installer} ", step)
            start = step if "&&" in step else next(start for start in starts if step.startswith(start))
            commands.setdefault(start, []).extend(step.removeprefix(start).split())
        return tuple(start + " ".join(dict.fromkeys(names)) for start, names in commands.items())
