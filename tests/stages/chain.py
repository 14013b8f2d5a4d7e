"""The stages in a row, as the Estimator calls them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from coop_edge.config import EstimatorConfig
from coop_edge.mesh import Mesh, Symmetries
from coop_edge.ops.cpu import CpuOperations
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.render import CpuRenderer
from coop_edge.stages.coarse import CoarseHypotheses, estimate_coarse
from coop_edge.stages.crop import crop_detections
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.pairs import PairMaker
from coop_edge.stages.refine import Refined, refine
from coop_edge.stages.select import Selection, select
from coop_edge.templates import TemplateSet
from tests.stages.oracles import PATCH, Faults, Oracle, watching
from tests.stages.scene import Scene

SIZE = 128
OPS = CpuOperations()


@lru_cache(maxsize=32)
def templates_of(mesh: Mesh, symmetries: Symmetries | None = None, size: int = SIZE) -> TemplateSet:
    """Rendered once per mesh."""
    return TemplateSet.render(mesh, size, supersample=1, symmetries=symmetries)


@dataclass(eq=False)
class Chain:
    """A scene's objects registered with oracles."""

    scene: Scene
    config: EstimatorConfig
    oracle: Oracle
    models: list[ObjectModel]

    @classmethod
    def of(
        cls,
        scene: Scene,
        *,
        config: EstimatorConfig | None = None,
        faults: Faults | None = None,
        symmetries: dict[int, Symmetries] | None = None,
        size: int = SIZE,
    ) -> Chain:
        """symmetries: by the place of a mesh in the scene."""
        templates = [templates_of(mesh, (symmetries or {}).get(i), size) for i, mesh in enumerate(scene.meshes)]
        oracle = Oracle(scene, templates, size, faults=faults or Faults())
        models = [
            ObjectModel.describe(mesh.name, mesh, t, oracle.encoder, OPS)
            for mesh, t in zip(scene.meshes, templates, strict=True)
        ]
        return cls(scene, config or EstimatorConfig(), oracle, models)

    def __post_init__(self) -> None:
        self.solver = CpuPnpSolver(threads=1)
        self.renderer = CpuRenderer(self.scene.meshes, threads=1)

    def maker(self) -> PairMaker:
        scene, margin = self.scene, self.config.refine.margin
        return PairMaker(scene.image, scene.camera, self.models, self.renderer, self.oracle.size, margin, OPS)

    def coarse(self, detections, index) -> CoarseHypotheses:
        c = self.config
        with watching(self.oracle) as oracle:
            image, camera, options = self.scene.image, self.scene.camera, {"ops": OPS, "margin": c.coarse.margin}
            crops = crop_detections(image, camera, detections, oracle.size, **options, patch=PATCH)
            return estimate_coarse(
                crops,
                self.models,
                index,
                ops=OPS,
                encoder=oracle.encoder,
                decoder=oracle.decoder,
                solver=self.solver,
                config=c.coarse,
                ransac=c.ransac,
                patch=PATCH,
            )

    def refine(self, T, index, T_anchor=None) -> Refined:
        with watching(self.oracle) as oracle:
            return refine(
                self.maker(),
                T,
                index,
                runner=oracle.refiner,
                solver=self.solver,
                config=self.config.refine,
                radius_px=oracle.size / 64,
                T_anchor=T_anchor,
            )

    def estimate(self, detections=None, index=None) -> tuple[CoarseHypotheses, Refined, Selection]:
        """All stages; by default for everything that stands in the scene."""
        detections = self.scene.detections() if detections is None else detections
        index = [p.mesh for p in self.scene.placed] if index is None else index
        coarse = self.coarse(detections, np.asarray(index, int))
        refined = self.refine(coarse.T_camera_object, coarse.object_index)
        chosen = select(
            refined,
            coarse.detection,
            len(detections),
            self.models,
            coarse.object_index,
            self.config.select,
            evidence=coarse.evidence,
            reasons=[coarse.reason(i) for i in range(len(coarse))],
        )
        return coarse, refined, chosen

    def track(self, T_previous, index) -> tuple[Refined, Selection]:
        index = np.asarray(index, int)
        refined = self.refine(T_previous, index)
        chosen = select(
            refined, np.arange(len(index)), len(index), self.models, index, self.config.select, T_previous=T_previous
        )
        return refined, chosen
