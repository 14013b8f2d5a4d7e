"""The stream of training pairs: endless, drawn by worker processes, the same whatever their number.

On a GPU whole batches are drawn where they are used instead, by ``device_data``; ``make_stream`` makes either.

Sample i is a function of (seed, split, i) alone. Samples come in blocks of ``BLOCK``; blocks take turns over ``LANES``
lanes, each with a small stock of objects and backgrounds of its own that is renewed piece by piece, so that an object
is made once and is the target of about ``BLOCK * RENEWAL`` samples. A worker serves whole lanes and keeps their stocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from coop_edge.errors import InputError
from export.data import objects, pairs, textures
from export.data.batch import PATCH, stack
from export.data.data_workers import Blocks, InProcess, Workers

if TYPE_CHECKING:
    from export.data.device_data import DeviceStream

Array = np.ndarray[Any, Any]

BLOCK = 4
"""Samples that are drawn together; few, so that a batch mixes the stocks of many lanes."""
LANES = 32
"""Stocks of objects; no more workers than lanes have anything to do."""
FIRST, HELD, RENEWAL = 6, 12, 4
"""Objects of a lane at its first block, how many it holds at most, and blocks of a lane per new object."""
PLATES = 4
"""Backgrounds of a lane at a time; renewed as objects are."""
PACK_SHARE = 0.7
"""Of objects that come from the asset pack, where there is one, in full hardness; none at hardness 0: procedural
objects have more to be told apart by."""
HALFWAY_SHARE = 0.75
"""Of refiner pairs in training that start nearer to the truth than METHOD's noise; held-out pairs never do."""
VIEWS = 2
"""Refiner pairs per photograph in training, each from a start pose of its own: photographs cost most. Those after the
first all start nearer. Of this module alone: ``device_data`` draws a photograph for each pair."""
ROLES = ("coarse", "refiner")
SPLITS = ("train", "heldout")
DRAWN = ("auto", "cpu", "device")


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to know to draw any block."""

    role: str
    size: int
    seed: int
    split: str
    pack: str | None
    photos: str | None
    keep_scenes: bool
    hardness: float = 1.0
    ramp: int = 0

    def hardness_of(self, i: int) -> float:
        """Hardness of sample i."""
        return self.hardness * min(1.0, i / self.ramp) if self.ramp else self.hardness

    def generator(self, *key: int) -> np.random.Generator:
        """Random numbers that are a function of the seed, the split and a key: its first number says what for."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), *key])

    def artist(self) -> Artist:
        """What draws its blocks."""
        return Artist(self)


class Artist:
    """Draws blocks of one recipe; keeps the stocks of the lanes it is asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._objects: dict[int, dict[int, objects.TrainingObject]] = {}
        self._plates: dict[int, dict[int, Array]] = {}
        self._pack = None
        if recipe.pack is not None:
            from export.data.packs import Pack

            self._pack = Pack(recipe.pack, split=recipe.split)

    def __call__(self, block: int) -> tuple[Any, list[Any]]:
        """Batch of BLOCK samples, and their scenes (empty unless asked for)."""
        from export.data.pairs_refiner import again, refiner_pair

        recipe = self.recipe
        stock = self._stock(block)
        drawn: list[Any] = []
        kept: list[Any] = []
        for j in range(BLOCK):
            i = block * BLOCK + j
            rng = recipe.generator(0, i)
            if recipe.role == "coarse":
                drawn.append(pairs.coarse_pair(rng, stock, recipe.size, recipe.hardness_of(i)))
                continue
            if recipe.split == "train" and j % VIEWS:
                pair, scene = again(rng, kept[-1]), kept[-1]
            else:
                halfway = _halfway_of_first() if recipe.split == "train" else 0.0
                pair, scene = refiner_pair(rng, stock, recipe.size, recipe.hardness_of(i), halfway)
            drawn.append(pair)
            kept.append(scene)
        return stack(drawn), kept if recipe.keep_scenes else []

    def _stock(self, block: int) -> pairs.Stock:
        lane, turn = block % LANES, block // LANES
        age = turn // RENEWAL
        last = FIRST + age
        things = _renew(self._objects.setdefault(lane, {}), range(max(0, last - HELD), last), lane, self._object)
        plates = _renew(self._plates.setdefault(lane, {}), range(age, age + PLATES), lane, self._plate)
        return pairs.Stock(things, plates)

    def _object(self, lane: int, number: int) -> objects.TrainingObject:
        rng = self.recipe.generator(1, lane, number)
        if self._pack is not None and rng.random() < PACK_SHARE * self._hardness(number):
            return self._pack.draw(rng)
        return objects.procedural(rng, self.recipe.split, self.recipe.photos, name=f"procedural/{lane}/{number}")

    def _hardness(self, number: int) -> float:
        """Of the sample that is the first to see a lane's object of this number."""
        turn = max(0, number - FIRST + 1) * RENEWAL
        return self.recipe.hardness_of(turn * LANES * BLOCK)

    def _plate(self, lane: int, number: int) -> Array:
        rng = self.recipe.generator(2, lane, number)
        return textures.background(rng, 256, self.recipe.split, self.recipe.photos)


