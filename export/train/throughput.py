"""Measures where the time of training goes: pairs per second of each stage, on the machine at hand."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import torch

from export.data.pairs import STAGES
from export.data.stream import make_stream
from export.networks import NetConfig, build
from export.train.distributed import Group, pick_device
from export.train.learner import Learner
from export.train.memory import keep_freed_memory
from export.train.options import TrainOptions
from export.train.run import TASKS


@dataclass(frozen=True)
class Throughput:
    """Seconds per stage over ``pairs`` pairs, in the order of a step; ``wall`` is the time that they took together."""

    pairs: int
    wall: float
    seconds: dict[str, float]

    @property
    def per_second(self) -> dict[str, float]:
        """Return the pairs per second of each stage, as if it were alone."""
        return {name: self.pairs / s if s > 0 else float("inf") for name, s in self.seconds.items()}

    @property
    def total(self) -> float:
        """Return the pairs per second of all stages together."""
        return self.pairs / self.wall

    def table(self) -> str:
        """Return a line per stage, the slowest marked."""
        slowest = max(self.seconds, key=lambda name: self.seconds[name])
        whole = max(sum(self.seconds.values()), 1e-12)
        lines = [f"{'stage':<10} {'pairs/s':>10} {'share':>7}"]
        for name, rate in self.per_second.items():
            share = 100 * self.seconds[name] / whole
            lines.append(f"{name:<10} {rate:>10.1f} {share:>6.1f}%" + ("  slowest" if name == slowest else ""))
        return "\n".join([*lines, f"{'all':<10} {self.total:>10.1f}"])


class MarkClock:
    """Measures the time between marks, by name. On a GPU marks are events on its stream: only ``seconds`` waits."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def mark(self, stage: str) -> None:
        """Count the time since the last mark for this stage; the first mark starts the clock."""
        now: float | torch.cuda.Event
        if self._gpu:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._marks.append((stage, now))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage since the clock was started."""
        if self._gpu:
            torch.cuda.synchronize()
        total: dict[str, float] = {}
        for (_, before), (stage, after) in pairwise(self._marks):
            if isinstance(before, float) and isinstance(after, float):
                passed = after - before
            else:
                passed = before.elapsed_time(after) / 1000.0  # type: ignore[union-attr,arg-type]
            total[stage] = total.get(stage, 0.0) + passed
        return total


def measure(role: str, options: TrainOptions, config: NetConfig, seconds: float) -> Throughput:
    """Train a network that is thrown away, for ``seconds`` after three steps to warm up.

    Stages: ``pairs.STAGES`` where this process draws pairs; "waiting" for pairs that workers draw, and their upload;
    "forward" (with the losses), "backward", "update". Raises as ``run.start`` does.
    """
    device = pick_device(options.device)
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    task = TASKS[role](config, options)
    learner = Learner(task, build(config), options, Group(0, 1, device))
    with make_stream(
        task.stream_role, config.trunk.image_size, batch_size=options.batch_size, workers=options.workers,
        seed=options.seed, device=str(device), hardness=options.hardness,
        appearance=options.appearance, **task.stream_options(),
    ) as stream:  # fmt: skip
        for _ in range(3):
            learner.step(next(stream), 1.0, 0.0)
        clock = MarkClock(device)
        stream.watch(clock.mark)
        if device.type == "cuda":
            torch.cuda.synchronize()
        began, steps = time.perf_counter(), 0
        clock.mark("start")
        while time.perf_counter() - began < seconds or not steps:
            learner.step(next(stream), 1.0, 0.0, clock.mark)
            steps += 1
            if device.type == "cuda" and steps % 20 == 0:
                torch.cuda.synchronize()  # as the trainer's looks do
        spent = clock.seconds()
        wall = time.perf_counter() - began
    order = [*STAGES, "waiting", "forward", "backward", "update"]
    return Throughput(steps * options.batch_size, wall, {name: spent[name] for name in order if name in spent})
