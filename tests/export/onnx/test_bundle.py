"""Checkpoints become one whole bundle, or nothing: targets that exist, failures on the way."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from coop_edge.errors import BundleError, InputError
from coop_edge.runtime.bundle import MANIFEST, Bundle
from coop_edge.runtime.onnx import OnnxRunner
from export.cli import main as cli
from export.networks import CONFIGS
from export.onnx import bundle as onnx
from export.onnx.bundle import export_bundle
from export.onnx.graph import Graph
from export.train import run
from export.train.checkpoint import load_network, save_network
from export.verify import bundle as verify
from tests.export.onnx.checkpoints import NETS, PROVENANCE, save
from tests.export.small_graphs import feed_of, small_model, small_net, torch_outputs
from tests.export.small_nets import Repeated
from tests.export.train.runs import QUICK


@pytest.fixture
def traced_once(monkeypatch):
    """Graphs of these networks that another test has made already, for tests of what happens to them."""

    def graph(net, role):
        return Graph(small_model(NETS[net.role], role))

    monkeypatch.setattr(onnx, "trace", graph)


@pytest.fixture(scope="module")
def finished(checkpoints, tmp_path_factory):
    """A bundle that was written with a verification."""
    out = tmp_path_factory.mktemp("engines") / "tiny"
    seen = []

    def check(folder):
        seen.append(Bundle.load(folder))  # whole already, under another name
        assert not out.exists()
        return {"verdict": "passed", "files": sorted(p.name for p in folder.iterdir())}

    bundle = export_bundle([checkpoints], "tiny", "fp16", out, version="0.3", verify=check)
    assert len(seen) == 1
    return bundle


def test_the_bundle_says_what_it_is(finished, checkpoints):
    assert finished == Bundle.load(finished.folder)
    assert list(finished.networks) == ["coarse_encoder", "coarse_decoder", "refiner"]
    assert {n.precision for n in finished.networks.values()} == {"fp16"}
    assert (finished.name, finished.version, finished.licence) == ("tiny", "0.3", "Apache-2.0")
    assert (finished.input_size, finished.patch_size, finished.dim, finished.stride) == (64, 16, 16, 4)
    assert finished.radius_px == 0.5
    assert finished.verification == {
        "verdict": "passed",
        "files": [
            MANIFEST,
            "coarse.safetensors",
            "coarse_decoder.onnx",
            "coarse_encoder.onnx",
            "refiner.onnx",
            "refiner.safetensors",
        ],
    }
    for role in ("coarse", "refiner"):
        training = finished.training[role]
        assert (training["data"], training["samples"], training["commit"]) == ("procedural objects", 112, "0.1 abc")
        assert CONFIGS[role].from_dict(training["network"]) == small_net(NETS[role]).config
    assert sorted(p.name for p in finished.folder.parent.iterdir()) == ["tiny"]


def test_the_runtime_runs_it(finished):
    for role, variant in (("coarse_encoder", "hybrid"), ("refiner", "laplace")):
        feed = feed_of(variant, role, 2)
        with OnnxRunner(finished.network(role), threads=1) as runner:
            given = runner.run(feed)
        for array, wanted in zip(given.values(), torch_outputs(variant, role, feed), strict=True):
            assert abs(array - wanted).max() < 0.02 * abs(wanted).max()


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_its_weights_start_a_training_run(finished, tmp_path, role):
    """They are those of the checkpoint, in FP16; training from the bundle's folder begins with them."""
    net, info = load_network(finished.folder / f"{role}.safetensors", role)
    given = small_net(NETS[role]).state_dict()
    assert info.provenance == PROVENANCE
    for name, value in net.state_dict().items():
        assert torch.equal(value, given[name].half().to(value.dtype) if value.is_floating_point() else given[name])
    options = replace(QUICK, max_steps=3, learning_rate=1e-9, warmup=0.0)
    run.start(role, options, info.config, tmp_path, finished.folder, Repeated)
    trained, _ = load_network(tmp_path / f"{role}.safetensors")
    for name, value in trained.named_parameters():
        torch.testing.assert_close(value, net.get_parameter(name), atol=1e-7, rtol=0)


