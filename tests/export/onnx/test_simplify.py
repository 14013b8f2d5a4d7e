"""Simplification: shapes that follow the batch, sizes that become factors."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from coop_edge.errors import BundleError
from export.onnx.simplify import simplify
from tests.export.onnx.models import node, traced
from tests.export.small_graphs import (
    run,
)


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        (  # the number of images is not a number to compute with
            [
                node("Shape", ["x"], ["n"], start=0, end=1),
                node("Cast", ["n"], ["nf"], to=TensorProto.FLOAT),
                node("Mul", ["x", "nf"], ["y"]),
            ],
            (),
            "depends on the batch size",
        ),
        (  # every image repeated as often as there are images
            [node("Shape", ["x"], ["s"]), node("Concat", ["s", "s"], ["t"], axis=0), node("Expand", ["x", "t"], ["y"])],
            (),
            "repeats its input along the batch",
        ),
        (  # [N,N] to [N,N,1]: both are the input's own
            [
                node("MatMul", ["x", "v"], ["w"]),
                node("Transpose", ["w"], ["z"], perm=[1, 0]),
                node("MatMul", ["w", "z"], ["q"]),
                node("Shape", ["q"], ["s"]),
                node("Concat", ["s", "one"], ["t"], axis=0),
                node("Add", ["q", "zero"], ["r"]),
                node("Transpose", ["r"], ["rt"], perm=[1, 0]),
                node("Reshape", ["rt", "t"], ["y"]),
            ],
            (("v", np.eye(4, dtype="f4")), ("one", np.array([1])), ("zero", np.float32(0))),
            None,
        ),
    ],
    ids=["a-factor-n", "rows-for-rows", "both-axes-are-the-inputs"],
)
def test_what_follows_the_batch_in_another_way(nodes, constants, message):
    model = traced(nodes, constants)
    if message is None:
        graph = simplify(model)
        x = np.random.default_rng(0).normal(size=(4, 4)).astype("f4")
        np.testing.assert_allclose(run(graph.model(), {"x": x})["y"], run(model, {"x": x})["y"])
        assert not [n for n in graph.nodes if n.op_type == "Shape"]
    else:
        with pytest.raises(BundleError, match=message):
            simplify(model)


def test_sizes_become_factors_that_give_the_same_sizes():
    for given, made in ((7, 14), (2, 3), (3, 10), (7, 9), (49, 97)):
        nodes = [
            node("Shape", ["x"], ["s"], start=0, end=2),
            node("Concat", ["s", "sides"], ["t"], axis=0),
            node("Resize", ["x", "", "", "t"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel"),
        ]
        model = traced(nodes, [("sides", np.array([made, made]))], shape=("N", 1, given, given))
        graph = simplify(model)
        assert [n.op_type for n in graph.nodes] == ["Resize"]
        x = np.random.default_rng(0).normal(size=(3, 1, given, given)).astype("f4")
        found, wanted = (run(m, {"x": x})["y"] for m in (graph.model(), model))
        np.testing.assert_allclose(found, wanted, atol=1e-4)


PADDED = np.random.default_rng(1).normal(size=(5, 2, 3, 3)).astype("f4")
UNEVEN = np.array([0, 0, 0, 1, 0, 0, 2, 3])


@pytest.mark.parametrize(
    ("amounts", "value", "pad", "conv", "left"),
    [
        (UNEVEN, None, {}, {}, 0),
        (UNEVEN, 0.0, {}, {"strides": [2, 2]}, 0),
        (UNEVEN, 0.5, {}, {}, 1),
        (UNEVEN, None, {"mode": "reflect"}, {}, 1),
        (np.array([0, 0, 0, -1, 0, 0, 1, 0]), None, {}, {}, 1),
        (UNEVEN, None, {}, {"pads": [1, 1, 1, 1]}, 1),
        (UNEVEN, None, {}, {"auto_pad": "SAME_UPPER"}, 1),
    ],
    ids=["zeros", "zeros-that-are-said", "halves", "mirrored", "cut", "pads-already", "pads-by-itself"],
)
def test_convolutions_pad_with_zeros_themselves(amounts, value, pad, conv, left):
    constants = [("w", PADDED), ("p", amounts)] + ([] if value is None else [("v", np.float32(value))])
    nodes = [
        node("Pad", ["x", "p"] + ([] if value is None else ["v"]), ["z"], **pad),
        node("Conv", ["z", "w"], ["y"], **conv),
    ]
    model = traced(nodes, constants, ("N", 2, 8, 9))
    graph = simplify(model)
    assert [n.op_type for n in graph.nodes].count("Pad") == left
    x = np.random.default_rng(0).normal(size=(3, 2, 8, 9)).astype("f4")
    np.testing.assert_allclose(run(graph.model(), {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_padding_that_others_read_or_of_channels_stays():
    wide = np.zeros((5, 3, 3, 3), "f4")
    for nodes, constants in (
        ([node("Pad", ["x", "p"], ["z"]), node("Conv", ["z", "w"], ["c"]), node("Relu", ["z"], ["r"]),
          node("ReduceSum", ["r"], ["s"], keepdims=1), node("Add", ["c", "s"], ["y"])], (("w", PADDED), ("p", UNEVEN))),
        ([node("Pad", ["x", "p"], ["z"]), node("Conv", ["z", "w"], ["y"])],
         (("w", wide), ("p", np.array([0, 1, 0, 0, 0, 0, 0, 0])))),
    ):  # fmt: skip
        graph = simplify(traced(nodes, constants, ("N", 2, 8, 9)))
        assert [n.op_type for n in graph.nodes].count("Pad") == 1
