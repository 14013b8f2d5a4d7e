"""The stages in a row, as the Estimator calls them."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from coop_edge.stages.pairs import ImagePairMaker
from coop_edge.stages.refine import Refined, refine
from coop_edge.stages.select import Selection, select
from coop_edge.stages.turns import Turns, tracking, turns
from coop_edge.templates import TemplateSet
from tests.stages.oracles import PATCH, Faults, Oracle, watching
from tests.stages.scene import Scene

SIZE = 128
OPS = CpuOperations()


def brief(config: EstimatorConfig | None) -> EstimatorConfig:
    """Return options with one hypothesis and one survivor where ``config`` leaves the number to ``effort``.

    The bounds of tests hold for one hypothesis, if the test does not ask for more, and one is quick.
    """
    config = config or EstimatorConfig()
    coarse = replace(config.coarse, hypotheses=config.coarse.hypotheses or 1)
    return replace(config, coarse=coarse, refine=replace(config.refine, survivors=config.refine.survivors or 1))


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
        """config: see ``brief``. symmetries: by the place of a mesh in the scene."""
        templates = [templates_of(mesh, (symmetries or {}).get(i), size) for i, mesh in enumerate(scene.meshes)]
        oracle = Oracle(scene, templates, size, faults=faults or Faults())
        models = [
            ObjectModel.describe(mesh.name, mesh, t, oracle.encoder, OPS)
            for mesh, t in zip(scene.meshes, templates, strict=True)
        ]
        return cls(scene, brief(config), oracle, models)

    def __post_init__(self) -> None:
        self.solver = CpuPnpSolver(threads=1)
        self.renderer = CpuRenderer(self.scene.meshes, threads=1)

    def maker(self) -> ImagePairMaker:
        scene, margin = self.scene, self.config.advanced.refine.margin
        return ImagePairMaker(scene.image, scene.camera, self.models, self.renderer, self.oracle.size, margin, OPS)

    def coarse(self, detections, index, depth=None) -> CoarseHypotheses:
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
                config=c,
                patch=PATCH,
                depth=depth,
            )

    def refine(self, T, index, T_anchor=None) -> Refined:
        with watching(self.oracle) as oracle:
            return refine(
                self.maker(),
                T,
                index,
                runner=oracle.refiner,
                solver=self.solver,
                config=self.config,
                radius_px=oracle.size / 64,
                T_anchor=T_anchor,
            )

    def turns(self, T, index, config, **competition) -> Turns:
        """Without alignment: the outline does not know the truth (see ``tests.estimators.AS_REFINED``)."""
        with watching(self.oracle) as oracle:
            return turns(
                self.maker(),
                T,
                index,
                runner=oracle.refiner,
                solver=self.solver,
                config=replace(brief(config), outline=replace(config.outline, iterations=0)),
                radius_px=oracle.size / 64,
                **competition,
            )

    def estimate(self, detections=None, index=None) -> tuple[CoarseHypotheses, Refined, Selection]:
        """All stages; by default for everything that stands in the scene."""
        detections = self.scene.detections() if detections is None else detections
        index = [p.mesh for p in self.scene.placed] if index is None else index
        coarse = self.coarse(detections, np.asarray(index, int))
        competition = {"detection": coarse.detection, "evidence": coarse.evidence}
        left = self.turns(coarse.T_camera_object, coarse.object_index, self.config, **competition)
        coarse = coarse.take(left.rows)
        chosen = select(
            left.refined,
            coarse.detection,
            len(detections),
            self.models,
            coarse.object_index,
            self.config,
            evidence=coarse.evidence,
            reasons=[coarse.reason(i) for i in range(len(coarse))],
        )
        return coarse, left.refined, chosen

    def track(self, T_previous, index) -> tuple[Refined, Selection]:
        index = np.asarray(index, int)
        refined = self.turns(T_previous, index, tracking(self.config)).refined
        chosen = select(
            refined, np.arange(len(index)), len(index), self.models, index, self.config, T_previous=T_previous
        )
        return refined, chosen
