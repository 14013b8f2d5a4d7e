"""Tidies a traced graph: what depends on shapes alone becomes constant, and what does nothing goes.

The trace computes every shape, position and rotary table anew in each run, from ``Shape`` nodes: two thirds of its
nodes. Only the batch axis is dynamic, so nearly all of it is constant. Which tensors depend on shapes alone is read off
the graph; what they hold is found by running the graph at two batch sizes. What is the same at both becomes a constant;
what follows N is brought to a form in which N does not have to be known (0 or -1 in ``Reshape``, 1 in ``Expand``,
factors instead of sizes in ``Resize``). Standard operators stay standard operators. Batch normalisations become part
of the convolutions before them: in an FP16 graph they would stand between two casts, where no engine joins them. No
other weight changes. Zeros around a map become padding of the convolutions behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper

from coop_edge.errors import BundleError
from coop_edge.runtime.onnx_session import import_onnxruntime
from export.onnx.graph import Graph, attribute, set_input

PROBES = (2, 3)
"""Batch sizes at which the graph is run. Not 1: it would hide what is broadcast."""
_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Pow")
_Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Probe:
    """Results of a run at one batch size: values of tensors that depend on shapes alone, shapes of the others."""

    values: Mapping[str, np.ndarray]
    shapes: Mapping[str, _Shape]


def simplify(model: ModelProto) -> Graph:
    """Return the tidy graph of a traced model of standard operators, batch axis first in every input.

    Raises:
        BundleError: a shape depends on the batch in another way than along one axis.
    """
    graph = Graph(model)
    for node in [n for n in graph.nodes if n.op_type == "Identity"]:
        _inline(graph, node)
    graph.prune()
    _fold_normalisations(graph)
    derived = _shape_derived(graph)
    probes = _run(graph, derived)
    _fold(graph, derived, probes)
    _fix_shapes(graph, probes)
    _fill(graph, derived, probes)
    _drop_idle(graph, probes)
    _fold_padding(graph)
    graph.prune()
    return graph


def _inline(graph: Graph, node: NodeProto) -> None:
    """Give every name its own reference to its values: equal parameters come as one constant and identities."""
    source = node.input[0]
    if source in graph.constants and node.output[0] not in graph.output_names:
        graph.constants[node.output[0]] = graph.constants[source]
        graph.nodes = [n for n in graph.nodes if n is not node]
    else:
        graph.bypass(node)


def _fold_normalisations(graph: Graph) -> None:
    """Fold batch normalisation by fixed statistics (a factor and a summand per channel) into the convolution."""
    producers, consumers = graph.producers(), graph.consumers()
    for node in [n for n in graph.nodes if n.op_type == "BatchNormalization"]:
        source, target = node.input[0], node.output[0]
        conv = producers.get(source)
        if conv is None or conv.op_type != "Conv" or len(consumers[source]) > 1 or source in graph.output_names:
            continue
        scale, shift, mean, variance = (graph.constants[name].astype(np.float64) for name in node.input[1:5])
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        bias = graph.constants[conv.input[2]] if len(conv.input) > 2 else 0.0
        weight = graph.constants[conv.input[1]] * factor[:, None, None, None]
        graph.constants[f"{target}/weight"] = weight.astype(np.float32)
        graph.constants[f"{target}/bias"] = (shift + (bias - mean) * factor).astype(np.float32)
        set_input(conv, 1, f"{target}/weight")
        set_input(conv, 2, f"{target}/bias")
        graph.bypass(node)


def _fold_padding(graph: Graph) -> None:
    """Let convolutions pad with zeros themselves, each side by its own number: padding apart copies the whole map."""
    consumers = graph.consumers()
    for node in [n for n in graph.nodes if n.op_type == "Pad" and n.output[0] not in graph.output_names]:
        amounts = graph.constants.get(node.input[1])
        readers = consumers.get(node.output[0], [])
        plain = _adds_zeros(graph, node) and all(n.op_type == "Conv" and _pads(n) == {0} for n in readers)
        if amounts is None or not plain:
            continue
        before, after = np.split(amounts, 2)
        if before[:2].any() or after[:2].any() or amounts.min() < 0:  # along the batch or the channels, or cut off
            continue
        for conv in readers:
            kept = [a for a in conv.attribute if a.name not in ("pads", "auto_pad")]
            del conv.attribute[:]
            conv.attribute.extend([*kept, helper.make_attribute("pads", [*before[2:].tolist(), *after[2:].tolist()])])
        graph.bypass(node)


def _adds_zeros(graph: Graph, pad: NodeProto) -> bool:
    """Tell whether all axes are padded, with a constant that is 0 if it is given."""
    value, axes = [*pad.input[2:], "", ""][:2]
    zero = not value or (value in graph.constants and not graph.constants[value].any())
    return attribute(pad, "mode", b"constant") == b"constant" and zero and not axes


def _pads(conv: NodeProto) -> set[int]:
    """Return by how much a convolution pads; -1 where that depends on its input."""
    automatic = attribute(conv, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    return {-1} if automatic else set(attribute(conv, "pads", [0]))


def _shape_derived(graph: Graph) -> set[str]:
    """Return the names of the tensors that no input's values reach, constants not among them."""
    derived: set[str] = set()
    for node in graph.nodes:
        inputs = [name for name in node.input if name]
        if node.op_type in ("Shape", "Size") or all(name in derived or name in graph.constants for name in inputs):
            derived.update(name for name in node.output if name)
    return derived


