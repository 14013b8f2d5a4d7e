"""A picture of what the coarse network matches on held-out objects, beside the truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from export.data.batch import CoarseBatch, stack, take
from export.data.pictures import write_pairs
from export.networks import CoarseNet
from export.train.coarse import CoarseTask
from export.train.options import TrainOptions
from export.train.task import to_tensors

PAIRS = 4
"""Of the picture; two rows each."""


def write_matches(path: Path, net: CoarseNet, options: TrainOptions, device: torch.device) -> Path:
    """Write ``path``: for each of ``PAIRS`` pairs a row with the true matches and one with the network's.

    The pairs are those that evaluations begin with, hence the same in every trip. Gives the path.
    """
    with CoarseTask(net.config, options).held_out_stream(PAIRS) as stream:
        truth = next(stream)
    found = predicted(net.eval(), truth, device)
    rows = [take(batch, np.array([i])) for i in range(PAIRS) for batch in (truth, found)]
    write_pairs(path, stack(rows), 2 * PAIRS)
    return path


@torch.no_grad()
def predicted(net: CoarseNet, batch: CoarseBatch, device: torch.device) -> CoarseBatch:
    """The batch with the network's matches in place of the true ones."""
    tensors = to_tensors(batch, device)
    query, template = net.encode(tensors["query"]), net.encode(tensors["template"])
    probability, index, offset = (x.cpu().numpy() for x in net.decode(query, template))
    index = np.where(probability > 0, index, batch.match_index.shape[1])
    return replace(batch, match_index=index.astype(batch.match_index.dtype), offset=offset)
