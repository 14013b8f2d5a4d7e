"""Runs a probe so that an exception, a crash or a hang becomes one readable line.

Probes that load native libraries run in a child process. A driver that hangs, a wheel with instructions that this
processor lacks, two packages that overwrote each other's libraries: they take the child down, not the report.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from coop_edge.errors import quoted

Facts = dict[str, Any]
TIMEOUT_S = 90.0
"""Importing a large package from a cold SD card takes half a minute."""

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from coop_edge.doctor.isolate import child; child(sys.argv[2])"
)


@dataclass(frozen=True)
class Outcome:
    """What a probe found (``facts``, plain data), or why it found nothing (``problem``); neither: not installed.

    Attributes:
        said: what libraries wrote to standard error or output meanwhile.
    """

    facts: Facts | None = None
    problem: str = ""
    said: str = ""


def here(probe: Callable[[], Facts]) -> Outcome:
    """Run a probe in this process; only for what merely reads files."""
    try:
        return Outcome(facts=probe())
    except Exception as error:  # whatever a probe meets belongs into its row, not into a trace
        return Outcome(problem=quoted(error))


def in_child(place: str, *, timeout_s: float = TIMEOUT_S) -> Outcome:
    """Run the probe ``"package.module:function"`` in a fresh interpreter with this one's search path."""
    command, pipe = [sys.executable, "-c", _CHILD, json.dumps(sys.path), place], subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace"
        )
    except OSError as error:
        return Outcome(problem=f"no process to look in could be started: {quoted(error)}")
    try:
        out, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return Outcome(problem=f"gave no answer within {timeout_s:g} s")
    finally:
        _end(process)
    if process.returncode:
        return Outcome(problem=_ending(process.returncode, said), said=said)
    try:
        return Outcome(said=said, **json.loads(out))
    except (ValueError, TypeError):
        return Outcome(problem=f"gave an unreadable answer: {out[:80]!r}", said=said)


def child(place: str) -> None:
    """Run the probe in the child: its answer goes to standard output, all that libraries print to standard error."""
    answer = os.dup(1)
    os.dup2(2, 1)
    module, _, name = place.partition(":")
    outcome = here(lambda: getattr(importlib.import_module(module), name)())
    with os.fdopen(answer, "w") as file:
        json.dump({"facts": outcome.facts, "problem": outcome.problem}, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # some libraries crash while they are unloaded, which says nothing about their use


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: not even SIGKILL ends it; we go on without it
            process.wait(5)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _ending(code: int, said: str) -> str:
    how = f"ended with exit code {code}"
    if code < 0:
        with suppress(ValueError):
            how = f"crashed with {signal.Signals(-code).name}"
    last = (said.strip().splitlines() or [""])[-1]
    return f"{how}: {last}" if last else how
