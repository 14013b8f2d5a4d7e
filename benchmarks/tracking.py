"""Measures tracking on drawn sequences with known poses: ``python -m benchmarks.tracking DATASET --json FILE``.

Objects of a data set in BOP layout, each before a picture of it in which it is not, move on circles and turn. Their
steps grow from nothing to ``FASTEST`` diameters an image, and are played at the full rate and in steps of several
images. Then the object is gone for a while and comes back elsewhere: is that noticed, and is it found again?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from benchmarks.accuracy import metrics
from benchmarks.accuracy.checkout import commit
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.measure import progress
from benchmarks.accuracy.methods import object_name
from benchmarks.accuracy.models import Model
from benchmarks.common import command, print_table, write_json
from coop_edge import Camera, Estimator, EstimatorConfig, PoseEstimate
from coop_edge.base.hardware import hardware
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.render import CpuRenderer

IMAGES = 64
GROWING = 24
"""Images at the beginning over which the steps grow."""
FASTEST = 0.12
"""Diameters from one image to the next, at the full rate."""
TURN = np.radians(2.0)
"""Turn from one image to the next, at the full rate."""
RADIUS = 1.0
"""Radius of the path, diameters."""
SHARE = 0.28
"""Diameter in the picture as a share of its shorter side."""
GONE = 6
"""Images without the object."""
BACK = 16
"""Images in which it is there again."""
NOISE = 3.0
"""Standard deviation of the pixels' noise, grey levels."""
SHARES = (0.1, 0.2)
"""Diameters off (MSSD) below which a pose counts."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A sequence of one object, with its poses."""

    model: Model
    obj_id: int
    camera: Camera
    background: np.ndarray  # uint8 [H,W,3]
    renderer: CpuRenderer

    def poses(self) -> np.ndarray:
        """Return T_camera_object [IMAGES,4,4] on a circle whose middle is the picture's, with steps that grow."""
        mesh, camera = self.renderer.meshes[0], self.camera
        step = FASTEST * np.minimum(np.arange(IMAGES) / GROWING, 1.0)
        angle = np.cumsum(step) / RADIUS
        z = camera.K[0, 0] * mesh.diameter / (SHARE * min(camera.size))
        middle = np.linalg.inv(camera.K) @ [(camera.width - 1) / 2, (camera.height - 1) / 2, 1.0] * z
        radius = RADIUS * mesh.diameter
        path = middle + radius * np.stack([np.cos(angle), np.sin(angle), 0.3 * np.sin(angle)], axis=1)
        turned = TURN * np.cumsum(step) / FASTEST
        R = [se3.so3_exp(a * np.array([0.3, 0.9, 0.3])) @ se3.so3_exp(np.array([2.0, 0.4, 0.3])) for a in turned]
        return np.stack([se3.from_rt(r, c - r @ mesh.centre) for r, c in zip(R, path, strict=True)])

    def picture(self, T: np.ndarray | None, seed: int) -> np.ndarray:
        """Return the background with the object at T [4,4], None: without it; blurred a little, with noise."""
        size, image = (self.camera.height, self.camera.width), self.background.astype(np.float32)
        if T is not None:
            K = self.camera.K.copy()
            K[:2] *= 2.0
            K[:2, 2] += 0.5  # pixel centres are at integers
            view = self.renderer.render(T[None], K, (2 * size[0], 2 * size[1]))
            cover = (view.depth[0] > 0).astype(np.float32)[..., None]
            half = [cv2.resize(each, size[::-1], interpolation=cv2.INTER_AREA) for each in (view.rgb[0] * cover, cover)]
            alpha = half[1].reshape(*size, 1)
            image = image * (1.0 - alpha) + half[0]
        noise = np.random.default_rng([seed, self.obj_id]).normal(0.0, NOISE, image.shape)
        return np.clip(cv2.GaussianBlur(image, (0, 0), 0.6) + noise + 0.5, 0, 255).astype(np.uint8)

    def off(self, result: PoseEstimate, T: np.ndarray) -> float:
        """Return the error of a pose (MSSD), diameters; infinite without one."""
        if result.T_camera_object is None:
            return float(np.inf)
        pose = result.T_camera_object[None]
        error = metrics.mssd(pose, T[None], self.model.T_symmetries, self.model.vertices)[0]
        return float(error / self.model.diameter)


def sequences(dataset: BopDataset, count: int) -> list[Drawn]:
    """Return a sequence of each of the first ``count`` objects that some picture does not show.

    Raises:
        InputError: every picture shows every object.
    """
    out = []
    for obj_id in dataset.object_ids[:count]:
        model = dataset.models[obj_id]
        without = [image for image in dataset.images if all(t.obj_id != obj_id for t in dataset.truth(*image))]
        if not without:
            continue
        image = without[obj_id % len(without)]
        renderer = CpuRenderer(model.load_mesh(), threads=1)
        out.append(Drawn(model, obj_id, dataset.camera(*image), dataset.image(*image), renderer))
    if not out:
        raise InputError(f"{dataset.root}: wanted objects that some picture does not show")
    return out


