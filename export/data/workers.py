"""Worker processes that compute blocks ahead of need, and hand them over in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, cast

Compute = Callable[[int], Any]
"""A block from its number."""

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Blocks(ABC):
    """Blocks first, first + 1, ..., each a function of its number."""

    @abstractmethod
    def next(self) -> Any:
        """Return the next block; waits for it."""

    @abstractmethod
    def close(self) -> None:
        """End what computes them. May be called more than once."""


class InProcess(Blocks):
    """Computes a block when it is asked for."""

    def __init__(self, compute: Compute, first: int) -> None:
        self._compute = compute
        self._block = first

    def next(self) -> Any:
        self._block += 1
        return self._compute(self._block - 1)

    def close(self) -> None:
        pass


class Workers(Blocks):
    """``count`` processes, each of which calls ``make`` once, and what it gives with the numbers of blocks.

    Block b goes to process (b mod lanes) mod count, at most ``ahead`` blocks before its turn. A thread of this process
    empties the pipes, so that a worker never waits for the training step.
    """

    def __init__(self, make: Callable[[], Compute], count: int, first: int, ahead: int, lanes: int) -> None:
        self._lanes, self._ahead = lanes, ahead
        self._next, self._sent = first, first
        self._ready: dict[int, Any] = {}
        self._failure: str | None = None
        self._changed = threading.Condition()
        self._closed = False
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        kept = {name: os.environ.get(name) for name in _THREAD_LIMITS}
        os.environ.update(dict.fromkeys(_THREAD_LIMITS, "1"))  # read when a child imports NumPy; one core per worker
        try:
            for k in range(count):
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, make), name=f"data worker {k}", daemon=True)
                process.start()
                there.close()
                self._pipes.append(here)
                self._processes.append(process)
        finally:
            for name, value in kept.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        self._thread = threading.Thread(target=self._receive, name="data receiver", daemon=True)
        self._order()
        self._thread.start()

    def next(self) -> Any:
        with self._changed:
            while self._next not in self._ready:
                if self._closed:
                    raise RuntimeError("the stream is closed")
                if self._failure is not None:
                    raise RuntimeError(self._failure)
                self._changed.wait()
            block = self._ready.pop(self._next)
            self._next += 1
            self._order()
        return block

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._thread.join()  # all pipes end with their processes
        for pipe in self._pipes:
            pipe.close()

    def _order(self) -> None:
        """Ask for all blocks up to ``ahead`` before the next one."""
        while self._sent < self._next + self._ahead:
            pipe = self._pipes[(self._sent % self._lanes) % len(self._pipes)]
            try:
                pipe.send(self._sent)
            except OSError:  # the worker is gone; the receiver says why
                return
            self._sent += 1

    def _receive(self) -> None:
        open_pipes = list(self._pipes)
        while open_pipes:
            for pipe in cast(list[Connection], wait(open_pipes)):
                trace: str | None
                try:
                    block, result, trace = pipe.recv()
                except (EOFError, OSError):
                    open_pipes.remove(pipe)
                    block, result, trace = -1, None, self._obituary(self._pipes.index(pipe))
                with self._changed:
                    if trace is None:
                        self._ready[block] = result
                    elif self._failure is None:
                        self._failure = trace
                    self._changed.notify_all()

    def _obituary(self, k: int) -> str:
        process = self._processes[k]
        process.join(5)
        return (
            f"{process.name} ended with exit code {process.exitcode} (a negative one is the signal that killed it; "
            "-9 is what the system does when memory runs out)"
        )


def _work(pipe: Connection, make: Callable[[], Compute]) -> None:
    """A worker's life: block numbers in; (block, result, None) or (block, None, traceback) out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes us
    block = -1
    try:
        import cv2

        cv2.setNumThreads(1)
        compute = make()
        while True:
            block = pipe.recv()
            pipe.send((block, compute(block), None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except Exception:
        trace = f"a data worker failed at block {block}:\n{traceback.format_exc()}"
        try:
            pipe.send((block, None, trace))
        except OSError:
            return
