"""Measures how much of a call is spent in networks: a backend whose runners tell a clock how long they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from coop_edge.backend import Backend
from coop_edge.base.compile_time import working_time
from coop_edge.runtime.base import Runner, TensorSpec
from coop_edge.runtime.bundle import Bundle


class NetworkClock:
    """Adds up milliseconds in networks by role, inside ``counting`` only."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self.counts = False

    @contextmanager
    def counting(self) -> Iterator[dict[str, float]]:
        """Count from zero on; yields what is being counted."""
        self.ms, self.counts = {}, True
        try:
            yield self.ms
        finally:
            self.counts = False


class TimedRunner(Runner):
    """Runs the network of another runner, and tells a clock how long that takes.

    While the clock counts, each run on a GPU is waited for, before and after.
    """

    def __init__(self, runner: Runner, role: str, clock: NetworkClock, wait: Callable[[], None]) -> None:
        """runner: not opened yet; opens and closes with this one. wait: until what is queued on the device is done."""
        super().__init__(runner.label, [*runner.inputs.values()], [*runner.outputs.values()])
        self.device, self.max_batch = runner.device, runner.max_batch
        self._runner, self._role, self._clock, self._wait = runner, role, clock, wait

    def _run(self, feed: Mapping[str, Any], batch: int, stream: Any) -> dict[str, Any]:
        if not self._clock.counts:
            return self._runner.run(feed, stream)
        self._wait()
        start = working_time()
        outputs = self._runner.run(feed, stream)
        self._wait()
        ms = self._clock.ms
        ms[self._role] = ms.get(self._role, 0.0) + 1e3 * (working_time() - start)
        return outputs

    def _load(self) -> None:
        self._runner.open()

    def _release(self) -> None:
        self._runner.close()

    def _check_device(self, name: str, array: Any) -> None:
        self._runner._check_device(name, array)

    def _empty(self, spec: TensorSpec, batch: int) -> Any:
        return self._runner._empty(spec, batch)


@dataclass(frozen=True)
class TimedBackend(Backend):
    """A backend whose runners tell ``clock`` how long they take."""

    clock: NetworkClock

    def runner(self, bundle: Bundle, role: str, **options: Any) -> Runner:
        """See ``Backend.runner``."""
        return TimedRunner(super().runner(bundle, role, **options), role, self.clock, self.operations().wait)
