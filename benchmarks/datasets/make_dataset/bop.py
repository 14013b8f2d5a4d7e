"""The folder in BOP layout: pictures, the JSON files beside them, targets; and which pictures are there already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.accuracy.dataset import SENSOR_DEPTH
from benchmarks.datasets.make_dataset.arrange import View
from benchmarks.datasets.make_dataset.models import write_json
from benchmarks.datasets.make_dataset.truth import LEAST_VISIBLE, Truth
from coop_edge.base.files import atomic_write
from coop_edge.errors import InputError

DEPTH_SCALE = 0.1
"""Millimetres per step of the depth images."""


class BopWriter:
    """Writes one split of a data set; a picture counts as there once it stands in scene_gt_info.json.

    options: what the set is made from.

    Raises:
        InputError: the folder holds a set of other options, or anything else.
    """

    def __init__(self, root: Path, options: dict[str, Any], split: str = "test") -> None:
        self.root, self._split, self._options = root, split, options
        held = root / "dataset.json"
        if held.exists():
            found = json.loads(held.read_text())
            if found.get("options") != options:
                raise InputError(
                    f"{root}: holds a set of other options, {found.get('options')}; asked for {options}. "
                    "Give an empty folder, or the same options to go on"
                )
        elif root.exists() and any(root.iterdir()):
            raise InputError(f"{root}: holds files that are no set of this command; give an empty folder")

    def claim(self) -> None:
        """Make the folder that of a set of these options; what a killed run left half written goes."""
        if not (self.root / "dataset.json").exists():
            said = {"name": self.root.name, "options": self._options, "targets": f"visib_fract >= {LEAST_VISIBLE}"}
            write_json(self.root / "dataset.json", said)
        for torn in self.root.rglob(".*.tmp"):
            torn.unlink(missing_ok=True)

    def folder(self, scene: int) -> Path:
        return self.root / self._split / f"{scene:06d}"

    def done(self, scene: int) -> set[int]:
        """Return the pictures of a scene that are whole."""
        return {int(k) for k in self._read(scene, "scene_gt_info.json")}

    def write(
        self, scene: int, image: int, rgb: np.ndarray, depth: np.ndarray, view: View,
        objects: Sequence[tuple[int, np.ndarray, Truth]], quality: int, notes: dict[str, Any],
    ) -> None:  # fmt: skip
        """Write a picture uint8 [h,w,3] and its depth (metres, 0 = nothing).

        objects: number, T_camera_object and truth of each. quality: of the JPEG. notes: what else is said of the
        picture, in checks.json.
        """
        folder = self.folder(scene)
        name = f"{image:06d}"
        _encode(folder / "rgb" / f"{name}.jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        write_depth(folder / "depth" / f"{name}.png", depth, DEPTH_SCALE)
        for k, (_, _, truth) in enumerate(objects):
            for kind in ("mask", "mask_visib"):
                _encode(folder / kind / f"{name}_{k:06d}.png", getattr(truth, kind).astype(np.uint8) * 255)
        poses = [
            {
                "cam_R_m2c": T[:3, :3].ravel().tolist(),
                "cam_t_m2c": (1000.0 * T[:3, 3]).tolist(),
                "obj_id": obj_id,
            }
            for obj_id, T, _ in objects
        ]
        world = np.linalg.inv(view.T_world_camera)
        camera = {
            "cam_K": view.K.ravel().tolist(),
            "depth_scale": DEPTH_SCALE,
            "cam_R_w2c": world[:3, :3].ravel().tolist(),
            "cam_t_w2c": (1000.0 * world[:3, 3]).tolist(),
        }
        checks = [None if t.checked is None else asdict(t.checked) for _, _, t in objects]
        self._extend(scene, "checks.json", image, {**notes, "agreement": checks})
        self._extend(scene, "scene_camera.json", image, camera)
        self._extend(scene, "scene_gt.json", image, poses)
        self._extend(scene, "scene_gt_info.json", image, [t.info for _, _, t in objects])  # last: now it is there

    def write_measured(self, scene: int, image: int, depth: np.ndarray) -> None:
        """Write a sensor's depth (metres, 0 = unknown) of a picture that is yet to be written."""
        write_depth(self.folder(scene) / SENSOR_DEPTH / f"{image:06d}.png", depth, DEPTH_SCALE)

    def finish(self, scenes: Sequence[int]) -> int:
        """Write camera.json and the targets file, and return the number of targets."""
        targets = []
        for scene in scenes:
            truth, info = self._read(scene, "scene_gt.json"), self._read(scene, "scene_gt_info.json")
            for image in sorted(map(int, info)):
                for pose, entry in zip(truth[str(image)], info[str(image)], strict=True):
                    if entry["visib_fract"] >= LEAST_VISIBLE:
                        obj_id = pose["obj_id"]
                        targets.append({"im_id": image, "inst_count": 1, "obj_id": obj_id, "scene_id": scene})
        camera = self._read(scenes[0], "scene_camera.json") if scenes else {}
        if camera:
            folder = self.folder(scenes[0])
            first = min(map(int, camera))
            picture = folder / "rgb" / f"{first:06d}.jpg"
            pixels = cv2.imread(str(picture))
            if pixels is None:
                raise OSError(f"{picture}: OpenCV does not read it")
            height, width = pixels.shape[:2]
            K = np.reshape(camera[str(first)]["cam_K"], (3, 3))
            entry = {"cx": K[0, 2], "cy": K[1, 2], "depth_scale": DEPTH_SCALE, "fx": K[0, 0], "fy": K[1, 1]}
            write_json(self.root / "camera.json", {**entry, "height": height, "width": width})
        targets.sort(key=lambda t: (t["scene_id"], t["im_id"], t["obj_id"]))
        write_json(self.root / "test_targets_bop19.json", targets)
        return len(targets)

    def checks(self, scenes: Sequence[int]) -> list[dict[str, Any]]:
        """Return what was held against Mitsuba, object by object."""
        every = [c for s in scenes for image in self._read(s, "checks.json").values() for c in image["agreement"]]
        return [c for c in every if c is not None]

    def _read(self, scene: int, name: str) -> dict[str, Any]:
        path = self.folder(scene) / name
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _extend(self, scene: int, name: str, image: int, entry: Any) -> None:
        content = self._read(scene, name)
        content[str(image)] = entry
        write_json(self.folder(scene) / name, dict(sorted(content.items(), key=lambda item: int(item[0]))))


def write_depth(path: Path, depth: np.ndarray, scale: float) -> None:
    """Write depth [h,w] metres as a 16-bit picture, 0 where it does not fit. scale: millimetres per step."""
    steps = np.rint(depth.astype(np.float64) * 1000.0 / scale)
    _encode(path, np.where(steps < 65536, steps, 0).astype(np.uint16))


def _encode(path: Path, image: np.ndarray, options: Sequence[int] = ()) -> None:
    done, data = cv2.imencode(path.suffix, np.ascontiguousarray(image), list(options))
    if not done:
        raise OSError(f"{path}: OpenCV could not encode the image")
    with atomic_write(path) as file:
        file.write(data.tobytes())
