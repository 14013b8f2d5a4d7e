"""Trains a network, whatever its role: draw pairs, take a step; now and then log, save and evaluate.

Time is the budget: the learning rate follows the share of the minutes that has passed; with ``max_steps``, the share of
the steps, so that runs of equal length are equal on any machine. A loss or a gradient that is not finite ends the run,
with the pairs that caused it written beside the checkpoint; the checkpoint stays as it was.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from coop_edge.errors import InputError
from export.data.stream import make_stream
from export.networks import Net
from export.networks.efficientnet import SOURCE
from export.train.checkpoint import load_state, parameters_of, save_network, save_state
from export.train.distributed import Group
from export.train.learner import Learner
from export.train.monitor import Interval, LossMonitor
from export.train.optimiser import learning_rate
from export.train.options import TrainOptions
from export.train.provenance import Provenance, code_version, hardware_name, licences_of
from export.train.report import Display, Table
from export.train.task import Task

LOOK_EVERY = {"cpu": 1, "cuda": 20}
"""Steps between looks at the losses, the clock and the other processes; on a GPU each look waits for it."""
LOG_SECONDS = 10.0
"""Seconds between rows of metrics.csv."""
RANK_STRIDE = 1024
"""Factor of the data seeds: rank r of a run with seed s draws pairs from seed s * RANK_STRIDE + r."""

StreamMaker = Callable[..., Any]


@dataclass
class Counters:
    """Where a run stands, the runs that it resumes included."""

    step: int = 0
    """Optimiser steps taken."""
    samples: int = 0
    """Pairs seen by all processes."""
    position: int = 0
    """Pairs drawn from this process's stream."""
    minutes: float = 0.0
    """Minutes of training."""


COUNTED = {"step": int, "samples": int, "position": int, "minutes": float}
"""What is counted, and as what."""


