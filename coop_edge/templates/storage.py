"""Writes and reads templates: a compressed .npz whose manifest carries the schema and the hash of all the rest."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.base.files import atomic_write
from coop_edge.errors import BundleError

FORMAT = "coop_edge.TemplateSet"
SCHEMA = 2
"""Of the file; a reader refuses a newer one. Files of schema 1 hold no descriptors of views."""
_ARRAYS = ("rgb", "object_points", "T_camera_object", "K", "symmetries_discrete", "symmetries_continuous")
_OPTIONAL = ("view_descriptors",)
AGAIN = "make it again: coop-edge onboard MESH --unit UNIT -o TEMPLATES.npz"


def write(path: str | os.PathLike[str], manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays of ``_ARRAYS`` and ``_OPTIONAL`` by name, and a manifest of plain data, whole or not at all."""
    text = np.frombuffer(json.dumps({"format": FORMAT, "schema": SCHEMA, **manifest}).encode(), np.uint8)
    with atomic_write(path) as file:
        contents: dict[str, Any] = {"manifest": text, **arrays}
        np.savez_compressed(file, **contents)


def read(path: Path, max_bytes: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read the manifest, and the arrays by name; whether they fit its hash is the caller's to check.

    Args:
        max_bytes: of all arrays together, unpacked.

    Raises:
        BundleError: missing, not such a file, damaged, incomplete, larger, or of a newer schema.
    """
    if not path.is_file():
        raise BundleError(f"{path}: no such template file; {AGAIN}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            _check_sizes(path, archive, max_bytes)
        with np.load(path, allow_pickle=False) as file:
            manifest = _manifest(path, names, file)
            missing = [name for name in _ARRAYS if f"{name}.npy" not in names]
            if missing:
                raise BundleError(f"{path}: incomplete, without {', '.join(missing)}; {AGAIN}")
            arrays = {name: file[name] for name in (*_ARRAYS, *_OPTIONAL) if f"{name}.npy" in names}
    except BundleError:
        raise
    except Exception as error:  # a flipped bit can look like a password, a method or a shape that does not exist
        raise BundleError(f"{path}: not a template file, or truncated or damaged ({error}); {AGAIN}") from error
    return manifest, arrays


def _check_sizes(path: Path, archive: zipfile.ZipFile, max_bytes: int) -> None:
    """Raise BundleError if the arrays are larger than ``max_bytes``, or than their headers say, before any is read."""
    total = sum(info.file_size for info in archive.infolist())
    if total > max_bytes:
        raise BundleError(
            f"{path}: unpacks to {total} bytes, more than max_bytes={max_bytes}; if you trust the file, load it with "
            f"TemplateSet.load(path, max_bytes={total})"
        )
    for info in archive.infolist():
        if info.filename.removesuffix(".npy") not in ("manifest", *_ARRAYS, *_OPTIONAL):
            continue
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(member)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > info.file_size:
            raise BundleError(f"{path}: truncated or damaged, {info.filename} is not what its header says; {AGAIN}")


def _manifest(path: Path, names: set[str], file: Any) -> dict[str, Any]:
    if "manifest.npy" not in names:
        raise BundleError(f"{path}: an archive, but not of templates (it has no manifest); {AGAIN}")
    manifest = json.loads(bytes(file["manifest"]).decode())
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path}: an archive, but not of templates (its manifest is not {FORMAT}'s); {AGAIN}")
    schema = manifest.get("schema")
    if type(schema) is not int or schema < 1:
        raise BundleError(f"{path}: schema {schema!r} is unknown, wanted {SCHEMA}; {AGAIN}")
    if schema > SCHEMA:
        raise BundleError(
            f"{path}: schema {schema} is newer than this coop_edge reads ({SCHEMA}): upgrade coop_edge, or {AGAIN}"
        )
    return manifest
