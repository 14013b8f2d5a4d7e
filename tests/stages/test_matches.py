"""From the decoder's outputs to correspondences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coop_edge.config import EstimatorConfig
from coop_edge.errors import BundleError, InputError
from coop_edge.mesh import Symmetries
from coop_edge.runtime.base import TensorSpec
from coop_edge.runtime.build import BuildOptions
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.onnx import OnnxRunner
from coop_edge.stages.batches import run_batched
from coop_edge.stages.matches import decode
from coop_edge.stages.objects import ObjectModel, centres_and_diameters
from coop_edge.templates import TemplateSet
from tests.runtime.networks import tiny_bundle
from tests.stages.chain import OPS, Chain, templates_of
from tests.stages.oracles import DIM, OracleRunner

VIEWS, T, SIZE = 5, 16, 64


class Affine(OracleRunner):
    """probability, index and offset as fixed functions of the tokens' first numbers."""

    def __init__(self):
        tokens = (None, T, DIM)
        outputs = [TensorSpec("probability", (None, T)), TensorSpec("index", (None, T), "int32")]
        super().__init__(
            None,
            "decoder",
            [TensorSpec("query", tokens), TensorSpec("template", tokens)],
            [*outputs, TensorSpec("offset", (None, T, 2))],
        )

    def _check_device(self, name, array): ...  # a test may say that this is on a GPU

    def one(self, feed):
        value = feed["query"][0, 0] + feed["template"][0, 0]
        return {"probability": np.full(T, value / 100), "index": np.full(T, value), "offset": np.full((T, 2), 0.25)}


def model(k: int, views: int = VIEWS, points=None) -> ObjectModel:
    descriptors = np.zeros((views, T, DIM), np.float32) + (10 * k + np.arange(views, dtype=np.float32))[:, None, None]
    points = np.full((views, SIZE, SIZE, 3), np.nan, np.float32) if points is None else points
    return ObjectModel(f"object {k}", np.array([0.0, 0.0, k]), 0.1 * (k + 1), Symmetries(), points, descriptors)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 7, 10, 11, 64])
