"""FP16 graphs: what is half, what must not be, that types agree everywhere, and how close the outputs stay."""

from __future__ import annotations

import copy
import re
from unittest.mock import patch

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from coop_edge.errors import BundleError, InputError
from export.onnx import precision
from export.onnx.graph import Graph, attribute
from export.onnx.precision import to_half
from export.onnx.trace import trace
from tests.export.onnx.models import traced
from tests.export.small_graphs import GRAPHS_OF_VARIANTS, STORED, feed_of, run, small_model, small_net, types_of

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
ALL = pytest.mark.parametrize(("variant", "role"), GRAPHS_OF_VARIANTS)
NEVER_HALF = ("LayerNormalization", "InstanceNormalization", "Softmax", "Sigmoid", "ReduceSum", "ReduceMax", "Neg",
              "ArgMax", "Gather", "GatherElements", "Where", "Clip", "Exp", "Floor", "Greater")  # fmt: skip
# The frozen features compute in FP32 wherever they are.
HEADS = r"/(matcher|fine|no_match|classes|regression|offset|attention|hidden|out|dpt/head)/|/frozen/"


def half_graph(variant, role):
    model = small_model(variant, role, "fp16")
    return model, types_of(model)


@ALL
def test_types_agree_everywhere_and_the_boundary_is_float32(variant, role):
    model, types = half_graph(variant, role)
    onnx.checker.check_model(model, full_check=True)
    for node in model.graph.node:
        floats = {types[n] for n in [*node.input, *node.output] if n and types[n] in (FLOAT, HALF)}
        if node.op_type == "Resize":  # its factors are float32 whatever its data
            floats = {types[node.input[0]], types[node.output[0]]}
        assert len(floats) == (2 if node.op_type == "Cast" and len(floats) == 2 else min(len(floats), 1)), node.name
    for value in [*model.graph.input, *model.graph.output]:
        assert value.type.tensor_type.elem_type == (TensorProto.INT32 if value.name == "index" else FLOAT)


@ALL
def test_products_of_the_trunk_are_half_and_those_of_heads_are_not(variant, role):
    model, types = half_graph(variant, role)
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            # At the top level there is but the refiner's expected token, a part of its head.
            head = re.match(HEADS, node.name) or node.name.count("/") == 1
            assert [types[name] for name in node.input] == [FLOAT if head else HALF] * len(node.input), node.name


@ALL
def test_what_must_be_exact_reads_no_half(variant, role):
    model, types = half_graph(variant, role)
    kinds = {node.op_type for node in model.graph.node}
    assert "LayerNormalization" in kinds
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        stored = node.op_type == "Cast" and node.input[0] in weights
        if not stored and (node.op_type in NEVER_HALF or re.match(HEADS, node.name)):
            assert HALF not in [types[name] for name in node.input if name], node.name


@ALL
def test_no_cast_is_in_vain(variant, role):
    model, types = half_graph(variant, role)
    casts = [n for n in model.graph.node if n.op_type == "Cast"]
    made_by_cast = {n.output[0] for n in casts}
    assert not [n.name for n in casts if n.input[0] in made_by_cast]
    assert not [n.name for n in casts if types[n.input[0]] == attribute(n, "to")]
    assert len({(n.input[0], attribute(n, "to")) for n in casts}) == len(casts)
    constants = {t.name for t in model.graph.initializer}
    stored = {n.output[0] for n in casts if n.input[0] in constants}
    assert all(attribute(n, "to") == FLOAT for n in casts if n.output[0] in stored)
    reads = [(n.op_type, i) for n in model.graph.node for i, name in enumerate(n.input) if name in stored]
    assert set(reads) <= {("MatMul", 1), ("Gemm", 1), ("Conv", 1)}
    assert len(reads) >= len(stored)


@ALL
def test_weights_of_heads_are_stored_in_half_but_for_the_smallest(variant, role):
    """And all of them that FP32 products read: what is left in FP32 are biases and few numbers."""
    model, types = half_graph(variant, role)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    source = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Cast"}
    products = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose")]
    singles = [n for n in products if types[n.output[0]] == FLOAT]
    plain = [values[n.input[1]] for n in singles if n.input[1] in values]
    assert all(value.size < STORED for value in plain)
    stored = {source[n.input[1]]: n for n in singles if source.get(n.input[1]) in values}
    assert all(values[name].dtype == np.float16 for name in stored)
    assert all(values[name].dtype == np.float32 for n in singles for name in n.input[2:])
    names = {re.sub(r"^onnx::|/fp16$|\.weight.*$", "", name) for name in stored}
    wanted = {"coarse_encoder": set(), "coarse_decoder": set(), "refiner": {"dpt.head.0"}}[role]
    if role == "refiner" and small_net(variant).config.fine_channels:
        wanted = wanted | {"fine.found"}
        assert {n.op_type for n in stored.values()} >= {"Conv"}
    assert names >= wanted
    assert bool(stored) == (role != "coarse_encoder")


