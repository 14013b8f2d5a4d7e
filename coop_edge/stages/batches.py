"""Runs of a network in batches of bounded size."""

from __future__ import annotations

from collections.abc import Mapping

from coop_edge.ops.base import Array, Operations
from coop_edge.runtime.base import Runner


def run_batched(ops: Operations, runner: Runner, feed: Mapping[str, Array], largest: int) -> dict[str, Array]:
    """Call ``runner.run`` on at most ``largest`` rows at a time (fewer where the runner takes fewer).

    Returns the outputs by name; they stay valid after further runs of ``runner``, which those of ``Runner.run`` do not.
    """
    step = largest if runner.max_batch is None else min(largest, runner.max_batch)
    count = len(next(iter(feed.values())))
    parts = []
    for first in range(0, max(count, 1), step):
        outputs = runner.run({name: array[first : first + step] for name, array in feed.items()})
        parts.append({name: array.copy() for name, array in outputs.items()})
    if len(parts) == 1:
        return parts[0]
    return {name: ops.xp.concatenate([part[name] for part in parts]) for name in parts[0]}
