"""The stages with real graphs: tiny random networks of a bundle, on ONNX Runtime."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from coop_edge.config import EstimatorConfig
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.render import CpuRenderer
from coop_edge.runtime.bundle import REQUIRED, Bundle
from coop_edge.runtime.onnx import OnnxRunner
from coop_edge.stages.coarse import estimate_coarse
from coop_edge.stages.crop import crop_detections
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.pairs import ImagePairMaker
from coop_edge.stages.refine import refine
from coop_edge.stages.select import select
from tests.runtime.networks import tiny_bundle
from tests.stages.chain import OPS, templates_of

SIZE, PATCH = 64, 8


@pytest.fixture(scope="module")
def runners(tmp_path_factory):
    bundle = Bundle.load(tiny_bundle(tmp_path_factory.mktemp("tiny"), input_size=SIZE, patch_size=PATCH))
    with contextlib.ExitStack() as stack:
        yield {role: stack.enter_context(OnnxRunner(bundle.network(role), threads=1)) for role in REQUIRED}


@pytest.fixture(scope="module")
def models(runners, two):
    encoder = runners["coarse_encoder"]
    return [ObjectModel.describe(m.name, m, templates_of(m, None, SIZE), encoder, OPS) for m in two.meshes]


def run(runners, models, scene, detections, index, hypotheses=3):
    solver = CpuPnpSolver(threads=1)
    settings = ["ransac.threshold_px=4", "advanced.coarse.min_inliers=4", "refine.iterations=2"]
    config = EstimatorConfig().updated([f"coarse.hypotheses={hypotheses}", *settings])
    crops = crop_detections(scene.image, scene.camera, detections, SIZE, ops=OPS, margin=1.2, patch=PATCH)
    coarse = estimate_coarse(
        crops,
        models,
        np.array(index, int),
        ops=OPS,
        encoder=runners["coarse_encoder"],
        decoder=runners["coarse_decoder"],
        solver=solver,
        config=config,
        patch=PATCH,
    )
    maker = ImagePairMaker(scene.image, scene.camera, models, CpuRenderer(scene.meshes, threads=1), SIZE, 1.2, OPS)
    refined = refine(
        maker,
        coarse.T_camera_object,
        coarse.object_index,
        runner=runners["refiner"],
        solver=solver,
        config=config,
        radius_px=1.0,
    )
    chosen = select(
        refined,
        coarse.detection,
        len(detections),
        models,
        coarse.object_index,
        config,
        evidence=coarse.evidence,
        reasons=[coarse.reason(i) for i in range(len(coarse))],
    )
    return coarse, refined, chosen


def test_descriptors_are_the_encoders_tokens(runners, models):
    for model in models:
        assert model.descriptors.shape == (42, (SIZE // PATCH) ** 2, 16)
        assert model.descriptors.dtype == np.float32
        assert model.descriptors.std() > 0
        assert model.object_points.shape == (42, SIZE, SIZE, 3)


def test_no_detections(runners, models, two):
    assert [len(part) for part in run(runners, models, two, [], [])] == [0, 0, 0]


def test_random_networks_give_legal_answers(runners, models, two):
    coarse, refined, chosen = run(runners, models, two, two.detections(), [0, 1])
    assert len(coarse) == len(refined) == 6
    assert (coarse.n_matches > 0).any()
    assert ((coarse.evidence >= 0) & (coarse.evidence <= 1)).all()
    started = np.isfinite(coarse.T_camera_object).all(axis=(1, 2))
    np.testing.assert_array_equal(started, coarse.solved)
    assert started.any()  # the refiner was asked
    assert refined.weight.shape == (6, 256)
    for estimate in chosen.estimates(["cube", "bar"]):  # validated on construction
        assert estimate.success == (estimate.T_camera_object is not None)
        assert 0 <= estimate.score <= 1


def test_a_detection_alone_and_among_others(runners, models, two):
    """To what a network computes differently in a batch of another size."""
    together = run(runners, models, two, two.detections(), [0, 1])
    alone = run(runners, models, two, two.detections()[1:], [1])
    np.testing.assert_array_equal(alone[0].template, together[0].template[3:])
    np.testing.assert_array_equal(alone[0].status, together[0].status[3:])
    np.testing.assert_allclose(alone[0].T_camera_object, together[0].T_camera_object[3:], atol=1e-6)
    np.testing.assert_allclose(alone[2].scores, together[2].scores[1:], atol=1e-4)
