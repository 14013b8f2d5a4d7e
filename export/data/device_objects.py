"""Objects for a device's stock, made one after the other by processes that need no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from export.data import objects, textures
from export.data.objects import TrainingObject

if TYPE_CHECKING:
    from export.data.data import Recipe

Array = np.ndarray[Any, Any]

KINDS = ("procedural", "pack")
OBJECTS_PER_PLATE = 2
"""Objects made per new background: a lane of the other stream renews both at the same pace, but holds a third as many
backgrounds as objects."""
PLATE = 256
"""Side of a background, pixels."""


@dataclass(frozen=True)
class Limits:
    """What fits into a slot. Larger textures are shrunk; an object with more of anything else is not taken."""

    vertices: int = 6144
    faces: int = 6144
    texels: int = 4 * 256 * 256
    textures: int = 16

    def admit(self, thing: TrainingObject) -> bool:
        """Whether an object can have a slot."""
        mesh = thing.mesh
        return (
            len(mesh.vertices) <= self.vertices
            and len(mesh.faces) <= self.faces
            and len(mesh.textures) <= self.textures
        )

    def shrink(self, thing: TrainingObject) -> TrainingObject:
        """The object with its textures halved until they fit."""
        images = thing.mesh.textures
        while sum(image.shape[0] * image.shape[1] for image in images) > self.texels:
            images = tuple(_halved(image) for image in images)
        if images is thing.mesh.textures:
            return thing
        return TrainingObject(replace(thing.mesh, textures=images), thing.model_points, thing.diameter)


@dataclass(frozen=True, eq=False)
class Delivery:
    """An object with its tables of normals worked out, and now and then a background."""

    kind: str
    thing: TrainingObject
    plate: Array | None  # uint8 [PLATE,PLATE,3]


@dataclass(frozen=True)
class ObjectRecipe:
    """All that a worker needs to know to make any object: delivery k is a function of this and k alone."""

    recipe: Recipe
    pack_share: float
    limits: Limits = field(default_factory=Limits)

    def kind_of(self, number: int) -> str:
        """Of delivery ``number``: the kinds take turns in their shares."""
        share = self.pack_share
        return "pack" if int((number + 1) * share) > int(number * share) else "procedural"

    def artist(self) -> ObjectArtist:
        """What makes them."""
        return ObjectArtist(self)


class ObjectArtist:
    """Makes deliveries."""

    def __init__(self, order: ObjectRecipe) -> None:
        self._order = order
        self._pack = None
        if order.recipe.pack is not None:
            from export.data.packs import Pack

            self._pack = Pack(order.recipe.pack, split=order.recipe.split)

    def __call__(self, number: int) -> Delivery:
        recipe = self._order.recipe
        rng = recipe.generator(3, number)
        kind = self._order.kind_of(number)
        thing = self._object(rng, kind, number)
        while not self._order.limits.admit(thing):
            thing = self._object(rng, kind, number)
        thing = self._order.limits.shrink(thing)
        _ = thing.normal_map, thing.face_normals, thing.mesh.radius  # kept with the object, which is sent with them
        plate = None
        if number % OBJECTS_PER_PLATE == 0:
            plate = textures.background(recipe.generator(4, number), PLATE, recipe.split, recipe.photos)
        return Delivery(kind, thing, plate)

    def _object(self, rng: np.random.Generator, kind: str, number: int) -> TrainingObject:
        if kind == "pack" and self._pack is not None:
            return self._pack.draw(rng)
        recipe = self._order.recipe
        return objects.procedural(rng, recipe.split, recipe.photos, name=f"procedural/{number}")


def _halved(image: Array) -> Array:
    height, width = (max(1, n // 2) for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
