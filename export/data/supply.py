"""Objects and backgrounds, made one after the other by number. Needs no PyTorch, so a process that does nothing else
starts quickly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from export.data import objects, textures
from export.data.objects import TrainingObject
from export.data.packs import Pack

Array = np.ndarray[Any, Any]

SPLITS = ("train", "heldout")
PACK_SHARE = 0.9
"""Share of objects that come from the asset pack, where there is one, at appearance 1; none at 0: procedural objects
have more to be told apart by."""
TURNED_SHARE, THIN_SHARE = 0.15, 0.15
"""Shares of procedural objects in training that are turned on a lathe and plain, so that how far about their axis
cannot be seen, and that are long and thin; of held-out ones it is as it comes."""
OBJECTS_PER_BACKGROUND = 2
"""Objects made per new background."""
BACKGROUND = 256
"""Side of a background, pixels."""


@dataclass(frozen=True)
class DataOptions:
    """What determines the pairs of a stream; ``stream.make_stream`` explains and checks the fields."""

    role: str
    size: int
    seed: int
    split: str = "train"
    pack: str | None = None
    photos: str | None = None
    hardness: float = 1.0
    ramp: int = 0
    labels: int = 1
    appearance: float | None = None
    small_starts: bool = True

    def hardness_of(self, i: int) -> float:
        """Return the hardness of sample i."""
        return self.hardness * min(1.0, i / self.ramp) if self.ramp else self.hardness

    def seed_words(self, *key: int) -> tuple[int, ...]:
        """Return the seed of the random numbers of a key; the key's first number says what they are for."""
        return (self.seed, SPLITS.index(self.split), *key)


@dataclass(frozen=True)
class Limits:
    """What fits into a slot of a stock. Larger textures are shrunk; an object with more of anything else is refused."""

    vertices: int = 6144
    faces: int = 6144
    texels: int = 4 * 256 * 256
    textures: int = 16

    def admit(self, thing: TrainingObject) -> bool:
        """Tell whether an object fits into a slot."""
        mesh = thing.mesh
        return (
            len(mesh.vertices) <= self.vertices
            and len(mesh.faces) <= self.faces
            and len(mesh.textures) <= self.textures
        )

    def shrink(self, thing: TrainingObject) -> TrainingObject:
        """Return the object with its textures halved until they fit."""
        images = thing.mesh.textures
        while sum(image.shape[0] * image.shape[1] for image in images) > self.texels:
            images = tuple(_halved(image) for image in images)
        if images is thing.mesh.textures:
            return thing
        return replace(thing, mesh=replace(thing.mesh, textures=images))


@dataclass(frozen=True)
class Layout:
    """How a kind of device draws: sizes of blocks and stocks. Other numbers are other pairs."""

    lanes: int  # on a CPU, no more workers than these have anything to do
    photographs: int  # of a block, at images of 128 pixels a side; fewer of larger ones
    first: int  # objects of a lane at its first block
    held: int  # objects that a lane holds at most, an even number
    samples_per_object: int  # samples of a lane per new object

    def block(self, options: DataOptions) -> int:
        """Return the number of photographs in a block."""
        return min(self.photographs, max(1, round(self.photographs * (128 / options.size) ** 2)))

    def objects(self, options: DataOptions, block: int) -> range:
        """Return the numbers of the objects that a block's lane holds; object i is in slot i modulo ``held``."""
        samples = (block // self.lanes) * self.block(options) * options.labels
        last = self.first + samples // self.samples_per_object
        return range(max(0, last - self.held), last)

    def hardness(self, options: DataOptions, number: int) -> float:
        """Return the hardness of the first sample that may show a lane's object of this number."""
        return options.hardness_of(max(0, number - self.first + 1) * self.samples_per_object * self.lanes)


class ObjectSupply:
    """Makes the objects of one lane (see ``stream``), each a function of the options, the lane and its number."""

    def __init__(self, options: DataOptions, lane: int = 0, limits: Limits | None = None) -> None:
        self._options, self._lane, self._limits = options, lane, limits or Limits()
        self._pack = Pack(options.pack, split=options.split) if options.pack is not None else None

    def __call__(self, number: int, hardness: float) -> tuple[TrainingObject, Array | None]:
        """Object ``number``, its tables of normals worked out, and with every second one a background, uint8
        [BACKGROUND,BACKGROUND,3].

        hardness: of the first pair that may show it; scales the share of objects from the pack where the options do
        not state an appearance.
        """
        options = self._options
        share = PACK_SHARE * (hardness if options.appearance is None else options.appearance)
        rng = np.random.default_rng(options.seed_words(1, self._lane, number))
        packed = self._pack is not None and rng.random() < share
        thing = self._draw(rng, packed, number)
        while not self._limits.admit(thing):
            thing = self._draw(rng, packed, number)
        thing = self._limits.shrink(thing)
        _ = thing.normal_map, thing.face_normals, thing.mesh.radius  # kept with the object, and sent with it
        if number % OBJECTS_PER_BACKGROUND:
            return thing, None
        rng = np.random.default_rng(options.seed_words(2, self._lane, number))
        return thing, textures.background(rng, BACKGROUND, options.split, options.photos)

    def _draw(self, rng: np.random.Generator, packed: bool, number: int) -> TrainingObject:
        if packed and self._pack is not None:
            return self._pack.draw(rng)
        name, split = f"procedural/{self._lane}/{number}", self._options.split
        kind = rng.random() if split == "train" else 1.0
        if kind < TURNED_SHARE:
            return objects.turned(rng, name=name)
        thin = kind < TURNED_SHARE + THIN_SHARE
        return objects.procedural(rng, split, self._options.photos, name=name, thin=thin)


class LaneObjects:
    """Makes the objects of one lane by number."""

    def __init__(self, options: DataOptions, layout: Layout, lane: int = 0) -> None:
        self._options, self._layout = options, layout
        self._supply = ObjectSupply(options, lane)

    def __call__(self, number: int) -> tuple[TrainingObject, Array | None]:
        return self._supply(number, self._layout.hardness(self._options, number))


def _halved(image: Array) -> Array:
    height, width = (max(1, n // 2) for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
