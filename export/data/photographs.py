"""Fetches photographs for backgrounds and textures: pieces of the desktop wallpapers in Debian packages.

    python -m export.data.photographs [FOLDER]    # by default below $XDG_CACHE_HOME/coop_edge

Each picture is cut into pieces of ``SIDE`` pixels, which show different things: a few dozen pictures give hundreds.
Beside the pieces lies LICENSE, whose first line counts the pieces by licence, as the packages' copyright files state
it. Pictures under another licence than Creative Commons, or none, are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from coop_edge.base.files import atomic_write
from export.data.assets import debian_licences
from export.data.sources import debian_package, folder_argument

PACKAGES = ("ukui-wallpapers", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04")
SIDE = 320
"""Side of a piece, pixels."""
_LEAST_CONTRAST = 12.0
"""Standard deviation of the grey values, 0 to 255, below which a piece shows nothing: a sky, a plain colour."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def fetch_photographs(folder: Path) -> Counter[str]:
    """Download the packages below ``folder``, and write the pieces of their pictures to ``folder / "photos"``.

    Returns:
        How many pieces there are by licence.

    Raises:
        InputError: a download failed; the message has the command to run by hand.
    """
    sources, out = folder / "sources", folder / "photos"
    sources.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    counted: Counter[str] = Counter()
    for package in PACKAGES:
        root = debian_package(package, sources)
        licence = debian_licences(root / "usr/share/doc" / package / "copyright")
        for path in sorted(p for p in (root / "usr/share").rglob("*") if p.suffix.lower() in _SUFFIXES):
            named = next(filter(None, map(licence, (f"16.04/{path.name}", f"20.04/{path.name}", path.name))), "")
            if path.is_symlink() or not named.startswith("CC"):
                continue
            for number, piece in enumerate(pieces(path)):
                with atomic_write(out / f"{package}-{path.parent.name}-{path.stem}-{number}.jpg") as file:
                    piece.save(file, "JPEG", quality=90)
                counted[named] += 1
    text = ", ".join(f"{name} ({count} pieces)" for name, count in sorted(counted.items()))
    with atomic_write(out / "LICENSE") as file:
        file.write(f"{text}\nWallpapers of the Debian packages {', '.join(PACKAGES)}\n".encode())
    return counted


def pieces(path: Path) -> Iterator[Image.Image]:
    """Cut a picture into squares of ``SIDE`` pixels that show something; none where it is not a picture, or smaller."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError):
        return
    width, height = image.size
    scale = min(1.0, 2560 / max(width, height))
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)
    for y in range(0, image.height - SIDE + 1, SIDE):
        for x in range(0, image.width - SIDE + 1, SIDE):
            piece = image.crop((x, y, x + SIDE, y + SIDE))
            if np.asarray(piece.convert("L"), np.float64).std() >= _LEAST_CONTRAST:
                yield piece


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch the photographs and say how many there are."""
    folder = folder_argument(__doc__, arguments)
    counted = fetch_photographs(folder)
    print(f"{folder / 'photos'}: {sum(counted.values())} pieces")
    for name, count in sorted(counted.items()):
        print(f"  {count:5d}  {name}")


if __name__ == "__main__":
    main()
