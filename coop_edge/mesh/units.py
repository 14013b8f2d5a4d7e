"""Knows the units of length that files come in."""

from __future__ import annotations

from typing import Any

from coop_edge.errors import InputError

METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001, "in": 0.0254}
"""Metres per unit."""


def metres_per(unit: Any) -> float:
    """Return the metres per ``unit``.

    Raises:
        InputError: an unknown one.
    """
    if not isinstance(unit, str) or unit not in METRES:
        raise InputError(f"unit: wanted one of {', '.join(map(repr, METRES))} (that of the file), got {unit!r}")
    return METRES[unit]
