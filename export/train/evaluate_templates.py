"""Whether the coarse network's scores rank templates: held-out queries, each against all 42 templates of its object.

The score is the estimator's (Co-op, section 3.1): the matched probability, summed over the query's patches.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from coop_edge.render.cpu import CpuRenderer
from coop_edge.templates.template_set import template_camera
from coop_edge.templates.viewpoints import VIEWPOINTS
from export.data import augment, objects, pairs, scenes, textures
from export.data.data import PACK_SHARE, PLATES
from export.data.packs import Pack
from export.networks import CoarseNet
from export.train.task import to_image

Array = np.ndarray[Any, Any]

NEAR, FAR = 45.0, 90.0
"""Degrees from the query's direction up to which a template is near, and from which on it is far. Neighbours are 32 to
36 degrees apart: about six are near, 21 are far; those in between share much of what they show and do not count."""


@dataclass(frozen=True)
class Ranking:
    """Q queries and V = 42 templates of each of O objects, S x S pixels."""

    query: Array  # uint8 [Q,S,S,3]
    object_index: Array  # int64 [Q]
    angle: Array  # float64 [Q,V] degrees between the directions that the query and each template look from
    template: Array  # uint8 [O,V,S,S,3]


def draw_ranking(
    size: int,
    *,
    queries: int,
    count: int,
    hardness: float,
    seed: int,
    pack: str | os.PathLike[str] | None = None,
    photos: str | os.PathLike[str] | None = None,
) -> Ranking:
    """Queries of ``count`` held-out objects, as a held-out stream draws them; templates as the estimator renders them.

    The objects are functions of the seed and the pack alone, the queries of the hardness too (``data.make_stream``).
    """
    rng = np.random.default_rng([seed, 0])
    source = None if pack is None else Pack(pack, split="heldout")
    folder = None if photos is None else os.fspath(photos)
    things = [
        source.draw(rng) if source is not None and rng.random() < PACK_SHARE
        else objects.procedural(rng, "heldout", folder) for _ in range(count)
    ]  # fmt: skip
    plates = [textures.background(rng, 256, "heldout", folder) for _ in range(PLATES)]
    stock = pairs.Stock(things, plates)
    drawn = [_query(np.random.default_rng([seed, 1, i]), stock, size, hardness) for i in range(queries)]
    template = np.zeros((count, len(VIEWPOINTS), size, size, 3), np.uint8)
    for i, thing in enumerate(things):
        poses, K = template_camera(thing.mesh, size)
        template[i] = CpuRenderer(thing.mesh, supersample=augment.SUPERSAMPLE, threads=1).render(poses, K, size).rgb
    return Ranking(
        np.stack([image for image, _, _ in drawn]) if drawn else np.zeros((0, size, size, 3), np.uint8),
        np.array([which for _, which, _ in drawn], np.int64),
        np.stack([angle for _, _, angle in drawn]) if drawn else np.zeros((0, len(VIEWPOINTS))),
        template,
    )


@torch.no_grad()
def evaluate_ranking(net: CoarseNet, ranking: Ranking, device: torch.device) -> dict[str, float]:
    """template_auroc: mean over queries of the share of pairs of a near and a far template in which the near one scores
    higher, a tie counting half; 0.5 is chance. template_near: share of the queries whose best template is a near one;
    one in seven is chance. Nothing without queries.
    """
    areas, hits = [], []
    tokens = {i: net.encode(_images(ranking.template[i], device)) for i in np.unique(ranking.object_index)}
    for query, which, angle in zip(ranking.query, ranking.object_index, ranking.angle, strict=True):
        templates = tokens[which]
        seen = net.encode(_images(query[None], device)).expand(len(templates), -1, -1)
        probability, _, _ = net.decode(seen, templates)
        score = probability.double().sum(dim=1).cpu().numpy()
        areas.append(area_under_curve(score[angle <= NEAR], score[angle >= FAR]))
        # Among equal scores any template may come first: each counts its part.
        hits.append((angle[score == score.max()] <= NEAR).mean())
    return {"template_auroc": float(np.mean(areas)), "template_near": float(np.mean(hits))} if areas else {}


def view_angles(item: scenes.Item) -> Array:
    """Degrees [V] between the direction in which an object is seen and that of each of its templates."""
    centre = scenes.centre_of(item)
    towards = -item.T[:3, :3].T @ (centre / np.linalg.norm(centre))  # to the camera, in the object's axes
    return np.degrees(np.arccos(np.clip(VIEWPOINTS @ towards, -1.0, 1.0)))


def area_under_curve(positive: Array, negative: Array) -> float:
    """Probability that a positive's score exceeds a negative's, ties half: area under the ROC curve, by ranks."""
    rank = stats.rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((rank.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def _query(rng: np.random.Generator, stock: pairs.Stock, size: int, hardness: float) -> tuple[Array, int, Array]:
    scene = scenes.draw_scene(rng, stock.objects, hardness)
    crop = scenes.crop_of(rng, scene, size)
    image = pairs.query_image(rng, scene, crop.R_crop_camera[0], crop.K[0], size, stock, hardness)
    which = next(i for i, thing in enumerate(stock.objects) if thing is scene.target.object)
    return image, which, view_angles(scene.target)


def _images(rgb: Array, device: torch.device) -> torch.Tensor:
    return to_image(torch.from_numpy(np.ascontiguousarray(rgb)).to(device))
