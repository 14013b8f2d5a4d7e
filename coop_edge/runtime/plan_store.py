"""Writes plans: chooses the folder, keeps two builds apart, stores plan and sidecar whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from coop_edge.base.files import write_together
from coop_edge.errors import EngineError
from coop_edge.runtime.network import Network
from coop_edge.runtime.plan import plan_folders, plan_stem, sidecar_of
from coop_edge.runtime.plan_lookup import LoadedPlan

log = logging.getLogger("coop_edge")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def writable_folder(network: Network, folder: Path | None = None) -> Path:
    """Return the folder for new plans of ``network``: ``folder``, else the first of ``plan_folders`` one can write to.

    It is made if missing.

    Raises:
        EngineError: that says why none will do.
    """
    refusals = []
    for candidate in (folder,) if folder is not None else plan_folders(network):
        try:
            candidate.mkdir(parents=True, exist_ok=True)
            probe = candidate / f".{uuid.uuid4().hex}.probe"  # permissions tell little: root, read-only mounts, ACLs
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            refusals.append(f"{candidate}: {error.strerror or error}")
            continue
        if refusals:
            log.warning("plans go to %s, because %s", candidate, "; ".join(refusals))
        return candidate
    remedy = "" if folder is not None else "; make one of them writable, or let XDG_CACHE_HOME name a folder that is"
    raise EngineError(f"no folder to write plans of {network.role} to ({'; '.join(refusals)}){remedy}")


@contextlib.contextmanager
def exclusive(folder: Path, network: Network) -> Iterator[bool]:
    """Let one process at a time build the plans of a graph in ``folder``; gives True if it had to wait for another.

    The kernel frees the lock when its holder ends, however it ends. What a killed build left half-written is removed.
    """
    path = folder / f".{plan_stem(network)}.lock"
    with _storage(folder):
        handle, waited = _acquire(path)
    try:
        for leftover in folder.glob(f".{plan_stem(network)}-*.tmp"):  # of a build that was killed: we hold the lock
            leftover.unlink(missing_ok=True)
        yield waited
    finally:
        try:
            path.unlink(missing_ok=True)  # before the lock goes, see _acquire
        finally:
            os.close(handle)


def write_plan(plan: LoadedPlan) -> None:
    """Write a plan and its sidecar, together: until both are on the disk, those that were there stay as they are.

    Raises:
        EngineError: the disk is full or the folder read-only; nothing has changed then.
    """
    with _storage(plan.path.parent, len(plan.data)):
        write_together({plan.path: plan.data, sidecar_of(plan.path): plan.info.to_json()})


def _acquire(path: Path) -> tuple[int, bool]:
    """Open and lock a file at ``path``; return its handle and whether another process held it.

    The holder removes the file, so whoever waited may hold a lock on a file that has no name any more, and tries again.
    """
    waited = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("another process builds %s; waiting for it", path.name.strip(".").removesuffix(".lock"))
                waited = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle, waited
            except FileNotFoundError:
                pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


@contextlib.contextmanager
def _storage(folder: Path, size: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = shutil.disk_usage(folder).free >> 20
            raise EngineError(
                f"{folder}: the disk is full ({free} MB free, the plan has {-(-size >> 20)} MB; {error.strerror}); "
                "make room there"
            ) from error
        raise EngineError(f"{folder}: cannot be written to: {error.strerror or error}") from error