def test_files_may_be_named(tmp_path):
    save(tmp_path, *NETS)
    files = [tmp_path / f"{role}.safetensors" for role in ("refiner", "coarse")]
    bundle = export_bundle(files, "tiny", "fp32", tmp_path / "out", licence="CC0-1.0")
    assert list(bundle.networks) == ["coarse_encoder", "coarse_decoder", "refiner"]
    assert bundle.licence == "CC0-1.0"
    assert not bundle.verification


def fails(folder):
    assert (folder / MANIFEST).is_file()
    raise BundleError("0.4 px: not good enough")


@pytest.mark.usefixtures("traced_once")
def test_a_bundle_that_fails_its_verification_is_not_written(checkpoints, tmp_path):
    with pytest.raises(BundleError, match="not good enough"):
        export_bundle([checkpoints], "tiny", "fp32", tmp_path / "tiny", verify=fails)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"name": "Not A Name"}, {"licence": " "}, {"version": "-"}])
def test_a_manifest_that_would_not_load_is_refused_before_the_work(options, checkpoints, tmp_path):
    values = {"name": "tiny", **options}
    seen = []
    with pytest.raises(BundleError, match=f"{next(iter(options))}: wanted "):
        export_bundle([checkpoints], values.pop("name"), "fp32", tmp_path / "tiny", progress=seen.append, **values)
    assert not seen
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_numbers_are_named(tmp_path):
    save(tmp_path / "in", "coarse", "refiner")
    state = {k: v.clone() for k, v in small_net("laplace").state_dict().items()}
    state["dpt.head.2.bias"][0] = float("inf")
    save_network(tmp_path / "in/refiner.safetensors", small_net("laplace"), PROVENANCE, state)
    with pytest.raises(BundleError, match=r"refiner: dpt\.head\.2\.bias holds NaN or infinity"):
        export_bundle([tmp_path / "in"], "tiny", "fp16", tmp_path / "out/tiny")
    assert not list((tmp_path / "out").iterdir())


def test_an_unknown_precision_is_refused(checkpoints, tmp_path):
    with pytest.raises(InputError, match="precision: wanted one of fp32, fp16, got 'int8'"):
        export_bundle([checkpoints], "tiny", "int8", tmp_path / "tiny")


@pytest.fixture
def target(finished, tmp_path):
    """A bundle with a note and a plan."""
    folder = Path(shutil.copytree(finished.folder, tmp_path / "engines/tiny"))
    (folder / "README.md").write_text("a card")
    (folder / "refiner-0-trt10-sm87.plan").write_bytes(b"old")
    return folder


def test_a_bundle_that_is_there_stays_without_force(target, checkpoints):
    before = (target / MANIFEST).read_bytes()
    with pytest.raises(InputError, match="tiny exists; give --force"):
        export_bundle([checkpoints], "other", "fp32", target)
    assert (target / MANIFEST).read_bytes() == before


@pytest.mark.usefixtures("traced_once")
def test_force_replaces_the_bundle_and_keeps_its_notes(target, checkpoints):
    bundle = export_bundle([checkpoints], "other", "fp32", target, force=True)
    assert bundle.name == "other"
    assert sorted(p.name for p in target.iterdir()) == [
        "README.md", MANIFEST, "coarse.safetensors", "coarse_decoder.onnx", "coarse_encoder.onnx", "refiner.onnx",
        "refiner.safetensors",
    ]  # fmt: skip
    assert [p.name for p in target.parent.iterdir()] == ["tiny"]


