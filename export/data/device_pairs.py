"""Batches of pairs drawn whole on a device: what ``pairs`` and ``pairs_refiner`` draw one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from coop_edge.templates.viewpoints import VIEWPOINTS, template_poses
from export.data import pairs, pairs_refiner
from export.data.augment import SUPERSAMPLE
from export.data.batch import CoarseBatch, RefinerBatch
from export.data.device_geometry import (
    Draw,
    camera_matrix,
    crop_camera,
    from_rt,
    inverse_camera,
    project,
    rotate,
    so3_exp,
    transform,
    turned,
)
from export.data.device_labels import coarse_labels, flow_labels, point_map
from export.data.device_light import draw_lighting, photograph
from export.data.device_photo import (
    JPEG_SHARE,
    MOTION_SHARE,
    Looks,
    backdrops,
    camera,
    draw_looks,
    sample,
)
from export.data.device_render import Layers, Rasterizer
from export.data.device_scenes import FOCAL, Scenes, Views, crops, draw_scenes, inside, look, pixel_grid
from export.data.device_stock import Stock
from export.data.labels import TOLERANCE

STAGES = ("objects", "scenes", "render", "augment", "labels")
"""What the time of drawing goes into, in this order; the first is exchanging objects."""


def _nothing(stage: str) -> None:
    pass


class Drawer:
    """Draws batches of one size of image, S = size.

    done: called with the name of each stage (``STAGES``) when it has been launched.
    """

    def __init__(self, stock: Stock, rasterizer: Rasterizer, size: int, done: Callable[[str], None] = _nothing) -> None:
        self.stock, self.rasterizer, self.size, self.done = stock, rasterizer, size, done
        self.draw = Draw(stock.device)
        self.counts = np.random.default_rng(0)
        """On the host, for what has to be known there: how many rows get what is launched for some only."""

    def seed(self, *key: int) -> None:
        """Start the sequence of random numbers of this key."""
        words = np.random.SeedSequence(key).generate_state(2, np.uint64) >> np.uint64(1)
        self.draw.seed(int(words[0]))
        self.counts = np.random.default_rng(int(words[1]))

    def coarse(self, hardness: Tensor, pack_share: Tensor) -> CoarseBatch:
        """N = len(hardness) pairs, as ``pairs.coarse_pair``. pack_share [N]: of objects from the pack."""
        draw, stock, size = self.draw, self.stock, self.size
        scene, probe = draw_scenes(draw, stock, self.rasterizer, hardness, pack_share)
        R, K = crops(draw, scene, probe, stock, size)
        self.done("scenes")
        fine = camera_matrix(2.0 * K[:, 0, 0], size - 0.5)  # two samples per pixel and axis
        light = self._photograph(scene, R, fine, 2 * size, hardness)
        light = functional.avg_pool2d(light, 2)
        query = self._camera(light, size / 128.0, hardness)
        slot = scene.items.slot[:, 0]
        T_template, K_template = self._template_views(scene, slot, hardness)
        template, seen = self._render(draw_looks(draw, hardness), slot, T_template, K_template)
        self.done("render")
        index, offset, on_target = coarse_labels(
            self.rasterizer, stock, scene, R, K, size, T_template, K_template, seen.depth
        )
        points = _on_object(point_map(seen.depth, T_template, K_template), seen)
        self.done("labels")
        return CoarseBatch(
            query=query,
            template=template,
            match_index=index,
            offset=offset,
            on_target=on_target,
            template_points=points,
            K_query=K,
            T_query=turned(R, scene.items.T[:, 0]),
            diameter=scene.diameter,
        )

    def refiner(self, hardness: Tensor, pack_share: Tensor, halfway: float) -> RefinerBatch:
        """N = len(hardness) pairs, as ``pairs_refiner.refiner_pair``."""
        draw, stock, size = self.draw, self.stock, self.size
        n = len(hardness)
        scene, _ = draw_scenes(draw, stock, self.rasterizer, hardness, pack_share)
        near = draw.chance(halfway, n)
        T_init = start_poses(draw, stock, scene, self._spread(near))
        margin = draw.uniform(1.05, 1.4, n)
        self.done("scenes")
        side = 2 * round(size * pairs_refiner.FIELD * pairs_refiner.DENSITY / 2)
        wide = object_crops(stock, scene, T_init, side, margin * pairs_refiner.FIELD)
        light = self._photograph(scene, *wide, side, hardness)
        picture = self._camera(light, size * pairs_refiner.DENSITY / 128.0, hardness)
        looks = draw_looks(draw, hardness)
        return self.refiner_at(scene, T_init, margin, picture, wide, looks)

    def refiner_at(
        self, scene: Scenes, T_init: Tensor, margin: Tensor, picture: Tensor, wide: tuple[Tensor, Tensor], looks: Looks
    ) -> RefinerBatch:
        """The pairs at start poses T_init (base cameras): ``pairs_refiner.view_at``.

        picture: photographs uint8 [N,m,m,3] by the cameras ``wide`` (R, K).
        """
        stock, size = self.stock, self.size
        slot, T_true = scene.items.slot[:, 0], scene.items.T[:, 0]
        R, K = object_crops(stock, scene, T_init, size, margin)
        query = _warped(picture, wide, R, K, size)
        self.done("augment")
        init, true = turned(R, T_init), turned(R, T_true)
        render, seen = self._render(looks, slot, init, K)
        now = look(self.rasterizer, scene.items, R, K, size)
        self.done("render")
        points = point_map(seen.depth, init, K)
        depth = torch.where(now.item == 0, now.depth, 0.0)
        there = project(wide[1], transform(turned(wide[0], T_true), points.flatten(1, 2)))
        pictured = ((there >= -0.5) & (there < picture.shape[1] - 0.5)).all(dim=-1)
        flow, visible = flow_labels(
            stock, slot, points, seen, init, true, K, depth, TOLERANCE * scene.diameter,
            lambda uv: inside(scene.edge, R, K, uv) & pictured,
        )  # fmt: skip
        self.done("labels")
        return RefinerBatch(
            query=query,
            render=render,
            object_points=_on_object(points, seen),
            flow=flow,
            visible=visible,
            K=K,
            T_init=init,
            T_true=true,
            model_points=stock.model_points[slot],
            diameter=scene.diameter,
        )

    def some(self, share: float, n: int) -> int:
        """How many of n: ``share`` of them on average, as even as can be."""
        return min(n, int(share * n + self.counts.random()))

    def _spread(self, near: Tensor) -> Tensor:
        """Shares of the start noise [N,3]: ``pairs_refiner.nearer`` where ``near`` [N], else all of it."""
        shares = self.draw.uniform(0.0, 1.0, len(near), 3)
        return torch.where(
            near[:, None], torch.stack([shares[:, i] ** p for i, p in enumerate(pairs_refiner.NEARER)], dim=1), 1.0
        )

    def _photograph(self, scene: Scenes, R: Tensor, K: Tensor, size: int, hardness: Tensor) -> Tensor:
        """Linear light float32 [N,3,size,size]."""
        views: Views = look(self.rasterizer, scene.items, R, K, size)
        self.done("render")
        lighting = draw_lighting(self.draw, scene, hardness)
        return photograph(
            self.stock, scene, views, lighting, backdrops(self.draw, self.stock.backgrounds, len(scene), size)
        )

    def _camera(self, light: Tensor, unit: float, hardness: Tensor) -> Tensor:
        n = len(light)
        picture = camera(self.draw, light, unit, hardness, self.some(MOTION_SHARE, n), self.some(JPEG_SHARE, n))
        self.done("augment")
        return picture

    def _render(self, looks: Looks, slot: Tensor, T: Tensor, K: Tensor) -> tuple[Tensor, Layers]:
        """The objects as their models look; half of them supersampled: the first ones, as all else is random."""
        n = len(slot)
        k = self.some(0.5, n)
        parts = []
        for low, high, samples in ((0, k, SUPERSAMPLE), (k, n, 1)):
            rows = slice(low, high)
            chosen = looks.rows(low, high)
            parts.append(chosen.render(self.rasterizer, slot[rows], T[rows], K[rows], self.size, samples))
        layers = Layers(*(torch.cat([getattr(p[1], name) for p in parts]) for name in ("rgb", "depth", "triangle")))
        return torch.cat([p[0] for p in parts]), layers

    def _template_views(self, scene: Scenes, slot: Tensor, hardness: Tensor) -> tuple[Tensor, Tensor]:
        """T_camera_object [N,4,4] and K [N,3,3] of templates: ``pairs.template_view``."""
        n, draw, stock = len(scene), self.draw, self.stock
        directions, rotations = self._viewpoints
        towards = -rotate(scene.items.T[:, 0, :3, :3].mT, scene.centre)
        near = draw.chance(1.0 - hardness * (1.0 - pairs.NEAR_SHARE), n)
        view = torch.where(near, (towards @ directions.mT).argmax(dim=1), draw.integers(len(VIEWPOINTS), n))
        R = rotations[view] @ so3_exp(pairs.VIEW_JITTER * draw.normal(n, 3))
        half = math.tan(math.radians(pairs.TEMPLATE.field_of_view) / 2.0)
        distance = stock.radius[slot] / math.sin(math.atan(half / pairs.TEMPLATE.margin))
        t = torch.stack([torch.zeros_like(distance), torch.zeros_like(distance), distance], dim=1)
        focal = torch.full_like(distance, 0.5 * self.size / half)
        return from_rt(R, t - rotate(R, stock.centre[slot])), camera_matrix(focal, 0.5 * (self.size - 1))

    @cached_property
    def _viewpoints(self) -> tuple[Tensor, Tensor]:
        """Directions [42,3] to the cameras of templates, and their rotations [42,3,3]."""
        device = self.stock.device
        rotations = np.ascontiguousarray(template_poses(1.0)[:, :3, :3])
        return torch.from_numpy(np.array(VIEWPOINTS)).to(device), torch.from_numpy(rotations).to(device)


def start_poses(draw: Draw, stock: Stock, scene: Scenes, spread: Tensor) -> Tensor:
    """The targets' poses, off by ``spread`` [N,3] times the start noise: ``pairs_refiner.start_pose``; [N,4,4]."""
    n = len(scene)
    angles = pairs_refiner.ROTATION_NOISE * spread[:, :1] * draw.normal(n, 3)
    eye = torch.eye(3, dtype=torch.float64, device=angles.device)
    turns = so3_exp(angles[..., None] * eye)  # about x, y, z
    turn = turns[:, 0] @ turns[:, 1] @ turns[:, 2]
    sideways = pairs_refiner.SIDEWAYS_NOISE * scene.diameter
    far = torch.minimum(pairs_refiner.DEPTH_NOISE * scene.diameter, pairs_refiner.DEPTH_LIMIT * scene.centre[:, 2])
    shift = (
        torch.cat([spread[:, 1:2], spread[:, 1:]], dim=1)
        * draw.normal(n, 3)
        * torch.stack([sideways, sideways, far], dim=1)
    )
    z = torch.maximum(shift[:, 2], -0.3 * scene.centre[:, 2])
    shift = torch.cat([shift[:, :2], z[:, None]], dim=1)
    R = turn @ scene.items.T[:, 0, :3, :3]
    return from_rt(R, scene.centre + shift - rotate(R, stock.centre[scene.items.slot[:, 0]]))


