"""Defines the contract of what runs a network, ``Runner``: it checks feeds; only the batch axis is dynamic."""

from __future__ import annotations

import sys
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
    """Describes a graph's input or output: name, shape (None = the batch axis, always the first), NumPy dtype name."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        static = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in self.shape[1:])
        if not self.name or not self.shape or self.shape[0] is not None or not static:
            raise InputError(f"tensor {self.name!r}: wanted a name, and None then positive sizes, got {self.shape}")

    def sized(self, batch: int) -> tuple[int, ...]:
        """Return the shape for N = ``batch``."""
        return (batch, *(n for n in self.shape if n is not None))

    def __str__(self) -> str:
        return f"{self.name} [{','.join('N' if n is None else str(n) for n in self.shape)}] {self.dtype}"


class Runner(ABC):
    """Runs one network. A context manager: nothing is on the device before it opens, nothing after it closes.

    Not safe for use by several threads at once. An array that ``run`` returns stays valid until the next ``run`` or
    ``close``, whichever comes first; copy it to keep it. Feeds may have any strides: an array that is not C-contiguous
    is copied before the network reads it. The feed is only read.
    """

    device: str
    """"cpu" (feeds and results are NumPy) or "cuda" (CuPy)."""
    device_id: int | None = None
    """Index of the GPU that the network is on; None on the CPU and while the runner is closed."""
    max_batch: int | None = None
    """Largest N of one run; None = no bound."""

    def __init__(self, label: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.label = label
        """What errors call it, e.g. "coop-xs/refiner"."""
        self.inputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in inputs}
        self.outputs: Mapping[str, TensorSpec] = {spec.name: spec for spec in outputs}
        self._open = False

    @property
    def gains_from_batches(self) -> bool:
        """Tell whether a larger batch takes less time per row: on a GPU it does, on the CPU it takes more."""
        return self.device != "cpu"

    def open(self) -> None:
        """Load the network; does nothing if the runner is open.

        Raises:
            BundleError: the graph is missing, damaged, or not what the manifest describes.
            EngineError: the engine cannot load the network.
            BackendUnavailable: the engine or its device is missing; the message says how to get it.
        """
        if self._open:
            return
        try:
            self._load()
        except BaseException:
            self._release()
            raise
        self._open = True

    def close(self) -> None:
        """Release everything. May be called more than once; the runner may be opened again."""
        if self._open:
            self._open = False
            self._release()

    def __enter__(self: R) -> R:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(self, feed: Mapping[str, Array], stream: Any = None) -> dict[str, Array]:
        """Run the network.

        On the GPU the host waits for nothing, unless N is larger than ever before: the feed must be ready, and the
        outputs are, in the order of the stream.

        Args:
            feed: arrays by input name, of the shapes and dtypes of ``inputs``, with one common N >= 0.
            stream: CuPy stream to run on, its current one if None; ignored on the CPU.

        Returns:
            Arrays by output name, of the shapes and dtypes of ``outputs``.

        Raises:
            InputError: names, shapes, dtypes or device of the feed are wrong.
            EngineError: the runner is closed, or the run failed.
        """
        if not self._open:
            raise EngineError(f"{self.label} is closed; use it in a `with` statement or call open()")
        batch = self.check(feed)
        if batch == 0:
            return {name: self._empty(spec, 0) for name, spec in self.outputs.items()}
        return self._run(feed, batch, stream)

    def check(self, feed: Mapping[str, Array]) -> int:
        """Return N of a feed.

        Raises:
            InputError: names, shapes, dtypes or device are wrong; the message says what was given and what was
                wanted.
        """
        if not isinstance(feed, Mapping):
            raise InputError(f"{self.label}: wanted a mapping of arrays by input name, got {type(feed).__name__}")
        if set(feed) != set(self.inputs):
            given, wanted = ", ".join(sorted(map(str, feed))) or "nothing", ", ".join(sorted(self.inputs))
            raise InputError(f"{self.label}: wanted the inputs {wanted}, got {given}")
        counts = {name: self._check_array(spec, feed[name]) for name, spec in self.inputs.items()}
        if len(set(counts.values())) != 1:
            raise InputError(f"{self.label}: wanted one N for all inputs, got {counts}")
        batch = next(iter(counts.values()))
        if self.max_batch is not None and batch > self.max_batch:
            raise InputError(
                f"{self.label}: N = {batch} is above the engine's largest batch, {self.max_batch}; split it"
            )
        return batch

    def _check_array(self, spec: TensorSpec, array: Array) -> int:
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise InputError(f"{self.label}: wanted {spec}, an array, got {type(array).__name__}")
        self._check_device(spec.name, array)
        shape = tuple(array.shape)
        fits = len(shape) == len(spec.shape) and all(
            wanted is None or given == wanted for given, wanted in zip(shape, spec.shape, strict=True)
        )
        if not fits or array.dtype != np.dtype(spec.dtype):
            raise InputError(f"{self.label}: wanted {spec}, got {list(shape)} {array.dtype}")
        return int(shape[0])

    def _check_device(self, name: str, array: Array) -> None:
        """Raise InputError unless ``array`` lives where this runner's feeds must."""
        wanted = "numpy" if self.device == "cpu" else "cupy"
        module = sys.modules.get(wanted)  # a module that was never imported has made no array
        if module is None or not isinstance(array, module.ndarray):
            given = f"{type(array).__module__}.{type(array).__name__}"
            raise InputError(
                f"{self.label}: {name}: wanted a {wanted}.ndarray for device {self.device!r}, got a {given}"
            )
        if self.device_id is not None and array.device.id != self.device_id:
            raise InputError(
                f"{self.label}: {name}: wanted an array on CUDA device {self.device_id}, where the network is, got one "
                f"on device {array.device.id}"
            )

    def _empty(self, spec: TensorSpec, batch: int) -> Array:
        """Return an uninitialised array for ``batch`` rows of an input or output, on the device of the open runner."""
        if self.device == "cpu":
            return np.empty(spec.sized(batch), spec.dtype)
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(self.device_id):
            return cupy.empty(spec.sized(batch), dtype=spec.dtype)

    @abstractmethod
    def _load(self) -> None:
        """Make the runner ready. If it raises, ``_release`` is called."""

    @abstractmethod
    def _release(self) -> None:
        """Give back all that ``_load`` took, also where it failed midway."""

    @abstractmethod
    def _run(self, feed: Mapping[str, Array], batch: int, stream: Any) -> dict[str, Array]:
        """Run on a checked feed of ``batch`` >= 1; its arrays may have any strides."""
