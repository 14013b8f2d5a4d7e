"""The ranking of templates: held against networks that know the answer or nothing at all, and a count of pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coop_edge.geometry import se3
from coop_edge.templates.viewpoints import VIEWPOINTS, template_camera
from export.data import objects
from export.networks import CONFIGS, build
from export.train.evaluate_templates import (
    FAR,
    NEAR,
    area_under_curve,
    draw_ranking,
    evaluate_ranking,
    view_angles,
)
from tests.export.small_nets import NET

CPU = torch.device("cpu")
SIZE = 32
V = len(VIEWPOINTS)


@pytest.fixture(scope="module")
def ranking():
    return draw_ranking(SIZE, queries=6, count=2, hardness=0.0, seed=3)


class Scoring:
    """A coarse network whose matched probability, summed over 4 patches, is a function of the query and the template.

    Images are marked: the query's number in its first pixel, the template's in its.
    """

    def __init__(self, score):
        self.score = score

    def encode(self, image):
        return (image[:, 0, 0, 0] * 255).round()[:, None, None].expand(-1, 4, 1)

    def decode(self, query, template):
        value = [self.score(int(q), int(t)) / 4 for q, t in zip(query[:, 0, 0], template[:, 0, 0], strict=True)]
        probability = torch.tensor(value)[:, None].expand(-1, 4)
        return probability, torch.zeros_like(probability).int(), torch.zeros(*probability.shape, 2)


@pytest.fixture
def marked(ranking):
    query, template = ranking.query.copy(), ranking.template.copy()
    query[:, 0, 0, 0] = np.arange(len(query))
    template[:, :, 0, 0, 0] = np.arange(V)
    return replace(ranking, query=query, template=template)


def test_no_queries_have_no_figures():
    empty = draw_ranking(SIZE, queries=0, count=1, hardness=1.0, seed=0)
    assert empty.query.shape == (0, SIZE, SIZE, 3)
    assert evaluate_ranking(Scoring(lambda q, t: 1.0), empty, CPU) == {}


def test_what_is_drawn(ranking):
    assert ranking.query.shape == (6, SIZE, SIZE, 3)
    assert ranking.template.shape == (2, V, SIZE, SIZE, 3)
    assert (ranking.template.reshape(2 * V, -1).max(axis=1) > 0).all(), "every template shows its object"
    assert (ranking.angle.min(axis=1) < 37.4 / np.sqrt(3) + 1).all(), (
        "no direction is farther from its nearest template"
    )
    # Opposite viewpoints are both in the set, so the angles of each query are symmetric about 90 degrees.
    np.testing.assert_allclose(np.sort(ranking.angle), 180 - np.sort(ranking.angle)[:, ::-1], atol=1e-6)
    again = draw_ranking(SIZE, queries=4, count=2, hardness=0.0, seed=3)
    np.testing.assert_array_equal(again.query, ranking.query[:4])
    hard = draw_ranking(SIZE, queries=1, count=2, hardness=1.0, seed=3)
    np.testing.assert_array_equal(hard.template, ranking.template)


def test_an_object_seen_as_a_template_shows_it_is_no_degree_from_that_one(ranking):
    thing = objects.procedural(np.random.default_rng(0), "heldout")
    poses, _ = template_camera(thing.mesh, SIZE)
    aside = se3.from_rt(se3.so3_exp([0.2, -0.1, 0.7]), np.zeros(3))  # the camera turned about its own centre
    for k in (0, 17, 41):
        for turn in (np.eye(4), aside):
            pose = turn @ poses[k]
            centre = pose[:3, :3] @ thing.mesh.centre + pose[:3, 3]
            angle = view_angles(pose[None, :3, :3], centre[None])[0]
            assert angle[k] < 1e-4
            np.testing.assert_allclose(
                angle, np.degrees(np.arccos(np.clip(VIEWPOINTS @ VIEWPOINTS[k], -1, 1))), atol=1e-4
            )
    assert ((ranking.angle <= NEAR).sum(axis=1) >= 3).all()
    assert ((ranking.angle >= FAR).sum(axis=1) == 21).all()


def test_a_network_that_knows_the_angle_ranks_without_a_fault_and_one_that_has_it_wrong_with_all(marked):
    right = evaluate_ranking(Scoring(lambda q, t: 180 - marked.angle[q, t]), marked, CPU)
    assert right == {"template_auroc": 1.0, "template_near": 1.0}
    wrong = evaluate_ranking(Scoring(lambda q, t: marked.angle[q, t]), marked, CPU)
    assert wrong == {"template_auroc": 0.0, "template_near": 0.0}


def test_a_network_that_sees_nothing_is_at_chance(marked):
    blind = evaluate_ranking(Scoring(lambda q, t: 1.0), marked, CPU)
    assert blind["template_auroc"] == 0.5
    assert blind["template_near"] == pytest.approx((marked.angle <= NEAR).mean())


def test_a_real_network_is_scored(ranking):
    torch.manual_seed(0)
    net = build(CONFIGS["coarse"].from_dict(NET["coarse"])).eval()
    figures = evaluate_ranking(net, ranking, CPU)
    assert figures.keys() == {"template_auroc", "template_near"}
    assert all(0 <= v <= 1 for v in figures.values())


def test_the_area_is_the_share_of_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 12), rng.integers(0, 5, 9)
    wanted = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert area_under_curve(a, b) == pytest.approx(wanted)
