"""What is to be annotated: the images of folders, videos and BOP data sets, each with its camera and detections."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.cli.frames import SUFFIXES, is_picture, natural
from coop_edge.cli.image_list import VideoReader
from coop_edge.cli.inputs import read_camera, read_image
from coop_edge.errors import InputError
from coop_edge.types import Camera, Detection

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Item:
    """One image, as plain data that goes to another process or machine.

    Attributes:
        index: in the run, from 0.
        scene, image: its ids in BOP's files.
        name: for people.
        path: the picture or video, as every worker must be able to open it.
        frame: of a video, None for a picture.
        camera: what ``--camera`` said, or K, distortion and fisheye.
        detections: object, bbox and score of each; None: look for all objects without boxes.
    """

    index: int
    scene: int
    image: int
    name: str
    path: str
    frame: int | None
    camera: Any
    detections: list[dict[str, Any]] | None

    def plain(self) -> str:
        """Return the item as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Item:
        """Make an item of what ``plain`` returned."""
        return cls(**json.loads(text))

    def read(self) -> Image:
        """Read the image, RGB uint8 [h,w,3].

        Raises:
            InputError: the file is missing, or is not an image or video.
        """
        return read_image(Path(self.path)) if self.frame is None else _video(self.path).read(self.frame)

    def camera_of(self, image: Image) -> Camera:
        """Make the camera of the image.

        Raises:
            InputError: the calibration file is missing or damaged.
        """
        if isinstance(self.camera, str):
            return read_camera(self.camera, image)
        values = self.camera
        return Camera(values["K"], image.shape[1], image.shape[0], values["distortion"], values["fisheye"])

    def found(self) -> list[Detection] | None:
        """Return the detections; None where there are none to be had.

        Raises:
            InputError: a box is not four numbers, or lies outside the image.
        """
        if self.detections is None:
            return None
        return [Detection(d["object"], tuple(d["bbox"]), None, d.get("score", 1.0)) for d in self.detections]


@lru_cache(maxsize=1)
def _video(path: str) -> VideoReader:
    """Keep the video open that was read last: its frames come one after the other."""
    return VideoReader(Path(path))


def list_items(
    sources: Sequence[Path], camera: str | None, detections: Path | None, ids: Mapping[str, int]
) -> list[Item]:
    """List the images of all sources, in order.

    Args:
        sources: pictures, folders of pictures, videos; a split or a scene of a BOP data set.
        camera: as on the command line; BOP's scenes have their own.
        detections: a COCO file, a list in the BOP challenge's form (scene_id, image_id, category_id, bbox, score), or
            an object of lists, by the images' names. None: BOP's annotated boxes where there are any, else no boxes.
        ids: of the objects, by name.

    Raises:
        InputError: there is nothing to read, the camera is missing, or detections are of unknown objects or images.
    """
    given = None if detections is None else _Detections(detections, ids)
    items: list[Item] = []
    scenes: set[int] = set()
    for source in sources:
        for scene, image, name, path, frame, own, boxes in _images(source, camera, len(scenes), ids):
            scenes.add(scene)
            found = boxes if given is None else given.of(scene, image, name)
            items.append(Item(len(items), scene, image, name, str(path.resolve()), frame, own, found))
    if len({(item.scene, item.image) for item in items}) != len(items):
        raise InputError("sources: two of them hold the same scene and image; annotate them one after the other")
    if given is not None and given.unused:
        raise InputError(f"{detections}: has detections for {min(given.unused)!r}, which no source holds")
    return items


def _images(source: Path, camera: str | None, free: int, ids: Mapping[str, int]) -> Iterator[tuple[Any, ...]]:
    """Yield (scene, image, name, path, frame, camera, detections) of a source."""
    folders = [source] if (source / "scene_camera.json").is_file() else []
    if source.is_dir() and not folders:
        folders = sorted(path.parent for path in source.glob("[0-9]*/scene_camera.json"))
    if folders:
        for folder in folders:
            yield from _bop_scene(folder, ids)
        return
    if camera is None:
        raise InputError(f"{source}: --camera is missing; only scenes in BOP's layout bring their own")
    if source.is_dir():
        paths = sorted((path for path in source.iterdir() if is_picture(path)), key=lambda path: natural(path.name))
        if not paths:
            raise InputError(f"{source}: no pictures in this folder (wanted {', '.join(SUFFIXES)})")
        for i, path in enumerate(paths):
            yield free, i, path.name, path, None, camera, None
    elif source.is_file() and source.suffix.lower() in SUFFIXES:
        yield free, 0, source.name, source, None, camera, None
    elif source.is_file():
        for i in range(VideoReader(source).count):
            yield free, i, f"{source.name}/{i:06d}", source, i, camera, None
    else:
        raise InputError(f"{source}: no such image, folder, video or BOP scene")


