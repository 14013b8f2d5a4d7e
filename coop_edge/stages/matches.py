"""Decodes matches of queries with the templates of their objects, by the coarse decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError
from coop_edge.ops.base import Array, Decoded, Operations
from coop_edge.runtime.base import Runner
from coop_edge.stages.batches import run_batched
from coop_edge.stages.objects import ObjectModel


def decode(
    ops: Operations,
    runner: Runner,
    tokens: Array,
    objects: Sequence[ObjectModel],
    object_index: NDArray[np.integer],
    trusted: NDArray[np.bool_],
    micro_batch: int,
) -> Decoded:
    """Match queries with all templates of their objects.

    Where larger batches pay (``Runner.gains_from_batches``) a run holds the pairs of as many whole queries as
    ``micro_batch`` and the runner's ``max_batch`` allow, elsewhere those of one query. A query with more pairs than are
    allowed is split, and shares no run.

    Args:
        runner: open ``coarse_decoder``.
        tokens: float32 [N,T,D], of the queries.
        objects: the registered objects; their V templates must be equal in number.
        object_index: [N], each query's object.
        trusted: [N,T], False where the probability is to be set to 0.
        micro_batch: largest number of pairs in a run.

    Raises:
        InputError: the objects' templates differ in number.
    """
    xp = ops.xp
    n, count = tokens.shape[:2]
    views = _views(objects, object_index)
    out = Decoded(
        xp.zeros((n, views, count), np.float32),
        xp.zeros((n, views, count), np.int32),
        xp.zeros((n, views, count, 2), np.float32),
    )
    allowed = micro_batch if runner.max_batch is None else min(micro_batch, runner.max_batch)
    whole = max(1, allowed // max(views, 1)) if runner.gains_from_batches else 1
    for first in range(0, n, whole):
        rows = range(first, min(first + whole, n))
        query = xp.repeat(tokens[rows.start : rows.stop], views, axis=0)
        template = [objects[object_index[i]].descriptors for i in rows]
        template = xp.ascontiguousarray(template[0]) if len(template) == 1 else xp.concatenate(template)
        outputs = run_batched(ops, runner, {"query": query, "template": template}, micro_batch)
        for name, array in zip(Decoded._fields, out, strict=True):
            array[rows.start : rows.stop] = outputs[name].reshape(len(rows), *array.shape[1:])
    out.probability[...] *= xp.asarray(trusted)[:, None]
    return out


def _views(objects: Sequence[ObjectModel], object_index: NDArray[np.integer]) -> int:
    counts = {len(objects[i].descriptors) for i in object_index}
    if len(counts) > 1:
        raise InputError(f"objects: wanted the same number of templates for all, got {sorted(counts)}")
    return counts.pop() if counts else 0
