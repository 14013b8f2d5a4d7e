"""Measures where the time of training goes: pairs per second of each stage, on the machine at hand; and what a label
costs in CPU time, drawn and learnt, with one to a photograph and with several."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from export.data.batch import stack, take
from export.data.pairs import STAGES
from export.data.stream import LABELS, BlockGenerator, make_stream
from export.data.supply import DataOptions
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
    "forward" (with the losses), "backward", "update". Errors are those of ``run.start``.
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


@dataclass(frozen=True)
class LabelCost:
    """CPU time of ``labels`` labels of one way to draw them, all threads together."""

    name: str
    labels: int
    drawing: float  # seconds
    step: float  # seconds

    @property
    def per_second(self) -> float:
        """Return the labels drawn and learnt in a second of CPU time."""
        return self.labels / max(self.drawing + self.step, 1e-12)


def compare(role: str, options: TrainOptions, config: NetConfig, seconds: float) -> list[LabelCost]:
    """Measure the CPU time of a label with one to a photograph in batches of 16, as it was, and as training is now.

    seconds: of CPU time for each, after warming up. Pairs are drawn in this process, without waiting: what workers do
    beside a step costs the same. Errors are those of ``run.start``.
    """
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    now = LABELS[role]
    ways = (("one label a photograph", 1, 16), (f"{now} labels a photograph", now, options.batch_size))
    return [_label_cost(name, role, options, config, seconds, *numbers) for name, *numbers in ways]


def _label_cost(
    name: str, role: str, options: TrainOptions, config: NetConfig, seconds: float, labels: int, batch_size: int
) -> LabelCost:
    device = torch.device("cpu")
    learner = Learner(TASKS[role](config, options), build(config), options, Group(0, 1, device))
    data = DataOptions(
        role, config.trunk.image_size, options.seed, "train", options.pack or None, options.photos or None,
        options.hardness, 0, labels, options.appearance,
    )  # fmt: skip
    draw, block, rest = BlockGenerator(data), 0, None
    drawing = step = 0.0
    count = -1  # the first batch warms up
    while count <= 0 or drawing + step < seconds:
        began = time.process_time()
        while rest is None or len(rest.query) < batch_size:
            made: Any = draw(block)[0]
            rest = made if rest is None else stack([rest, made])
            block += draw.layout.lanes  # always the first lane: its stock is made once
        batch, rest = take(rest, slice(0, batch_size)), take(rest, slice(batch_size, None))
        drawn = time.process_time()
        learner.step(batch, 1.0, 0.0)
        if count < 0:
            count = 0
            continue
        drawing, step, count = drawing + drawn - began, step + time.process_time() - drawn, count + batch_size
    return LabelCost(name, count, drawing, step)


def cost_table(costs: list[LabelCost]) -> str:
    """Return a line for each way, and how many times as many labels the last gives as the first."""
    lines = [f"{'':<26} {'labels per CPU second':>22} {'drawing, ms':>12} {'step, ms':>9}"]
    for cost in costs:
        each = 1e3 / max(cost.labels, 1)
        lines.append(f"{cost.name:<26} {cost.per_second:>22.2f} {each * cost.drawing:>12.2f} {each * cost.step:>9.2f}")
    ratio = costs[-1].per_second / costs[0].per_second
    return "\n".join([*lines, f"{ratio:.2f} times as many labels per CPU second"])
