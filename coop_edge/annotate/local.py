"""The run on this machine: processes that each hold a worker, in the order of the images, whatever dies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from coop_edge.annotate.items import Item
from coop_edge.annotate.worker import Setup, Worker
from coop_edge.base.pool import RETRIES, run_pool


def run_local(items: Sequence[Item], setup: Setup, workers: int) -> Iterator[str]:
    """Yield the lines of all items, in their order, as they come.

    An image whose worker dies is tried again in a new one, as ``run_pool`` does; in the end its line says so.

    Raises:
        CoopEdgeError: what a worker's Estimator raises when it is made.
    """
    return run_pool(items, Worker, setup, processes=workers, threads=setup.threads, lost=_lost)


def _lost(item: Item) -> str:
    """Return the line of an image that no worker survived."""
    said = {"index": item.index, "scene": item.scene, "image": item.image, "name": item.name}
    return json.dumps({**said, "error": f"its worker died, {RETRIES + 1} times; is there enough memory?"})