def test_the_micro_batch_changes_no_result_and_is_kept(micro_batch, device):
    runner = Affine()
    runner.device = device
    objects, index = [model(0), model(1), model(2)], np.array([2, 0, 2, 1])
    tokens = np.zeros((4, T, DIM), np.float32) + np.arange(4, dtype=np.float32)[:, None, None]
    trusted = np.ones((4, T), bool)
    trusted[1, 3:] = False
    out = decode(OPS, runner, tokens, objects, index, trusted, micro_batch)
    want = np.arange(4)[:, None] + 10 * index[:, None] + np.arange(VIEWS)
    np.testing.assert_array_equal(out.index[..., 0], want)
    np.testing.assert_allclose(out.probability[..., 0], want / 100, rtol=1e-6)
    assert (out.probability[1, :, 3:] == 0).all()
    assert (out.probability[[0, 2, 3]] > 0).mean() == 1.0
    assert max(runner.batches) <= max(micro_batch, 1)
    assert sum(runner.batches) == 4 * VIEWS
    assert all(n % VIEWS == 0 for n in runner.batches) or micro_batch < VIEWS
    if micro_batch >= VIEWS:
        together = min(micro_batch // VIEWS, 4) if device == "cuda" else 1
        assert len(runner.batches) == math.ceil(4 / together)


class Shared(OnnxRunner):
    """The tiny decoder, run as on a GPU: a run may hold several queries. Notes the batches of its runs."""

    def __init__(self, network, max_batch):
        super().__init__(network)
        self.max_batch, self.batches = max_batch, []

    def _load(self):
        super()._load()
        self.device = "cuda"

    def _check_device(self, name, array): ...

    def _run(self, feed, batch, stream):
        self.batches.append(batch)
        return super()._run(feed, batch, stream)


@pytest.mark.parametrize(("max_batch", "micro_batch", "per_run"), [(168, 168, 168), (168, 84, 84), (100, 168, 84)])
def test_eight_queries_share_runs_as_far_as_the_plan_and_the_option_allow(tmp_path, max_batch, micro_batch, per_run):
    rng = np.random.default_rng(0)
    network = Bundle.load(tiny_bundle(tmp_path / "tiny")).network("coarse_decoder")
    count, dim = network.inputs[0].shape[1:]
    points = np.full((42, 32, 32, 3), np.nan, np.float32)
    objects = [
        ObjectModel(name, np.zeros(3), 0.1, Symmetries(), points, rng.normal(size=(42, count, dim)).astype(np.float32))
        for name in "ab"
    ]
    tokens, index = rng.normal(size=(8, count, dim)).astype(np.float32), np.arange(8) % 2
    trusted = np.ones((8, count), bool)
    with Shared(network, max_batch) as runner:
        together = decode(OPS, runner, tokens, objects, index, trusted, micro_batch)
        assert runner.batches == [per_run] * math.ceil(8 * 42 / per_run)
        for i in range(8):
            alone = decode(OPS, runner, tokens[[i]], objects, index[[i]], trusted[[i]], micro_batch)
            np.testing.assert_array_equal(together.index[i], alone.index[0])
            np.testing.assert_allclose(together.probability[i], alone.probability[0], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(together.offset[i], alone.offset[0], rtol=1e-5, atol=1e-6)
        assert runner.batches[-8:] == [42] * 8


def test_plans_are_built_for_the_pairs_that_share_a_run_by_default():
    assert BuildOptions().batch("coarse_decoder")[2] == EstimatorConfig().advanced.coarse.micro_batch == 4 * 42


def test_a_runner_with_a_largest_batch_is_given_no_more():
    runner = Affine()
    runner.max_batch = 3
    out = run_batched(
        OPS, runner, {"query": np.ones((8, T, DIM), np.float32), "template": np.ones((8, T, DIM), np.float32)}, 64
    )
    assert runner.batches == [3, 3, 2]
    assert out["offset"].shape == (8, T, 2)


def test_outputs_survive_the_next_run():
    class Reusing(Affine):
        def _run(self, feed, batch, stream):
            outputs = super()._run(feed, batch, stream)
            self.buffer = getattr(self, "buffer", outputs)
            for name, array in outputs.items():
                self.buffer[name][...] = array
            return self.buffer

    ones = np.ones((1, T, DIM), np.float32)
    feed = {"query": np.concatenate([ones, 5 * ones]), "template": np.concatenate([ones, ones])}
    assert run_batched(OPS, Reusing(), feed, 1)["index"][:, 0].tolist() == [2, 6]


def test_no_queries():
    tokens = np.zeros((0, T, DIM), np.float32)
    out = decode(OPS, Affine(), tokens, [model(0)], np.zeros(0, int), np.ones((0, T), bool), 42)
    assert out.probability.shape == (0, 0, T)
    points, valid, probability = OPS.lift(out, np.zeros((0, 1), int), [], 16, 0.0)
    assert points.shape == (0, 1, T, 3)
    assert valid.shape == probability.shape == (0, 1, T)


def test_objects_with_different_numbers_of_templates_are_refused():
    tokens = np.zeros((2, T, DIM), np.float32)
    with pytest.raises(InputError, match="the same number of templates for all"):
        decode(OPS, Affine(), tokens, [model(0), model(1, 4)], np.array([0, 1]), np.ones((2, T), bool), 42)


def test_describe_wants_templates_of_the_mesh_and_of_the_networks_size(two, cube, bar):
    encoder = Chain.of(two).oracle.encoder
    with pytest.raises(BundleError, match="another mesh"):
        ObjectModel.describe("cube", cube, templates_of(bar), encoder, OPS)
    with pytest.raises(BundleError, match="32 pixels wide, oracle/coarse_encoder takes 128"):
        ObjectModel.describe("cube", cube, TemplateSet.render(cube, 32, supersample=1), encoder, OPS)


def test_an_index_that_names_no_object_is_refused():
    centres, diameters = centres_and_diameters([model(0), model(1)], np.array([1, 0, 1]))
    assert centres[:, 2].tolist() == [1, 0, 1]
    np.testing.assert_allclose(diameters, [0.2, 0.1, 0.2])
    for wrong in ([2], [-1]):
        with pytest.raises(InputError, match="wanted values in"):
            centres_and_diameters([model(0), model(1)], np.array(wrong))