def _bop_scene(folder: Path, ids: Mapping[str, int]) -> Iterator[tuple[Any, ...]]:
    if not folder.name.isdecimal():
        raise InputError(f"{folder}: a scene of BOP is a folder called by a number")
    cameras = _read_json(folder / "scene_camera.json")
    truth, info = (_read_json(folder / f"scene_{kind}.json", optional=True) for kind in ("gt", "gt_info"))
    names = {number: name for name, number in ids.items()}
    for key in sorted(cameras, key=int):
        entry = cameras[key]
        stems = [folder / kind / f"{int(key):06d}{suffix}" for kind in ("rgb", "gray") for suffix in SUFFIXES]
        path = next((path for path in stems if path.is_file()), stems[0])  # a missing one is an error of that image
        own = {"K": np.reshape(entry["cam_K"], (3, 3)).tolist(), "distortion": entry.get("distortion")}
        boxes = None
        if key in truth and key in info:
            pairs = zip(truth[key], info[key], strict=True)
            boxes = [
                {"object": names[gt["obj_id"]], "bbox": seen["bbox_visib"]}
                for gt, seen in pairs
                if gt["obj_id"] in names and min(seen["bbox_visib"][2:]) > 0
            ]
        name = f"{folder.name}/{path.name}"
        yield int(folder.name), int(key), name, path, None, {**own, "fisheye": entry.get("fisheye", False)}, boxes


class _Detections:
    """The detections of a file, by image. Raises InputError: not such a file, an object that there is not."""

    def __init__(self, path: Path, ids: Mapping[str, int]) -> None:
        content = _read_json(path, kinds=(dict, list))
        names = {number: name for name, number in ids.items()}
        self._by_image: dict[Any, list[dict[str, Any]]] = {}
        if isinstance(content, dict) and "annotations" in content:
            categories = {c["id"]: c["name"] for c in content.get("categories", [])}
            files = {i["id"]: i["file_name"] for i in content.get("images", [])}
            for entry in content["annotations"]:
                name = categories.get(entry["category_id"], names.get(entry["category_id"]))
                self._add(files.get(entry["image_id"], entry["image_id"]), name, entry, ids)
        elif isinstance(content, dict):
            for image, entries in content.items():
                self._by_image.setdefault(image, [])
                for entry in entries:
                    self._add(image, entry.get("object"), entry, ids)
        else:
            for entry in content:
                key = (int(entry["scene_id"]), int(entry.get("image_id", entry.get("im_id", -1))))
                self._add(key, names.get(entry.get("category_id", entry.get("obj_id"))), entry, ids)
        self.unused = {key for key in self._by_image if not isinstance(key, tuple)}

    def _add(self, image: Any, name: str | None, entry: Mapping[str, Any], ids: Mapping[str, int]) -> None:
        if name not in ids:
            return  # of an object that is not asked for
        score = float(np.clip(entry.get("score", 1.0), 0.0, 1.0))
        self._by_image.setdefault(image, []).append({"object": name, "bbox": list(entry["bbox"]), "score": score})

    def of(self, scene: int, image: int, name: str) -> list[dict[str, Any]]:
        """Return the detections of an image; none where the file says nothing of it."""
        for key in (name, name.rpartition("/")[2], (scene, image)):
            if key in self._by_image:
                self.unused.discard(key)
                return self._by_image[key]
        return []


def _read_json(path: Path, kinds: tuple[type, ...] = (dict,), *, optional: bool = False) -> Any:
    if not path.is_file():
        if optional:
            return {}
        raise InputError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, kinds):
        raise InputError(
            f"{path}: wanted a JSON {' or '.join(k.__name__ for k in kinds)}, got {type(content).__name__}"
        )
    return content
