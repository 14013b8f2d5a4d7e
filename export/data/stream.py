"""The stream of training pairs: endless, and the same whatever the number of processes that draw it.

Pairs are drawn in *blocks*: whole batches of tensors, of some photographs with an equal number of labels each. Blocks
take turns over *lanes*, each with a small stock of objects and backgrounds of its own that is renewed piece by piece,
so that an object is made once and is the target of several samples. So a block is a function of the options, its number
and the kind of device alone.

On a CPU worker processes draw blocks ahead; a worker serves whole lanes and keeps their stocks. On a GPU there is one
lane, and its blocks are drawn in this process, on the GPU, which never waits for the host; workers make the objects.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from coop_edge.errors import BackendUnavailable, InputError
from coop_edge.kernels.device import CupyDevice
from export.data import textures
from export.data.batch import PATCH, on_host, stack, take
from export.data.objects import TrainingObject
from export.data.pairs import PairGenerator
from export.data.render import StockRenderer
from export.data.render_cpu import HostRenderer
from export.data.render_cuda import KernelRenderer
from export.data.rerender import PairRecord, records_of
from export.data.starts import STATED, StartMix
from export.data.stock import ObjectStock
from export.data.supply import OBJECTS_PER_BACKGROUND, SPLITS, DataOptions, LaneObjects, Layout
from export.data.workers import Blocks, InProcess, Workers

Array = np.ndarray[Any, Any]
MakeObject = Callable[[int], tuple[TrainingObject, Array | None]]

ROLES = ("coarse", "refiner")
TRAINING_STARTS = StartMix(halfway=0.4, small=0.25, wide=0.15)
"""Kinds of start poses of refiner pairs in training; held-out pairs have the start noise as it is."""
TRAINING_LOOSE_BOXES = 0.3
"""Share of the boxes of coarse queries that are off by far in training; held-out pairs have none."""
LABELS = {"coarse": 6, "refiner": 4}
"""Labels per photograph in training: templates, or start poses; held-out pairs have a photograph each."""


LAYOUTS = {"cpu": Layout(16, 8, 12, 24, 16), "cuda": Layout(1, 64, 24, 384, 128)}
"""On a GPU an object takes some 2 MB, and lives longer, because one or two workers make them for it."""


class BlockGenerator:
    """Draws blocks on one device; keeps the stocks of the lanes it is asked for.

    make_object: gives the objects of the only lane when asked for them in order, from the first that is needed; None:
    each lane makes its own.
    """

    def __init__(
        self, options: DataOptions, keep_records: bool = False, device: str = "cpu",
        make_object: MakeObject | None = None,
    ) -> None:  # fmt: skip
        self.options, self._keep_records, self._make_object = options, keep_records, make_object
        self._device = torch.device(device)
        self.layout = LAYOUTS[self._device.type]
        self.done: Callable[[str], None] = lambda stage: None
        """Called with each stage's name (``pairs.STAGES``) when it has been launched."""
        self._lanes: dict[int, _Lane] = {}

    def __call__(self, block: int) -> tuple[Any, list[PairRecord]]:
        """Batch of arrays (CPU) or of tensors (GPU), and the records of its pairs (none unless asked for)."""
        options = self.options
        count, number = self.layout.block(options), block % self.layout.lanes
        if number not in self._lanes:
            make = self._make_object or LaneObjects(options, self.layout, number)
            self._lanes[number] = _Lane(options, self.layout, self._device, make)
        lane = self._lanes[number]
        lane.renew(self.layout.objects(options, block))
        generator, first = lane.generator, block * count
        generator.done = self.done
        generator.done("objects")
        generator.seed(*options.seed_words(0, block))
        records: list[PairRecord] = []
        training = options.split == "train"
        with torch.no_grad():
            hardness = _hardness(options, first, count, self._device)
            appearance = hardness
            if options.appearance is not None:
                appearance = torch.full_like(hardness, options.appearance)
            if options.role == "coarse":
                loose = TRAINING_LOOSE_BOXES if training else 0.0
                batch: Any = generator.coarse(hardness, options.labels, first, appearance, loose)
            else:
                mix = TRAINING_STARTS if training else STATED
                if not options.small_starts:
                    mix = replace(mix, small=0.0)
                photographs, starts = generator.photographs(hardness, options.labels, mix, appearance)
                fine = generator.some(0.5, len(starts))
                batch = generator.refiner_at(photographs, starts, fine, first)
                if self._keep_records:
                    records = records_of(generator, photographs, options.labels, fine)
        return (batch if self._device.type == "cuda" else on_host(batch)), records


