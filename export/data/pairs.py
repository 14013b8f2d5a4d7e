"""Batches of pairs: a photograph-like query with templates (coarse), or with renders at wrong poses (refiner).

A photograph is drawn once and serves several labels. A coarse query is a crop as a detector gives it. A refiner's
photograph is drawn somewhat larger than the crops taken from it; each crop is a homography of it, as at run time, aimed
by its start pose, so the same photograph serves any pose (see ``rerender``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from coop_edge.runtime.bundle import TemplateSettings
from coop_edge.templates.viewpoints import DEFAULT_FIELD_OF_VIEW, DEFAULT_MARGIN, VIEWPOINTS, template_poses
from export.data.batch import CoarseBatch, RefinerBatch
from export.data.geometry import (
    Random,
    camera_matrix,
    from_rt,
    inverse_camera,
    projected,
    rotate,
    so3_exp,
    transformed,
    turned,
)
from export.data.labels import TOLERANCE, coarse_labels, flow_labels, point_map
from export.data.light import draw_lighting, photograph
from export.data.photo import (
    JPEG_SHARE,
    MOTION_SHARE,
    SUPERSAMPLE,
    Looks,
    camera,
    draw_backdrops,
    draw_looks,
)
from export.data.render import Layers, StockRenderer
from export.data.resample import warped
from export.data.scenes import Scenes, draw_crops, draw_scenes, inside, look, object_crops
from export.data.starts import STATED, StartMix, draw_spread, start_poses
from export.data.stock import ObjectStock
from export.data.symmetry import nearest_pose, roll_towards

STAGES = ("objects", "scenes", "render", "augment", "labels")
"""What the time of drawing goes into, in this order; the first is exchanging objects."""
TEMPLATE = TemplateSettings(len(VIEWPOINTS), DEFAULT_MARGIN, DEFAULT_FIELD_OF_VIEW)
"""How templates are rendered here; the manifest of a bundle tells it the runtime."""
NEAR_SHARE = 0.7
"""Share of pairs whose template is seen from nearest the query's direction, at hardness 1; the others take any."""
NEAR_VIEWS = 4
"""How many views, by angle, the templates of one query take turns in."""
ROLL = math.radians(11.25)
"""Largest angle about the line of sight between query and template: half a step of retrieval's 16 turns."""
VIEW_JITTER = math.radians(4.0)
"""Standard deviation of a template's small random turn, radians per axis."""
FIELD, DENSITY = 1.6, 1.25
"""Side of the photograph over that of the first crop, and its pixels per pixel of that crop."""


@dataclass(frozen=True, eq=False)
class Photographs:
    """N photographs of scenes, and what refiner pairs are made of at any pose."""

    scene: Scenes
    picture: Tensor  # uint8 [N,m,m,3]
    R: Tensor  # float64 [N,3,3]: base camera -> photograph's camera
    K: Tensor  # float64 [N,3,3] of the photograph
    looks: Looks  # of the renders
    margin: Tensor  # float64 [N] of crops: their side over the projected diameter