def follow(estimator: Estimator, drawn: Drawn, every: int) -> list[float]:
    """Track from the true pose of the first image through every ``every``-th one; return the errors, diameters.

    What is lost stays lost.
    """
    poses = drawn.poses()
    results = [_start(drawn, poses[0])]
    errors = []
    for i in range(every, IMAGES, every):
        results = estimator.track(drawn.picture(poses[i], i), drawn.camera, results)
        errors.append(drawn.off(results[0], poses[i]))
    return errors


def lose(estimator: Estimator, drawn: Drawn) -> tuple[list[bool], list[float]]:
    """Track an object that goes away and comes back on the other side of its path, with ``relocate``.

    Returns whether it was believed in each image in which it is gone, and the errors in those in which it is back.
    """
    poses = drawn.poses()
    far = poses[int(np.argmax(np.linalg.norm(poses[:, :3, 3] - poses[0, :3, 3], axis=1)))]
    results = [_start(drawn, poses[0])]
    results = estimator.track(drawn.picture(poses[1], 1), drawn.camera, results)
    believed, errors = [], []
    for i in range(GONE + BACK):
        T = None if i < GONE else far
        results = estimator.track(
            drawn.picture(T, IMAGES + i), drawn.camera, results, relocate=True, budget_s=float("inf")
        )
        if T is None:
            believed.append(results[0].success)
        else:
            errors.append(drawn.off(results[0], T))
    return believed, errors


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Track all sequences, and sum up.

    Raises:
        CoopEdgeError: the data set or the engines cannot be used.
        OSError: a file cannot be written.
    """
    dataset = BopDataset(options.dataset, options.split)
    config = EstimatorConfig.from_dict(EstimatorConfig.parse(options.set or []))
    errors: dict[int, list[float]] = {every: [] for every in options.every}
    believed: list[bool] = []
    found: list[list[float]] = []
    with Estimator.from_engines(options.engines, device=options.device, config=config) as estimator:
        made = sequences(dataset, options.objects)
        for drawn in made:
            mesh = drawn.renderer.meshes[0]
            estimator.add_object(object_name(drawn.obj_id), mesh, symmetries=drawn.model.symmetries)
        with progress("tracking", len(made) * (len(errors) + 1)) as advance:
            for drawn in made:
                for every, own in errors.items():
                    own += follow(estimator, drawn, every)
                    advance()
                gone, back = lose(estimator, drawn)
                believed, found = believed + gone, [*found, back]
                advance()
        about = {"engines": estimator.bundle.name, "version": estimator.bundle.version, "config": config.to_dict()}
    return {
        "benchmark": "tracking",
        "objects": [drawn.obj_id for drawn in made],
        "every": {str(every): _shares(own) for every, own in errors.items()},
        "gone": {"images": len(believed), "believed": float(np.mean(believed))},
        "back": _back(found),
        **about,
        "commit": commit(),
        "hardware": hardware(),
    }


def _start(drawn: Drawn, T: np.ndarray) -> PoseEstimate:
    return PoseEstimate(True, T_camera_object=T, score=1.0, object=object_name(drawn.obj_id))


def _shares(errors: Sequence[float]) -> dict[str, float]:
    within = {f"within_{share:g}": float(np.mean(np.array(errors) < share)) for share in SHARES}
    return {"images": len(errors), **within}


def _back(found: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return how many sequences end with a right pose, and the mean number of images until there is one."""
    right = [np.flatnonzero(np.array(errors) < SHARES[-1]) for errors in found]
    first = [int(each[0]) + 1 for each in right if len(each)]
    return {
        "sequences": len(found),
        "found_again": float(np.mean([errors[-1] < SHARES[-1] for errors in found])),
        "wrong_at_the_end": float(np.mean([SHARES[-1] <= errors[-1] < np.inf for errors in found])),
        "images_until_found": float(np.mean(first)) if first else None,
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__.splitlines()[0])
    parser.add_argument("dataset", metavar="DATASET", help="folder of a data set in BOP layout, for its objects")
    parser.add_argument("--split", default="test", help="its folder of scenes (default test)")
    parser.add_argument("--engines", default="coop-xs", metavar="NAME", help="name or folder of a bundle")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu", help="default cpu")
    parser.add_argument("--objects", type=int, default=6, metavar="N", help="the first N (default 6)")
    parser.add_argument(
        "--every", type=int, action="append", metavar="N", help="play every N-th image; repeatable (default 1, 2, 4)"
    )
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="an option of EstimatorConfig; repeatable")
    parser.add_argument("--json", metavar="JSON", help="all figures")
    options = parser.parse_args(arguments)
    options.every = options.every or [1, 2, 4]
    return options


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns 0, or 2 with one line on standard error."""
    options = parse(arguments)
    if wrong := [every for every in options.every if not 1 <= every < IMAGES]:
        raise InputError(f"--every: wanted 1 to {IMAGES - 1}, got {wrong[0]}")
    result = measure(options)
    rows = [(f"every {every}", *shares.values()) for every, shares in result["every"].items()]
    print_table("Tracking", rows, ("played", "images", *(f"within {share:g} diameters" for share in SHARES)))
    gone = [(f"gone: {name}", value) for name, value in result["gone"].items()]
    print_table("The object goes and comes back", [*gone, *((f"back: {k}", v) for k, v in result["back"].items())])
    if options.json:
        write_json(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
