"""Mesh collections that any machine can fetch through its package managers, with their licences.

    python -m export.data.sources [FOLDER]        # fetch all, build FOLDER/pack.npz

What each of them runs (once; what is in the cache folder is not fetched again):

- ``sweethome3d``: ``apt-get download sweethome3d-furniture``, 120 MB; 820 pieces of furniture, appliances, people,
  tools as textured or coloured OBJ; CC-0 and CC-BY, by collection.
- ``kicad``: ``apt-get download kicad-packages3d``, 379 MB; 6,227 electronic parts as coloured VRML; CC-BY-SA 4.0 with
  the KiCad exception. Files under another licence (some are GPL) are left out.
- ``random_urdfs``: ``pip download --no-deps pybullet``, 103 MB; 1,000 shapes without colour; zlib licence. The wheel's
  other meshes are not used.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from coop_edge.errors import InputError
from export.data.assets import Report, Source, build_pack, debian_licences

NAMES = ("sweethome3d", "kicad", "random_urdfs")
LIMIT = 1500
"""Objects of the pack that ``main`` builds."""


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/coop_edge``, by default ``~/.cache/coop_edge``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coop_edge"


def fetch(name: str, cache: str | os.PathLike[str] | None = None) -> list[Source]:
    """Download and unpack a collection into the cache folder, and describe it for ``build_pack``.

    Raises:
        InputError: the name is unknown, or a download failed; the message has the command to run by hand.
    """
    if name not in NAMES:
        raise InputError(f"sources: wanted one of {', '.join(NAMES)}, got {name!r}")
    folder = (Path(cache) if cache is not None else cache_folder()) / "sources"
    folder.mkdir(parents=True, exist_ok=True)
    if name == "sweethome3d":
        root = debian_package("sweethome3d-furniture", folder)
        licence = debian_licences(root / "usr/share/doc/sweethome3d-furniture/copyright")
        collections = sorted((root / "usr/share/sweethome3d/furniture").glob("*.sh3f"))
        return [Source(p, f"sweethome3d/{p.stem}", licence(f"{p.stem}/x") or "") for p in collections]
    if name == "kicad":
        root = debian_package("kicad-packages3d", folder)
        licence = debian_licences(root / "usr/share/doc/kicad-packages3d/copyright")

        def shared_alike(path: str) -> str | None:
            found = licence(path)
            return found if found is not None and found.startswith("CC-") else None

        return [Source(root / "usr/share/kicad/3dmodels", "kicad", shared_alike, "*.wrl")]
    wheel = _download("pybullet", ["pip", "download", "--no-deps", "pybullet"], "pybullet-*.whl", folder)
    return [Source(wheel, "random_urdfs", "Zlib", "pybullet_data/random_urdfs/*.obj")]


def folder_argument(about: str | None, arguments: Sequence[str] | None = None) -> Path:
    """Read a command's one argument, FOLDER, from ``arguments``, by default the command line's."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=cache_folder(), help="by default %(default)s")
    return Path(parser.parse_args(arguments).folder)


def main(arguments: Sequence[str] | None = None) -> Report:
    """Fetch every collection and build a pack of them."""
    folder = folder_argument(__doc__, arguments)
    logging.basicConfig(level=logging.ERROR)
    sources = [source for name in NAMES for source in fetch(name, folder)]
    report = build_pack(sources, folder / "pack.npz", limit=LIMIT, progress=_print_progress)
    print(
        f"\n{folder / 'pack.npz'}: {report.count} objects, {report.bytes / 1e6:.1f} MB; {len(report.failed)} left out"
    )
    for name, count in sorted(report.added.items()):
        print(f"  {count:5d}  {name}")
    return report


def debian_package(package: str, folder: Path) -> Path:
    """Download a Debian package, unpack it without installing it, and return the folder of its files.

    Raises:
        InputError: the download failed.
    """
    archive = _download(package, ["apt-get", "download", package], f"{package}_*.deb", folder)
    root = folder / package
    if not root.is_dir():
        partial = folder / f"{package}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["dpkg-deb", "-x", str(archive), str(partial)], check=True, capture_output=True)
        partial.rename(root)
    return root


def _download(name: str, command: list[str], pattern: str, folder: Path) -> Path:
    """The file that the command leaves in the folder."""
    if not (found := sorted(folder.glob(pattern))):
        run = [sys.executable, "-m", *command] if command[0] == "pip" else command
        try:
            subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
            raise InputError(
                f"sources: {name} could not be fetched ({' '.join(why)}). By hand: cd {folder} && {' '.join(command)}"
            ) from error
        found = sorted(folder.glob(pattern))
    if not found:
        raise InputError(f"sources: '{' '.join(command)}' left no {pattern} in {folder}")
    return found[-1]


def _print_progress(done: int, total: int) -> None:
    if done % 20 == 0 or done == total:
        print(f"\r{done} of {total}", end="", flush=True)


if __name__ == "__main__":
    main()