@pytest.mark.parametrize(("variant", "role"), [("hybrid", "coarse_encoder"), ("laplace", "refiner")])
def test_rotations_and_the_residual_stream_are_float32(variant, role):
    model, types = half_graph(variant, role)
    in_block = [n for n in model.graph.node if re.match(r"/(enc|dec)_blocks\.\d+/", n.name)]
    rotations = [n for n in in_block if n.op_type == "Mul" and "attn" in n.name]
    residuals = [n for n in in_block if n.op_type == "Add" and n.name.count("/") == 2]
    depth = small_net(variant).config.trunk
    decoders = 0 if role == "coarse_encoder" else depth.decoder_depth
    assert len(residuals) == 2 * depth.encoder_depth + 3 * decoders
    # Queries and keys by cosine and by sine, and the scale of the queries.
    assert len(rotations) == 5 * (depth.encoder_depth + 2 * decoders)
    for node in rotations + residuals:
        assert [types[name] for name in node.input] == [FLOAT, FLOAT], node.name


def test_queries_are_scaled_before_the_product():
    model, _ = half_graph("hybrid", "coarse_encoder")
    producer = {name: node for node in model.graph.node for name in node.output}
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    softmax = next(n for n in model.graph.node if n.op_type == "Softmax")
    product = producer[producer[softmax.input[0]].input[0]]
    assert product.op_type == "MatMul"
    scaled = producer[producer[product.input[0]].input[0]]
    trunk = small_net("hybrid").config.trunk
    factor = next(float(values[name]) for name in scaled.input if name in values)
    assert scaled.op_type == "Mul"
    assert factor == pytest.approx((trunk.encoder_dim // trunk.encoder_heads) ** -0.5)


@ALL
def test_weights_are_stored_in_half(variant, role):
    single = {t.name: t for t in small_model(variant, role).graph.initializer}
    model, _ = half_graph(variant, role)
    shrunk = [t for t in model.graph.initializer if t.data_type == HALF and len(t.dims) > 1]
    assert shrunk
    for tensor in shrunk:
        given = numpy_helper.to_array(single[re.sub(r"/\d+$", "", tensor.name).removesuffix("/fp16")])
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), given.astype(np.float16), err_msg=tensor.name)


@ALL
def test_outputs_stay_close_to_fp32_and_are_not_the_same(variant, role):
    feed = feed_of(variant, role, 3)
    single, half = run(small_model(variant, role), feed), run(small_model(variant, role, "fp16"), feed)
    differences = {}
    for name, wanted in single.items():
        given = half[name]
        assert given.dtype == wanted.dtype
        if name in ("index", "probability"):
            # Where two patches are as good as equal, the choice between them may fall otherwise.
            assert (given == wanted).mean() > 0.9 if name == "index" else np.median(np.abs(given - wanted)) < 2e-3
            continue
        scale = max(float(np.sqrt(np.mean(wanted.astype(float) ** 2))), 1e-6)
        same = half["index"] == single["index"] if "index" in single else ...
        if small_net(variant).config.__dict__.get("fine_channels") and name == "flow":  # likewise between two windows
            assert (np.abs(given - wanted) < 0.02 * scale).mean() > 0.9
            continue
        differences[name] = np.abs(given - wanted)[same].max() / scale
        assert differences[name] < 0.02, name  # 40 roundings of 2^-11
    assert max(differences.values()) > 0 or variant == "classification"


def spoilt(variant, parameter, value):
    net = copy.deepcopy(small_net(variant))
    with torch.no_grad():
        net.get_parameter(parameter).flatten()[0] = value
    return net


def test_a_weight_beyond_fp16_is_named():
    net = spoilt("hybrid", "trunk.enc_blocks.0.mlp.fc1.weight", -1e5)
    with pytest.raises(
        InputError, match=r"coarse_encoder: trunk\.enc_blocks\.0\.mlp\.fc1\.weight holds 100000, FP16 en"
    ):
        to_half(trace(net, "coarse_encoder"))


def test_a_weight_that_is_not_a_number_is_named():
    net = spoilt("hybrid", "trunk.enc_blocks.0.attn.proj.bias", float("nan"))
    with pytest.raises(InputError, match=r"trunk\.enc_blocks\.0\.attn\.proj\.bias holds nan"):
        to_half(trace(net, "coarse_encoder"))


def test_a_large_weight_of_a_head_is_kept():
    """As it is in FP32; one that FP16 can hold is not."""
    for value, kind in ((1e5, FLOAT), (5e4, HALF)):
        net = spoilt("hybrid", "matcher.query.weight", value)
        with patch.object(precision, "_STORED", STORED):
            model = to_half(trace(net, "coarse_decoder")).model()
        named = [t for t in model.graph.initializer if t.name.startswith("matcher.query.weight")]
        assert [t.data_type for t in named] == [kind]
        assert numpy_helper.to_array(named[0]).max() == (np.float16(value) if kind == HALF else value)


