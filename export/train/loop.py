"""The training loop, the same for every role: draw, step, average, log, evaluate, save; go on after a kill.

Time is the budget: the learning rate follows the share of the minutes given that has passed; with ``max_steps``, the
share of the steps, so that runs of equal length are equal on any machine. A loss or a gradient that is not finite ends
the run, with the pairs that caused it written beside the checkpoint; the checkpoint stays clean.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from export.data.data import make_stream
from export.networks import Net
from export.onnx.provenance import hardware_name, licences_of
from export.train.checkpoint import Provenance, code_version, load_state, parameters_of, save_network, save_state
from export.train.distributed import Group
from export.train.optimiser import Ema, adamw, learning_rate, set_learning_rate
from export.train.options import TrainOptions, uses_bfloat16
from export.train.report import Display, Table
from export.train.task import Task, to_tensors
from export.train.watch import Pace, Watch

LOOK_EVERY = {"cpu": 1, "cuda": 20}
"""Steps between looks at the losses, the clock and the other processes; on a GPU each look waits for it."""
LOG_SECONDS = 10.0
"""Between rows of metrics.csv."""
RANK_STRIDE = 1024
"""Data seeds: rank r of a run with seed s draws from s * RANK_STRIDE + r."""

StreamMaker = Callable[..., Any]


@dataclass
class Counters:
    """Where a run stands. ``samples`` over all processes and all runs it goes on from; ``position`` of this stream."""

    step: int = 0
    samples: int = 0
    position: int = 0
    minutes: float = 0.0


class Trainer:
    """One process's part of a run. ``run`` trains and returns whether the time was used up (False: interrupted)."""

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
        self.device = group.device
        self.net = net.to(self.device).train()
        self.optimiser = adamw(self.net)
        self.ema = Ema(self.net, options.ema_decay)
        self.at = Counters()
        if resume:
            self._restore()
        self.first_step = self.at.step
        self.bfloat16 = uses_bfloat16(options.precision, self.device)
        self.warmup = options.warmup / 3 if resume else options.warmup
        self._streams = streams
        model = torch.compile(self.net) if options.compile else self.net
        self.model = group.wrap(model)  # type: ignore[arg-type]
        self._stop = False
        self._watch = Watch(folder, group.rank)
        self.licences = licences_of(options.pack, options.photos)
        if group.first:
            folder.mkdir(parents=True, exist_ok=True)
            self.metrics = Table(folder / "metrics.csv", self.at.step)
            self.evaluations = Table(folder / "evaluation.csv", self.at.step)

    def run(self) -> bool:
        """Train until the time is up, ``max_steps`` are done, or a signal asks to stop; save, and evaluate at the end.

        Raises TrainingDivergedError.
        """
        self._began = time.monotonic()
        self._minutes_before = self.at.minutes
        stream = self._streams(
            self.task.stream_role,
            self.task.config.trunk.image_size,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            seed=self.options.seed * RANK_STRIDE + self.group.rank,
            start=self.at.position,
            ramp=self.options.ramp,
            hardness=self.options.hardness,
            device=str(self.device),
            data=self.options.data,
            **self.task.stream_options(),
        )
        with contextlib.closing(stream), self._signals(), self._display() as display:
            display.say(
                f"{self.task.role}: {parameters_of(self.net) / 1e6:.2f} M parameters on {self.device} "
                f"({'bfloat16' if self.bfloat16 else 'float32'}), "
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
        log = Pace(LOG_SECONDS)
        save, evaluate = Pace(o.checkpoint_minutes * 60), Pace(o.evaluate_minutes * 60)
        every = LOOK_EVERY[self.device.type]
        self._last_evaluation = -1
        waited, logged = 0.0, (time.monotonic(), self.at.samples)
        progress = 0.0
        while True:
            if (self.at.step - self.first_step) % every == 0:
                elapsed = (time.monotonic() - self._began) / 60
                own = (elapsed / o.minutes, float(self._stop), float(log.due()), float(save.due()))
                spent, stop, log_now, save_now, evaluate_now = self.group.largest(*own, float(evaluate.due()))
                self.at.minutes = self._minutes_before + elapsed
                progress = (self.at.step - self.first_step) / o.max_steps if o.max_steps else spent
                ending = bool(stop) or spent >= 1 or progress >= 1
                if (log_now or ending) and self.at.step > self.first_step:
                    now = time.monotonic()
                    self._log(display, now - logged[0], self.at.samples - logged[1], waited, progress)
                    waited, logged = 0.0, (now, self.at.samples)
                if ending:
                    return not stop
                if save_now:
                    self._save()
                if evaluate_now:
                    if self.group.first:
                        self._evaluate(display)
                    self.group.wait()
                    # A full interval until the next one, and none of this one's time in the rates.
                    evaluate.reset()
                    waited, logged = 0.0, (time.monotonic(), self.at.samples)
            start = time.monotonic()
            batch = next(stream)
            waited += time.monotonic() - start
            self._step(batch, progress)
            if (self.at.step - self.first_step) % every == 0:
                self._watch.check(self.at.step)

    def _step(self, batch: Any, progress: float) -> None:
        """One optimiser step; on a CPU a bad loss raises before it is taken."""
        o = self.options
        set_learning_rate(self.optimiser, self.rate(progress))
        tensors = to_tensors(batch, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            parts = self.task.losses(self.model, tensors, progress)
        loss = torch.stack(list(parts.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), o.clip)
        self._watch.add(batch, loss, norm, parts)
        if self.device.type == "cpu":
            self._watch.check(self.at.step)
        self.optimiser.step()
        self.ema.update(self.net)
        self.at.step += 1
        self.at.samples += o.batch_size * self.group.size
        self.at.position += o.batch_size

    def rate(self, progress: float) -> float:
        """Learning rate when a share ``progress`` of the run has passed."""
        return learning_rate(self.options.peak_rate, progress, self.warmup)

    def _log(self, display: Display, seconds: float, samples: int, waited: float, progress: float) -> None:
        parts = self._watch.means()
        if not self.group.first or not parts:
            return
        loss, norm = parts.pop("loss"), parts.pop("gradient_norm")
        row: dict[str, Any] = {
            "step": self.at.step,
            "samples": self.at.samples,
            "minutes": round(self.at.minutes, 3),
            "learning_rate": self.rate(progress),
            "samples_per_s": round(samples / seconds, 2),
            "data_share": round(waited / seconds, 3),
            "gradient_norm": norm,
            "loss": loss,
        }
        row |= {f"loss_{name}": value for name, value in parts.items()}
        self.metrics.add(row)
        pieces = "  ".join(f"{n} {v:.3f}" for n, v in parts.items())
        text = (
            f"step {self.at.step}  {samples / seconds:.1f} pairs/s ({100 * waited / seconds:.0f} % waiting)  "
            f"loss {loss:.3f}  {pieces}"
        )
        display.step((self.at.minutes - self._minutes_before) * 60, text)

    def _evaluate(self, display: Display) -> None:
        """Figures of the averaged weights on held-out objects."""
        own = {k: v.clone() for k, v in self.net.state_dict().items()}
        self.net.load_state_dict(self.ema.weights)
        self.net.eval()
        try:
            figures = self.task.evaluate(self.net, self.device)
        finally:
            self.net.load_state_dict(own)
            self.net.train()
        self._last_evaluation = self.at.step
        counters = {"step": self.at.step, "samples": self.at.samples, "minutes": round(self.at.minutes, 3)}
        self.evaluations.add({**counters, **figures})
        display.say(
            f"held-out objects after {self.at.samples} pairs: "
            + "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        )

    def provenance(self) -> Provenance:
        """Of the weights as they are now."""
        o = self.options
        data = ("pack " + Path(o.pack).name + " and procedural" if o.pack else "procedural") + " objects"
        return Provenance(
            self.at.step,
            self.at.samples,
            o.seed,
            round(self.at.minutes, 2),
            code=code_version(),
            data=data,
            licences=self.licences,
            hardware=hardware_name(self.device),
        )

    def _save(self) -> None:
        if not self.group.first:
            return
        save_network(self.folder / f"{self.task.role}.safetensors", self.net, self.provenance(), self.ema.weights)
        state = {
            "role": self.task.role,
            "config": self.task.config.to_dict(),
            "options": self.options.to_dict(),
            "counters": vars(self.at).copy(),
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state(),
            "rng": torch.get_rng_state(),
        }
        save_state(self.folder, state)

    def _restore(self) -> None:
        state = load_state(self.folder)
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ema.load(state["ema"])
        torch.set_rng_state(state["rng"])
        self.at = replace(self.at, **state["counters"])

    def _display(self) -> Display:
        return Display(self.options.minutes, self.group.first)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the run after the step at hand; a second one ends it at once."""

        before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def ask(number: int, frame: FrameType | None) -> None:
            self._stop = True
            signal.signal(number, before[number])

        try:
            for number in before:
                signal.signal(number, ask)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
