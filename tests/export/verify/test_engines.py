"""The engines that run a bundle, and the reference that they are compared with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coop_edge.errors import InputError
from export.verify import engines as verify_engines
from export.verify.bundle import (
    compare,
)
from export.verify.engines import BATCH, Reference, find_engines, run_all
from tests.export.small_bundles import (
    SIZE,
    save_nets,
    small_net,
)


def test_checkpoints_of_other_sizes_are_refused(originals, files, tmp_path):
    for option, value in (("radius_px", 1.5), ("stride", 8)):
        (path,) = save_nets(tmp_path, [small_net("refiner", **{option: value})])
        with pytest.raises(InputError, match=rf"{option} = {value}, but bundle small says"):
            Reference.of(originals["fp32"], [files[0], path])


@pytest.mark.parametrize("count", [0, 1, BATCH + 1])
def test_runs_are_split_and_joined(count, originals, files):
    bundle = originals["fp32"]
    feed = {"image": np.random.default_rng(0).random((count, 3, SIZE, SIZE), dtype=np.float32)}
    reference = Reference.of(bundle, files)
    whole = reference.call("coarse_encoder")(torch.from_numpy(feed["image"])).detach().numpy()
    (engine,) = find_engines(bundle, 1).present
    with engine.runner("coarse_encoder") as runner:
        np.testing.assert_allclose(run_all(runner, feed)["tokens"], whole, atol=1e-4)
        runner.max_batch = 3
        np.testing.assert_allclose(run_all(runner, feed)["tokens"], whole, atol=1e-4)
    np.testing.assert_allclose(reference.run("coarse_encoder", feed)["tokens"], whole, atol=1e-5)


def test_engines_that_are_not_here_are_named_with_the_reason(originals, monkeypatch):
    monkeypatch.setattr(verify_engines, "probe_cuda", lambda: "there is no GPU in this box")
    engines = find_engines(originals["fp32"], 1)
    assert [engine.name for engine in engines.present] == ["ONNX Runtime, CPU"]
    assert engines.absent == dict.fromkeys(("ONNX Runtime, CUDA", "TensorRT"), "there is no GPU in this box")


def test_a_gpus_engines_are_compared_where_they_open(originals, files, pairs, monkeypatch):
    """The CUDA provider is stood in for by the CPU's; of TensorRT there is no plan."""
    from coop_edge.backend import Backend
    from coop_edge.errors import EngineError

    (cpu,) = find_engines(originals["fp32"], 1).present

    def runner(self, bundle, role, *, threads=0, engine="auto"):
        if engine == "tensorrt":
            raise EngineError("no plan for this GPU; coop-edge build small")
        return cpu.runner(role)

    monkeypatch.setattr(verify_engines, "probe_cuda", lambda: None)
    monkeypatch.setattr(Backend, "runner", runner, raising=False)
    engines = find_engines(originals["fp32"], 1)
    assert engines.absent == {"TensorRT": "no plan for this GPU; coop-edge build small"}
    outputs, poses = compare(originals["fp32"], Reference.of(originals["fp32"], files), engines.present, pairs)
    assert (
        {row.engine for row in outputs} == {row.engine for row in poses} == {"ONNX Runtime, CPU", "ONNX Runtime, CUDA"}
    )
