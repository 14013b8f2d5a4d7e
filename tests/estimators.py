"""Estimators for tests: with networks that know the truth, or with tiny random ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from coop_edge import Camera, Estimator, EstimatorConfig, Symmetries
from coop_edge.backend import Backend
from coop_edge.config import OutlineConfig
from tests.runtime.networks import tiny_bundle
from tests.runtime.on_device import OnDevice
from tests.stages.chain import brief, templates_of
from tests.stages.oracles import DIM, PATCH, Faults, Oracle, watching
from tests.stages.scene import Placed, Scene, at, colored_box, reprojection_px

AS_REFINED = EstimatorConfig(outline=OutlineConfig(iterations=0, track_iterations=0))
"""Poses as the networks refined them, for bounds that hold because the networks know the truth. The outline does not
know it: its prior is made for networks that are off by pixels, not for exact ones, and boxes of random colours before a
busy background, or before each other, show edges within and beyond their own that move an exact pose by pixels."""

SIZE = 128
SMALL = Camera(np.array([[300.0, 0.0, 159.5], [0.0, 300.0, 119.5], [0.0, 0.0, 1.0]]), 320, 240)
TINY = Camera(np.array([[60.0, 0.0, 31.5], [0.0, 60.0, 23.5], [0.0, 0.0, 1.0]]), 64, 48)


@contextlib.contextmanager
def knowing(
    folder: Path,
    scene: Scene,
    *,
    config: EstimatorConfig | None = None,
    faults: Faults | None = None,
    symmetries: dict[int, Symmetries] | None = None,
    device: str = "cpu",
) -> Iterator[tuple[Estimator, Oracle]]:
    """An Estimator whose networks know ``scene``, and the oracle behind them. All meshes are registered by their names.

    folder: for the bundle that says what goes in and out. config: see ``brief``. symmetries: by the place of a mesh in
    the scene. device: "cuda" is what ``sys.modules`` has as CuPy; the networks answer from the host.
    """
    templates = [templates_of(mesh, (symmetries or {}).get(i), SIZE) for i, mesh in enumerate(scene.meshes)]
    oracle = Oracle(scene, templates, SIZE, faults=faults or Faults())
    runners = {"coarse_encoder": oracle.encoder, "coarse_decoder": oracle.decoder, "refiner": oracle.refiner}
    if device == "cuda":
        runners = {role: OnDevice(runner) for role, runner in runners.items()}
    bundle = tiny_bundle(folder, input_size=SIZE, patch_size=PATCH, dim=DIM, stride=oracle.stride, features=False)
    with (
        mock.patch.object(Backend, "runner", lambda self, bundle, role, **options: runners[role]),
        mock.patch("coop_edge.estimator.probe_networks", return_value=None),
        watching(oracle),
        Estimator.from_engines(bundle, device=device, config=brief(config), threads=1) as estimator,
    ):
        for mesh, views in zip(scene.meshes, templates, strict=True):
            estimator.add_object(mesh.name, mesh, templates=views)
        yield estimator, oracle


def show(oracle: Oracle, scene: Scene) -> None:
    """Another scene of the same meshes takes the place of the one that the oracle knows."""
    oracle.scene = scene
    oracle.patches.clear()


def error_px(result, scene: Scene, i: int) -> float:
    """How far the object placed i-th is off in the image, at most; pixels."""
    placed = scene.placed[i]
    return reprojection_px(result.T_camera_object, placed.T, scene.meshes[placed.mesh], scene.camera.K)


def tiny_scene() -> Scene:
    """A cube and a bar in an image of 64 x 48, for tiny networks."""
    cube, bar = colored_box((0.1, 0.1, 0.1), name="cube"), colored_box((0.16, 0.06, 0.05), name="bar", seed=1)
    placed = Placed(0, at(-0.08, 0.02, 0.5, (0.5, 0.7, -0.3))), Placed(1, at(0.1, -0.05, 0.5, (2.0, -0.4, 0.9)))
    return Scene((cube, bar), placed, TINY)