class PairGenerator:
    """Draws pairs with images of S = size pixels a side from a stock.

    done: called with the name of each stage (``STAGES``) when it has been launched.
    """

    def __init__(self, stock: ObjectStock, renderer: StockRenderer, size: int) -> None:
        self.stock, self.renderer, self.size = stock, renderer, size
        self.done: Callable[[str], None] = lambda stage: None
        self.random = Random(stock.device)
        self.counts = np.random.default_rng(0)
        """On the host, for what has to be known there: how many rows get what is launched for some only."""

    def seed(self, *key: int) -> None:
        """Start the sequence of random numbers of this key."""
        words = np.random.SeedSequence(key).generate_state(2, np.uint64) >> np.uint64(1)
        self.random.seed(int(words[0]))
        self.counts = np.random.default_rng(int(words[1]))

    def coarse(
        self,
        hardness: Tensor,
        labels: int = 1,
        first: int = 0,
        appearance: Tensor | None = None,
        loose: float = 0.0,
    ) -> CoarseBatch:
        """Draw ``labels`` templates for each of N = len(hardness) queries.

        hardness, appearance: float64 [N], 0 to 1, see ``stream.make_stream``; the appearance is the hardness where it
        is not given. first: number of the first query. loose: share of boxes that are off by far.
        """
        appearance = hardness if appearance is None else appearance
        scene, R, K, query = self.queries(hardness, appearance, loose)
        seen_by = scene.repeated(labels)
        slot = seen_by.items.slot[:, 0]
        T_template, K_template = self.template_views(seen_by, hardness.repeat_interleave(labels), labels)
        looks = draw_looks(self.random, appearance.repeat_interleave(labels))
        template, seen = self._render(looks, slot, T_template, K_template, self.some(0.5, len(slot)))
        self.done("render")
        index, offset, on_target = coarse_labels(
            self.renderer, self.stock, scene, R, K, self.size, T_template, K_template, seen.depth
        )
        points = point_map(seen, T_template, K_template)
        which = self._rows(len(scene), labels)
        T_query = nearest_pose(self.stock, slot, turned(R, scene.items.T[:, 0])[which], T_template)
        self.done("labels")
        return CoarseBatch(
            query=query[which],
            template=template,
            match_index=index,
            offset=offset,
            on_target=on_target,
            template_points=points,
            K_query=K[which],
            T_query=T_query,
            diameter=seen_by.diameter,
            query_index=which + first,
        )

    def queries(
        self, hardness: Tensor, appearance: Tensor, loose: float = 0.0
    ) -> tuple[Scenes, Tensor, Tensor, Tensor]:
        """Draw N = len(hardness) crops as a detector and a camera give them: scenes, R [N,3,3] and K [N,3,3] of the
        crops' cameras, images uint8 [N,size,size,3]."""
        scene, probe = draw_scenes(self.random, self.stock, self.renderer, hardness)
        R, K = draw_crops(self.random, scene, probe, self.stock, self.size, loose)
        self.done("scenes")
        return scene, R, K, self.query_images(scene, R, K, appearance)

    def query_images(self, scene: Scenes, R: Tensor, K: Tensor, appearance: Tensor) -> Tensor:
        """Photograph scenes through the crops' cameras, uint8 [N,size,size,3]; drawn at twice the size."""
        fine = camera_matrix(2.0 * K[:, 0, 0], self.size - 0.5)  # two samples per pixel and axis
        light = self._photograph(scene, R, fine, 2 * self.size, appearance)
        light = light[..., ::2, :] + light[..., 1::2, :]
        return self._camera(0.25 * (light[..., ::2] + light[..., 1::2]), self.size / 128.0, appearance)

    def template_views(self, scene: Scenes, hardness: Tensor, labels: int = 1) -> tuple[Tensor, Tensor]:
        """Draw T_camera_object [N,4,4] and K [N,3,3] of ``labels`` templates per query, as ``retrieve`` finds them.

        They come from the view nearest to how the query sees the target, then from the next ones, at times from any,
        turned about the line of sight as the query is, to ``ROLL``.
        """
        n, random, stock = len(scene), self.random, self.stock
        slot = scene.items.slot[:, 0]
        directions, rotations = self._viewpoints
        target = scene.items.T[:, 0, :3, :3]
        towards = -rotate(target.mT, scene.centre)  # from the object to the camera, object's axes
        nearest = (towards @ directions.mT).argsort(dim=1, descending=True)
        rank = torch.arange(labels, device=stock.device).repeat(n // labels) % NEAR_VIEWS
        near = random.chance(1.0 - hardness * (1.0 - NEAR_SHARE), n)
        view = torch.where(near, nearest.gather(1, rank[:, None])[:, 0], random.integers(len(VIEWPOINTS), n))
        R = rotations[view] @ so3_exp(VIEW_JITTER * random.normal(n, 3))
        R = about_z(roll_towards(stock, slot, R, target) + random.uniform(-ROLL, ROLL, n)) @ R
        half = math.tan(math.radians(TEMPLATE.field_of_view) / 2.0)
        distance = stock.radius[slot] / math.sin(math.atan(half / TEMPLATE.margin))
        t = torch.stack([torch.zeros_like(distance), torch.zeros_like(distance), distance], dim=1)
        focal = torch.full_like(distance, 0.5 * self.size / half)
        return from_rt(R, t - rotate(R, stock.centre[slot])), camera_matrix(focal, 0.5 * (self.size - 1))

    def refiner(
        self,
        hardness: Tensor,
        labels: int = 1,
        mix: StartMix = STATED,
        first: int = 0,
    ) -> RefinerBatch:
        """Draw N = len(hardness) photographs and the pairs of ``labels`` start poses each; see ``photographs``."""
        photographs, starts = self.photographs(hardness, labels, mix)
        return self.refiner_at(photographs, starts, self.some(0.5, len(starts)), first)

    def photographs(
        self, hardness: Tensor, labels: int, mix: StartMix, appearance: Tensor | None = None
    ) -> tuple[Photographs, Tensor]:
        """Draw N = len(hardness) photographs and their start poses T_camera_object [N labels,4,4], base cameras.

        hardness, appearance: float64 [N], 0 to 1, see ``stream.make_stream``; the appearance is the hardness where it
        is not given. The start poses of a photograph are spread over the kinds of the mix.
        """
        appearance = hardness if appearance is None else appearance
        n, random = len(hardness), self.random
        scene, _ = draw_scenes(random, self.stock, self.renderer, hardness)
        starts = start_poses(random, self.stock, scene.repeated(labels), draw_spread(random, n, labels, mix))
        margin = random.uniform(1.05, 1.4, n)
        self.done("scenes")
        side = 2 * round(self.size * FIELD * DENSITY / 2)
        R, K = object_crops(self.stock, scene, starts[::labels], side, margin * FIELD)
        light = self._photograph(scene, R, K, side, appearance)
        picture = self._camera(light, self.size * DENSITY / 128.0, appearance)
        return Photographs(scene, picture, R, K, draw_looks(random, appearance), margin), starts

    def refiner_at(self, photographs: Photographs, T_init: Tensor, fine: int, first: int = 0) -> RefinerBatch:
        """Make the pairs at start poses T_init [N labels,4,4] (base cameras), an equal number of each photograph in a
        row; the first ``fine`` renders are supersampled."""
        stock, size, labels = self.stock, self.size, len(T_init) // max(1, len(photographs.scene))
        which = self._rows(len(photographs.scene), labels)
        scene = photographs.scene.repeated(labels)
        slot = scene.items.slot[:, 0]
        T_true = nearest_pose(stock, slot, scene.items.T[:, 0], T_init)
        R, K = object_crops(stock, scene, T_init, size, photographs.margin[which])
        R_wide, K_wide = photographs.R[which], photographs.K[which]
        query = warped(photographs.picture, which, K_wide @ R_wide @ R.mT @ inverse_camera(K), size)
        self.done("augment")
        init, true = turned(R, T_init), turned(R, T_true)
        render, seen = self._render(photographs.looks.rows(which), slot, init, K, fine)
        now = look(self.renderer, scene.items, R, K, size, colors=False).seen
        self.done("render")
        limit = photographs.picture.shape[1] - 0.5
        wide = turned(R_wide, T_true)

        def within(points: Tensor, uv: Tensor, row: Tensor) -> Tensor:
            there = projected(K_wide, transformed(wide, points, row), row)
            pictured = ((there >= -0.5) & (there < limit)).all(dim=0)
            return pictured & inside(scene.edge, R, K, row, uv[0], uv[1])

        depth = torch.where(now.item == 0, now.depth, 0.0)
        flow, visible, points = flow_labels(stock, slot, seen, init, true, K, depth, TOLERANCE * scene.diameter, within)
        self.done("labels")
        return RefinerBatch(
            query=query,
            render=render,
            object_points=points,
            flow=flow,
            visible=visible,
            K=K,
            T_init=init,
            T_true=true,
            R_crop=R,
            model_points=stock.model_points[slot],
            diameter=scene.diameter,
            query_index=which + first,
        )

    def some(self, share: float, n: int) -> int:
        """Return how many of n to take: ``share`` of them on average, as even as can be."""
        return min(n, int(share * n + self.counts.random()))

    def _rows(self, n: int, labels: int) -> Tensor:
        """Which photograph each label is of, int64 [n labels]."""
        return torch.arange(n, device=self.stock.device).repeat_interleave(labels)

    def _photograph(self, scene: Scenes, R: Tensor, K: Tensor, size: int, appearance: Tensor) -> Tensor:
        """Linear light float32 [N,3,size,size]."""
        views = look(self.renderer, scene.items, R, K, size)
        self.done("render")
        lighting = draw_lighting(self.random, scene, appearance)
        backdrops = draw_backdrops(self.random, self.stock.backgrounds, len(scene), size)
        return photograph(self.stock, scene, views, lighting, backdrops)

    def _camera(self, light: Tensor, unit: float, appearance: Tensor) -> Tensor:
        n = len(light)
        picture = camera(self.random, light, unit, appearance, self.some(MOTION_SHARE, n), self.some(JPEG_SHARE, n))
        self.done("augment")
        return picture

    def _render(self, looks: Looks, slot: Tensor, T: Tensor, K: Tensor, fine: int) -> tuple[Tensor, Layers]:
        """The objects as their models look; the first ``fine`` supersampled."""
        parts = []
        for low, high, samples in ((0, fine, SUPERSAMPLE), (fine, len(slot), 1)):
            at = slice(low, high)
            parts.append(self.renderer.lit(slot[at], T[at], K[at], self.size, looks.lights.rows(low, high), samples))
        layers = Layers(*(torch.cat([getattr(p, name) for p in parts]) for name in ("rgb", "depth", "triangle")))
        return looks.recolored(layers.rgb), layers

    @cached_property
    def _viewpoints(self) -> tuple[Tensor, Tensor]:
        """Directions [42,3] to the cameras of templates, and their rotations [42,3,3]."""
        device = self.stock.device
        rotations = np.ascontiguousarray(template_poses(1.0)[:, :3, :3])
        return torch.from_numpy(np.array(VIEWPOINTS)).to(device), torch.from_numpy(rotations).to(device)


def about_z(angle: Tensor) -> Tensor:
    """Return rotations [N,3,3] by angles [N], radians, about the line of sight."""
    vector = torch.zeros((len(angle), 3), dtype=angle.dtype, device=angle.device)
    return so3_exp(torch.cat([vector[:, :2], angle[:, None]], dim=1))
