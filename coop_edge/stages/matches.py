"""What the coarse decoder says, as 2D-3D correspondences: query patch centres and the template's object points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError
from coop_edge.kernels.device import device_of
from coop_edge.runtime.base import Runner
from coop_edge.stages.arrays import Array, array_module, run_batched
from coop_edge.stages.lift_cuda import lift_cuda
from coop_edge.stages.objects import ObjectModel


class Decoded(NamedTuple):
    """Each of N queries against each of the V templates of its object."""

    probability: Array  # float32 [N,V,T], 0 = no match
    index: Array  # int32 [N,V,T] template patch
    offset: Array  # float32 [N,V,T,2] (x, y) from that patch's centre, patches


def decode(
    runner: Runner,
    tokens: Array,
    objects: Sequence[ObjectModel],
    object_index: NDArray[np.integer],
    trusted: NDArray[np.bool_],
    micro_batch: int,
) -> Decoded:
    """Match queries with all templates of their objects.

    On a GPU a run holds the pairs of as many whole queries as ``micro_batch`` and the runner's ``max_batch`` allow. On
    the CPU, where a larger batch takes more time per pair, it holds the pairs of one query. A query with more pairs
    than are allowed is split, and shares no run.

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
    xp = array_module(tokens)
    n, count = tokens.shape[:2]
    views = _views(objects, object_index)
    out = Decoded(
        xp.zeros((n, views, count), np.float32),
        xp.zeros((n, views, count), np.int32),
        xp.zeros((n, views, count, 2), np.float32),
    )
    allowed = micro_batch if runner.max_batch is None else min(micro_batch, runner.max_batch)
    whole = max(1, allowed // max(views, 1)) if runner.device == "cuda" else 1
    for first in range(0, n, whole):
        rows = range(first, min(first + whole, n))
        query = xp.repeat(tokens[rows.start : rows.stop], views, axis=0)
        template = [objects[object_index[i]].descriptors for i in rows]
        template = xp.ascontiguousarray(template[0]) if len(template) == 1 else xp.concatenate(template)
        outputs = run_batched(runner, {"query": query, "template": template}, micro_batch)
        for name, array in zip(Decoded._fields, out, strict=True):
            array[rows.start : rows.stop] = outputs[name].reshape(len(rows), *array.shape[1:])
    out.probability[...] *= xp.asarray(trusted)[:, None]
    return out


def template_pixels(index: Array, offset: Array, side: int, patch: int) -> Array:
    """Pixels float64 [...,2] (x, y) of patch ``index`` [...] and ``offset`` [...,2] in an image ``side`` patches wide.

    Patch (row r, column c) has index ``side r + c`` and its centre at x = patch (c + 1/2) - 1/2.
    """
    xp = array_module(index)
    cell = xp.stack([index % side, index // side], axis=-1).astype(np.float64)
    return patch * (cell + 0.5 + offset) - 0.5


def patch_centres(size: int, patch: int) -> NDArray[np.float64]:
    """Pixels [T,2] (x, y) of the patch centres of a ``size`` pixels wide image, row by row."""
    side = size // patch
    return np.asarray(template_pixels(np.arange(side * side), np.zeros((side * side, 2)), side, patch))


def lift(
    decoded: Decoded,
    templates: NDArray[np.integer],
    objects: Sequence[ObjectModel],
    object_index: NDArray[np.integer],
    patch: int,
    least: float,
) -> tuple[Array, Array, Array]:
    """Correspondences with k chosen templates [N,k] per query.

    Returns the object points float32 [N,k,T,3] at the pixels nearest to the matches, valid bool [N,k,T], and the
    probabilities float32 [N,k,T], 0 where not valid. A match is valid if its probability exceeds ``least`` and its
    pixel lies on the template's silhouette; one that is not finite is none.
    """
    if not isinstance(decoded.probability, np.ndarray):
        device = device_of(decoded.probability)
        return lift_cuda(device, decoded, templates, objects, object_index, patch, least)
    n, k = templates.shape
    count = decoded.probability.shape[2]
    probability = decoded.probability[np.arange(n)[:, None], templates]
    points = np.full((n, k, count, 3), np.nan, np.float32)
    for i, views in enumerate(templates):
        maps = objects[object_index[i]].object_points
        size = maps.shape[1]
        match = template_pixels(decoded.index[i, views], decoded.offset[i, views], size // patch, patch)
        known = np.isfinite(match).all(axis=-1, keepdims=True)
        pixel = np.clip(np.rint(np.where(known, match, 0.0)), 0, size - 1).astype(np.int64)
        points[i] = np.where(known, maps[views[:, None], pixel[..., 1], pixel[..., 0]], np.float32(np.nan))
    valid = (probability > least) & np.isfinite(points).all(axis=-1)
    return points, valid, np.where(valid, probability, np.float32(0.0))


def _views(objects: Sequence[ObjectModel], object_index: NDArray[np.integer]) -> int:
    counts = {len(objects[i].descriptors) for i in object_index}
    if len(counts) > 1:
        raise InputError(f"objects: wanted as many templates for each, got {sorted(counts)}")
    return counts.pop() if counts else 0