def _run(graph: Graph, derived: set[str]) -> tuple[_Probe, _Probe]:
    """Run the graph on zeros at both batch sizes."""
    wanted = sorted(name for name in derived if name)
    tensors = [v.name for v in graph.inputs]
    tensors += [name for node in graph.nodes for name in node.output if name and name not in derived]
    model = graph.model()
    shape_of = {name: f"shape of {name}" for name in tensors}
    model.graph.node.extend(helper.make_node("Shape", [name], [shape]) for name, shape in shape_of.items())
    del model.graph.output[:]
    names = [*wanted, *shape_of.values()]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    probes = []
    for batch in PROBES:
        feed = {}
        for value in graph.inputs:
            sides = [d.dim_value for d in value.type.tensor_type.shape.dim[1:]]
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            feed[value.name] = np.zeros((batch, *sides), dtype)
        found = dict(zip(names, session.run(names, feed), strict=True))
        values = {name: np.asarray(found[name]) for name in wanted}
        shapes = {name: tuple(int(n) for n in found[shape_of[name]]) for name in tensors}
        shapes |= {name: value.shape for name, value in (values | graph.constants).items()}
        probes.append(_Probe(values, shapes))
    return probes[0], probes[1]


def _fold(graph: Graph, derived: set[str], probes: tuple[_Probe, _Probe]) -> None:
    """Make what is the same at both batch sizes constant, and drop its nodes."""
    first, second = (p.values for p in probes)
    same = {n for n in derived if first[n].shape == second[n].shape and np.array_equal(first[n], second[n])}
    names = _parameter_names(graph)
    for name in same - graph.output_names:
        graph.constants[name] = first[name]
    graph.nodes = [n for n in graph.nodes if not n.output or not set(n.output) <= same - graph.output_names]
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            if name in names and name in same:
                node.input[i] = names[name]
                graph.constants[names[name]] = graph.constants[name]


def _parameter_names(graph: Graph) -> dict[str, str]:
    """Let transposed weights keep the name of the parameter, where nothing else uses it."""
    consumers = graph.consumers()
    found = {}
    for node in graph.nodes:
        source = node.input[0] if node.input else ""
        if node.op_type == "Transpose" and source in graph.constants and len(consumers[source]) == 1:
            found[node.output[0]] = source
    return found


def _fix_shapes(graph: Graph, probes: tuple[_Probe, _Probe]) -> None:
    """Make the shapes of Reshape, Expand and Resize constant."""
    for node in graph.nodes:
        if node.op_type not in ("Reshape", "Expand", "Resize"):
            continue
        first, second = (p.shapes for p in probes)
        given = first[node.input[0]], second[node.input[0]]
        made = first[node.output[0]], second[node.output[0]]
        if node.op_type == "Resize":
            if len(node.input) > 3 and node.input[3]:
                factors = [1.0 if a != b else _factor(g, a) for g, a, b in zip(given[0], *made, strict=True)]
                _constant(graph, node, 2, np.array(factors, np.float32))
                del node.input[3:]
        elif node.op_type == "Reshape":
            _constant(graph, node, 1, _reshape_target(node, given, made))
        else:
            _constant(graph, node, 1, _expand_target(node, given, made))


def _constant(graph: Graph, node: NodeProto, index: int, value: np.ndarray) -> None:
    name = f"{node.output[0]}/{('input', 'shape', 'scales')[index]}"
    graph.constants[name] = value
    set_input(node, index, name)


