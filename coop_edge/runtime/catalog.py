"""Finds bundles: in the data package ``coop_edge.engines``, or in the folder ``engines/`` of a checkout."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from coop_edge.errors import BundleError
from coop_edge.runtime.network import MANIFEST


def available() -> list[Path]:
    """Return the folders of bundles that are installed (``coop_edge.engines``) or in the checkout's ``engines/``."""
    found: dict[str, Path] = {}
    for root in _roots():
        for manifest in sorted(root.glob(f"*/{MANIFEST}")):
            if not manifest.parent.name.startswith("."):  # an export that is not finished, or was killed
                found.setdefault(manifest.parent.name, manifest.parent)
    return [found[name] for name in sorted(found)]


def find(name: str) -> Path:
    """Return the folder of the installed bundle ``name``.

    Raises:
        BundleError: that lists what there is.
    """
    folders = {folder.name: folder for folder in available()}
    if name not in folders:
        roots = " or ".join(map(str, _roots())) or "anywhere (coop_edge.engines is not installed)"
        there = ", ".join(folders) or "none"
        raise BundleError(f"no bundle {name!r} in {roots}; there: {there}; give one of these, or a bundle's folder")
    return folders[name]


def _roots() -> list[Path]:
    """Return the folders that hold bundles: the data package's, and that of the checkout this package is run from."""
    spec = importlib.util.find_spec("coop_edge.engines")
    package = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    checkout = Path(__file__).resolve().parents[2]
    beside = [checkout / "engines"] if (checkout / "pyproject.toml").is_file() else []
    return [root for root in dict.fromkeys(p.resolve() for p in (*package, *beside)) if root.is_dir()]
