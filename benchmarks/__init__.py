"""Measures coop_edge: speed, accuracy, solvers beside their peers; run from a checkout, not part of the wheel."""

from coop_edge.base.missing import install_extra, say_in_one_line

say_in_one_line("python -m benchmarks", install_extra("export,dev"))
