"""Writes files so that a reader never meets half of one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file in ``path``'s folder for binary writing; it takes the place of ``path`` when the block succeeds.

    The data reaches the disk before the name does, so that neither an exception nor a power cut leaves a torn file.
    Missing folders are made. If the block raises, nothing is left behind and ``path`` keeps its old content.
    Raises OSError that names ``path`` if it cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "cannot write: it is a folder, wanted the name of a file", str(target))
    temporary = target.with_name(f".{target.name[:40]}.{os.getpid()}-{uuid4().hex[:8]}.tmp")  # names end at 255 bytes
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("wb")
    except OSError as error:  # named after what was asked for, not after the file in between
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(target)) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
