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
from coop_edge.templates.viewpoints import VIEWPOINTS, template_camera
from export.data.pairs import PairGenerator
from export.data.photo import SUPERSAMPLE
from export.data.render_cpu import HostRenderer
from export.data.stock import stock_of
from export.data.supply import DataOptions, ObjectSupply
from export.networks import CoarseNet
from export.train.task import to_image

Array = np.ndarray[Any, Any]

NEAR, FAR = 45.0, 90.0
"""Degrees from the query's direction up to which a template is near, and from which on it is far. Neighbours are 32 to
36 degrees apart: about six are near, 21 are far; those in between share much of what they show and do not count."""


QUERIES_AT_ONCE = 16
"""Queries that are drawn together."""


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
    """Draw queries of ``count`` held-out objects, and render their templates as the estimator does.

    The objects are functions of the seed and the pack alone, the queries of the hardness too
    (``stream.make_stream``).
    """
    files = {name: None if path is None else os.fspath(path) for name, path in (("pack", pack), ("photos", photos))}
    supply = ObjectSupply(DataOptions("coarse", size, seed, "heldout", files["pack"], files["photos"]))
    made = [supply(number, 1.0) for number in range(count)]
    things = [thing for thing, _ in made]
    stock = stock_of(things, torch.device("cpu"), [picture for _, picture in made if picture is not None])
    generator = PairGenerator(stock, HostRenderer(stock), size)
    parts = []
    for first in range(0, max(queries, 1), QUERIES_AT_ONCE):
        generator.seed(seed, 1, first)
        hard = torch.full((QUERIES_AT_ONCE,), hardness, dtype=torch.float64)
        scene, _, _, images = generator.queries(hard, hard)
        angles = view_angles(scene.items.T[:, 0, :3, :3].numpy(), scene.centre.numpy())
        parts.append((images.numpy(), scene.items.slot[:, 0].numpy(), angles))
    query, which, angle = (np.concatenate(part)[:queries] for part in zip(*parts, strict=True))
    template = np.zeros((count, len(VIEWPOINTS), size, size, 3), np.uint8)
    for i, thing in enumerate(things):
        poses, K = template_camera(thing.mesh, size)
        template[i] = CpuRenderer(thing.mesh, supersample=SUPERSAMPLE, threads=1).render(poses, K, size).rgb
    return Ranking(query, which, angle, template)


@torch.no_grad()
def evaluate_ranking(net: CoarseNet, ranking: Ranking, device: torch.device) -> dict[str, float]:
    """Compute how well a network ranks templates; nothing without queries.

    Returns:
        template_auroc: mean over queries of the share of pairs of a near and a far template in which the near one
        scores higher, a tie counting half; 0.5 is chance. template_near: share of the queries whose best template is a
        near one; one in seven is chance.
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


def view_angles(R: Array, centre: Array) -> Array:
    """Return the degrees [N,V] between the directions in which objects are seen and those of each of their templates.

    R: rotations [N,3,3] of T_camera_object. centre: of the objects [N,3], in the camera.
    """
    towards = -np.einsum("nji,nj->ni", R, centre) / np.linalg.norm(centre, axis=1, keepdims=True)  # object's axes
    return np.degrees(np.arccos(np.clip(towards @ VIEWPOINTS.T, -1.0, 1.0)))


def area_under_curve(positive: Array, negative: Array) -> float:
    """Return the area under the ROC curve: the probability that a positive's score exceeds a negative's, ties half."""
    rank = stats.rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((rank.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def _images(rgb: Array, device: torch.device) -> torch.Tensor:
    return to_image(torch.from_numpy(np.ascontiguousarray(rgb)).to(device))
