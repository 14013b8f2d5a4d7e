"""Options that give objects their symmetries, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coop_edge.errors import InputError

if TYPE_CHECKING:
    from coop_edge.mesh import Mesh, Symmetries

ModelsInfo = Annotated[
    Path | None,
    typer.Option(help="BOP models_info.json to take symmetries from, in the unit of the mesh; with --object-id."),
]
ObjectIds = Annotated[
    list[str] | None,
    typer.Option(
        "--object-id", metavar="ID|NAME=ID", help="Entry of --models-info: ID of the only object, or NAME=ID."
    ),
]


def check_pair(models_info: Path | None, object_id: object) -> None:
    """Raise InputError if one of the two options is given without the other."""
    if (models_info is None) != (object_id is None):
        raise InputError("--models-info and --object-id: wanted both or neither")


def read_object_ids(
    models_info: Path | None, texts: Sequence[str] | None, names: Sequence[str]
) -> dict[str, tuple[Path, int]]:
    """Return the file and the entry of each object that is to have symmetries, by its name.

    Raises:
        InputError: one option without the other, an unknown name, or two entries of one object.
    """
    check_pair(models_info, texts or None)
    found: dict[str, tuple[Path, int]] = {}
    for text in texts or ():
        name, sign, number = text.rpartition("=")
        if not sign and len(names) == 1:
            name = names[0]
        if name not in names or not number.isdigit():
            raise InputError(f"--object-id: wanted NAME=ID with NAME one of {', '.join(names)}, got {text!r}")
        if name in found:
            raise InputError(f"--object-id: wanted one entry for {name!r}, got {found[name][1]} and {number}")
        assert models_info is not None
        found[name] = models_info, int(number)
    return found


def symmetries_of(name: str, entries: Mapping[str, tuple[Path, int]], mesh: Mesh, unit: str) -> Symmetries | None:
    """Return the symmetries of an object, None if it has no entry.

    Raises:
        InputError: the file is missing or damaged, or has no such entry.
    """
    if name not in entries:
        return None
    from coop_edge.mesh.models_info import load_symmetries

    path, object_id = entries[name]
    return load_symmetries(path, object_id, mesh, unit=unit)
