"""Keeps TensorRT's measured kernel timings in a file, so that a second build is quicker.

A lost timing cache costs time, not correctness: what goes wrong with the file is a warning.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from coop_edge.base.files import atomic_write
from coop_edge.runtime.plan import Target, cache_folder

log = logging.getLogger("coop_edge")


def path_for(target: Target, option: Path | Literal["auto"] | None) -> Path | None:
    """Return the file for ``BuildOptions.timing_cache``; None without, and with TensorRT for RTX, which has none."""
    if target.flavour == "rtx":
        return None
    if option == "auto":
        return cache_folder() / "timing" / f"{target.flavour}{target.version}-sm{target.sm}.cache"
    return option


def read(path: Path) -> bytes:
    """Return the timings in a file; b"", a new cache, if there are none or they cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        log.warning("%s: the timing cache cannot be read (%s); starting a new one", path, error.strerror or error)
        return b""


def write(path: Path, content: bytes) -> None:
    """Write timings, whole or not at all."""
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        log.warning("%s: the timing cache cannot be written (%s)", path, error.strerror or error)
