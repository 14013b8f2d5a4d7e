"""The graphs: what is in them, that they compute what PyTorch does."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from coop_edge.errors import InputError
from coop_edge.runtime.network import Network, sha256_of
from coop_edge.runtime.onnx import OnnxRunner
from export.onnx.checks import checked
from export.onnx.graph import tensors_of
from export.onnx.trace import specs_of, trace
from tests.export.small_graphs import (
    GRAPHS_OF_VARIANTS,
    SIZE,
    feed_of,
    small_model,
    small_net,
    torch_outputs,
)

T, D = (SIZE // 16) ** 2, 16


IMAGE = ["N", 3, SIZE, SIZE]


# Written out from the design, not computed by the code that is under test.
TABLE = {
    "coarse_encoder": ({"image": IMAGE}, {"tokens": ["N", T, D]}),
    "coarse_decoder": (
        {"query": ["N", T, D], "template": ["N", T, D]},
        {"probability": ["N", T], "index": ["N", T], "offset": ["N", T, 2]},
    ),
    "refiner": (
        {"query": IMAGE, "render": IMAGE},
        {
            "flow": ["N", 2, SIZE // 4, SIZE // 4],
            "scale": ["N", 1, SIZE // 4, SIZE // 4],
            "certainty": ["N", 1, SIZE // 4, SIZE // 4],
            "sensitivity": ["N", 1, SIZE // 4, SIZE // 4],
        },
    ),
}


@pytest.fixture
def small_runner(tmp_path):
    """(variant, role) -> a closed runner of the FP32 graph."""

    def make(variant, role):
        path = tmp_path / "graph.onnx"
        path.write_bytes(small_model(variant, role).SerializeToString())
        return OnnxRunner(Network(role, path, sha256_of(path), "fp32", *specs_of(small_net(variant), role)), threads=1)

    return make


def layer_norms_that_run(variant, role):
    """Normalisations of layers, in modules or not, when PyTorch computes what the graph computes."""
    functional = torch.nn.functional
    with patch.object(functional, "layer_norm", wraps=functional.layer_norm) as normalise:
        torch_outputs(variant, role, feed_of(variant, role, 1))
    # Tokens of the decoder's feed come from the encoder, whose norms are not in its graph.
    encoder = 2 * small_net(variant).config.trunk.encoder_depth + 1
    return normalise.call_count - (2 * encoder if role == "coarse_decoder" else 0)


@pytest.mark.parametrize(("variant", "role"), [(v, r) for v, r in GRAPHS_OF_VARIANTS if v in ("hybrid", "laplace")])
def test_inputs_and_outputs_are_those_of_the_table(variant, role):
    model = small_model(variant, role)
    for values, wanted in zip((model.graph.input, model.graph.output), TABLE[role], strict=True):
        found = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        assert list(found.items()) == list(wanted.items())
        for value in values:
            wanted_type = TensorProto.INT32 if value.name == "index" else TensorProto.FLOAT
            assert value.type.tensor_type.elem_type == wanted_type


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("variant", "role"), GRAPHS_OF_VARIANTS)
def test_operators(variant, role, precision):
    model = small_model(variant, role, precision)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    operators = [node.op_type for node in model.graph.node]
    assert {node.domain for node in model.graph.node} == {""}
    assert operators.count("LayerNormalization") == layer_norms_that_run(variant, role)
    unwanted = {"Attention", "BatchNormalization", "Constant", "Identity", "Sin", "Cos", "Range", "Pow", "OneHot"}
    assert not unwanted & set(operators)
    # Shapes are constants, but where an output is nothing else than a shape.
    shapes = {"classification": 1, "deterministic": 2}.get(variant, 0) if role != "coarse_encoder" else 0
    assert operators.count("Shape") == operators.count("ConstantOfShape") == shapes
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("variant", "role"), GRAPHS_OF_VARIANTS)
def test_every_shape_is_recorded_and_static_but_for_the_batch(variant, role, precision):
    net = small_net(variant)
    model = checked(small_model(variant, role, precision), role, *specs_of(net, role), precision)
    recorded = {v.name: v.type.tensor_type.shape.dim for v in tensors_of(model)}
    for node in model.graph.node:
        for name in node.output:
            assert all(side.dim_value > 0 for side in recorded[name][1:]), (node.name, recorded[name])


@pytest.mark.parametrize(("variant", "role"), GRAPHS_OF_VARIANTS)
def test_fp32_graphs_compute_what_pytorch_does(variant, role, small_runner):
    """On the runtime, for several samples, one, and none."""
    with small_runner(variant, role) as runner:
        for n in (3, 1, 0):
            feed = feed_of(variant, role, n)
            found, wanted = runner.run(feed), torch_outputs(variant, role, feed)
            assert list(found) == list(runner.outputs)
            for (name, given), truth in zip(found.items(), wanted, strict=True):
                assert given.dtype == truth.dtype
                assert given.shape == truth.shape == (n, *runner.outputs[name].shape[1:])
                if given.dtype == np.int32:
                    np.testing.assert_array_equal(given, truth)
                else:
                    scale = np.abs(truth).max(initial=1e-12)
                    assert np.abs(given - truth).max(initial=0.0) <= 1e-4 * scale, name


def test_the_images_and_weights_of_these_tests_make_outputs_that_vary():
    """Otherwise the comparisons above would say little."""
    decoded = dict(zip(TABLE["coarse_decoder"][1], torch_outputs("hybrid", "coarse_decoder", feed_of("hybrid", "coarse_decoder", 3)), strict=True))  # fmt: skip  # noqa: E501
    assert len(np.unique(decoded["index"])) > 3
    assert np.ptp(decoded["offset"]) > 0.05
    refined = dict(zip(TABLE["refiner"][1], torch_outputs("laplace", "refiner", feed_of("laplace", "refiner", 3)), strict=True))  # fmt: skip  # noqa: E501
    for name, least in (("flow", 1.0), ("scale", 0.1), ("certainty", 0.01), ("sensitivity", 0.01)):
        assert np.ptp(refined[name]) > least, name


@pytest.mark.parametrize(
    ("variant", "role"), [(v, r) for v, r in GRAPHS_OF_VARIANTS if v in ("hybrid", "deterministic")]
)
def test_rows_of_a_batch_do_not_touch_each_other(variant, role, small_runner):
    feed = feed_of(variant, role, 5)
    with small_runner(variant, role) as runner:
        together = {name: array.copy() for name, array in runner.run(feed).items()}
        for i in range(5):
            alone = runner.run({name: array[i : i + 1] for name, array in feed.items()})
            for name, array in together.items():
                np.testing.assert_allclose(array[i : i + 1], alone[name], rtol=1e-4, atol=1e-5)


def test_parameters_keep_the_names_and_the_values_of_the_state_dict():
    model, state = small_model("laplace", "refiner"), small_net("laplace").state_dict()
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    named = {name: value.numpy() for name, value in state.items() if name in found}
    assert {k for k in state if k.endswith(("qkv.weight", "fc1.bias", "norm1.weight", "conv1.weight"))} <= set(named)
    for name, value in named.items():
        wanted = value.T if value.ndim == 2 else value
        assert np.array_equal(found[name], wanted) or np.array_equal(found[name], value), name


def test_tracing_leaves_the_network_as_it_was():
    net = small_net("laplace")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    trace(net, "refiner")
    assert "forward" not in vars(net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_same_network_gives_the_same_bytes():
    first, second = (trace(small_net("hybrid"), "coarse_decoder").model() for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_a_network_gives_the_graphs_of_its_own_role_alone():
    with pytest.raises(
        InputError, match="a coarse network gives the graphs coarse_encoder, coarse_decoder, not refiner"
    ):
        trace(small_net("hybrid"), "refiner")
