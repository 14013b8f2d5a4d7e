"""What a person does with poses in a series of images: find, correct, accept, take back. No page, no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError
from coop_edge.estimator import Estimator
from coop_edge.geometry import se3
from coop_edge.labels.store import LabelStore
from coop_edge.types import Camera, Detection, PoseEstimate
from coop_edge.view.cloud import in_metres
from coop_edge.view.item import Item, nudged, same_place
from coop_edge.visual.overlay import OverlayItem, draw_overlay

Image = NDArray[np.uint8]
Pose = NDArray[np.float64]
Picture = tuple[str, Callable[[], Image]]
"""Name of an image, and what reads it."""
Depths = Callable[[int], Mapping[str, Any]]
"""Gives ``depth`` and ``depth_unit`` of an image, by its number, as ``Estimator.estimate`` takes them."""


@dataclass(frozen=True, eq=False)
class _State:
    """What ``undo`` goes back to."""

    index: int
    items: tuple[Item, ...]
    active: int | None
    labelled: bool


class Session:
    """A series of images, what was found in the current one, and the labels accepted so far.

    It begins at the first image without labels.

    Attributes:
        passed_over: why images between the last one and this cannot be shown.

    Args:
        estimator: with its objects.
        pictures: at least one.
        camera_of: makes the camera of an image.
        store: where labels go.
        depths: of the images; poses use them. None: there are none.
        paths: of the images, by which labels know them, as ``LabelStore.source`` takes them; None: their names.

    Raises:
        InputError: no pictures, or none that can be shown: it cannot be read, its depth is of another size or of no
            unit, or its labels were made on another picture.
    """

    def __init__(
        self,
        estimator: Estimator,
        pictures: Sequence[Picture],
        camera_of: Callable[[Image], Camera],
        store: LabelStore,
        depths: Depths | None = None,
        paths: Sequence[Path] | None = None,
    ) -> None:
        if not pictures:
            raise InputError("view: wanted at least one image")
        self.estimator, self.pictures, self.store = estimator, pictures, store
        self._camera_of, self._depths = camera_of, depths
        self._before: list[_State] = []
        self._paths = [Path(name) for name, _ in pictures] if paths is None else list(paths)
        self._ids = store.image_ids(self._paths)
        self.items: tuple[Item, ...] = ()
        self.active: int | None = None
        self._left: dict[int, tuple[Item, ...]] = {}
        self.passed_over: list[str] = []
        labelled = store.labelled()
        start = next((i for i, number in enumerate(self._ids) if number not in labelled), 0)
        self._first_of([*range(start, len(pictures)), *range(start)], self._show)

    @property
    def name(self) -> str:
        """Return the current image's name."""
        return self.pictures[self.index][0]

    @property
    def item(self) -> Item | None:
        """Return the item that is being worked on; None without one."""
        return None if self.active is None else self.items[self.active]

    @property
    def labelled(self) -> int:
        """Return how many of the images have labels, or were accepted without any."""
        return len(self.store.labelled().intersection(self._ids))

    def unaccepted(self) -> dict[str, int]:
        """Return how many poses are not accepted, by the image's name; images without such are left out."""
        items = {**self._left, self.index: self.items}
        counts = {i: sum(item.T is not None and not item.accepted for item in items[i]) for i in sorted(items)}
        return {self.pictures[i][0]: count for i, count in counts.items() if count}

    def step(self, by: int) -> None:
        """Show the next image (``by`` = 1) or the previous one (-1) that can be shown.

        Raises:
            InputError: there is none.
        """
        further = range(self.index + by, -1 if by < 0 else len(self.pictures), by)
        self._first_of(further or [self.index + by], self.go)

    def _first_of(self, order: Sequence[int], show: Callable[[int], None]) -> None:
        """Show the first image that can be shown; ``passed_over`` says why those before it cannot."""
        self.passed_over = []
        for index in order:
            try:
                return show(index)
            except InputError as error:
                self.passed_over.append(str(error))
        raise InputError("; ".join(self.passed_over))

    def go(self, index: int) -> None:
        """Show another image, with its labels and what was left there unaccepted.

        Raises:
            InputError: no such image, or one that cannot be read, or whose labels were made on another picture.
        """
        left, items = self.index, self.items
        self._show(index)
        self._left[left] = items
        self.items = self._left.pop(index, self.items)
        self.active = len(self.items) - 1 if self.items else None

    def _show(self, index: int) -> None:
        if not 0 <= index < len(self.pictures):
            raise InputError(f"there is no image {index} (there are {len(self.pictures)}, from 0)")
        image = self.pictures[index][1]()
        self.store.check_picture(self._ids[index], image)
        camera = self._camera_of(image)
        measured = {} if self._depths is None else dict(self._depths(index))
        self.depth_m = in_metres(measured["depth"], measured["depth_unit"], camera) if measured else None
        if self.depth_m is not None and not self.depth_m.any():
            measured = {}  # nothing is known: the Estimator would refuse it
        self.index, self.image, self.camera, self._measured = index, image, camera, measured
        self.items = tuple(
            Item(PoseEstimate(True, T_camera_object=T, score=1.0, object=name), accepted=True)
            for name, T in self.store.labels(self._ids[index])
        )
        self.active = len(self.items) - 1 if self.items else None

    def estimate(self, name: str, bbox: Sequence[float]) -> Item:
        """Estimate an object's pose in a box (x, y, width, height), pixels.

        Raises:
            InputError: no such box.
        """
        low = np.clip(bbox[:2], 0.0, np.array(self.camera.size) - 1.0)
        high = np.clip(np.add(bbox[:2], bbox[2:]), low + 1.0, self.camera.size)
        detection = Detection(name, (*low.tolist(), *(high - low).tolist()))
        (result,) = self.estimator.estimate(self.image, self.camera, [detection], **self._measured)
        return self._add(Item(result, detection))

    def find(self, name: str | None = None) -> list[Item]:
        """Look for one object, or all of them, without a box."""
        results = self.estimator.find(self.image, self.camera, None if name is None else [name], **self._measured)
        known = [item for item in self.items if item.accepted]
        return [self._add(Item(result)) for result in results if not any(same_place(result, item) for item in known)]

    def refine(self) -> Item:
        """Refine the current item's pose from where it is. What loses it leaves it where it is, with the reason.

        Raises:
            InputError: there is no pose, or refinement lost the object.
        """
        item = self._with_pose()
        start = PoseEstimate(True, T_camera_object=item.T, score=item.result.score, object=item.name)
        (result,) = self.estimator.track(self.image, self.camera, [start], **self._measured)
        if not result.success:
            raise InputError(f"{item.name}: {result.reason}; it stays where it was")
        return self._change(replace(item, result=result, moved=False, accepted=False))

    def move(self, T_camera_object: Pose) -> Item:
        """Put the current item at a pose [4,4], metres."""
        item = self._with_pose()
        result = replace(item.result, T_camera_object=T_camera_object, covariance=None)
        return self._change(replace(item, result=result, moved=True, accepted=False))

    def nudge(self, axis: int, amount: float) -> Item:
        """Move the current item by metres along x, y, z of the camera (axis 0..2), or turn it by radians (3..5).

        It turns about its own centre, by axes of the camera: x right, y down, z forward.
        """
        return self.move(nudged(np.asarray(self._with_pose().T), self.mesh_centre(), axis, amount))

    def mesh_centre(self) -> NDArray[np.float64]:
        """Return the current item's centre as a camera point [3], metres."""
        item = self._with_pose()
        T = np.asarray(item.T, np.float64)
        return np.asarray(se3.transform(T, self.estimator.objects[item.name].centre[None])[0])

    def accept(self) -> None:
        """Make all items that have a pose labels, and write the image's labels; without items, that there are none.

        Raises:
            InputError: there are items, and none has a pose.
        """
        if self.items and all(item.T is None for item in self.items):
            self._with_pose()
        self._remember()
        self.items = tuple(replace(item, accepted=item.T is not None) for item in self.items)
        self._write()

    def remove(self) -> None:
        """Take the current item away, from the labels too.

        Raises:
            InputError: nothing is chosen.
        """
        if self.active is None:
            raise InputError("there is nothing to remove: no object is chosen")
        self._remember()
        was = self.items[self.active]
        self.items = (*self.items[: self.active], *self.items[self.active + 1 :])
        self.active = len(self.items) - 1 if self.items else None
        if was.accepted:
            self._write()

    def undo(self) -> None:
        """Take the last change back, wherever it was, and write the labels as they were.

        Raises:
            InputError: nothing was changed.
        """
        if not self._before:
            raise InputError("there is nothing to undo")
        state = self._before.pop()
        if state.index != self.index:
            self.go(state.index)
        self.items, self.active = state.items, state.active
        if state.labelled:
            self._write()
        elif self._ids[self.index] in self.store.labelled():
            self.store.forget(self._ids[self.index])

    def follow(self) -> None:
        """Go to the next image and track there what has a pose here.

        Raises:
            InputError: it is the last one.
        """
        found = [item.result for item in self.items if item.T is not None]
        self.go(self.index + 1)
        if not found or self.items or self._ids[self.index] in self.store.labelled():
            return  # nothing takes the place of what is there, nor of its having been accepted as empty
        for result in self.estimator.track(self.image, self.camera, found, **self._measured):
            self._add(Item(result))

    def overlay(self) -> Image:
        """Return the image with all items drawn over it."""
        meshes = self.estimator.objects
        drawn = [OverlayItem(item.result, meshes[item.name], item.detection) for item in self.items]
        return draw_overlay(self.image, self.camera, drawn, renderer=self.estimator.backend.renderer)

    def _with_pose(self) -> Item:
        item = self.item
        if item is None:
            raise InputError("no object is chosen: draw a box around one first")
        if item.T is None:
            raise InputError(f"{item.name}: has no pose ({item.result.reason}); draw another box")
        return item

    def _remember(self) -> None:
        labelled = self._ids[self.index] in self.store.labelled()
        self._before.append(_State(self.index, self.items, self.active, labelled))

    def _add(self, item: Item) -> Item:
        self._remember()
        kept = tuple(i for i in self.items if i.T is not None)  # what was not found has been seen
        self.items = (*kept, item)
        self.active = len(self.items) - 1
        return item

    def _change(self, item: Item) -> Item:
        assert self.active is not None
        self._remember()
        was = self.items[self.active]
        self.items = (*self.items[: self.active], item, *self.items[self.active + 1 :])
        if was.accepted or item.accepted:
            self._write()
        return item

    def _write(self) -> None:
        labels: list[tuple[str, Any]] = [(item.name, item.T) for item in self.items if item.accepted]
        source = self.store.source(self._paths[self.index])
        self.store.write(self._ids[self.index], source, self.image, self.camera, labels)
