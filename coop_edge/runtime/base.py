"""One contract for all that runs a network: ``Runner``. Feeds are checked; the batch axis is the only dynamic one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from coop_edge.errors import EngineError, InputError

Array = Any
"""NumPy or, on the GPU path, CuPy."""
R = TypeVar("R", bound="Runner")


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (None = the batch axis, always the first) and NumPy dtype name of a graph's input or output."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.name} [{','.join('N' if n is None else str(n) for n in self.shape)}] {self.dtype}"


class Runner(ABC):
    """Runs one network. A context manager: nothing is on the device before it opens, nothing after it closes.

    Not safe for use by several threads at once. An array that ``run`` returns stays valid until the next ``run``.
    """

    device: str
    """"cpu" (feeds and results are NumPy) or "cuda" (CuPy)."""
    max_batch: int | None = None
    """Largest N of one run; None = no bound."""

    def __init__(self, label: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.label = label
        """What errors call it, e.g. "coop-xs/refiner"."""
        self.inputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in inputs}
        self.outputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in outputs}
        self._open = False

    def open(self) -> None:
        """Load the network. Once open, does nothing. Raises EngineError, BackendUnavailable."""
        if not self._open:
            self._load()
            self._open = True

    def close(self) -> None:
        """Release everything; may be called more than once, and the runner opened again."""
        if self._open:
            self._open = False
            self._release()

    def __enter__(self: R) -> R:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(self, feed: Mapping[str, Array], stream: Any = None) -> dict[str, Array]:
        """Outputs by name for ``feed``, arrays by input name with one common N >= 0 as their first axis.

        stream: CuPy stream to run on (its current one if None); ignored on the CPU.

        Raises InputError (names, shapes, dtypes, device of the feed), EngineError (closed, or the run failed).
        """
        if not self._open:
            raise EngineError(f"{self.label} is closed; use it in a `with` statement or call open()")
        batch = self.check(feed)
        if batch == 0:
            return {name: self._empty(spec) for name, spec in self.outputs.items()}
        return self._run(feed, batch, stream)

    def check(self, feed: Mapping[str, Array]) -> int:
        """N of a feed. Raises InputError that says what was given and what was wanted."""
        if set(feed) != set(self.inputs):
            given, wanted = ", ".join(sorted(feed)) or "nothing", ", ".join(sorted(self.inputs))
            raise InputError(f"{self.label}: wanted the inputs {wanted}, got {given}")
        counts = {}
        for name, spec in self.inputs.items():
            array = feed[name]
            self._check_device(name, array)
            shape = tuple(array.shape)
            fits = len(shape) == len(spec.shape) and all(
                w is None or g == w for g, w in zip(shape, spec.shape, strict=True)
            )
            if not fits or array.dtype != np.dtype(spec.dtype):
                raise InputError(f"{self.label}: wanted {spec}, got {list(shape)} {array.dtype}")
            counts[name] = shape[0]
        if len(set(counts.values())) != 1:
            raise InputError(f"{self.label}: wanted one N for all inputs, got {counts}")
        batch = int(next(iter(counts.values())))
        if self.max_batch is not None and batch > self.max_batch:
            raise InputError(f"{self.label}: N = {batch} exceeds the engine's largest batch, {self.max_batch}; split it")
        return batch

    @abstractmethod
    def _check_device(self, name: str, array: Array) -> None:
        """Raise InputError unless ``array`` lives where this runner's feeds must."""

    @abstractmethod
    def _empty(self, spec: TensorSpec) -> Array:
        """An array of the output with N = 0."""

    @abstractmethod
    def _load(self) -> None: ...

    @abstractmethod
    def _release(self) -> None: ...

    @abstractmethod
    def _run(self, feed: Mapping[str, Array], batch: int, stream: Any) -> dict[str, Array]: ...
