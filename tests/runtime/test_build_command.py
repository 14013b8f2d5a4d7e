"""The command ``coop-edge build``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coop_edge.cli.main import app
from tests.runtime.folders import entries


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(app, ["build", *map(str, arguments)])

    def test_builds_and_prints_json(self, own_bundle, trt):
        arguments = ("--role", "refiner", "--role", "features", "--max-batch", "6", "--max-batch", "refiner=9")
        result = self.run(own_bundle.folder, *arguments, "--opt-batch", "refiner=2", "--workspace", 99, "--json")
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert {plan["role"]: plan["batch"] for plan in report["plans"]} == {
            "refiner": [1, 2, 9],
            "features": [1, 6, 6],
        }
        assert ("set_memory_pool_limit", "WORKSPACE", 99 << 20) in trt.calls
        assert all(Path(plan["plan"]).is_file() and plan["verification"]["outputs"] for plan in report["plans"])
        assert json.loads(self.run(own_bundle.folder, *arguments[:4], "--json").stdout)["plans"][0]["reused"] is False

    def test_prints_a_table(self, own_bundle, trt):
        result = self.run(own_bundle.folder, "--role", "features")
        assert result.exit_code == 0
        assert "features-" in result.stdout
        assert "s4 0.0e+00" in result.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--role", "refinery"], "role: wanted one of"),
            (["--max-batch", "many"], "--max-batch: wanted N or ROLE=N, got 'many'"),
            (["--max-batch", "refiner=0"], "max_batch: wanted N >= 1"),
            (["--workspace", "0"], "--workspace"),
            (["--engine", "onnx"], "wanted one of the modules tensorrt, tensorrt_rtx"),
            (["--device", "3"], "device: wanted the index of a GPU"),
        ],
    )
    def test_wrong_use_is_one_line_and_exit_code_2(self, own_bundle, trt, arguments, message):
        result = self.run(own_bundle.folder, *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())

    @pytest.mark.parametrize(
        ("gone", "message"),
        [
            ("tensorrt", "BackendUnavailable: no TensorRT here (tensorrt: "),
            ("cupy", "BackendUnavailable: CUDA: `import cupy` failed: "),
        ],
    )
    def test_without_tensorrt_or_a_gpu_it_is_one_line_that_says_what_to_install(
        self, own_bundle, trt, monkeypatch, gone, message
    ):
        monkeypatch.setitem(sys.modules, gone, None)
        result = self.run(own_bundle.folder)
        assert (result.exit_code, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"error: {message}")
        assert "pip install " in line
        assert "coop-edge[" not in line  # it is on no index
        assert entries(own_bundle.folder) == set()

    def test_no_such_bundle(self, trt):
        result = self.run("no-such-bundle")
        assert result.exit_code == 2
        assert "BundleError" in result.stderr
