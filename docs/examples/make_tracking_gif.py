"""Writes docs/images/tracking.gif: the Estimator follows the demo's objects while the camera pans, rolls and zooms.

The frames are the demo's path-traced picture as a turning camera sees it: a rotation of the camera and a change of its
focal length are exact homographies of the image. The poses are found by `estimate` in the first frame and by `track` in
the others; nothing is told of the motion.

    python docs/examples/make_tracking_gif.py [FILE]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from coop_edge import Camera, Detection, Estimator, OverlayItem, draw_overlay
from coop_edge.demo import DemoScene, load_scene
from coop_edge.geometry import se3

SIZE = (400, 300)
FRAMES = 18
FILE = Path(__file__).parents[1] / "images" / "tracking.gif"


def frames(scene: DemoScene, count: int) -> Iterator[tuple[np.ndarray, Camera, np.ndarray]]:
    """Yield (image, camera, T_new_old) of ``count`` frames of one period of the motion."""
    width, height = SIZE
    for phase in np.linspace(0.0, 2.0 * math.pi, count, endpoint=False):
        angles = [0.008 * math.sin(2 * phase), 0.02 * math.sin(phase), 0.07 * math.sin(phase)]
        R = se3.so3_exp(angles)  # radians about x, y and z
        focal = scene.camera.K[0, 0] * width / scene.camera.width * (1.22 - 0.05 * math.cos(phase))
        K = np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])
        H = K @ R @ np.linalg.inv(scene.camera.K)
        yield cv2.warpPerspective(scene.image, H, SIZE), Camera(K, width, height), se3.from_rt(R, np.zeros(3))


def detections(scene: DemoScene, camera: Camera, T: np.ndarray) -> list[Detection]:
    """Return the demo's boxes as the turned camera sees them."""
    out = []
    for each in scene.detections:
        x, y, w, h = each.bbox
        corners = scene.camera.rays([[x, y], [x + w, y], [x, y + h], [x + w, y + h]]) @ T[:3, :3].T
        low, high = camera.project(corners).min(axis=0), camera.project(corners).max(axis=0)
        out.append(Detection(each.object, (*low, *(high - low))))
    return out


def main(file: str | Path = FILE, count: int = FRAMES, engines: str = "coop-xs") -> list[float]:
    """Write the GIF. Return how far each pose of the last frame is from the truth, in diameters."""
    scene, pictures, results, truth = load_scene(), [], [], {}
    with Estimator.from_engines(engines, device="cpu") as estimator:
        for name, (mesh, unit) in scene.meshes.items():
            estimator.add_object(name, mesh, unit=unit)
        for image, camera, T in frames(scene, count):
            if results:
                results = estimator.track(image, camera, results)
            else:
                results = estimator.estimate(image, camera, detections(scene, camera, T))
            truth = {name: T @ pose for name, pose in scene.truth.items()}
            items = [OverlayItem(r, estimator.objects[r.object]) for r in results]
            drawn = draw_overlay(image, camera, items, renderer=estimator.backend.renderer)
            pictures.append(Image.fromarray(drawn).quantize(64, dither=Image.Dither.NONE))
        pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=110, loop=0, optimize=True)
        return [_error(r.T_camera_object, truth[r.object], estimator.objects[r.object]) for r in results]


def _error(T, truth, mesh) -> float:
    """Mean distance of the vertices over the diameter; infinite without a pose."""
    if T is None:
        return math.inf
    points = mesh.vertices.astype(float) + mesh.centre
    gap = se3.transform(T, points) - se3.transform(truth, points)
    return float(np.linalg.norm(gap, axis=1).mean() / mesh.diameter)


if __name__ == "__main__":
    main(*sys.argv[1:2])
