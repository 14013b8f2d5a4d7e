"""Runs a probe so that nothing it does can hurt the report: an exception, a crash or a hang becomes one readable line.

Probes that load native libraries run in a child process. A driver that hangs, a wheel with instructions this processor
does not have, two packages that overwrote each other's libraries: they take the child down, and the report says so.
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
    """What a probe found (``facts``, plain data), or why it found nothing (``problem``).

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
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), place]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
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
    """What runs in the child: the answer goes to standard output, all that libraries print goes elsewhere."""
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
    last = (said.strip().splitlines() or [""])[-1]
    if code < 0:
        with suppress(ValueError):
            return f"crashed with {signal.Signals(-code).name}" + (f": {last}" if last else "")
    return f"ended with exit code {code}" + (f": {last}" if last else "")
