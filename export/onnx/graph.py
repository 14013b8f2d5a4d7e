"""Holds an ONNX graph that can be edited: nodes in topological order, constants as arrays by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

import coop_edge

OPSET = 18
_IR_VERSION = 8  # what opset 18 came with: older readers take it too


class Graph:
    """A copy of a model without subgraphs; its ``Constant`` nodes become constants."""

    def __init__(self, model: ModelProto) -> None:
        self.name = model.graph.name
        self.inputs: list[ValueInfoProto] = list(model.graph.input)
        self.outputs: list[ValueInfoProto] = list(model.graph.output)
        self.constants: dict[str, np.ndarray] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.nodes: list[NodeProto] = []
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(attribute(node, "value"))
            else:
                self.nodes.append(NodeProto.FromString(node.SerializeToString()))

    def model(self) -> ModelProto:
        """Return the model, with constants as initialisers in the order of their first use."""
        used = dict.fromkeys(name for node in self.nodes for name in node.input if name in self.constants)
        used |= dict.fromkeys(v.name for v in self.outputs if v.name in self.constants)
        tensors = [numpy_helper.from_array(np.asarray(self.constants[n], order="C"), n) for n in used]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, tensors)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="coop_edge")
        model.producer_version = coop_edge.__version__
        return model

    @property
    def output_names(self) -> set[str]:
        return {v.name for v in self.outputs}

    def producers(self) -> dict[str, NodeProto]:
        """Return the node that makes each tensor; inputs and constants have none."""
        return {name: node for node in self.nodes for name in node.output if name}

    def consumers(self) -> dict[str, list[NodeProto]]:
        """Return the nodes that read each tensor."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    found.setdefault(name, []).append(node)
        return found

    def bypass(self, node: NodeProto) -> None:
        """Take out a node whose first output equals its first input. The names of the graph's outputs stay."""
        source, target = node.input[0], node.output[0]
        producer = self.producers().get(source)
        if target in self.output_names:
            if producer is None or source in self.output_names:
                return  # an output has to be made by some node
            _rename(producer.output, source, target)
            source, target = target, source
        for other in self.nodes:
            if other is not node:
                _rename(other.input, target, source)
        self.nodes = [n for n in self.nodes if n is not node]

    def prune(self) -> None:
        """Drop nodes and constants that no output needs."""
        needed = set(self.output_names)
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}

    def rename(self) -> None:
        """Name nodes /module/path/Operator, tensors after their node, constants after their first reader.

        Parameters keep theirs, as do inputs and outputs. Equal constants that are no parameters become one.
        """
        names: dict[str, str] = {}
        count: Counter[str] = Counter()
        kept = self.output_names | {v.name for v in self.inputs}
        known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        constants: dict[str, np.ndarray] = {}
        for node in self.nodes:
            path = "/" + "/".join(part for part in node.name.split("/")[:-1] if part)
            base = f"{path.rstrip('/')}/{node.op_type}"
            node.name = f"{base}_{count[base]}" if count[base] else base
            count[base] += 1
            for i, name in enumerate(node.input):
                if name in self.constants and name not in names:
                    value = self.constants[name]
                    key = (value.dtype.str, value.shape, value.tobytes())
                    own = name if _is_parameter(name) else known.setdefault(key, f"{node.name}/constant_{i}")
                    names[name] = own
                    constants[own] = value
                node.input[i] = names.get(name, name)
            for i, name in enumerate(node.output):
                if name and name not in kept:
                    names[name] = f"{node.name}/output_{i}" if i else f"{node.name}/output"
                    node.output[i] = names[name]
        self.constants = constants | {n: v for n, v in self.constants.items() if n in kept}

    def element_types(self) -> dict[str, int]:
        """Infer the ``TensorProto`` element type of every tensor, strictly."""
        model = onnx.shape_inference.infer_shapes(self.model(), check_type=True, strict_mode=True)
        types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in self.constants.items()}
        return types | {v.name: v.type.tensor_type.elem_type for v in tensors_of(model)}


def tensors_of(model: ModelProto) -> Iterator[ValueInfoProto]:
    """Return what the model records of its inputs, of the tensors between its nodes, and of its outputs."""
    yield from model.graph.input
    yield from model.graph.value_info
    yield from model.graph.output


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of an attribute of a node."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def set_input(node: NodeProto, index: int, name: str) -> None:
    """Set an input by position; inputs between that are not there are empty, ones behind it stay."""
    while len(node.input) <= index:
        node.input.append("")
    node.input[index] = name


def _is_parameter(name: str) -> bool:
    """Whether a constant is named as in the network's state dict; the tracer's own names hold a slash or a colon."""
    return "/" not in name and ":" not in name


def _rename(names: Any, old: str, new: str) -> None:
    for i, name in enumerate(names):
        if name == old:
            names[i] = new
