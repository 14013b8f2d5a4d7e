"""Trains three steps on this process's share of fixed pairs, for the DDP test. Arguments: folder, batch size."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

from export.train import loop
from tests.export.small_nets import TRUNK, Repeated, coarse_batch
from tests.export.train.runs import start


class Share(Repeated):
    """This process's rows of eight fixed pairs."""

    def __init__(self, role, size, *, batch_size, start=0, **_):
        super().__init__(role, size, batch_size=batch_size, start=start)
        first = int(os.environ.get("RANK", "0")) * batch_size
        whole = coarse_batch(np.random.default_rng(9), 8, size)
        self.batches = [type(whole)(**{k: v[first : first + batch_size] for k, v in vars(whole).items()})]


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop.learning_rate = lambda peak, progress, warmup: peak
    # Classification: its loss is a mean over all patches, so halves of a batch average to the whole exactly.
    # The linear stem: batch normalisation takes the statistics of a process's own share.
    network = {"head": "classification", "trunk": {**TRUNK, "stem": "linear"}}
    start("coarse", Path(sys.argv[1]), 3, batch_size=int(sys.argv[2]), network=network, streams=Share)
