"""Shows Python's warnings to users of the commands: a line each, without the source code that gave them."""

from __future__ import annotations

import sys
import warnings
from typing import TextIO


def show_as_lines() -> None:
    """Let warnings of this process be shown as lines from now on, or to the end of a ``warnings.catch_warnings``."""
    warnings.showwarning = _show


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print("warning:", " ".join(str(message).split()), file=file or sys.stderr)
