"""What the doctor says: rows, and whether an Estimator could run, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = 1
"""Of the JSON; raised when a key changes its meaning or goes away, not when one is added."""

Status = Literal["ok", "missing", "broken", "optional"]
GROUPS = ("machine", "packages", "cuda", "networks")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Row:
    """One thing that was looked at.

    name: stable key, such as "onnxruntime" or "bundle:coop-xs". status: "ok" (here and works), "missing" (not here and
    needed), "broken" (here and does not work, or looking at it failed), "optional" (not here and not needed). found:
    what is here, one readable line. purpose: what it is for. required_for: the devices whose Estimator cannot run
    without it. fix: the command that brings or repairs it on this machine, "" if nothing is to be done or no command
    would. data: what was measured, as plain data.
    """

    name: str
    group: str
    status: Status
    found: str
    purpose: str
    required_for: tuple[str, ...] = ()
    fix: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, all keys always there."""
        return {
            "name": self.name,
            "group": self.group,
            "status": self.status,
            "found": self.found,
            "purpose": self.purpose,
            "required_for": list(self.required_for),
            "fix": self.fix,
            "data": dict(self.data),
        }


@dataclass(frozen=True)
class Report:
    """All rows and the verdict.

    blocked_by: per device, the names of the rows that keep an Estimator from running there; none = it could run.
    next_steps: the shortest way to a first device that can, one command or sentence each; empty when one can already.
    """

    version: str
    rows: tuple[Row, ...]
    blocked_by: Mapping[str, tuple[str, ...]]
    next_steps: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether an Estimator could run on some device of this machine."""
        return any(not names for names in self.blocked_by.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see the package's docstring."""
        return {
            "schema": SCHEMA,
            "coop_edge": self.version,
            "ready": self.ready,
            "devices": {d: {"ready": not names, "blocked_by": list(names)} for d, names in self.blocked_by.items()},
            "next_steps": list(self.next_steps),
            "rows": [row.to_dict() for row in self.rows],
        }