@pytest.mark.usefixtures("traced_once")
def test_the_old_bundle_survives_a_failure(target, checkpoints, monkeypatch):
    with pytest.raises(BundleError, match="not good enough"):
        export_bundle([checkpoints], "other", "fp32", target, force=True, verify=fails)
    assert Bundle.load(target).name == "tiny"

    rename = Path.rename

    def refuse(self, to):
        if self.suffix == ".tmp" and self.is_dir():
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr("export.onnx.bundle.exchange", lambda *_: False)  # as where names cannot be swapped
    with pytest.raises(OSError, match="Input/output"):
        export_bundle([checkpoints], "other", "fp32", target, force=True)
    assert Bundle.load(target).name == "tiny"
    assert (target / "README.md").is_file()
    assert [p.name for p in target.parent.iterdir()] == ["tiny"]


def test_force_replaces_nothing_but_bundles(target, checkpoints, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="photos is not a bundle"):
        export_bundle([checkpoints], "tiny", "fp32", tmp_path / "photos", force=True)
    (target / "mine").mkdir()
    with pytest.raises(InputError, match=r"holds folders \(mine\)"):
        export_bundle([checkpoints], "tiny", "fp32", target, force=True)
    assert (tmp_path / "photos/a.jpg").is_file()
    assert (target / "mine").is_dir()


def test_a_kill_in_the_middle_leaves_no_bundle(checkpoints, tmp_path):
    script = (
        "import os, signal, sys; from export.onnx.bundle import export_bundle\n"
        "die = lambda role: os.kill(os.getpid(), signal.SIGKILL) if role == 'refiner' else None\n"
        "export_bundle([sys.argv[1]], 'tiny', 'fp32', sys.argv[2], progress=die)"
    )
    out = tmp_path / "tiny"
    done = subprocess.run([sys.executable, "-c", script, str(checkpoints), str(out)], cwd=Path(__file__).parents[3])
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert not list(tmp_path.glob(f"**/{MANIFEST}"))
    assert export_bundle([checkpoints], "tiny", "fp32", out).folder == out


@pytest.mark.usefixtures("traced_once")
class TestCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(cli.app, ["onnx", *map(str, arguments)])

    def test_it_writes_and_verifies(self, checkpoints, tmp_path, monkeypatch):
        seen = []

        def passes(folder, given, **options):
            seen.append((folder, given, options))
            return {"verdict": "passed", "outputs": [], "poses": [], "engines_not_compared": {}}

        monkeypatch.setattr(verify, "verify_bundle", passes)
        done = self.invoke("--checkpoint", checkpoints, "--name", "tiny", "--precision", "fp16", "-o", tmp_path / "x")
        assert done.exit_code == 0, done.output
        assert Bundle.load(tmp_path / "x").verification["verdict"] == "passed"
        ((folder, given, options),) = seen
        assert (folder.parent, given, options) == (tmp_path, [checkpoints], {"allow_few_poses": False})
        assert "refiner" in done.output
        assert f"python -m export features {tmp_path / 'x'} adds them" in done.output.replace("\n", " ")

    def test_a_bound_that_fails_is_exit_code_1(self, checkpoints, tmp_path, monkeypatch):
        report = {"outputs": [], "poses": [], "engines_not_compared": {}}

        def misses(*_, **__):
            raise verify.VerificationError("tokens differ by 0.1", report)

        monkeypatch.setattr(verify, "verify_bundle", misses)
        done = self.invoke("--checkpoint", checkpoints, "--name", "tiny", "-o", tmp_path / "x")
        assert done.exit_code == 1
        assert "tokens differ by 0.1; nothing was written" in " ".join(done.output.split())
        assert not list(tmp_path.iterdir())

    def test_wrong_use_is_exit_code_2(self, checkpoints, tmp_path):
        file = checkpoints / "coarse.safetensors"
        done = self.invoke("--checkpoint", file, "--name", "tiny", "-o", tmp_path / "x")
        assert done.exit_code == 2
        assert "InputError: no refiner checkpoint" in " ".join(done.output.split())
