"""What can be measured: anything that turns an image and boxes into poses, behind one small protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.records import Box
from coop_edge import Camera, Detection, Estimator, EstimatorConfig, PoseEstimate
from coop_edge.errors import InputError

METHODS = ("ours", "sift", "lightglue")


class Method(Protocol):
    """One method, in one process. ``add_objects`` comes first, ``close`` last.

    name: for tables.
    """

    name: str

    def add_objects(self, dataset: BopDataset) -> None:
        """Onboard ``dataset.models[i]`` for every i of ``dataset.object_ids``."""
        ...

    def estimate(self, image: np.ndarray, camera: Camera, boxes: Sequence[Box]) -> list[PoseEstimate]:
        """Return one estimate per box (obj_id, bbox, mask or None), in their order; N = 0 is legal.

        image: RGB uint8 [height,width,3].
        """
        ...

    def close(self) -> None:
        """Release everything."""
        ...


@dataclass(frozen=True)
class MethodOptions:
    """How a method is to be made; plain data, so that it travels to other processes.

    method: one of ``METHODS``. engines: bundle of "ours". config: nested options of EstimatorConfig, for "ours".
    device: "cpu", "cuda" or "auto", for "ours". hypotheses: templates per detection, for the baselines.
    threads: of the CPU, 0 = all cores. seed: of all that is drawn at random. depth: folder of the depth images that
    "ours" is given, "" for none. untextured: "ours" is given the models in plain grey.
    """

    method: str = "ours"
    engines: str = ""
    device: str = "cpu"
    hypotheses: int = 1
    config: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    seed: int = 0
    depth: str = ""
    untextured: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method: wanted one of {', '.join(METHODS)}, got {self.method!r}")
        if self.method == "ours" and not self.engines:
            raise InputError("engines: wanted the name or the folder of a bundle for the method 'ours'")
        if self.method != "ours" and self.hypotheses < 1:
            raise InputError(f"hypotheses: wanted at least 1, got {self.hypotheses}")
        if self.depth and self.method != "ours":
            raise InputError(f"depth: only for the method 'ours', got {self.method!r}")
        if self.untextured and self.method != "ours":
            raise InputError(f"untextured: only for the method 'ours', got {self.method!r}")
        if self.seed < 0:
            raise InputError(f"seed: wanted an integer >= 0, got {self.seed}")

    def open(self) -> Method:
        """Make the method; the baselines' packages are imported only here."""
        return _makers()[self.method](self)


class OursMethod:
    """The Estimator. estimator: open; ``close`` closes it."""

    def __init__(self, options: MethodOptions) -> None:
        self.name = f"ours ({options.engines})"
        self.untextured = options.untextured
        self.estimator = Estimator.from_engines(
            options.engines, device=options.device, config=estimator_config(options), threads=options.threads
        )

    def add_objects(self, dataset: BopDataset) -> None:
        """Add all objects among the targets, with their symmetries."""
        for obj_id in dataset.object_ids:
            model = dataset.models[obj_id]
            mesh = model.load_mesh(untextured=self.untextured)
            self.estimator.add_object(object_name(obj_id), mesh, symmetries=model.symmetries)
        self.estimator.warmup()

    def estimate(
        self, image: np.ndarray, camera: Camera, boxes: Sequence[Box], depth: np.ndarray | None = None
    ) -> list[PoseEstimate]:
        """See ``Method``."""
        detections = [Detection(object_name(box.obj_id), box.bbox, box.mask) for box in boxes]
        return self.estimator.estimate(image, camera, detections, depth)

    def close(self) -> None:
        """See ``Method``."""
        self.estimator.close()


def object_name(obj_id: int) -> str:
    """Return what an object of a data set is called in an Estimator."""
    return f"obj_{obj_id:06d}"


def estimator_config(options: MethodOptions) -> EstimatorConfig:
    """Return the Estimator's options: those given, the seed where they have none, and all poses, whatever their score.

    BOP's recall asks for the best pose there is: ``select.min_score`` is 0 unless it is given.

    Raises:
        ConfigError: an option is unknown, or its value does not fit.
    """
    config = EstimatorConfig.from_dict(options.config)
    if "seed" not in options.config.get("ransac", {}):
        config = dataclasses.replace(config, ransac=dataclasses.replace(config.ransac, seed=options.seed))
    if "min_score" not in options.config.get("select", {}):
        config = dataclasses.replace(config, select=dataclasses.replace(config.select, min_score=0.0))
    return config


def _makers() -> dict[str, Callable[[MethodOptions], Method]]:
    return {"ours": OursMethod, "sift": _sift, "lightglue": _lightglue}


def _sift(options: MethodOptions) -> Method:
    from benchmarks.accuracy.baselines import SiftMethod

    return SiftMethod(hypotheses=options.hypotheses, threads=options.threads, seed=options.seed)


def _lightglue(options: MethodOptions) -> Method:
    from benchmarks.accuracy.lightglue import LightGlueMethod

    return LightGlueMethod(hypotheses=options.hypotheses, threads=options.threads, seed=options.seed)