class Trainer:
    """One process's part of a training run; ``run`` does it."""

    def __init__(
        self,
        task: Task,
        net: Net,
        options: TrainOptions,
        folder: Path,
        group: Group,
        *,
        resume: bool = False,
        streams: StreamMaker = make_stream,
    ) -> None:
        self.task, self.options, self.folder, self.group = task, options, folder, group
        self.learner = Learner(task, net, options, group)
        self.at = Counters()
        if resume:
            state = load_state(folder)
            try:
                self.learner.restore(state)
                self.at = Counters(**{name: kind(state["counters"][name]) for name, kind in COUNTED.items()})
            except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise InputError(f"--resume {folder}: its training state does not fit its network: {error}") from None
        self._first_step, self._minutes_before = self.at.step, self.at.minutes
        self._warmup = options.warmup / 3 if resume else options.warmup
        self._streams = streams
        self._monitor = LossMonitor(folder, group.rank)
        self._licences = licences_of(options.pack, options.photos)
        if task.config.trunk.features:
            self._licences |= {SOURCE["source"]: "Apache-2.0"}
        self.stopped_by = 0
        """Number of the signal that ends the run, 0 without."""
        if group.first:
            folder.mkdir(parents=True, exist_ok=True)
            self.metrics = Table(folder / "metrics.csv", self.at.step)
            self.evaluations = Table(folder / "evaluation.csv", self.at.step)

    def run(self) -> bool:
        """Train until the time is up or ``max_steps`` are done, then save and evaluate; a signal ends it early.

        Returns:
            False if a signal ended the run.

        Raises:
            TrainingDivergedError: a loss or gradient is not finite.
        """
        with contextlib.closing(self._stream()) as stream, self._signals(), self._display() as display:
            display.say(
                f"{self.task.role}: {parameters_of(self.learner.net) / 1e6:.2f} M parameters on {self.group.device} "
                f"({'bfloat16' if self.learner.bfloat16 else 'float32'}), "
                f"{self.group.size} process(es), step {self.at.step}, files in {self.folder}"
            )
            finished = self._train(iter(stream), display)
            self._save()
            if finished and self.group.first and self._last_evaluation != self.at.step:
                self._evaluate(display)
        self.group.wait()
        return finished

    def _train(self, stream: Iterator[Any], display: Display) -> bool:
        o = self.options
        every = LOOK_EVERY[self.group.device.type]
        log, save, evaluate = (Interval(s) for s in (LOG_SECONDS, 60 * o.checkpoint_minutes, 60 * o.evaluate_minutes))
        self._last_evaluation = -1
        began = time.monotonic()
        self._start_measuring()
        while True:
            if (self.at.step - self._first_step) % every == 0:
                self._monitor.check()
                elapsed = (time.monotonic() - began) / 60
                due = [float(interval.due()) for interval in (log, save, evaluate)]
                # What any process asks for, all do: they have to take the same steps.
                spent, stop, log_now, save_now, evaluate_now = self.group.largest(
                    elapsed / o.minutes, float(self.stopped_by), *due
                )
                self.at.minutes = self._minutes_before + elapsed
                progress = (self.at.step - self._first_step) / o.max_steps if o.max_steps else spent
                ending = bool(stop) or spent >= 1 or progress >= 1
                if log_now or ending:
                    self._log(display, progress)
                if ending:
                    self.stopped_by = int(stop)  # another process's as well
                    return not stop
                if save_now:
                    self._save()
                if evaluate_now:
                    if self.group.first:
                        self._evaluate(display)
                    self.group.wait()
                    # A full interval until the next evaluation, and none of this one's time in the speed.
                    evaluate.reset()
                    self._start_measuring()
            before = time.monotonic()
            batch = next(stream)
            self._waited += time.monotonic() - before
            figures = self.learner.step(batch, progress, self._rate(progress))
            self._monitor.add(self.at.step, batch, figures)
            self.at.step += 1
            self.at.samples += o.batch_size * self.group.size
            self.at.position += o.batch_size

    def _rate(self, progress: float) -> float:
        """Return the learning rate when a share ``progress`` of the run has passed."""
        return learning_rate(self.options.peak_rate, progress, self._warmup)

    def _start_measuring(self) -> None:
        """Measure the speed from now on."""
        self._measured_from, self._waited = (time.monotonic(), self.at.samples), 0.0

    def _log(self, display: Display, progress: float) -> None:
        """Write mean losses and the speed since the last call."""
        losses = self._monitor.means()
        seconds, samples = time.monotonic() - self._measured_from[0], self.at.samples - self._measured_from[1]
        waiting = self._waited / seconds if seconds else 0.0
        self._start_measuring()
        if not self.group.first or not losses:
            return
        loss, norm = losses.pop("loss"), losses.pop("gradient_norm")
        row: dict[str, Any] = {
            "step": self.at.step,
            "samples": self.at.samples,
            "minutes": round(self.at.minutes, 3),
            "learning_rate": self._rate(progress),
            "samples_per_s": round(samples / seconds, 2),
            "data_share": round(waiting, 3),
            "gradient_norm": norm,
            "loss": loss,
        }
        self.metrics.add(row | {f"loss_{name}": value for name, value in losses.items()})
        parts = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        display.step(
            (self.at.minutes - self._minutes_before) * 60,
            f"step {self.at.step}  {samples / seconds:.1f} pairs/s ({waiting:.0%} waiting)  loss {loss:.3f}  {parts}",
        )

    def _evaluate(self, display: Display) -> None:
        """Write the averaged weights' figures on held-out objects."""
        with self.learner.averaged() as net:
            figures = self.task.evaluate(net, self.group.device)
        self._last_evaluation = self.at.step
        counters = {"step": self.at.step, "samples": self.at.samples, "minutes": round(self.at.minutes, 3)}
        self.evaluations.add({**counters, **figures})
        display.say(
            f"held-out objects after {self.at.samples} pairs: "
            + "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        )

    def provenance(self) -> Provenance:
        """State where the weights as they are now come from."""
        o = self.options
        return Provenance(
            step=self.at.step,
            samples=self.at.samples,
            seed=o.seed,
            minutes=round(self.at.minutes, 2),
            code=code_version(),
            data=("pack " + Path(o.pack).name + " and procedural" if o.pack else "procedural") + " objects",
            licences=self._licences,
            hardware=hardware_name(self.group.device),
        )

    def _save(self) -> None:
        """Write the averaged weights for use, and the state for ``resume``."""
        if not self.group.first:
            return
        path = self.folder / f"{self.task.role}.safetensors"
        save_network(path, self.learner.net, self.provenance(), self.learner.ema.weights)
        state = {
            "role": self.task.role,
            "config": self.task.config.to_dict(),
            "options": self.options.to_dict(),
            "counters": vars(self.at).copy(),
        }
        save_state(self.folder, state | self.learner.state())

    def _stream(self) -> Any:
        """Return the stream of this process's pairs, from where the run stands."""
        o = self.options
        return self._streams(
            self.task.stream_role,
            self.task.config.trunk.image_size,
            batch_size=o.batch_size,
            workers=o.workers,
            seed=o.seed * RANK_STRIDE + self.group.rank,
            start=self.at.position,
            ramp=o.ramp,
            hardness=o.hardness,
            appearance=o.appearance,
            device=str(self.group.device),
            **self.task.stream_options(),
        )

    def _display(self) -> Display:
        return Display(self.options.minutes, self.group.first)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C end the run after the step at hand; a second one ends it at once."""
        before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def ask(number: int, frame: FrameType | None) -> None:
            self.stopped_by = number
            signal.signal(number, before[number])

        try:
            for number in before:
                signal.signal(number, ask)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
