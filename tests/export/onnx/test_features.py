"""Frozen features become a role of a bundle that is there; whatever happens on the way, the bundle is sound."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from typer.testing import CliRunner

from coop_edge.errors import BundleError, ConfigError
from coop_edge.runtime.bundle import MANIFEST, Bundle, available
from coop_edge.runtime.onnx import OnnxRunner
from export.cli.main import app
from export.networks import FeaturesNet, FeaturesNetConfig, efficientnet
from export.networks.efficientnet import SHA256, SOURCE
from export.onnx.checks import checked
from export.onnx.features import add_features
from export.verify import outputs
from export.verify.features import cosine
from tests.export.lite0 import random_state, unfolded
from tests.export.small_graphs import pictures, types_of
from tests.runtime.networks import tiny_bundle

SIZE = 32


def passes(bundle, net):
    return {"verdict": "passed"}


@pytest.fixture
def folder(tmp_path):
    """A bundle without features."""
    return tiny_bundle(tmp_path / "tiny", features=False)


def graphs(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("fp16", 1e-2)])
def test_the_graph_computes_the_published_network(folder, precision, bound):
    before = Bundle.load(folder)
    bundle = add_features(folder, random_state(), precision, passes, version="7.1")
    assert bundle == Bundle.load(folder)
    image = pictures(3, SIZE)
    with OnnxRunner(bundle.network("features"), threads=1) as runner:
        found = runner.run({"image": image})
        assert runner.run({"image": image[:0]})["s16"].shape == (0, 112, 2, 2)
        alone = runner.run({"image": image[1:2]})
    for (name, maps), wanted in zip(found.items(), unfolded(random_state(), torch.from_numpy(image)), strict=True):
        assert np.abs(maps - wanted.numpy()).max() < bound * wanted.abs().max()
        np.testing.assert_allclose(alone[name], maps[1:2], rtol=1e-4, atol=1e-5)
    assert (bundle.version, bundle.network("features").precision) == ("7.1", precision)
    assert {**bundle.networks} == {**before.networks, "features": bundle.network("features")}
    assert bundle.training == {**before.training, "features": {**SOURCE, "network": {"image_size": SIZE}}}
    assert bundle.verification == {"features": {"verdict": "passed"}}


def test_fp16_is_of_the_weights_alone(folder):
    path = add_features(folder, random_state(), "fp16", passes).network("features").path
    model = onnx.load(path)
    types = types_of(model)
    assert {types[node.output[0]] for node in model.graph.node} == {TensorProto.FLOAT}
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    large = [array for array in weights.values() if array.size >= 1024]
    assert len(large) > 20
    assert {array.dtype for array in large} == {np.dtype(np.float16)}
    assert path.stat().st_size < 1.5e6


def test_an_fp32_graph_does_not_pass_for_fp16(folder):
    network = add_features(folder, random_state(), "fp32", passes).network("features")
    with pytest.raises(BundleError, match="features: an FP16 graph without a weight in FP16"):
        checked(onnx.load(network.path), "features", network.inputs, network.outputs, "fp16")


def test_a_second_time_replaces_the_role(folder):
    first = add_features(folder, random_state(0), "fp16", passes, version="2")
    same = add_features(folder, random_state(0), "fp16", passes)
    assert same == first  # the version stays
    names = [first.network("features").path.name]

    def sees_the_old_one(bundle, net):
        """Which is whole until the new one stands."""
        assert Bundle.load(folder).network("features").path.name == names[-1] != bundle.network("features").path.name
        return {}

    for seed in (1, 2):
        names.append(add_features(folder, random_state(seed), "fp16", sees_the_old_one).network("features").path.name)
        assert graphs(folder) == sorted(["coarse_decoder.onnx", "coarse_encoder.onnx", names[-1], "refiner.onnx"])
    assert names == ["features.onnx", names[1], "features.onnx"]
    assert names[1].startswith("features-")


def test_the_features_of_another_maker_are_replaced_too(tmp_path):
    folder = tiny_bundle(tmp_path / "tiny", features=True)
    before = Bundle.load(folder).network("features")
    after = add_features(folder, random_state(), "fp32", passes).network("features")
    assert after.sha256 != before.sha256
    assert not before.path.exists()


@pytest.mark.parametrize("features", [False, True])
def test_a_report_that_fails_leaves_the_bundle_as_it_was(features, tmp_path):
    folder = tiny_bundle(tmp_path / "tiny", features=features)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fails(bundle, net):
        assert bundle.network("features").path.is_file()
        raise BundleError("not good enough")

    with pytest.raises(BundleError, match="not good enough"):
        add_features(folder, random_state(), "fp16", fails)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("features", [False, True])
def test_a_kill_between_graph_and_manifest_leaves_the_old_bundle(features, tmp_path):
    folder = tiny_bundle(tmp_path / "tiny", features=features)
    before = Bundle.load(folder)
    script = (
        "import os, signal, sys; from export.onnx import features; from tests.export.lite0 import random_state\n"
        "features.write_manifest = lambda bundle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "features.add_features(sys.argv[1], random_state(), 'fp16', lambda *_: {})"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=Path(__file__).parents[3])
    assert done.returncode == -signal.SIGKILL
    assert len(graphs(folder)) == len(before.networks) + 1  # the new graph was there already
    assert Bundle.load(folder) == before
    again = add_features(folder, random_state(), "fp16", passes)
    assert again.network("features").sha256 != getattr(before.networks.get("features"), "sha256", "")
    assert len(graphs(folder)) == 4


def test_a_size_that_features_cannot_have_is_refused(tmp_path):
    folder = tiny_bundle(tmp_path / "tiny", input_size=40, features=False)
    with pytest.raises(ConfigError, match="image_size = 40: wanted a multiple of 16"):
        add_features(folder, random_state(), "fp16", passes)
    assert "features.onnx" not in graphs(folder)


@pytest.mark.parametrize("version", ["-", "a b"])
def test_a_version_that_is_none_is_refused(folder, version):
    with pytest.raises(BundleError, match="version: wanted 1 to 64 letters"):
        add_features(folder, random_state(), "fp16", passes, version=version)
    assert "features.onnx" not in graphs(folder)


class TestCommand:
    @pytest.fixture(autouse=True)
    def weights(self, monkeypatch):
        given = []
        monkeypatch.setattr(efficientnet, "efficientnet_lite0", lambda file: given.append(file) or random_state())
        return given

    def invoke(self, *arguments):
        return CliRunner().invoke(app, ["features", *map(str, arguments)], terminal_width=120)

    def test_it_adds_and_verifies(self, folder, weights, tmp_path):
        file = tmp_path / "w.pth"
        done = self.invoke(folder, "--weights", file, "--precision", "fp16", "--version", "0.4", "--threads", 1)
        assert done.exit_code == 0, done.output
        assert "features/s8" in done.output
        assert weights == [file]
        bundle = Bundle.load(folder)
        report = bundle.verification["features"]
        assert (bundle.version, report["verdict"]) == ("0.4", "passed")
        assert report["graph"] == bundle.network("features").sha256
        assert [row["output"] for row in report["outputs"]] == ["s4", "s8", "s16"]
        assert all(0 < row["relative"] < row["bound"] == 1e-2 for row in report["outputs"])
        assert all(0.9999 < row["least"] < 1 for row in report["cosines"])

    def test_a_bound_that_fails_is_exit_code_1(self, folder, monkeypatch):
        monkeypatch.setattr(outputs, "FP16_FEATURES_BOUND", 1e-7)
        before = (folder / MANIFEST).read_bytes()
        done = self.invoke(folder, "--precision", "fp16")
        assert done.exit_code == 1
        assert "features/s4 (fp16): relative difference" in done.output
        assert "the bundle is as it was" in " ".join(done.output.split())
        assert (folder / MANIFEST).read_bytes() == before
        assert "features.onnx" not in graphs(folder)

    def test_wrong_use_is_exit_code_2(self, tmp_path):
        done = self.invoke(tmp_path / "nowhere")
        assert (done.exit_code, "no such folder" in done.output) == (2, True)


@pytest.mark.parametrize("folder", [f for f in available() if (f / "features.onnx").is_file()], ids=lambda f: f.name)
def test_the_features_of_a_bundle_that_is_here_are_those_of_its_weights_in_pytorch(folder):
    bundle = Bundle.load(folder)
    network, size = bundle.network("features"), bundle.input_size
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(network.path).graph.initializer}
    state = {name.removesuffix("/fp16"): torch.from_numpy(array.astype(np.float32)) for name, array in weights.items()}
    net = FeaturesNet(FeaturesNetConfig(size)).eval()
    net.load_state_dict({name: state[name] for name in net.state_dict()})
    image = pictures(2, size)
    with OnnxRunner(network, threads=1) as runner:
        found = runner.run({"image": image})
    for name, wanted in net(torch.from_numpy(image))._asdict().items():
        assert np.abs(found[name] - wanted.numpy()).max() < 1e-4 * wanted.abs().max()
        assert cosine(found[name], wanted.numpy()).min() > 1 - 1e-6
    assert bundle.training["features"]["sha256"] == SHA256
    report = bundle.verification["features"]
    assert (report["verdict"], report["graph"]) == ("passed", network.sha256)
