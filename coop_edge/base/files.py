"""Writes files so that a reader never meets half of one, and nothing but regular files is ever replaced."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from coop_edge.errors import InputError

_MACHINE = f"{zlib.crc32(socket.gethostname().encode()):08x}"
"""Of a temporary file's name: a process number means something on its own machine only."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file in ``path``'s folder for binary writing; it takes the place of ``path`` when the block succeeds.

    The data reaches the disk before the name does, so that neither an exception nor a power cut leaves a torn file.
    Missing folders are made. If the block raises, nothing is left behind and ``path`` keeps its old content. Through a
    symbolic link what it points to is replaced; mode and owner of a file that was there stay. What processes left that
    were killed while writing ``path`` is removed.

    Raises:
        OSError: the message names ``path``: it cannot be written, or is a folder, device, pipe or socket.
    """
    with _Pending(Path(path)) as pending:
        yield pending.file
        pending.finish()


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files as ``atomic_write`` does; all are on the disk before the first gets its name, in this order.

    Raises:
        OSError: as ``atomic_write`` does; then none has been replaced, or, if a rename failed, those before it.
    """
    with contextlib.ExitStack() as stack:
        every = [stack.enter_context(_Pending(path)) for path in contents]
        for pending, data in zip(every, contents.values(), strict=True):
            with naming(pending.asked):
                pending.file.write(data)
                pending.sync()
                pending.file.close()
        for pending in every:
            pending.finish()


def temporary_beside(path: Path, suffix: str = "") -> Path:
    """Return a name beside ``path`` for what is to take its place; nothing has it yet.

    What killed processes left under such names for the same ``path``, files and folders, is removed first.

    Args:
        path: what will be replaced.
        suffix: that the name ends with, for programs that go by it.
    """
    stem = f".{path.name[:40]}."  # names end at 255 bytes
    pattern = re.compile(rf"{re.escape(stem)}{_MACHINE}-(\d+)-[0-9a-f]{{8}}\.tmp.*")
    with contextlib.suppress(OSError):  # no such folder yet, or one that may not be listed
        for other in os.scandir(path.parent):
            found = pattern.fullmatch(other.name)
            if found and not _is_alive(int(found[1])):
                _remove(Path(other.path))
    return path.with_name(f"{stem}{_MACHINE}-{os.getpid()}-{uuid4().hex[:8]}.tmp{suffix}")


def exchange(one: Path, other: Path) -> bool:
    """Let two files or folders swap their names, in one step. Returns False where the system cannot do that.

    Raises:
        OSError: one of them is missing, or may not be renamed.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # not Linux, or a C library before 2018
        return False
    at_here = -100  # AT_FDCWD
    if rename(at_here, os.fsencode(one), at_here, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def lock(file: BinaryIO, path: Path, advice: str) -> None:
    """Take an open file for this process alone, until it is closed; where the system cannot do that, do nothing.

    Raises:
        InputError: another process has it. The message names ``path`` and ends with ``advice``.
    """
    try:
        import fcntl
    except ImportError:  # not POSIX
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: another run is writing it; wait for it, or {advice}") from None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the block's writing name ``path``, the file that was asked for."""
    try:
        yield
    except OSError as error:
        raise _cannot(error, path) from error


class Replacement:
    """A file that a program writes by its name beside the one whose place it will take, as ``atomic_write`` does.

    ``temporary`` is where it has to be written; the file is there, empty, from the beginning.

    Args:
        path: what will be replaced, through symbolic links.
        suffix: that the name ends with, for programs that go by it.

    Raises:
        OSError: as ``atomic_write`` does.
    """

    def __init__(self, path: Path, suffix: str = "") -> None:
        self.asked = path
        with naming(path):
            self._target = Path(os.path.realpath(path))
            self._check()
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self.temporary = temporary_beside(self._target, suffix)
            self._create()

    def finish(self) -> None:
        """Bring the data to the disk, and give the file its name.

        Raises:
            OSError: the message names the file that was asked for.
        """
        with naming(self.asked):
            if self._before is not None:
                self.temporary.chmod(stat.S_IMODE(self._before.st_mode))
            with self.temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(self.temporary, self._target)

    def discard(self) -> None:
        """Remove what has been written."""
        self.temporary.unlink(missing_ok=True)

    def _create(self) -> None:
        with self.temporary.open("wb") as file:
            self._keep_mode(file, more=stat.S_IWUSR | stat.S_IRUSR)

    def _check(self) -> None:
        """Refuse what is no regular file."""
        try:
            self._before: os.stat_result | None = self._target.stat()
        except FileNotFoundError:
            self._before = None
            return
        if stat.S_ISDIR(self._before.st_mode):
            raise IsADirectoryError(errno.EISDIR, "cannot write: it is a folder, wanted the name of a file")
        if not stat.S_ISREG(self._before.st_mode):
            raise OSError(errno.EINVAL, "cannot write: it is a device, pipe or socket, wanted the name of a file")

    def _keep_mode(self, file: BinaryIO, more: int = 0) -> None:
        if self._before is None:
            return
        with contextlib.suppress(PermissionError):  # only root gives files away
            os.fchown(file.fileno(), self._before.st_uid, self._before.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(self._before.st_mode) | more)


class _Pending(Replacement):
    """A file that is written through the handle that it was made with."""

    def __enter__(self) -> _Pending:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with contextlib.suppress(OSError):  # of an error in the block, which is said already
            self.file.close()
        self.discard()
        if isinstance(error, OSError) and error.filename is None and error.errno in _NO_ROOM:
            raise _cannot(error, self.asked) from error

    def sync(self) -> None:
        """Bring the data to the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def finish(self) -> None:
        """Give the file its name."""
        with naming(self.asked):
            if not self.file.closed:
                self.sync()
                self.file.close()
            os.replace(self.temporary, self._target)

    def _create(self) -> None:
        self.file: BinaryIO = self.temporary.open("wb")
        self._keep_mode(self.file)


def _cannot(error: OSError, path: Path) -> OSError:
    text = error.strerror or str(error)
    text = text if text.startswith("cannot write") else f"cannot write: {text}"
    return OSError(error.errno, text, str(path))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
