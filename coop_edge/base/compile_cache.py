"""Makes Numba's files of compiled code safe: what a power cut or a full disk left there is compiled again.

Numba itself ends with EOFError at every start once a file of its cache is empty, and runs whatever is in one. Here each
file ends with the SHA-256 of what is before it; Numba reads such a file as it reads its own.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import IndexDataCacheFile

log = logging.getLogger(__name__)

DIGEST = hashlib.sha256().digest_size
SUFFIXES = (".nbi", ".nbc")


class CheckedCacheFile(IndexDataCacheFile):  # type: ignore[misc]
    """The index and the data files of one function. What cannot be read or written costs time, and is a warning.

    Not part of Numba's interface: 0.60 to 0.68 have these methods, and a test fails where one is missing.
    """

    def save(self, key: Any, data: Any) -> None:
        """Keep compiled code."""
        try:
            super().save(key, data)
        except OSError as error:
            _warn_once(f"{self._cache_path}: compiled code cannot be kept there ({error.strerror or error})")

    def _load_index(self) -> Any:
        return super()._load_index() if _is_sound(Path(self._index_path)) else {}

    def _load_data(self, name: str) -> Any:
        return super()._load_data(name) if _is_sound(Path(self._data_path(name))) else None

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


def damaged(folders: Iterable[Path]) -> list[Path]:
    """Return the files of compiled code in ``folders`` that are not whole, by name."""
    files = (path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.suffix in SUFFIXES)
    return sorted(path for path in files if _fault(path))


def _is_sound(path: Path) -> bool:
    """Whether a file is there and whole; says why not, if it is there."""
    if not path.exists():
        return False
    if fault := _fault(path):
        _say_damaged(path.parent, f"{path.name}: {fault}")
        return False
    return True


def _fault(path: Path) -> str:
    """What is wrong with a file of compiled code; "" if nothing."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"compiled code cannot be read ({error.strerror or error})"
    if hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]:
        return ""
    return "the compiled code in it is damaged, as by a power cut or a full disk, or of another version"


_SAID: set[Path] = set()


def _say_damaged(folder: Path, what: str) -> None:
    """Once for all files of a folder."""
    if folder not in _SAID:
        _SAID.add(folder)
        log.warning("%s: %s; compiling again what is", folder, what)


@cache
def _warn_once(text: str) -> None:
    log.warning(
        "%s; every process compiles it anew (about 40 s): make room, or let NUMBA_CACHE_DIR name a folder", text
    )
