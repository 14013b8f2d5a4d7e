"""What each process of the DDP test runs: three steps on its share of fixed pairs. Arguments: folder, batch size."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

from export.train import loop
from export.train.session import Plan, train
from tests.export.small_nets import NET, Repeated, coarse_batch


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
    options = {
        "minutes": 60,
        "batch_size": int(sys.argv[2]),
        "workers": 0,
        "evaluate_samples": 0,
        "learning_rate": 3e-3,
        "precision": "float32",
        "device": "cpu",
        "max_steps": 3,
    }
    # Classification: its loss is a mean over all patches, so halves of a batch average to the whole exactly.
    # The linear stem: batch normalisation takes the statistics of a process's own share.
    net = {**NET["coarse"], "head": "classification"}
    net["trunk"] = {**net["trunk"], "stem": "linear"}
    train(Plan("coarse", options, net, out=Path(sys.argv[1])), streams=Share)
