"""Keeps the time that compilation takes apart from all other times, and says that it is going on.

Code is compiled when it first runs in an installation, in whatever stage that is. Where something is timed,
``working_time`` is read instead of the wall clock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("coop_edge.compile")


class _Total:
    """Seconds of compilation in this process; several threads may compile at once, which counts once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth, self.since, self.seconds = 0, 0.0, 0.0


_TOTAL = _Total()


def working_time() -> float:
    """Return the seconds of a clock that stands still while code is compiled in this process; it never goes back."""
    with _TOTAL.lock:
        return (_TOTAL.since if _TOTAL.depth else time.perf_counter()) - _TOTAL.seconds


def compile_seconds() -> float:
    """Return the seconds for which code has been compiled in this process so far."""
    with _TOTAL.lock:
        return _TOTAL.seconds + (time.perf_counter() - _TOTAL.since if _TOTAL.depth else 0.0)


@contextmanager
def compiling() -> Iterator[None]:
    """Count the time of the block as compilation."""
    started()
    try:
        yield
    finally:
        ended()


def started() -> None:
    """Count from now on as compilation, until ``ended`` has been called as often."""
    with _TOTAL.lock:
        if not _TOTAL.depth:
            _TOTAL.since = time.perf_counter()
        _TOTAL.depth += 1


def ended() -> None:
    """See ``started``."""
    with _TOTAL.lock:
        _TOTAL.depth -= 1
        if not _TOTAL.depth:
            _TOTAL.seconds += time.perf_counter() - _TOTAL.since
