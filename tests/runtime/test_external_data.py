"""Graphs whose weights lie in other files are refused; a pipe in place of a file is no reason to wait."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from coop_edge.errors import BundleError
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.external_data import has_external_data
from coop_edge.runtime.network import MANIFEST, read_graph, sha256_of
from tests.runtime.networks import tiny_bundle, tiny_model


def _external(tensor: TensorProto) -> TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    return tensor


def _weights() -> TensorProto:
    return numpy_helper.from_array(np.ones(4, np.float32), "w")


def _model(*, initializers=(), nodes=(), functions=()) -> bytes:
    graph = helper.make_graph(list(nodes), "g", [], [], list(initializers))
    return helper.make_model(graph, functions=list(functions)).SerializeToString()


def _constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def _branch(tensor: TensorProto) -> onnx.NodeProto:
    inner = helper.make_graph([_constant(tensor)], "then", [], [])
    return helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)


def _sparse(tensor: TensorProto) -> bytes:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return model.SerializeToString()


def _function(tensor: TensorProto) -> onnx.FunctionProto:
    return helper.make_function("d", "f", [], ["c"], [_constant(tensor)], [helper.make_opsetid("", 17)])


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "sparse", "function"])
def test_every_place_of_a_tensor_is_looked_at(where, external):
    tensor = _external(_weights()) if external else _weights()
    data = {
        "initializer": lambda: _model(initializers=[_weights(), tensor]),
        "constant": lambda: _model(nodes=[_constant(tensor)]),
        "branch": lambda: _model(nodes=[_branch(tensor)]),
        "sparse": lambda: _sparse(tensor),
        "function": lambda: _model(functions=[_function(tensor)]),
    }[where]()
    assert has_external_data(data) is external


@pytest.mark.parametrize("role", ["coarse_encoder", "coarse_decoder", "refiner", "features"])
def test_ordinary_graphs_have_none(role):
    assert has_external_data(tiny_model(role).SerializeToString()) is False


def test_damaged_graphs():
    data = _model(initializers=[_weights()])
    rng = np.random.default_rng(0)
    for _ in range(2000):
        changed = bytearray(data[: int(rng.integers(1, len(data) + 1))])
        changed[int(rng.integers(0, len(changed)))] = int(rng.integers(0, 256))
        with contextlib.suppress(BundleError):
            has_external_data(bytes(changed))


def test_a_bundle_with_external_weights_is_refused(tmp_path):
    folder = tiny_bundle(tmp_path / "tiny")
    path = folder / "refiner.onnx"
    model = onnx.load(path)
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, path)
    text = (folder / MANIFEST).read_text()
    old = Bundle.load(folder, check_hashes=False).network("refiner").sha256
    (folder / MANIFEST).write_text(text.replace(old, sha256_of(path)))
    network = Bundle.load(folder).network("refiner")
    with pytest.raises(BundleError, match=r"refiner\.onnx: keeps weights in another file \(ONNX external data\)"):
        read_graph(network)


@pytest.mark.parametrize("name", [MANIFEST, "refiner.onnx"])
def test_a_pipe_in_place_of_a_file(name, tmp_path):
    folder = shutil.copytree(tiny_bundle(tmp_path / "a"), tmp_path / "b")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    found: list[BaseException] = []

    def run() -> None:
        try:
            Bundle.load(folder)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert found, "hangs"
    assert isinstance(found[0], BundleError)
