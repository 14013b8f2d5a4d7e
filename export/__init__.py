"""Trains the networks of coop_edge in PyTorch and exports them to bundles; run from a checkout, not part of the wheel.

Nothing in ``coop_edge`` imports this package, and it is not in the wheel.
"""

from coop_edge.base.missing import install_extra, say_in_one_line

say_in_one_line("python -m export", install_extra("export"))
