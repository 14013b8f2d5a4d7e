"""Holds the sample scene of `make demo`: a picture of three objects on a table, where they are, and their meshes.

Path-traced with Mitsuba 3 (not with our own renderers) by ``python -m benchmarks.datasets.demo_scene``; every mesh is
in a format and a unit of its own (OBJ in mm, PLY in cm, GLB in m).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.types import Camera, Detection

__all__ = ["DemoScene", "load_scene"]


@dataclass(frozen=True, eq=False)
class DemoScene:
    """An image, and what is known of it.

    Attributes:
        image: RGB uint8 [480,640,3].
        camera: its intrinsics.
        detections: one box per object, as a detector would give it.
        meshes: object -> (mesh file, unit), as ``Estimator.add_object`` and ``Mesh.load`` take them.
        truth: object -> T_camera_object float64 [4,4], metres.
    """

    image: NDArray[np.uint8]
    camera: Camera
    detections: tuple[Detection, ...]
    meshes: Mapping[str, tuple[Path, str]]
    truth: Mapping[str, NDArray[np.float64]]


def load_scene() -> DemoScene:
    """Load the scene that ships with the package.

    Raises:
        InputError: if the package is damaged or a zip.
    """
    import cv2

    folder = resources.files(__name__)
    if not isinstance(folder, Path):
        raise InputError(
            f"{folder}: the demo's meshes are read from a folder; install coop_edge unpacked, not as a zip"
        )
    scene = json.loads((folder / "scene.json").read_text())
    image = cv2.imdecode(np.frombuffer((folder / scene["image"]).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{folder / scene['image']}: cannot be decoded; install coop_edge again")
    camera = Camera(scene["camera"]["K"], scene["camera"]["width"], scene["camera"]["height"])
    rgb = np.ascontiguousarray(image[..., ::-1], np.uint8)
    camera.check_image(rgb)
    return DemoScene(
        image=rgb,
        camera=camera,
        detections=tuple(Detection(d["object"], tuple(d["bbox"]), score=d["score"]) for d in scene["detections"]),
        meshes={name: (folder / entry["mesh"], entry["unit"]) for name, entry in scene["objects"].items()},
        truth={name: se3.check_transform(entry["T_camera_object"]) for name, entry in scene["objects"].items()},
    )
