"""Turns an ONNX graph to FP16: which nodes compute in half precision, and the casts around them.

TensorRT 11 builds strongly typed networks alone, so a graph has to say itself what is half. This is done on the graph,
not in PyTorch: the rules stand in one table whatever the network, a trace under autocast would round the similarities
and the positions of the heads too, and a weight is converted once, when the file is written.

| computed in | what |
|---|---|
| FP16 | matrix products and convolutions of the patch embedding, the blocks, the features of fine matching and the DPT head's body, with their weights and biases; what lies between two of them and cannot hurt: GELU, sums and interpolation of maps, moves of data |
| FP32 | the frozen features, LayerNormalization, group normalisation, softmax, the rotation by position, the residual stream (a sum of many small terms), every head (matcher, fine matching, no match, classes, offset, regression, score, the DPT's last layers), the decode, inputs and outputs |

Weights of products in FP32 are stored in FP16 too, and cast when the graph is loaded: that a weight is rounded once
hurts nowhere, what is computed with it would. Of the frozen features nothing else is FP16: they are small.

A product of FP16 numbers is summed in FP32 by the hardware; attention's queries are scaled by 1 / sqrt(head dimension)
before the product, in FP32, so that the sums keep away from FP16's largest number, 65504. The result is cast where
fewest bytes move: down before, up after transpositions and reshapes, which are exact in any type. A tensor is cast
once per direction, and never to and fro. No two products share an FP16 weight (``_separate_weights``).
"""  # noqa: E501 (a table)

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from coop_edge.errors import BundleError, InputError
from export.onnx.graph import Graph, set_input

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
MOVES = ("Reshape", "Transpose", "Split", "Slice", "Squeeze", "Unsqueeze", "Relu")
"""Exact in any type: these commute with a cast."""
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Erf", "Gelu", "Resize")
# Node names are the path of the module, then the operator: /enc_blocks.0/attn/qkv/MatMul.
_DPT_BODY = r"/dpt/(?!head/)"
_PRODUCT_SCOPES = re.compile(
    rf"/patch_embed/|/(enc|dec)_blocks\.\d+/(attn|cross_attn|mlp)/|/decoder_embed/|/features(_\d+)?/|{_DPT_BODY}"
)
_ELEMENTWISE_SCOPES = re.compile(rf"/(enc|dec)_blocks\.\d+/mlp/|/features(_\d+)?/|{_DPT_BODY}")
_ACTIVATIONS = {"Resize": 1, "Reshape": 1, "Slice": 1, "Split": 1, "Squeeze": 1, "Unsqueeze": 1}
"""Operators of which the first input alone is data; the others are shapes and factors."""
_HALF_MAX = float(np.finfo(np.float16).max)
STORED_ONLY = ("features",)
"""Roles of small networks, all of whose products stay in FP32."""
_STORED = 1024
"""Fewest values of a weight of FP32 products that is stored in FP16."""


def to_half(graph: Graph) -> Graph:
    """Turn an FP32 graph of ``export.onnx.trace`` into FP16 by the rules above, in place; inputs and outputs stay FP32.

    Raises:
        InputError: FP16 cannot hold a weight, which the message names.
        BundleError: nothing is left to compute in FP16 (the names of the nodes do not fit the rules).
    """
    half = _chosen(graph) if graph.name not in STORED_ONLY else set()
    if graph.name not in STORED_ONLY and not any(node.op_type in PRODUCTS for node in graph.nodes if id(node) in half):
        raise BundleError(f"export: no matrix product of {graph.name} is in the parts that FP16 is meant for")
    _cast(graph, half)
    _store_in_half(graph)
    _separate_weights(graph)
    graph.prune()
    return graph


def _chosen(graph: Graph) -> set[int]:
    """Return the ``id`` of the nodes that compute in FP16."""
    types, producers, consumers = graph.element_types(), graph.producers(), graph.consumers()
    half: set[int] = set()

    def is_half(name: str) -> bool:
        return name in producers and id(producers[name]) in half

    for node in graph.nodes:  # forward, in topological order
        data = [name for name in _data(node) if name not in graph.constants]
        if node.op_type in PRODUCTS:
            chosen = bool(_PRODUCT_SCOPES.match(node.name))
        elif node.op_type in ELEMENTWISE:
            chosen = all(map(is_half, data)) and bool(_ELEMENTWISE_SCOPES.match(node.name) or _is_bias(node, graph))
        else:  # a sibling that reads the tensor in FP32 has it cast already
            siblings = [n for name in data for n in consumers[name] if n.op_type not in (*PRODUCTS, *MOVES)]
            chosen = node.op_type in MOVES and all(map(is_half, data)) and not siblings
        if chosen:
            half.add(id(node))
    for node in reversed(graph.nodes):  # backward: cast before a move that FP16 alone reads
        readers = [n for name in node.output for n in consumers.get(name, [])]
        floats = all(types[name] == TensorProto.FLOAT for name in _data(node))
        leaves = graph.output_names.intersection(node.output)
        if node.op_type in MOVES and floats and readers and not leaves and all(id(n) in half for n in readers):
            half.add(id(node))
    return half