def _hardness(options: DataOptions, first: int, count: int, device: torch.device) -> torch.Tensor:
    """Of the photographs first, first + 1, ..., float64 [count]."""
    number = torch.arange(first, first + count, dtype=torch.float64, device=device)
    hardness = torch.full_like(number, options.hardness)
    return hardness * (number * options.labels / options.ramp).clamp(max=1.0) if options.ramp else hardness


class _Lane:
    """A stock that is renewed as blocks pass, and what draws from it."""

    def __init__(self, options: DataOptions, layout: Layout, device: torch.device, make_object: MakeObject) -> None:
        self._held, self._make_object, self._made = layout.held, make_object, 0
        self._stock = ObjectStock(layout.held, device, backgrounds=layout.held // OBJECTS_PER_BACKGROUND)
        self.generator = PairGenerator(self._stock, stock_renderer(self._stock), options.size)

    def renew(self, wanted: range) -> None:
        """Bring the stock to the objects of these numbers."""
        for number in range(max(self._made, wanted.start), wanted.stop):
            thing, background = self._make_object(number)
            slot = number % self._held
            self._stock.put(slot, thing)
            if background is not None:
                self._stock.put_background(slot // OBJECTS_PER_BACKGROUND, background)
        self._made = max(self._made, wanted.stop)


def stock_renderer(stock: ObjectStock) -> StockRenderer:
    """Make the renderer for the stock's device."""
    if stock.device.type != "cuda":
        return HostRenderer(stock)
    with torch.cuda.device(stock.device):
        return KernelRenderer(stock, CupyDevice())


class Stream:
    """Iterator over batches; also a context manager. ``close`` ends the workers."""

    def __init__(
        self, options: DataOptions, batch_size: int, workers: int, start: int, device: str, keep: bool
    ) -> None:
        self.options, self.batch_size, self._keep = options, batch_size, keep
        self.position = start
        """Number of the next sample."""
        layout = LAYOUTS[torch.device(device).type]
        size = layout.block(options) * options.labels
        first = start // size
        self._skip = start % size
        self._generator: BlockGenerator | None = None
        self._objects: Blocks | None = None
        if device != "cpu" and workers:
            make = functools.partial(LaneObjects, options, layout)
            self._objects = Workers(make, workers, layout.objects(options, first).start, 4 * workers, workers)
        if device != "cpu" or not workers:
            next_object = self._objects and self._objects.next
            ordered = (lambda number: next_object()) if next_object else None  # they come in the order of numbers
            self._generator = BlockGenerator(options, keep, device, ordered)
            self._blocks: Blocks = InProcess(self._generator, first)
        else:
            draw, ahead = functools.partial(BlockGenerator, options, keep), -(-2 * batch_size // size) + 2 * workers
            self._blocks = Workers(draw, workers, first, ahead, layout.lanes)
        self._rest: tuple[Any, list[PairRecord]] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next batch; with ``keep_scenes`` a pair (batch, records)."""
        parts, records = [], []
        missing = self.batch_size
        while missing:
            batch, kept = self._rest if self._rest is not None else self._next_block()
            count = min(missing, len(batch.query))
            parts.append(take(batch, slice(0, count)))
            records += kept[:count]
            left = len(batch.query) - count
            self._rest = (take(batch, slice(count, None)), kept[count:]) if left else None
            missing -= count
        self.position += self.batch_size
        return (stack(parts), records) if self._keep else stack(parts)

    def _next_block(self) -> tuple[Any, list[PairRecord]]:
        batch, kept = self._blocks.next()
        if self._skip:
            batch, kept, self._skip = take(batch, slice(self._skip, None)), kept[self._skip :], 0
        return batch, kept

    def watch(self, done: Callable[[str], None]) -> None:
        """Call ``done`` with the name of each stage (``pairs.STAGES``) when it has been launched, if this process
        draws."""
        if self._generator is not None:
            self._generator.done = done

    def close(self) -> None:
        self._blocks.close()
        if self._objects is not None:
            self._objects.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_stream(
    role: str,
    size: int,
    *,
    batch_size: int,
    workers: int,
    seed: int,
    pack: str | os.PathLike[str] | None = None,
    split: str = "train",
    device: str = "cpu",
    photos: str | os.PathLike[str] | None = None,
    keep_scenes: bool = False,
    start: int = 0,
    hardness: float = 1.0,
    ramp: int = 0,
    labels: int | None = None,
    appearance: float | None = None,
    small_starts: bool = True,
) -> Stream:
    """Make the stream of CoarseBatch or RefinerBatch: NumPy arrays from a CPU, tensors on a GPU.

    A worker's exception comes out of ``next`` as RuntimeError with the worker's traceback.

    Args:
        role: "coarse" or "refiner".
        size: S of the images, a multiple of PATCH.
        batch_size: N, at least 1.
        workers: processes that draw pairs, or for a GPU make objects; 0 does all in this process. Processes are
            spawned: a script that makes a stream needs the ``if __name__ == "__main__"`` guard.
        seed: with the split, the kind of device and a sample's number it determines the sample. Ranks of a distributed
            run take different ones.
        pack: asset pack (``assets.build_pack``); without one all objects are procedural.
        split: "train" or "heldout": different seeds, different assets and photographs.
        device: where pairs are drawn: "cpu", or a GPU as PyTorch names it ("cuda", "cuda:1").
        photos: folder of JPEG and PNG files for textures and backgrounds; scikit-image's samples, if installed, by
            default.
        keep_scenes: iterate over (batch, records) instead, as ``rerender`` needs them; refiner on a CPU only.
        start: number of the first sample; resuming at ``stream.position`` goes on with the same samples.
        hardness: 0 to 1, scales the shares of occluders, cuts and far templates; at 0 the query shows the whole of an
            object, near the template's view.
        appearance: 0 to 1, scales the shares of assets, free light, imperfect photographs, other colours and plain
            grey, from the first sample on; at 0 the query shows a procedural object as the renderer does. None: it is
            the sample's hardness.
        ramp: samples over which the hardness rises from 0, counted from sample 0; 0 = no rise.
        labels: templates or start poses per photograph; by default ``LABELS`` in training, 1 held out.
        small_starts: refiner: false = no start pose in training is nearly right (an ablation).

    Raises:
        InputError: an argument is outside its range, or the pack or the folder of photographs does not exist.
        BackendUnavailable: PyTorch finds no GPU, or CuPy is missing.
    """
    if role not in ROLES:
        raise InputError(f"role: wanted one of {', '.join(map(repr, ROLES))}, got {role!r}")
    if split not in SPLITS:
        raise InputError(f"split: wanted one of {', '.join(map(repr, SPLITS))}, got {split!r}")
    if device != "cpu" and device.split(":")[0] != "cuda":
        raise InputError(f"device: wanted 'cpu' or 'cuda', got {device!r}")
    if keep_scenes and (role != "refiner" or device != "cpu"):
        raise InputError("keep_scenes: wanted role='refiner' and device='cpu'; only those pairs are rendered again")
    labels = (LABELS[role] if split == "train" else 1) if labels is None else labels
    least = {"size": (size, PATCH), "batch_size": (batch_size, 1), "workers": (workers, 0), "seed": (seed, 0),
             "start": (start, 0), "ramp": (ramp, 0), "labels": (labels, 1)}  # fmt: skip
    for name, (value, low) in least.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
            raise InputError(f"{name}: wanted an integer of at least {low}, got {value!r}")
    for name, share in (("hardness", hardness), ("appearance", 0.0 if appearance is None else appearance)):
        if not 0.0 <= share <= 1.0:
            raise InputError(f"{name}: wanted a number from 0 to 1, got {share!r}")
    if size % PATCH:
        raise InputError(f"size: wanted a multiple of {PATCH}, got {size}")
    paths = [None if p is None else os.fspath(p) for p in (pack, photos)]
    if photos is not None:
        textures.photographs(split, paths[1])  # a folder that is not there is said here, not by a worker
    if pack is not None and not os.path.isfile(paths[0] or ""):
        raise InputError(f"pack: {paths[0]!r} does not exist; python -m export assets SOURCE... -o {paths[0]}")
    if device != "cpu" and not torch.cuda.is_available():
        raise BackendUnavailable(
            f"device {device!r}: PyTorch {torch.__version__} finds no CUDA device to draw pairs on; device='cpu' draws "
            "them with worker processes"
        )
    options = DataOptions(
        role,
        int(size),
        int(seed),
        split,
        paths[0],
        paths[1],
        float(hardness),
        int(ramp),
        int(labels),
        None if appearance is None else float(appearance),
        bool(small_starts),
    )
    return Stream(options, int(batch_size), int(workers), int(start), device, bool(keep_scenes))
