"""Names the version of coop_edge, and refuses a Python that is too old for it. Imported before all else."""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 (pip refuses it too, but not where the checkout is on the path)
    raise ImportError("coop_edge needs Python 3.10 or newer, this is " + sys.version.split()[0])

__version__ = "0.5.0"
