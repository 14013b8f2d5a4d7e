"""From the decoder's outputs to correspondences."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import BundleError, InputError
from coop_edge.mesh import Symmetries
from coop_edge.runtime.base import TensorSpec
from coop_edge.stages.batches import run_batched
from coop_edge.stages.matches import decode
from coop_edge.stages.objects import ObjectModel, centres_and_diameters
from coop_edge.templates import TemplateSet
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

    def one(self, feed):
        value = feed["query"][0, 0] + feed["template"][0, 0]
        return {"probability": np.full(T, value / 100), "index": np.full(T, value), "offset": np.full((T, 2), 0.25)}


def model(k: int, views: int = VIEWS, points=None) -> ObjectModel:
    descriptors = np.zeros((views, T, DIM), np.float32) + (10 * k + np.arange(views, dtype=np.float32))[:, None, None]
    points = np.full((views, SIZE, SIZE, 3), np.nan, np.float32) if points is None else points
    return ObjectModel(f"object {k}", np.array([0.0, 0.0, k]), 0.1 * (k + 1), Symmetries(), points, descriptors)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 7, 10, 11, 64])
def test_the_micro_batch_changes_no_result_and_is_kept(micro_batch):
    runner = Affine()
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
    with pytest.raises(InputError, match="as many templates"):
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
