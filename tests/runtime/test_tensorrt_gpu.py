"""The same on a GPU with whatever TensorRT is installed: built, verified, run, with and without CUDA graphs."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import EngineError
from coop_edge.runtime.build import BuildOptions, build_plans
from coop_edge.runtime.bundle import ROLES, Bundle
from coop_edge.runtime.onnx import OnnxRunner
from coop_edge.runtime.plan_check import judge, sample_feed
from coop_edge.runtime.tensorrt import TensorRtRunner
from coop_edge.runtime.tensorrt_api import MODULES
from tests.runtime.networks import tiny_bundle

pytestmark = pytest.mark.gpu


@pytest.fixture(params=MODULES)
def built(request, tmp_path, monkeypatch):
    pytest.importorskip(request.param)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = Bundle.load(tiny_bundle(tmp_path / "tiny"))
    options = BuildOptions(max_batch=dict.fromkeys(ROLES, 4))
    return bundle, {plan.role: plan for plan in build_plans(bundle, options=options, engine=request.param)}


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_computes_what_onnx_runtime_computes(built, cuda_graph):
    import cupy

    bundle, plans = built
    for role, plan in plans.items():
        network = bundle.network(role)
        with TensorRtRunner(plan.path, network, cuda_graph=cuda_graph) as runner, OnnxRunner(network) as reference:
            stream = cupy.cuda.Stream(non_blocking=True)
            for batch in (0, 1, 4, 2, 4, 1):
                feed = sample_feed(bundle, role, samples=batch or 1, seed=batch)
                feed = {name: array[:batch] for name, array in feed.items()}
                wanted = reference.run(feed)
                with stream:
                    given = {name: cupy.asarray(array) for name, array in feed.items()}
                    found = {name: cupy.asnumpy(array) for name, array in runner.run(given, stream).items()}
                assert {name: array.shape for name, array in found.items()} == {n: a.shape for n, a in wanted.items()}
                if batch:
                    assert judge(wanted, found, "fp32")[1] == []


def test_a_damaged_plan_never_reaches_tensorrt(built):
    bundle, plans = built
    path = plans["refiner"].path
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(EngineError, match="damaged"):
        TensorRtRunner(path, bundle.network("refiner")).open()


def test_feeds_of_a_slice_are_read_right(built):
    import cupy

    bundle, plans = built
    feed = sample_feed(bundle, "features", samples=4)
    with TensorRtRunner(plans["features"].path, bundle.network("features")) as runner:
        whole = {name: cupy.asarray(array) for name, array in feed.items()}
        maps = cupy.asnumpy(runner.run(whole)["s16"])
        part = cupy.asnumpy(runner.run({name: array[1::2] for name, array in whole.items()})["s16"])
    np.testing.assert_allclose(part, maps[1::2], rtol=1e-3, atol=1e-3)
