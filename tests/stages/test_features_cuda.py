"""Views, retrieval and judging on a GPU are the CPU's: on the CuPy stand-in, which runs the kernels that ship.

Grey levels of renders and crops may differ by one between the two, and with them what random networks make of it.
"""

# ruff: noqa: F811  (fixtures are imported and named again)
from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from coop_edge.backend import Backend
from coop_edge.mesh import Symmetries
from coop_edge.render import CpuRenderer
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.onnx import OnnxRunner
from coop_edge.stages.crop import crop_detections
from coop_edge.stages.features import FeatureExtractor, coverage, similarity
from coop_edge.stages.judge import FeatureJudge
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.pairs import ImagePairMaker
from coop_edge.stages.retrieve import retrieve
from coop_edge.stages.scoring import Fit
from coop_edge.stages.views import TURNS, Views
from coop_edge.types import Camera, Detection
from tests.estimators_gpu import cupy, gpu  # noqa: F401
from tests.runtime.fake_arrays import DOWNLOAD
from tests.runtime.networks import tiny_bundle
from tests.runtime.on_device import OnDevice
from tests.stages.chain import OPS, templates_of
from tests.stages.scene import at

SIZE, VIEWS = 64, (3, 17, 30)
CAMERA = Camera(np.array([[300.0, 0.0, 79.5], [0.0, 300.0, 59.5], [0.0, 0.0, 1.0]]), 160, 120)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Opened before the stand-in takes ONNX Runtime's place."""
    bundle = Bundle.load(tiny_bundle(tmp_path_factory.mktemp("tiny"), input_size=SIZE))
    with OnnxRunner(bundle.network("features"), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def picture(far):
    """An image of the object at a view, before noise."""
    drawer = CpuRenderer(far, threads=1)
    T = at(0.01, -0.02, 0.6, (0.3, 0.7, -0.2), far.centre)
    seen = drawer.render(T[None], CAMERA.K, CAMERA.size[::-1])
    noise = np.random.default_rng(0).integers(0, 255, seen.rgb[0].shape)
    rgb = np.where(seen.depth[0][..., None] > 0, seen.rgb[0], noise).astype(np.uint8)
    v, u = np.nonzero(seen.depth[0])
    box = (float(u.min()), float(v.min()), float(np.ptp(u) + 1), float(np.ptp(v) + 1))
    return rgb, T, box, seen.depth[0] > 0


def parts(device, runner, far):
    """Operations, features, and the object with few views."""
    backend = Backend.pick(device)
    ops = backend.operations()
    features = FeatureExtractor(ops, OnDevice(runner) if device == "cuda" else runner, 32)
    if device == "cuda":
        features.runner.open()
    poses = templates_of(far).T_camera_object[list(VIEWS)]
    views = Views.describe(far, poses, SIZE, renderer=partial(backend.renderer, threads=1), features=features)
    empty = np.zeros((0, 1, 1), np.float32)
    model = ObjectModel(far.name, far.centre, far.diameter, Symmetries(), empty, empty, views)
    return backend, ops, features, model


def test_views_and_what_is_retrieved_are_the_cpus(gpu, runner, far, picture):
    image, _, box, mask = picture
    x, y, w, h = box
    boxes = [(x, y, w, h), (x + 8, y, w, h), (x - 9, y - 9, w + 18, h + 18)]
    detections = [Detection("far", bbox=b) for b in boxes] + [Detection("far", bbox=box, mask=mask)]
    answers = []
    for device in ("cpu", "cuda"):
        _, ops, features, model = parts(device, runner, far)
        given = ops.upload(image)
        crops = crop_detections(given, CAMERA, detections, SIZE, ops=ops, margin=1.2, patch=8)
        if downloads := getattr(ops.xp, "transfers", None):
            downloads.clear()
        found = retrieve(given, crops, [model], np.zeros(4, int), features=features, count=len(VIEWS) * TURNS)
        sizes = [size for way, size in getattr(ops.xp, "transfers", []) if way == DOWNLOAD]
        answers.append((ops.to_host(model.views.descriptors), found, sizes))
        none = crop_detections(given, CAMERA, [], SIZE, ops=ops, margin=1.2, patch=8)
        nothing = retrieve(given, none, [model], np.zeros(0, int), features=features, count=3)
        assert len(nothing.hypotheses(none.camera, np.zeros(0, int))) == 0
    (views, cpu, _), (views_there, there, sizes) = answers
    np.testing.assert_allclose(views_there, views, atol=0.02 * np.abs(views).max())
    order = np.argsort(cpu.view, axis=1), np.argsort(there.view, axis=1)
    ours, theirs = (np.take_along_axis(f.similarity, o, axis=1) for f, o in zip((cpu, there), order, strict=True))
    np.testing.assert_allclose(theirs, ours, atol=4e-3)
    same = np.take_along_axis(cpu.scale, order[0], axis=1) == np.take_along_axis(there.scale, order[1], axis=1)
    assert same.mean() > 0.9  # placements about as good as each other
    assert (there.scale[3] == 1.0).all()
    for d in range(4):
        assert there.view[d, 0] in cpu.view[d, :2]
    # The features run on the host here; else only the best placements come back: figures, of 4 x 48 views, two each.
    if hasattr(gpu, "transfers"):
        images = 4 * 3 * SIZE * SIZE * 4
        assert [size for size in sizes if size != images] == [4 * 48 * 2 * 8]


def test_the_judge_is_the_cpus(gpu, runner, far, picture):
    image, T, _, _ = picture
    poses = np.array([T, at(0.03, -0.01, 0.62, (0.3, 0.9, -0.2), far.centre), T])
    poses[2, 0, 0] = np.nan

    class Refined:
        T_camera_object, ok, crop_size = poses, np.array([True, True, False]), SIZE

        def __len__(self):
            return 3

    found = []
    for device in ("cpu", "cuda"):
        backend, ops, features, model = parts(device, runner, far)
        renderer = backend.renderer([far], threads=1)
        maker = ImagePairMaker(ops.upload(image), CAMERA, [model], renderer, SIZE, 1.2, ops)
        judge = FeatureJudge(maker, features, None)
        fit = Fit(*np.zeros((5, 3)))
        seen = judge.evidence(Refined(), np.zeros(3, int), fit)
        found.append(np.stack([seen["similarity"], seen["outline"]]))
    assert (found[0][:, 0] > found[0][:, 1] + 0.05).all()
    assert (found[1][:, 2] == 0).all()
    np.testing.assert_allclose(found[1], found[0], atol=5e-3)


def test_similarity_on_the_device_is_the_cpus(gpu):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(3, 5, 4, 4)).astype(np.float32) for _ in range(2))
    depth = np.where(rng.random((3, 16, 16)) < 0.5, 0.5, 0.0).astype(np.float32)
    depth[1] = 0
    covered = coverage(gpu.asarray(depth), 4, gpu)
    np.testing.assert_array_equal(gpu.asnumpy(covered), coverage(depth, 4))
    found = gpu.asnumpy(similarity(gpu.asarray(a), gpu.asarray(b), covered, gpu))
    np.testing.assert_allclose(found, similarity(a, b, coverage(depth, 4)), atol=1e-6)
    assert OPS.to_host(found)[1] == 0
