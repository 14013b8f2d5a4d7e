"""The run on this machine: processes that each hold a worker, in the order of the images, whatever dies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coop_edge.annotate.items import Item
from coop_edge.annotate.worker import Setup, Worker, lost_line
from coop_edge.base.pool import run_pool


def run_local(items: Sequence[Item], setup: Setup, workers: int) -> Iterator[str]:
    """Yield the lines of all items, in their order, as they come.

    An image whose worker dies is tried again in a new one, as ``run_pool`` does; in the end its line says so.

    Raises:
        CoopEdgeError: what a worker's Estimator raises when it is made.
    """
    return run_pool(items, Worker, setup, processes=workers, threads=setup.threads, lost=lost_line)
