"""Processes that work through a sequence of jobs: results in order, as they come, whatever dies."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from coop_edge.base.warning_lines import show_as_lines

Job = TypeVar("Job")
Setup = TypeVar("Setup")
Result = TypeVar("Result")

RETRIES = 2
"""How often a job is tried again whose process died; the last time alone."""
_AHEAD = 4  # jobs per process that are on their way
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What the numeric libraries take their number of threads from."""


class _Died(Exception):
    """A process was killed. The jobs that may have done it are the argument."""


def run_pool(
    jobs: Sequence[Job],
    make: Callable[[Setup], Callable[[Job], Result]],
    setup: Setup,
    *,
    processes: int,
    threads: int,
    lost: Callable[[Job], Result],
) -> Generator[Result, None, None]:
    """Yield the result of each job, in their order, as they come.

    Every process has a worker of its own, made when its first job comes. When the generator is closed, or an error ends
    it, the processes end too; so they do when this process is killed, and Ctrl-C is left to it. What ``make`` or a
    worker raises is raised here, and ends the run.

    Args:
        jobs: what can be pickled.
        make: makes the worker of a process: a function or class of a module.
        setup: what ``make`` is given; can be pickled.
        processes: at least 1.
        threads: of each process, for the libraries that take theirs from the environment.
        lost: says the result of a job that killed its process ``RETRIES`` + 1 times, or raises.
    """
    done: dict[int, Result] = {}
    tries: Counter[int] = Counter()
    following = 0
    with _environment(threads):
        while following < len(jobs):
            waiting = [i for i in range(following, len(jobs)) if i not in done]
            alone = [i for i in waiting if tries[i] >= RETRIES][:1]
            begin = make, setup, threads
            try:
                for i, result in _results(jobs, alone or waiting, begin, 1 if alone else processes):
                    done[i] = result
                    while following in done:
                        yield done.pop(following)
                        following += 1
            except _Died as died:
                tries.update(died.args[0])
                if alone:
                    done[alone[0]] = lost(jobs[alone[0]])
            while following in done:
                yield done.pop(following)
                following += 1


def _results(jobs: Sequence[Any], which: list[int], begin: Any, processes: int) -> Iterator[tuple[int, Any]]:
    """Yield number and result of the jobs ``which``, as they come. Raises ``_Died``, and what a worker raises."""
    context = multiprocessing.get_context("spawn")  # threads of the parent do not survive a fork
    others = multiprocessing.active_children()
    left, running = iter(which), dict[Future[Any], int]()
    with ProcessPoolExecutor(min(processes, len(which)), context, initializer=_begin, initargs=begin) as pool:
        try:
            while True:
                for i in itertools.islice(left, _AHEAD * processes - len(running)):
                    running[pool.submit(_work, jobs[i])] = i
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            raise _Died(list(running.values())) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()  # the pool would wait for its jobs
            raise


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Let the processes that are started read their number of threads from the environment."""
    earlier = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in earlier.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Process:
    """What a process of the pool keeps. An error of ``make`` would not reach the parent from an initializer."""

    make: Callable[[Any], Callable[[Any], Any]]
    setup: Any
    worker: Callable[[Any], Any] | None = None


def _begin(make: Callable[[Any], Callable[[Any], Any]], setup: Any, threads: int) -> None:
    import cv2

    _end_with_the_parent()
    show_as_lines()  # they go to the terminal of the command that started the run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; who asked for the jobs ends them
    cv2.setNumThreads(threads)
    _Process.make, _Process.setup = staticmethod(make), setup


def _end_with_the_parent() -> None:
    """Let this process end when its parent has, however that ended: the pool's queue would be waited at for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_for_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_it, name="ends with the parent", daemon=True).start()


def _work(job: Any) -> Any:
    if _Process.worker is None:
        _Process.worker = staticmethod(_Process.make(_Process.setup))
    return _Process.worker(job)
