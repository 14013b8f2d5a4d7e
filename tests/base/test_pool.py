"""The pool of processes: order, errors, processes that are killed, what stays behind when it is closed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings

import pytest

from coop_edge.base.pool import RETRIES, run_pool


class Worker:
    """Does what a job says."""

    def __init__(self, setup):
        if setup == "broken":
            raise ValueError("no such setup")
        self._setup = setup

    def __call__(self, job):
        kind, value = job
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "fail":
            raise KeyError(value)
        if kind == "threads":
            return os.environ["OMP_NUM_THREADS"], os.environ["NUMBA_NUM_THREADS"]
        if kind == "warn":
            warnings.warn(value, UserWarning, stacklevel=1)
        if kind == "sleep":
            time.sleep(value)
        return self._setup, value


def pool(jobs, setup="mine", processes=2, lost=None):
    given = lost or (lambda job: pytest.fail(f"{job} was given up"))
    return run_pool(jobs, Worker, setup, processes=processes, threads=3, lost=given)


def test_results_come_in_the_order_of_the_jobs():
    before = dict(os.environ)
    jobs = [("sleep", 0.5), *(("do", i) for i in range(1, 30)), ("threads", None)]
    found = list(pool(jobs))
    assert found == [("mine", 0.5), *(("mine", i) for i in range(1, 30)), ("3", "3")]
    assert os.environ == before
    assert list(pool([])) == []


def test_warnings_of_the_processes_are_lines(capfd):
    list(pool([("warn", "the principal point\n is far off")], processes=1))
    assert capfd.readouterr().err == "warning: the principal point is far off\n"


def test_a_job_that_kills_its_process_is_given_up_and_the_others_are_done():
    given_up = []
    jobs = [("kill", i) if i == 4 else ("do", i) for i in range(12)]
    found = list(pool(jobs, lost=lambda job: given_up.append(job) or "lost"))
    assert found == ["lost" if i == 4 else ("mine", i) for i in range(12)]
    assert given_up == [("kill", 4)]
    assert RETRIES >= 1


@pytest.mark.parametrize(
    ("jobs", "setup", "error"),
    [([("do", 0), ("fail", "this")], "mine", KeyError), ([("do", 0)] * 3, "broken", ValueError)],
)
def test_errors_of_workers_and_of_making_them_reach_the_caller(jobs, setup, error):
    with pytest.raises(error, match=r"this|no such setup"):
        list(pool(jobs, setup))


def test_closing_it_ends_its_processes_at_once():
    others = multiprocessing.active_children()
    run = pool([("do", 0), ("sleep", 300.0), ("sleep", 300.0)])
    assert next(run) == ("mine", 0)
    start = time.monotonic()
    run.close()
    left = [process for process in multiprocessing.active_children() if process not in others]
    for process in left:
        process.join(60)
    assert not any(process.is_alive() for process in left)
    assert time.monotonic() - start < 120
