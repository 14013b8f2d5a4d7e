"""The run on this machine: processes that each hold a worker, in the order of the images, whatever dies."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from coop_edge.annotate.items import Item
from coop_edge.annotate.worker import Setup, Worker

RETRIES = 2
"""How often an image is tried again whose worker died."""
_AHEAD = 4  # images per worker that are on their way

_worker: Worker | None = None


def run_local(items: Sequence[Item], setup: Setup, workers: int) -> Iterator[str]:
    """Yield the lines of all items, in their order, as they come.

    An image whose worker dies is tried again in a new one, ``RETRIES`` times, the last time alone; then its line says
    so. Raises what a worker's Estimator raises when it is made.
    """
    done: dict[int, str] = {}
    tries: dict[int, int] = {}
    waiting, following = list(range(len(items)))[::-1], 0
    while following < len(items):
        suspects = [i for i in waiting if tries.get(i, 0) >= RETRIES]
        alone = suspects[-1] if suspects else None
        with _pool(setup, 1 if alone is not None else workers) as pool:
            running: dict[Future[str], int] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < (1 if alone is not None else _AHEAD * workers):
                        i = waiting.pop() if alone is None else waiting.pop(waiting.index(alone))
                        running[pool.submit(_annotate, items[i].plain())] = i
                        if alone is not None:
                            break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        done[running[future]] = future.result()
                        del running[future]
                    while following in done:
                        yield done.pop(following)
                        following += 1
                    if alone is not None:
                        break
            except BrokenProcessPool:
                for i in sorted(running.values(), reverse=True):
                    if i == alone:
                        done[i] = _lost(items[i])
                        continue
                    tries[i] = tries.get(i, 0) + 1
                    waiting.append(i)
                waiting.sort(reverse=True)
        while following in done:
            yield done.pop(following)
            following += 1


def _pool(setup: Setup, workers: int) -> ProcessPoolExecutor:
    # spawn: an Estimator has threads, which a forked child does not get.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(setup.plain(),))


def _begin(setup: dict[str, object]) -> None:
    global _worker
    _worker = Worker(Setup.parse(setup))


def _annotate(item: str) -> str:
    assert _worker is not None
    return _worker(Item.parse(item))


def _lost(item: Item) -> str:
    """Return the line of an image that no worker survived."""
    said = {"index": item.index, "scene": item.scene, "image": item.image, "name": item.name}
    return json.dumps({**said, "error": f"its worker died, {RETRIES + 1} times; is there enough memory?"})
