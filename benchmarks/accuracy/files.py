"""Reading what BOP's files hold, with errors that name the file, what it has and what was wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.base.plain import floats, parse_json
from coop_edge.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_ROUNDING = 1e-2  # files round rotations to a few digits; beyond this it is none
_EXACT = 1e-12


def read_json(path: Path, kind: type, otherwise: str) -> Any:
    """Read the file's content, a ``kind`` (dict or list). otherwise: what a missing file means.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; {otherwise}")
    try:
        content = parse_json(path.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, kind):
        wanted = "an object" if kind is dict else "a list"
        raise InputError(f"{path}: wanted {wanted}, got a {type(content).__name__}")
    return content


def find_picture(folder: Path, im_id: int) -> Path | None:
    """Find the picture of an image in a folder, whatever its format; None if there is none."""
    candidates = (folder / f"{im_id:06d}{suffix}" for suffix in PICTURES)
    return next((path for path in candidates if path.is_file()), None)


def bop_object_file(obj_id: int) -> str:
    """Name of an object's mesh file."""
    return f"obj_{obj_id:06d}.ply"


def numbers(values: Any, count: int, where: str) -> np.ndarray:
    """Return ``count`` finite numbers as float64, or raise InputError."""
    array = floats(values, where, f"{count} numbers").reshape(-1)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise InputError(f"{where}: wanted {count} finite numbers, got {values!r:.80}")
    return array


def nearest_rotation(R: np.ndarray, where: str) -> np.ndarray:
    """Return the rotation nearest to R [3,3], which was rounded to few digits; an exact one stays bit for bit.

    Raises:
        InputError: R is far from any rotation.
    """
    if np.abs(R @ R.T - np.eye(3)).max() < _EXACT and np.linalg.det(R) > 0:
        return R
    U, _, Vt = np.linalg.svd(R)
    nearest = U @ Vt
    if np.linalg.det(nearest) < 0 or np.abs(nearest - R).max() > _ROUNDING:
        raise InputError(f"{where}: not a rotation: {R.round(4).tolist()}")
    return nearest