def object_crops(stock: Stock, scene: Scenes, T: Tensor, size: int, margin: Tensor) -> tuple[Tensor, Tensor]:
    """R and K [N,3,3] of ``pairs_refiner.object_crop``: cameras that look at the targets' centres at poses T."""
    c = rotate(T[:, :3, :3], stock.centre[scene.items.slot[:, 0]]) + T[:, :3, 3]
    side = FOCAL * scene.diameter / c[:, 2]
    corner = FOCAL * c[:, :2] / c[:, 2:] - side[:, None] / 2 + 0.5
    return crop_camera(FOCAL, torch.cat([corner, side[:, None], side[:, None]], dim=1), size, margin)


def _warped(picture: Tensor, wide: tuple[Tensor, Tensor], R: Tensor, K: Tensor, size: int) -> Tensor:
    """Pictures uint8 [N,m,m,3] of the cameras ``wide`` as the cameras (R, K) see them, uint8 [N,size,size,3]."""
    n = len(K)
    H = wide[1] @ wide[0] @ R.mT @ inverse_camera(K)  # crop -> picture
    grid = pixel_grid(size, K.device)
    seen = torch.cat([grid, torch.ones_like(grid[:, :1])], dim=1) @ H.mT
    x, y = ((seen[..., i] / seen[..., 2]).view(n, size, size) for i in (0, 1))
    query = sample(picture.permute(0, 3, 1, 2).float(), x, y).round()
    return query.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _on_object(points: Tensor, seen: Layers) -> Tensor:
    """Points [N,S,S,3] as float32, NaN off the object."""
    return torch.where((seen.triangle >= 0)[..., None], points, torch.nan).float()
