"""A worker: one Estimator in a process of its own, and what it says of an image."""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coop_edge.annotate.items import Item
from coop_edge.base.pool import RETRIES
from coop_edge.config import EstimatorConfig
from coop_edge.errors import CoopEdgeError
from coop_edge.estimator import Estimator
from coop_edge.geometry.masks import encode_rle
from coop_edge.labels.instances import instances
from coop_edge.labels.records import camera_entry
from coop_edge.mesh import Mesh
from coop_edge.types import PoseEstimate

log = logging.getLogger("coop_edge")


@dataclass(frozen=True)
class Setup:
    """What every worker is made of, as plain data.

    Attributes:
        objects: name, mesh, unit and templates (or None) of each.
        config: settings as ``--set`` takes them.
        threads: of one worker.
        masks: whether masks and boxes are rendered.
        ignore_colors, allow_outside: as ``Mesh.load`` has them.
    """

    engines: str
    device: str
    config: tuple[str, ...]
    objects: tuple[tuple[str, str, str, str | None], ...]
    threads: int = 1
    masks: bool = True
    ignore_colors: bool = False
    allow_outside: bool = False

    def plain(self) -> dict[str, Any]:
        """Return the setup as plain data."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Setup:
        """Make a setup of what ``plain`` returned."""
        objects = tuple(tuple(each) for each in values["objects"])
        return cls(**{**values, "config": tuple(values["config"]), "objects": objects})

    def meshes(self) -> dict[str, Mesh]:
        """Load the objects' meshes, by name.

        Raises:
            MeshError: one is missing, damaged, or holds what is not read.
        """
        load = functools.partial(Mesh.load, ignore_colors=self.ignore_colors, allow_outside=self.allow_outside)
        return {name: load(Path(mesh), unit=unit, name=name) for name, mesh, unit, _ in self.objects}


class Worker:
    """Annotates one image after the other. Errors are those of the Estimator."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        config = EstimatorConfig().updated(list(setup.config))
        self._estimator = Estimator.from_engines(
            setup.engines, device=setup.device, config=config, threads=setup.threads
        )
        meshes = setup.meshes()
        for name, *_, templates in setup.objects:
            self._estimator.add_object(name, meshes[name], templates=templates)
        self._renderers: dict[str, Any] = {}

    def __call__(self, item: Item) -> str:
        """Return the image's line: JSON, the same for the same image, without times. An error is said in it."""
        line = _begun(item)
        try:
            line |= self._annotated(item)
        except (CoopEdgeError, OSError) as error:
            line["error"] = str(error)
        except Exception as error:  # a bug in one image is no reason to lose the others
            log.exception("%s", item.name)
            line["error"] = f"{type(error).__name__}: {error}"
        return json.dumps(line)

    def _annotated(self, item: Item) -> dict[str, Any]:
        image = item.read()
        camera, detections = item.camera_of(image), item.found()
        if detections is not None:
            results = self._estimator.estimate(image, camera, detections)
        else:
            results = self._estimator.find(image, camera)
        said = [_said(result) for result in results]
        if self._setup.masks:
            found = [i for i, result in enumerate(results) if result.success]
            poses: list[Any] = [results[i].T_camera_object for i in found]
            seen = instances(camera, poses, [self._renderer(results[i].object) for i in found])
            for i, one in zip(found, seen, strict=True):
                said[i] |= {"info": one.info, "segmentation": encode_rle(one.visible)}
        size = {"width": camera.width, "height": camera.height}
        return {**size, "camera": camera_entry(camera), "results": said}

    def _renderer(self, name: str) -> Any:
        if name not in self._renderers:
            mesh = self._estimator.objects[name]
            self._renderers[name] = self._estimator.backend.renderer(mesh, threads=self._setup.threads)
        return self._renderers[name]


def lost_line(item: Item) -> str:
    """Return the line of an image that no worker survived."""
    return json.dumps({**_begun(item), "error": f"its worker died, {RETRIES + 1} times; is there enough memory?"})


def _begun(item: Item) -> dict[str, Any]:
    return {"index": item.index, "scene": item.scene, "image": item.image, "name": item.name}


def _said(result: PoseEstimate) -> dict[str, Any]:
    values = result.to_dict()
    del values["times"]  # another run's are others
    return values
