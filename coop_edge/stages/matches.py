"""The coarse decoder's matches of queries with the templates of their objects."""

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

    tokens [N,T,D]; object_index [N]; trusted [N,T], elsewhere the probability is set to 0. A run holds the pairs of
    whole queries where ``micro_batch`` (pairs) allows, else of one query alone, so that with up to V pairs a run never
    depends on the other queries. Raises InputError if the objects' templates differ in number.
    """
    xp = ops.xp
    n, count = tokens.shape[:2]
    views = _views(objects, object_index)
    out = Decoded(
        xp.zeros((n, views, count), np.float32),
        xp.zeros((n, views, count), np.int32),
        xp.zeros((n, views, count, 2), np.float32),
    )
    whole = max(1, micro_batch // max(views, 1))
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
        raise InputError(f"objects: wanted as many templates for each, got {sorted(counts)}")
    return counts.pop() if counts else 0
