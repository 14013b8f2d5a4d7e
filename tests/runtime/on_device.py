"""A network that runs on the CPU in the place of one on a GPU: feeds come from there, outputs go back.

What is tested with it is everything around the networks, on the CuPy stand-in or on a GPU, and without ONNX Runtime's
CUDA provider.
"""

from __future__ import annotations

import sys

from coop_edge.runtime.base import Runner


class OnDevice(Runner):
    """runner: of the CPU; opened and closed with this one."""

    device = "cuda"

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.label, list(runner.inputs.values()), list(runner.outputs.values()))
        self.runner, self.cupy = runner, sys.modules["cupy"]

    def _load(self) -> None:
        self.runner.open()
        self.device_id = self.cupy.cuda.Device().id

    def _release(self) -> None:
        self.runner.close()
        self.device_id = None

    def _run(self, feed, batch, stream):
        outputs = self.runner.run({name: array.get() for name, array in feed.items()})
        return {name: self.cupy.asarray(array) for name, array in outputs.items()}