def _data(node: NodeProto) -> list[str]:
    """Return the inputs that hold what is computed with, not shapes or indices."""
    return [name for name in node.input[: _ACTIVATIONS.get(node.op_type)] if name]


def _is_bias(node: NodeProto, graph: Graph) -> bool:
    """Tell whether the node adds a parameter vector to the product of the same layer."""
    constants = [name for name in node.input if name in graph.constants]
    if node.op_type != "Add" or len(constants) != 1 or graph.constants[constants[0]].ndim != 1:
        return False
    producers = graph.producers()
    other = next(name for name in node.input if name not in graph.constants)
    return other in producers and producers[other].op_type in PRODUCTS


def _cast(graph: Graph, half: set[int]) -> None:
    """Give every node its inputs in its own type: constants are converted, the rest is cast, once per tensor."""
    types = graph.element_types()
    is_half = {name: id(node) in half for node in graph.nodes for name in node.output}
    shared = {name for node in graph.nodes if id(node) not in half for name in node.input if name in graph.constants}
    made: dict[str, NodeProto] = {}
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        wants = id(node) in half
        for i, name in enumerate(node.input):
            if types.get(name) != TensorProto.FLOAT or name not in _data(node):
                continue
            if name in graph.constants:
                if wants:
                    set_input(node, i, _half_constant(graph, name, keep=name in shared))
            elif is_half.get(name, False) != wants:
                set_input(node, i, _cast_of(name, wants, made, nodes))
        nodes.append(node)
        for i, name in enumerate(node.output):
            if wants and name in graph.output_names:  # an output keeps its name and is float32
                inner = f"{name}/fp16"
                node.output[i] = inner
                nodes.append(helper.make_node("Cast", [inner], [name], f"{name}/Cast", to=TensorProto.FLOAT))
                is_half[name] = False
    graph.nodes = nodes


def _store_in_half(graph: Graph) -> None:
    """Store weights of FP32 products as FP16 constants and a cast; those that FP16 cannot hold stay as they are.

    Biases stay: they are small, and added to a sum in FP32.
    """
    nodes: list[NodeProto] = []
    made: dict[str, str] = {}
    for node in graph.nodes:
        name = node.input[1] if node.op_type in PRODUCTS else ""
        value = graph.constants.get(name)
        if value is not None and value.dtype == np.float32 and value.size >= _STORED and _fits(value):
            if name not in made:
                made[name] = f"{name}/fp32"
                source = _half_constant(graph, name, keep=True)
                nodes.append(helper.make_node("Cast", [source], [made[name]], f"{name}/Cast", to=TensorProto.FLOAT))
            set_input(node, 1, made[name])
        nodes.append(node)
    graph.nodes = nodes


def _separate_weights(graph: Graph) -> None:
    """Give every FP16 product weights of its own.

    ONNX Runtime's CPU provider computes in FP32: it converts weights once, when it loads them, but those that several
    products share in every run, and convolutions with such weights do not take its fast layout.
    """
    uses: Counter[str] = Counter()
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            if i == 0 or node.op_type not in PRODUCTS or name not in graph.constants:
                continue
            uses[name] += 1
            if uses[name] > 1 and graph.constants[name].dtype == np.float16:
                own = f"{name}/{uses[name]}"
                graph.constants[own] = graph.constants[name]
                set_input(node, i, own)


def _cast_of(name: str, to_half: bool, made: dict[str, NodeProto], nodes: list[NodeProto]) -> str:
    """Return the name of the cast of a tensor, which is made where it is first needed."""
    kind, element = ("fp16", TensorProto.FLOAT16) if to_half else ("fp32", TensorProto.FLOAT)
    if name not in made:
        made[name] = helper.make_node("Cast", [name], [f"{name}/{kind}"], f"{name}/Cast", to=element)
        nodes.append(made[name])
    return made[name].output[0]


def _fits(value: np.ndarray[Any, Any]) -> bool:
    """Tell whether FP16 holds all values; False for NaN too."""
    return bool(np.abs(value).max(initial=0.0) <= _HALF_MAX)


def _half_constant(graph: Graph, name: str, keep: bool) -> str:
    """Return the name of the FP16 values of a constant; another name if FP32 nodes read it too."""
    target = f"{name}/fp16" if keep else name
    value = graph.constants[name]
    if value.dtype == np.float16 or (keep and target in graph.constants):
        return target
    if not _fits(value):
        largest = float(np.abs(value).max())
        raise InputError(
            f"{graph.name}: {name} holds {largest:g}, FP16 ends at {_HALF_MAX:g}: export it with --precision fp32"
        )
    graph.constants[target] = value.astype(np.float16)
    return target
