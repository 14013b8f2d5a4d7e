"""Defines what a format's reader is given: a mesh file's bytes, what it may refer to, and where notes go."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from coop_edge.mesh.assets import Assets
from coop_edge.mesh.limits import LoadLimits


@dataclass
class Source:
    """A mesh file that is being read.

    Attributes:
        notes: what the file holds and the reader passes over, in words for the user.
    """

    path: Path
    data: bytes
    assets: Assets
    limits: LoadLimits
    ignore_colors: bool
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Say something about the file; twice the same is said once."""
        if text not in self.notes:
            self.notes.append(text)
