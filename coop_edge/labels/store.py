"""A folder of labels in BOP's layout, with a COCO file beside it: what a page or a program has accepted so far.

    ROOT/train/000000/{scene_camera,scene_gt,scene_gt_info}.json, rgb/000003.png, mask/..., mask_visib/...
    ROOT/coco.json, objects.json (name -> id), images.json (image id -> where it was read, seen from ROOT)

Every file is written whole or not at all, scene_gt_info.json last: an image that is in it is complete. An image keeps
the id under which it was first written, whatever comes before or after it later.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coop_edge.base.files import atomic_write
from coop_edge.errors import InputError
from coop_edge.geometry.masks import encode_rle
from coop_edge.labels.instances import Instance, instances
from coop_edge.labels.records import camera_entry, coco_annotation, coco_document, pose_entry, pose_of
from coop_edge.render.base import Renderer
from coop_edge.types import Camera

Label = tuple[str, NDArray[np.float64]]
"""Object and T_camera_object [4,4], metres."""

_FILES = ("scene_camera.json", "scene_gt.json", "scene_gt_info.json")
_SAME = 2.0
"""Mean difference, of 255, up to which pixels are those of the same picture: decoders round differently."""


class LabelStore:
    """Labels of the images of one scene, kept in ``root``.

    Args:
        objects: names, in order: the first has id 1. A name that is a number is its id.
        renderer: makes the renderer of an object by its name.

    Raises:
        InputError: the folder holds labels of other objects, or is not of this kind.
    """

    def __init__(self, root: Path, objects: Sequence[str], *, renderer: Callable[[str], Renderer]) -> None:
        self.root, self.folder, self._renderer = root, root / "train" / "000000", renderer
        self.ids = object_ids(objects)
        kept = self._read(root / "objects.json")
        if root.is_dir() and any(root.iterdir()) and not kept:
            raise InputError(f"{root}: holds files, but no labels of this kind; give an empty or a new folder")
        if other := {name: number for name, number in self.ids.items() if kept.get(name, number) != number}:
            name = next(iter(other))
            raise InputError(
                f"{root}: its object {name!r} has id {kept[name]}, this one {other[name]}; use the same objects, "
                "or another folder"
            )
        self.ids = {**kept, **self.ids}
        if len(set(self.ids.values())) != len(self.ids):
            raise InputError(
                f"{root}: two objects would share an id: {self.ids}; name the objects as before, or give another "
                "folder (-o)"
            )

    def source(self, path: Path) -> str:
        """Return what images.json says of an image: where it lies, seen from the labels, as both may move together.

        Args:
            path: of the picture; of a frame of a video the video's, and below it the frame's number.
        """
        return os.path.relpath(path.parent.resolve() / path.name, self.root.resolve())

    def image_ids(self, paths: Sequence[Path]) -> list[int]:
        """Return the ids of images: those under which they were written before, of others the first that are free.

        An image is one that was written before if it lies at the same place, or if it has the same name and nothing
        lies at that place any more.

        Args:
            paths: as for ``source``, each once.

        Raises:
            InputError: two images were written before, of this name, and nothing is left where they lay.
        """
        earlier = {source: int(key) for key, source in self._read(self.root / "images.json").items()}
        asked = [self.source(path) for path in paths]
        gone: dict[str, list[str]] = {}
        for source in earlier.keys() - set(asked):
            if not self._is_there(source):
                gone.setdefault(_name(source), []).append(source)
        found = {source: earlier.get(source) for source in asked}
        for source in asked:
            moved = gone.pop(_name(source), []) if found[source] is None else []
            if len(moved) > 1:
                raise InputError(
                    f"{self.root}: holds labels of several images called {_name(source)!r}, and none of them is where "
                    f"it was ({', '.join(moved)}); move them back, or give another folder (-o)"
                )
            if moved:
                found[source] = earlier[moved[0]]
        taken = {*earlier.values()}
        free = (number for number in range(len(taken) + len(asked)) if number not in taken)
        return [next(free) if (number := found[source]) is None else number for source in asked]

    def check_picture(self, image_id: int, rgb: NDArray[np.uint8]) -> None:
        """Check that an image's labels were made on these pixels.

        Raises:
            InputError: they were not.
        """
        path = self._picture(image_id)
        if image_id not in self.labelled() or not path.is_file():
            return
        kept = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if (
            kept is None
            or kept.shape != rgb.shape
            or cv2.absdiff(kept, np.ascontiguousarray(rgb[..., ::-1])).mean() > _SAME
        ):
            raise InputError(
                f"{path}: these labels were made on another picture than this one of the same name; give another "
                "folder (-o), or rename the picture"
            )

    def labelled(self) -> set[int]:
        """Return the ids of the images that have labels, or were accepted without any."""
        return {int(key) for key in self._read(self.folder / "scene_gt_info.json")}

    def labels(self, image_id: int) -> list[Label]:
        """Return the labels of an image, in the order in which they were accepted."""
        names = {number: name for name, number in self.ids.items()}
        entries = self._read(self.folder / "scene_gt.json").get(str(image_id), [])
        return [(names[int(entry["obj_id"])], pose_of(entry)) for entry in entries]

    def write(
        self, image_id: int, source: str, rgb: NDArray[np.uint8], camera: Camera, labels: Sequence[Label]
    ) -> None:
        """Write an image and all of its labels, in place of those it had; none are legal.

        Args:
            image_id: of ``image_ids``.
            source: where it was read, of ``source``.

        Raises:
            OSError: it cannot be read or written.
        """
        seen = instances(camera, [T for _, T in labels], [self._renderer(name) for name, _ in labels])
        name = f"{image_id:06d}"
        self._write_json(self.root / "objects.json", self.ids)
        self._extend(self.root / "images.json", image_id, source)  # first: the id is taken
        if before := image_id in self.labelled():
            self._drop(self.folder / _FILES[-1], image_id)  # incomplete until all is written
        if not before or not self._picture(image_id).is_file():
            _write_picture(self._picture(image_id), rgb[..., ::-1])
        count = len(self._read(self.folder / "scene_gt.json").get(str(image_id), []))
        for k, one in enumerate(seen):
            for kind, mask in (("mask", one.mask), ("mask_visib", one.visible)):
                _write_picture(self.folder / kind / f"{name}_{k:06d}.png", mask.astype(np.uint8) * 255)
        poses = [pose_entry(self.ids[name], T) for name, T in labels]
        self._extend(self.folder / _FILES[0], image_id, camera_entry(camera))
        self._extend(self.folder / _FILES[1], image_id, poses)
        self._write_coco(image_id, source, camera, labels, seen)
        for k in range(len(seen), count):
            for kind in ("mask", "mask_visib"):
                (self.folder / kind / f"{name}_{k:06d}.png").unlink(missing_ok=True)
        self._extend(self.folder / _FILES[2], image_id, [one.info for one in seen])

    def forget(self, image_id: int) -> None:
        """Take an image and its labels out of the files; its picture stays."""
        for file in _FILES[::-1]:
            self._drop(self.folder / file, image_id)
        coco = self._read(self.root / "coco.json") or coco_document([], [], self.ids)
        self._write_json(self.root / "coco.json", _without(coco, image_id))

    def _write_coco(
        self, image_id: int, source: str, camera: Camera, labels: Sequence[Label], seen: Sequence[Instance]
    ) -> None:
        coco = _without(self._read(self.root / "coco.json") or coco_document([], [], self.ids), image_id)
        coco["categories"] = coco_document([], [], self.ids)["categories"]
        file = f"train/000000/rgb/{image_id:06d}.png"
        size = {"width": camera.width, "height": camera.height}
        coco["images"].append({"id": image_id, "file_name": file, **size, "source": source})
        first = 1 + max((entry["id"] for entry in coco["annotations"]), default=0)
        for k, ((name, T), one) in enumerate(zip(labels, seen, strict=True)):
            rle = encode_rle(one.visible)
            pose = pose_entry(self.ids[name], T)
            coco["annotations"].append(
                coco_annotation(first + k, image_id, self.ids[name], one.info, rle, pose={**pose, "unit": "mm"})
            )
        coco["images"].sort(key=lambda entry: entry["id"])
        coco["annotations"].sort(key=lambda entry: (entry["image_id"], entry["id"]))
        self._write_json(self.root / "coco.json", coco)

    def _read(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}") from None
        if not isinstance(content, dict):
            raise InputError(f"{path}: wanted a JSON object, got a {type(content).__name__}")
        return content

    def _extend(self, path: Path, image_id: int, value: Any) -> None:
        content = {**self._read(path), str(image_id): value}
        self._write_json(path, dict(sorted(content.items(), key=lambda item: int(item[0]))))

    def _drop(self, path: Path, image_id: int) -> None:
        content = self._read(path)
        content.pop(str(image_id), None)
        self._write_json(path, content)

    def _picture(self, image_id: int) -> Path:
        return self.folder / "rgb" / f"{image_id:06d}.png"

    def _is_there(self, source: str) -> bool:
        """Tell whether something lies where an image was read: a picture, or the video of a frame."""
        path = self.root.resolve() / source
        return path.is_file() or path.parent.is_file()

    def _write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        with atomic_write(path) as file:
            file.write(json.dumps(content).encode())


def object_ids(names: Sequence[str]) -> dict[str, int]:
    """Return the id of each object in BOP's and COCO's files: the number it is called by, else the first free one."""
    ids = {name: int(name) for name in names if name.isdecimal()}
    for name in names:
        if name not in ids:
            ids[name] = next(number for number in range(1, len(names) + 2) if number not in ids.values())
    return {name: ids[name] for name in names}


def _name(source: str) -> str:
    """Return a picture's name, or a video's and the frame's number."""
    path = PurePath(source)
    return path.name if path.suffix else "/".join(path.parts[-2:])


def _without(coco: dict[str, Any], image_id: int) -> dict[str, Any]:
    return {
        **coco,
        "images": [entry for entry in coco["images"] if entry["id"] != image_id],
        "annotations": [entry for entry in coco["annotations"] if entry["image_id"] != image_id],
    }


def _write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    done, data = cv2.imencode(path.suffix, np.ascontiguousarray(image))
    if not done:
        raise OSError(f"{path}: OpenCV could not encode the image")
    with atomic_write(path) as file:
        file.write(data.tobytes())
