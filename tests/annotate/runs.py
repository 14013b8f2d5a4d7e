"""A small run for tests: tiny networks, a cube, images of 64 x 48 with a box each."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh

from coop_edge.annotate.items import Item, list_items
from coop_edge.annotate.worker import Setup
from tests.runtime.networks import tiny_bundle

CAMERA = "60,60,31.5,23.5"
IDS = {"cube": 1}


def pictures(folder: Path, count: int, corrupt: tuple[int, ...] = ()) -> Path:
    """Pictures of noise, some of which are no pictures, and the detections beside them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i:04d}.png"
        if i in corrupt:
            path.write_bytes(b"\\x89PNG and no more")
        else:
            cv2.imwrite(str(path), rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    boxes = {f"{i:04d}.png": [{"object": "cube", "bbox": [20 + i % 7, 10, 20, 20]}] for i in range(count)}
    (folder.parent / "boxes.json").write_text(json.dumps(boxes))
    return folder


def video(path: Path, count: int) -> list[np.ndarray]:
    """Write a video of pictures in plain grey, each brighter than the one before; return what OpenCV reads of it."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV has no Motion JPEG")
    for i in range(count):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    capture, read = cv2.VideoCapture(str(path)), []
    while (got := capture.read())[0]:
        read.append(got[1][..., ::-1])
    assert len(read) == count
    return read


def setup_of(folder: Path) -> Setup:
    """Tiny networks and a cube in ``folder``."""
    bundle = tiny_bundle(folder / "tiny")
    mesh = folder / "cube.ply"
    trimesh.creation.box(extents=(0.1, 0.1, 0.1)).export(mesh)
    objects = (("cube", str(mesh), "m", None),)
    # Whatever it is, it is a pose: what noise looks like is not the question here.
    config = ("select.min_score=0", "refine.iterations=1", "effort=fast")
    return Setup(str(bundle), "cpu", config, objects)


def items_of(folder: Path) -> list[Item]:
    """The items of ``pictures``."""
    return list_items([folder], CAMERA, folder.parent / "boxes.json", IDS)
