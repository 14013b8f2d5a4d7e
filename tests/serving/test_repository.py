"""Triton: the configuration against Triton's own schema, and the model on a stand-in for its Python backend."""

from __future__ import annotations

import importlib.util
import json
import sys
import types

import numpy as np
import pytest
from typer.testing import CliRunner

from coop_edge.cli.main import app
from coop_edge.errors import InputError
from coop_edge.serving.repository import INPUTS, OUTPUTS, write_repository
from tests.annotate.runs import setup_of

OBJECTS = [("cup", '/meshes/a "quoted" cup.ply', "mm", None)]


def write(folder, **options):
    defaults = {"engines": "coop-xs", "device": "cpu", "settings": ["effort=fast"], "objects": OBJECTS}
    return write_repository(folder, **{**defaults, "instances": 2, "threads": 1, **options})


@pytest.mark.parametrize(("device", "kind"), [("cpu", "KIND_CPU"), ("cuda", "KIND_GPU")])
def test_tritons_schema_reads_the_configuration(tmp_path, device, kind):
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed")
    from google.protobuf import text_format

    model = write(tmp_path, device=device)
    config = text_format.Parse((model / "config.pbtxt").read_text(), schema.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == (model.name, "python", 0)
    assert [(i.name, tuple(i.dims), i.optional) for i in config.input] == [(n, d, o) for n, _, d, o in INPUTS]
    assert [schema.DataType.Name(o.data_type) for o in config.output] == [kind_ for _, kind_, _ in OUTPUTS]
    (group,) = config.instance_group
    assert (group.count, schema.ModelInstanceGroup.Kind.Name(group.kind)) == (2, kind)
    assert json.loads(config.parameters["objects"].string_value) == [list(each) for each in OBJECTS]


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, np.asarray(array)

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


@pytest.fixture
def backend(monkeypatch):
    """Triton's module, as far as its documentation describes what the model calls."""
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor = Tensor
    module.TritonError = lambda text: text
    module.InferenceResponse = lambda tensors=(), error=None: types.SimpleNamespace(tensors=tensors, error=error)
    module.get_input_tensor_by_name = lambda request, name: request.get(name)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)


def request(**arrays):
    return {name: Tensor(name, array) for name, array in arrays.items() if array is not None}


def test_the_model_answers(backend, tmp_path):
    setup = setup_of(tmp_path)
    options = {"engines": setup.engines, "settings": list(setup.config), "objects": list(setup.objects)}
    model = write(tmp_path / "repository", **options)
    spec = importlib.util.spec_from_file_location("triton_model", model / "1/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    served = module.TritonPythonModel()
    parameters = {"engines": setup.engines, "device": "cpu", "settings": json.dumps(list(setup.config)), "threads": "1"}
    parameters["objects"] = json.dumps([list(each) for each in setup.objects])
    values = {key: {"string_value": value} for key, value in parameters.items()}
    served.initialize({"model_config": json.dumps({"parameters": values})})
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
    two = {"OBJECTS": np.array([b"cube", b"cube"], object), "BOXES": [[20, 10, 20, 20], [0, 0, 64, 48]]}
    none = {"OBJECTS": np.zeros(0, object), "BOXES": np.zeros((0, 4))}
    lens = {"DISTORTION": np.array([-0.1, 0.01, 0, 0]), "FISHEYE": np.array([False])}
    wrong = {"OBJECTS": np.array([b"cat"], object), "BOXES": [[1, 1, 5, 5]]}
    cases = [request(IMAGE=image, K=K, **two), request(IMAGE=image, K=K, **none)]
    cases += [request(IMAGE=image, K=K, **two, **lens), request(IMAGE=image, K=K, **wrong)]
    answers = served.execute(cases)
    served.finalize()
    for answer, count in zip(answers[:3], (2, 0, 2), strict=True):
        assert answer.error is None
        found = {tensor.name(): tensor.as_numpy() for tensor in answer.tensors}
        assert list(found) == [name for name, _, _ in OUTPUTS]
        assert found["T_CAMERA_OBJECT"].shape == (count, 4, 4)
        success = found["SUCCESS"]
        assert np.isnan(found["T_CAMERA_OBJECT"]).any(axis=(1, 2)).tolist() == (~success).tolist()
        assert [reason == b"" for reason in found["REASON"]] == success.tolist()
    assert "cat" in answers[3].error


def test_the_command(tmp_path):
    (tmp_path / "cup.ply").write_text("ply")
    options = ["serve-model", str(tmp_path / "models"), "--object", f"cup={tmp_path}/cup.ply:mm", "--effort", "fast"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "models/coop_edge/config.pbtxt").read_text()
    assert "effort=fast" in text
    assert f"{tmp_path}/cup.ply" in text
    assert (tmp_path / "models/coop_edge/1/model.py").is_file()
    assert CliRunner().invoke(app, options).exit_code == 0  # again, in its own place


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="at least one --object"):
        write(tmp_path, objects=[])
    (tmp_path / "coop_edge").mkdir()
    (tmp_path / "coop_edge/config.pbtxt").write_text("name: 'other'")
    with pytest.raises(InputError, match="holds a model of another program"):
        write(tmp_path)