def _halfway_of_first() -> float:
    """Share of photographs' first pairs that start nearer, so that ``HALFWAY_SHARE`` of all pairs do."""
    photographs = -(-BLOCK // VIEWS)
    return 1 - (1 - HALFWAY_SHARE) * BLOCK / photographs


class Stream:
    """Iterator over batches; also a context manager. ``close`` ends the workers."""

    def __init__(self, recipe: Recipe, batch_size: int, workers: int, start: int) -> None:
        self.recipe = recipe
        self.batch_size = batch_size
        self.position = start
        """Number of the next sample."""
        ahead = -(-2 * batch_size // BLOCK) + 2 * workers
        first = start // BLOCK
        self._blocks: Blocks = Workers(recipe, workers, first, ahead, LANES) if workers else InProcess(recipe, first)
        self._skip = start % BLOCK
        self._rest: tuple[Any, list[Any]] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next batch; with ``keep_scenes`` a pair (batch, scenes)."""
        parts, scenes = [], []
        missing = self.batch_size
        while missing:
            batch, kept = self._rest if self._rest is not None else self._next_block()
            count = len(batch.query)
            take = min(missing, count)
            parts.append(_rows(batch, 0, take))
            scenes += kept[:take]
            self._rest = (_rows(batch, take, count), kept[take:]) if take < count else None
            missing -= take
        self.position += self.batch_size
        whole = stack(parts)
        return (whole, scenes) if self.recipe.keep_scenes else whole

    def _next_block(self) -> tuple[Any, list[Any]]:
        batch, kept = self._blocks.next()
        if self._skip:
            batch, kept, self._skip = _rows(batch, self._skip, BLOCK), kept[self._skip :], 0
        return batch, kept

    def close(self) -> None:
        self._blocks.close()

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
    data: str = "auto",
    photos: str | os.PathLike[str] | None = None,
    keep_scenes: bool = False,
    start: int = 0,
    hardness: float = 1.0,
    ramp: int = 0,
) -> Stream | DeviceStream:
    """Endless iterator over CoarseBatch or RefinerBatch; close it, or use it in a ``with`` statement.

    Parameters
    ----------
    role: "coarse" or "refiner".
    size: S of the images, a multiple of PATCH.
    batch_size: N, at least 1.
    workers: processes that draw; 0 draws in this one, when asked. Processes are spawned: a script that makes a stream
        needs the ``if __name__ == "__main__"`` guard.
    seed: with the split and a sample's number it determines the sample. Ranks of a distributed run take different ones.
    pack: asset pack (``assets.build_pack``); without one all objects are procedural.
    split: "train" or "heldout": different seeds, different assets and photographs.
    device: where the pairs are wanted: "cpu", or a GPU as PyTorch names it ("cuda", "cuda:1").
    data: how they are drawn. "cpu": by the workers, as NumPy arrays, wherever they are wanted. "device": in whole
        batches there, as tensors, while the workers make new objects (see ``device_data``). "auto": "device" on a GPU.
    photos: folder of JPEG and PNG files for textures and backgrounds; scikit-image's samples, if installed, by default.
    keep_scenes: iterate over (batch, scenes) instead, as ``rerender`` needs them; refiner only.
    start: number of the first sample; resuming at ``stream.position`` goes on with the same samples.
    hardness: 0 to 1, scales the shares of assets, occluders, cuts, free light, imperfect photographs, other colours,
        plain grey and far templates; at 0 the query shows the whole of a procedural object as the renderer does, near
        the template's view.
    ramp: samples over which the hardness rises from 0, counted from sample 0; 0 = no rise.

    Raises InputError; a worker's exception comes out of ``next`` as RuntimeError with the worker's traceback.
    """
    if role not in ROLES:
        raise InputError(f"role: wanted one of {', '.join(map(repr, ROLES))}, got {role!r}")
    if split not in SPLITS:
        raise InputError(f"split: wanted one of {', '.join(map(repr, SPLITS))}, got {split!r}")
    if data not in DRAWN:
        raise InputError(f"data: wanted one of {', '.join(map(repr, DRAWN))}, got {data!r}")
    if device != "cpu" and device.split(":")[0] != "cuda":
        raise InputError(f"device: wanted 'cpu' or 'cuda', got {device!r}")
    whole = data == "device" or (data == "auto" and device != "cpu")
    if keep_scenes and (role != "refiner" or whole):
        raise InputError("keep_scenes: wanted role='refiner' and data='cpu'; only those pairs are rendered again")
    for name, value, low in (("size", size, PATCH), ("batch_size", batch_size, 1), ("workers", workers, 0),
                             ("seed", seed, 0), ("start", start, 0), ("ramp", ramp, 0)):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
            raise InputError(f"{name}: wanted an integer of at least {low}, got {value!r}")
    if not 0.0 <= hardness <= 1.0:
        raise InputError(f"hardness: wanted a number from 0 to 1, got {hardness!r}")
    if size % PATCH:
        raise InputError(f"size: wanted a multiple of {PATCH}, got {size}")
    paths = [None if p is None else os.fspath(p) for p in (pack, photos)]
    numbers = (float(hardness), int(ramp))
    recipe = Recipe(role, int(size), int(seed), split, paths[0], paths[1], bool(keep_scenes), *numbers)
    if photos is not None:
        textures.photographs(split, paths[1])  # a folder that is not there is said here, not by a worker
    if pack is not None and not os.path.isfile(recipe.pack or ""):
        raise InputError(f"pack: {recipe.pack!r} does not exist; python -m export assets SOURCE... -o {recipe.pack}")
    if whole:
        from export.data.device_data import DeviceStream

        return DeviceStream(recipe, int(batch_size), int(workers), int(start), device)
    return Stream(recipe, int(batch_size), int(workers), int(start))


def _renew(held: dict[int, Any], wanted: range, lane: int, make: Any) -> list[Any]:
    """``held`` brought to the wanted numbers; what is in it in order."""
    for number in [n for n in held if n not in wanted]:
        del held[number]
    for number in wanted:
        if number not in held:
            held[number] = make(lane, number)
    return [held[number] for number in wanted]


def _rows(batch: Any, low: int, high: int) -> Any:
    return type(batch)(**{f.name: getattr(batch, f.name)[low:high] for f in fields(batch)})
