"""TemplateSet files: a compressed .npz whose manifest carries the schema and the hash of all the rest."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.base.files import atomic_write
from coop_edge.errors import BundleError, InputError
from coop_edge.mesh.symmetry import Symmetries
from coop_edge.templates.template_set import TemplateSet
from coop_edge.templates.viewpoints import VERSION

FORMAT = "coop_edge.TemplateSet"
SCHEMA = 1
"""Of the file; a reader refuses a newer one."""
_ARRAYS = ("rgb", "object_points", "T_camera_object", "K", "symmetries_discrete", "symmetries_continuous")
_AGAIN = "make it again: coop-edge onboard MESH --unit UNIT -o TEMPLATES.npz"


def save(templates: TemplateSet, path: str | os.PathLike[str]) -> None:
    """See ``TemplateSet.save``."""
    manifest = {"format": FORMAT, "schema": SCHEMA, "hash": templates.hash, **templates._plain()}
    text = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    with atomic_write(path) as file:
        contents: dict[str, Any] = {"manifest": text, **templates._arrays()}
        np.savez_compressed(file, **contents)


def load(path: str | os.PathLike[str]) -> TemplateSet:
    """See ``TemplateSet.load``."""
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"{path}: no such template file; {_AGAIN}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
        with np.load(path, allow_pickle=False) as file:
            manifest = _manifest(path, names, file)
            missing = [name for name in _ARRAYS if f"{name}.npy" not in names]
            if missing:
                raise BundleError(f"{path}: incomplete, without {', '.join(missing)}; {_AGAIN}")
            arrays = {name: file[name] for name in _ARRAYS}
    except BundleError:
        raise
    except Exception as error:  # a flipped bit can look like a password, a method or a shape that does not exist
        raise BundleError(f"{path}: not a template file, or truncated or damaged ({error}); {_AGAIN}") from error
    return _checked(path, manifest, arrays)


def _manifest(path: Path, names: set[str], file: Any) -> dict[str, Any]:
    if "manifest.npy" not in names:
        raise BundleError(f"{path}: an archive, but not of templates (it has no manifest); {_AGAIN}")
    manifest = json.loads(bytes(file["manifest"]).decode())
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path}: an archive, but not of templates (its manifest is not {FORMAT}'s); {_AGAIN}")
    schema = manifest.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise BundleError(f"{path}: schema {schema!r} is unknown, wanted {SCHEMA}; {_AGAIN}")
    if schema > SCHEMA:
        raise BundleError(
            f"{path}: schema {schema} is newer than this coop_edge reads ({SCHEMA}): upgrade coop_edge, or {_AGAIN}"
        )
    return manifest


def _checked(path: Path, manifest: dict[str, Any], arrays: dict[str, Any]) -> TemplateSet:
    try:
        discrete, continuous = arrays.pop("symmetries_discrete"), arrays.pop("symmetries_continuous")
        templates = TemplateSet(
            **arrays,
            symmetries=Symmetries(tuple(discrete), tuple((axis, offset) for axis, offset in continuous)),
            mesh_hash=manifest["mesh_hash"],
            diameter=manifest["diameter"],
            settings=manifest["settings"],
            name=manifest["name"],
        )
        fits = templates.hash == manifest["hash"]
        order = templates.settings.get("viewpoints", VERSION)
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise BundleError(f"{path}: damaged ({type(error).__name__}: {error}); {_AGAIN}") from error
    if not fits:
        raise BundleError(f"{path}: damaged, its content does not fit its hash {str(manifest['hash'])[:12]}; {_AGAIN}")
    if order != VERSION:  # "template 17" would mean another view
        raise BundleError(f"{path}: its viewpoints are of version {order!r}, wanted {VERSION}; {_AGAIN}")
    return templates
