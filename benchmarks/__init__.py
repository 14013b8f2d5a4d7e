"""Measures coop_edge: speed, accuracy, solvers beside their peers; run from a checkout, not part of the wheel."""

from coop_edge.base.missing import say_in_one_line

say_in_one_line("python -m benchmarks", "pip install '.[export,dev]', in the checkout")
