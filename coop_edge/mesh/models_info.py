"""Reads symmetries from BOP's models_info.json, and checks that an entry is that of the mesh."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.base.plain import parse_json
from coop_edge.errors import InputError
from coop_edge.mesh.mesh import Mesh
from coop_edge.mesh.symmetry import Symmetries
from coop_edge.mesh.units import METRES, metres_per

logger = logging.getLogger(__name__)

TOLERANCE = 0.05
"""Share of the diameter by which an entry's diameter and box may differ: those of two meshes of one object do."""


def load_symmetries(path: str | os.PathLike[str], object_id: int, mesh: Mesh, *, unit: str) -> Symmetries:
    """Return the symmetries of one object of a models_info.json, in its own frame, metres.

    Args:
        path: the file: a mapping from object ids to entries with "diameter", "symmetries_discrete" and so on.
        object_id: which entry.
        mesh: of the object; the entry's diameter, and its box where it has one, are compared with it.
        unit: of the file, which is that of the mesh file: "m", "cm", "mm" or "in".

    Raises:
        InputError: the file is missing or of another form, has no such entry, or the entry is of another object or
            unit.
    """
    scale = metres_per(unit)
    path = Path(path)
    entries = _read(path)
    if str(object_id) not in entries:
        raise InputError(f"{path}: has no object {object_id} (it has {', '.join(map(str, entries)) or 'none'})")
    entry, where = entries[str(object_id)], f"{path}: object {object_id}"
    try:
        symmetries = Symmetries.from_bop(entry, unit)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if "diameter" not in entry:
        logger.warning("%s: gives no diameter: whether it is this object's and in %s is not checked", where, unit)
        return symmetries
    diameter = _number(entry, "diameter", where) * scale
    if diameter <= 0:
        raise InputError(f"{where}: diameter {entry['diameter']}: wanted a number above 0")
    if abs(diameter - mesh.diameter) > TOLERANCE * mesh.diameter:
        raise InputError(
            f"{where}: its diameter is {diameter:.4g} m with unit={unit!r}, that of the mesh {mesh.diameter:.4g} m; "
            f"{_hint(entries, mesh, unit)}"
        )
    _check_box(entry, where, mesh, scale)
    return symmetries


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"models_info: {path} is no file; wanted BOP's models_info.json")
    try:
        entries = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise InputError(f"models_info: {path} is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise InputError(f"models_info: {path} holds a {type(entries).__name__}; wanted a mapping from object ids")
    return entries


def _number(entry: Mapping[str, Any], key: str, where: str) -> float:
    value = entry.get(key)
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{where}: {key}: wanted a number, got {value!r:.60}")
    return number


def _hint(entries: Mapping[str, Any], mesh: Mesh, unit: str) -> str:
    """Say which entry or which unit fits the mesh."""

    def fitting(unit: str) -> list[str]:
        found = []
        for key, entry in entries.items():
            value = entry.get("diameter") if isinstance(entry, Mapping) else None
            if (
                isinstance(value, (int, float))
                and abs(value * METRES[unit] - mesh.diameter) <= TOLERANCE * mesh.diameter
            ):
                found.append(str(key))
        return found

    if same := fitting(unit):
        return f"the file's objects of this size: {', '.join(same)}; is the object id the right one?"
    for other in METRES:
        if others := fitting(other):
            return f"with unit={other!r} object {', '.join(others)} would fit: is the unit of the mesh the right one?"
    return "no object of the file is of this size: it is of other meshes"


def _check_box(entry: Mapping[str, Any], where: str, mesh: Mesh, scale: float) -> None:
    """Raise InputError if the entry has a bounding box, and it is not the mesh's."""
    keys = [f"{what}_{axis}" for what in ("min", "size") for axis in "xyz"]
    if not all(key in entry for key in keys):
        return
    given = np.array([_number(entry, key, where) for key in keys]) * scale
    vertices = mesh.vertices.astype(np.float64) + mesh.centre
    found = np.concatenate([vertices.min(axis=0), np.ptp(vertices, axis=0)])
    worst = int(np.abs(given - found).argmax())
    if abs(given[worst] - found[worst]) > TOLERANCE * mesh.diameter:
        raise InputError(
            f"{where}: its {keys[worst]} is {given[worst]:.4g} m, that of the mesh {found[worst]:.4g} m, though the "
            "diameters agree; is the object id the right one?"
        )
