"""Says which optional package is missing, and how to install it; for a program in one line in place of a trace."""

from __future__ import annotations

import sys
from types import TracebackType

OURS = ("coop_edge", "export", "benchmarks", "tests")


def install_extra(name: str) -> str:
    """Return the command that installs an extra of this package, which is in no package index."""
    return f"pip install '.[{name}]' in the folder of the checkout"


def say_in_one_line(program: str, install: str) -> None:
    """Let a package that is missing end this program with one line, if it is ``python -m PROGRAM...``.

    Args:
        program: the package that is run.
        install: the command that brings what it needs.
    """
    if sys.argv[:1] != ["-m"]:  # imported by something else
        return
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if not name or name in OURS:
            usual(kind, error, trace)
            return
        print(f"error: {program} needs {name}, which is not installed: {install}", file=sys.stderr)  # noqa: T201

    sys.excepthook = hook