def test_weights_of_heads_are_stored_in_half_and_computed_with_in_single():
    """As rounded to FP16 and computed in FP32, to the bit; small ones, and those beyond FP16, stay as they are."""
    value = np.random.default_rng(0).normal(size=(64, 64)).astype("f4")
    for big in (False, True):
        value[0, 0] = 1e5 if big else 1.0
        weights = {"trunk": value[:, ::-1] / 8 * (1 - big), "w": value, "small": value[:4, :4]}
        nodes = [
            helper.make_node("MatMul", ["x", "trunk"], ["a"], "/enc_blocks.0/mlp/fc1/MatMul"),
            helper.make_node("MatMul", ["x", "w"], ["y"], "/matcher/query/MatMul"),
            helper.make_node("MatMul", ["u", "small"], ["v"], "/matcher/key/MatMul"),
            helper.make_node("Add", ["a", "y"], ["z"], "/Add"),
        ]
        values = [helper.make_tensor_value_info(n, FLOAT, [4, 4] if n in "uv" else [3, 64]) for n in "xuyzv"]
        constants = [numpy_helper.from_array(np.ascontiguousarray(w), n) for n, w in weights.items()]
        graph = helper.make_graph(nodes, "g", values[:2], values[2:], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        half = to_half(Graph(model)).model()
        types = {t.name.removesuffix("/fp16"): t.data_type for t in half.graph.initializer}
        assert types == {"trunk": HALF, "w": FLOAT if big else HALF, "small": FLOAT}
        x = np.random.default_rng(1).normal(size=(3, 64)).astype("f4")
        out = run(half, {"x": x, "u": x[:1, :4].repeat(4, axis=0)})
        np.testing.assert_array_equal(out["y"], run_product(x, value if big else value.astype("f2").astype("f4")))


def run_product(x, weight):
    """x @ weight by ONNX Runtime in FP32."""
    values = [helper.make_tensor_value_info(n, FLOAT, [3, 64]) for n in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    return run(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), {"x": x})["y"]


def test_a_graph_whose_names_say_nothing_is_refused():
    model = copy.deepcopy(small_model("hybrid", "coarse_encoder"))
    for i, node in enumerate(model.graph.node):
        node.name = f"node_{i}"
    with pytest.raises(BundleError, match="no matrix product of coarse_encoder"):
        to_half(Graph(model))


def test_constants_that_both_types_read_are_kept_in_both():
    """One parameter, one half and one single reader; a half node whose result is an output; a move in either way."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "/enc_blocks.0/mlp/fc1/MatMul"),
        helper.make_node("Transpose", ["a"], ["t"], "/enc_blocks.0/mlp/Transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w"], ["b"], "/matcher/query/MatMul"),
        helper.make_node("Add", ["b", "t"], ["y"], "/Add"),
        helper.make_node("MatMul", ["x", "w"], ["z"], "/dec_blocks.0/mlp/fc2/MatMul"),
    ]
    value = np.random.default_rng(0).normal(size=(4, 4)).astype("f4")
    tensors = [helper.make_tensor_value_info(name, FLOAT, [4, 4]) for name in "xyz"]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], [numpy_helper.from_array(value, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    half = to_half(Graph(copy.deepcopy(model))).model()
    types = types_of(half)
    assert (types["w"], types["w/fp16"], types["a"], types["b"], types["z"]) == (FLOAT, HALF, HALF, FLOAT, FLOAT)
    assert types["t"] == HALF  # cast behind the move
    assert [n.op_type for n in half.graph.node].count("Cast") == 3  # x down, t up, z up
    x = np.random.default_rng(1).normal(size=(4, 4)).astype("f4")
    for name, wanted in run(model, {"x": x}).items():
        np.testing.assert_allclose(run(half, {"x": x})[name], wanted, atol=2e-2)


def test_products_in_half_share_no_weights():
    """Two convolutions with one weight: each has its own in FP16, and the outputs are what they were."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 2, 3, 3)).astype("f4")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="/features/a/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w"], ["b"], name="/features/b/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["b", "x"], ["y"], name="/Mul"),
    ]
    model = traced(nodes, [("w", weight)], ("N", 2, 6, 6))
    half = to_half(Graph(model)).model()
    weights = [n.input[1] for n in half.graph.node if n.op_type == "Conv"]
    assert len(set(weights)) == 2
    values = [numpy_helper.to_array(t) for t in half.graph.initializer if t.name in weights]
    assert all(np.array_equal(value, weight.astype("f2")) for value in values)
    x = rng.normal(size=(3, 2, 6, 6)).astype("f4")
    np.testing.assert_allclose(run(half, {"x": x})["y"], run(model, {"x": x})["y"], rtol=0.05, atol=0.1)