def _reshape_target(node: NodeProto, given: tuple[_Shape, _Shape], made: tuple[_Shape, _Shape]) -> np.ndarray:
    target = []
    for i, (a, b) in enumerate(zip(*made, strict=True)):
        if a == b:
            target.append(a)
        elif i < len(given[0]) and (given[0][i], given[1][i]) == (a, b):
            target.append(0)  # taken from the input, whatever it is
        else:
            target.append(-1)
    if target.count(-1) > 1:
        raise BundleError(f"export: {node.name} follows the batch along more than one axis: {made[0]}, {made[1]}")
    return np.array(target, np.int64)


def _expand_target(node: NodeProto, given: tuple[_Shape, _Shape], made: tuple[_Shape, _Shape]) -> np.ndarray:
    rank = len(made[0])
    padded = [(1,) * (rank - len(g)) + g for g in given]
    target = []
    for i, (a, b) in enumerate(zip(*made, strict=True)):
        if a != b and (padded[0][i], padded[1][i]) != (a, b):
            raise BundleError(f"export: {node.name} repeats its input along the batch: {made[0]}, {made[1]}")
        target.append(a if a == b else 1)  # 1: the input's own
    return np.array(target, np.int64)


def _factor(given: int, made: int) -> float:
    """Return the factor by which ``floor(given * factor)`` is ``made`` in float32."""
    factor = np.float32(made / given)
    while int(np.floor(np.float32(given) * factor)) < made:
        factor = np.nextafter(factor, np.float32(np.inf))
    return float(factor)


def _fill(graph: Graph, derived: set[str], probes: tuple[_Probe, _Probe]) -> None:
    """Replace tensors of one value and N rows by a scalar where it is broadcast anyway, else by a ConstantOfShape."""
    needed = {name for node in graph.nodes if not derived.issuperset(node.output) for name in node.input}
    consumers = graph.consumers()
    for name in sorted((needed | graph.output_names) & derived - set(graph.constants)):
        first, second = (p.values[name] for p in probes)
        if first.size == 0 or not (first.flat[0] == first).all() or not (second == first.flat[0]).all():
            raise BundleError(f"export: {name} depends on the batch size; wanted a shape that is static but for N")
        readers = consumers.get(name, [])
        if name not in graph.output_names and all(_broadcasts(node, name, first.shape, probes[0]) for node in readers):
            graph.constants[name] = np.array(first.flat[0])
            graph.nodes = [n for n in graph.nodes if name not in n.output]
        else:
            _constant_of_shape(graph, name, first, second)


def _broadcasts(node: NodeProto, name: str, shape: _Shape, probe: _Probe) -> bool:
    """Tell whether the node gives the same with a scalar: another input has the whole shape already."""
    others = [probe.shapes[other] for other in node.input if other and other != name]
    return node.op_type in _BROADCASTING and shape in others and probe.shapes[node.output[0]] == shape


def _constant_of_shape(graph: Graph, name: str, first: np.ndarray, second: np.ndarray) -> None:
    """Make ``name`` from the first input's batch axis: Shape, Concat, ConstantOfShape."""
    if [i for i, (a, b) in enumerate(zip(first.shape, second.shape, strict=True)) if a != b] != [0]:
        raise BundleError(f"export: {name} follows the batch along another axis than the first: {first.shape}")
    if first.shape[0] != PROBES[0]:
        raise BundleError(f"export: {name} has {first.shape[0]} rows at N = {PROBES[0]}, wanted N")
    graph.nodes = [n for n in graph.nodes if name not in n.output]
    batch, sides, shape = f"{name}/batch", f"{name}/sides", f"{name}/shape"
    graph.constants[sides] = np.array(first.shape[1:], np.int64)
    value = helper.make_tensor("value", helper.np_dtype_to_tensor_dtype(first.dtype), [1], [first.flat[0]])
    graph.nodes[:0] = [
        helper.make_node("Shape", [graph.inputs[0].name], [batch], f"{name}/Shape", start=0, end=1),
        helper.make_node("Concat", [batch, sides], [shape], f"{name}/Concat", axis=0),
        helper.make_node("ConstantOfShape", [shape], [name], f"{name}/ConstantOfShape", value=value),
    ]


def _drop_idle(graph: Graph, probes: tuple[_Probe, _Probe]) -> None:
    """Take out casts to the type that is there, and reshapes and expansions to the shape that is there."""
    graph.prune()
    types = graph.element_types()
    for node in list(graph.nodes):
        if node.op_type == "Cast":
            idle = types[node.input[0]] == attribute(node, "to")
        elif node.op_type in ("Reshape", "Expand"):
            idle = all(p.shapes[node.input[0]] == p.shapes[node.output[0]] for p in probes)
        else:
            continue
        if idle:
            graph.bypass(node)
