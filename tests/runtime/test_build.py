"""Plans from bundles: what is built, verified, kept and reused."""

from __future__ import annotations

import sys

import pytest

from coop_edge.errors import BackendUnavailable, BundleError, EngineError, InputError
from coop_edge.runtime.build import MAX_BATCH, OPT_BATCH, BuildOptions, build_plans
from coop_edge.runtime.bundle import ROLES
from coop_edge.runtime.plan import Target, plan_name
from coop_edge.runtime.plan_lookup import find_plan, read_plan
from coop_edge.runtime.tensorrt_api import load
from tests.runtime.fake_tensorrt import install
from tests.runtime.folders import entries

SHOWN = ["tensorrt-10.3.0", "tensorrt-11.4.0", "tensorrt_rtx-1.7.1"]
SMALL = BuildOptions(max_batch=dict.fromkeys(ROLES, 4))


@pytest.mark.parametrize("surface", SHOWN)
def test_builds_and_verifies_every_role(own_bundle, monkeypatch, surface):
    install(monkeypatch, surface, sm="87")
    target = Target.here(load())
    for built in build_plans(own_bundle, options=SMALL):
        network = own_bundle.network(built.role)
        assert built.path == find_plan(network, target) == own_bundle.folder / plan_name(network, target)
        assert read_plan(built.path, network, target).info == built.info
        assert not built.reused
        assert set(built.info.verification["outputs"]) == {spec.name for spec in network.outputs}
        assert max(built.info.verification["outputs"].values()) == 0.0, "the stand-in computes with ONNX Runtime itself"
        assert built.info.batch[2] == 4
    assert len(entries(own_bundle.folder)) == 8, "four plans, four sidecars, no lock and nothing temporary"


def test_the_second_time_it_takes_what_fits(own_bundle, trt):
    build_plans(own_bundle, roles=["refiner"], options=SMALL)
    calls = trt.count("build_serialized_network")
    (again,) = build_plans(own_bundle, roles=["refiner"], options=SMALL)
    assert again.reused
    assert trt.count("build_serialized_network") == calls
    for options in (
        BuildOptions(max_batch={"refiner": 5}),
        BuildOptions(max_batch={"refiner": 5}, opt_batch={"refiner": 2}),
        BuildOptions(max_batch={"refiner": 5}, workspace_mb=77),
        BuildOptions(max_batch={"refiner": 5}, workspace_mb=77, tf32=True),
        BuildOptions(max_batch={"refiner": 5}, workspace_mb=77, tf32=True, force=True),
    ):
        (built,) = build_plans(own_bundle, roles=["refiner"], options=options)
        assert not built.reused


def test_a_plan_that_was_built_elsewhere_is_built_again_and_verified(own_bundle, monkeypatch):
    install(monkeypatch, "tensorrt_rtx-1.7.1", sm="86")
    elsewhere = BuildOptions(max_batch={"refiner": 4}, sm="86")
    (built,) = build_plans(own_bundle, roles=["refiner"], options=elsewhere)
    assert built.info.verification["against"] is None
    (again,) = build_plans(own_bundle, roles=["refiner"], options=elsewhere)
    assert again.reused
    (here,) = build_plans(own_bundle, roles=["refiner"], options=SMALL)
    assert not here.reused
    assert here.info.verification["against"] == "onnxruntime"
    assert build_plans(own_bundle, roles=["refiner"], options=SMALL)[0].reused


def test_defaults_are_a_batch_of_every_role():
    for role in ROLES:
        low, best, high = BuildOptions().batch(role)
        assert low == 1 <= best == OPT_BATCH[role] <= high == MAX_BATCH[role]
    assert BuildOptions(max_batch={"refiner": 3}).batch("refiner") == (1, 3, 3), "the optimum follows the largest"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_batch": {"refiner": 0}}, r"max_batch: wanted N >= 1 for one of coarse_encoder.*, got refiner=0"),
        ({"max_batch": {"refinery": 1}}, r"got refinery=1"),
        ({"opt_batch": {"refiner": 2.0}}, r"opt_batch: .*got refiner=2\.0"),
        ({"workspace_mb": 0}, r"workspace_mb: wanted megabytes, at least 1, got 0"),
    ],
)
def test_options_are_checked(arguments, message):
    with pytest.raises(InputError, match=message):
        BuildOptions(**arguments)


def test_wrong_use_is_said_before_anything_is_built(own_bundle, trt):
    with pytest.raises(InputError, match=r"opt_batch: refiner=9 is above its max_batch, 4"):
        build_plans(own_bundle, options=BuildOptions(opt_batch={"refiner": 9}, max_batch={"refiner": 4}))
    with pytest.raises(InputError, match=r"role: wanted one of"):
        build_plans(own_bundle, roles=["refinery"])
    with pytest.raises(InputError, match=r"device: wanted the index of a GPU, 0 to 0, got 1"):
        build_plans(own_bundle, device=1)
    with pytest.raises(InputError, match=r"sm: TensorRT builds for the GPU it runs on, not for SM 86"):
        build_plans(own_bundle, options=BuildOptions(sm="86"))
    assert trt.count("Builder") == 0
    assert entries(own_bundle.folder) == set()


def test_no_roles_is_no_plans(own_bundle, trt):
    assert build_plans(own_bundle, roles=[]) == []


def test_a_plan_that_computes_something_else_is_not_kept(own_bundle, trt):
    trt.noise = 0.05
    with pytest.raises(
        EngineError, match=r"does not compute what its graph says: N = 1: flow: .*, wanted at most 0\.001 for fp32"
    ):
        build_plans(own_bundle, roles=["refiner"], options=SMALL)
    assert entries(own_bundle.folder) == set()
    trt.noise = float("nan")
    with pytest.raises(EngineError, match=r"flow: relative difference inf \(L2: inf\)"):
        build_plans(own_bundle, roles=["refiner"], options=SMALL)
    trt.noise = 0.0
    build_plans(own_bundle, roles=["refiner"], options=SMALL)


@pytest.mark.parametrize("call", ["parse", "build_serialized_network", "Builder", "deserialize_cuda_engine"])
def test_a_build_that_fails_leaves_nothing(own_bundle, trt, call):
    trt.fail.add(call)
    with pytest.raises(EngineError, match=r"^tiny/refiner: "):
        build_plans(own_bundle, roles=["refiner"], options=SMALL)
    assert entries(own_bundle.folder) == set()


def test_a_changed_graph_is_refused(own_bundle, trt):
    path = own_bundle.network("refiner").path
    data = path.read_bytes()
    path.unlink()  # a link to the other tests' file
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"refiner.onnx: not the file that bundle.json describes"):
        build_plans(own_bundle, roles=["refiner"], options=SMALL)


def test_the_timing_cache_is_kept_and_its_loss_is_no_error(own_bundle, trt, tmp_path, caplog):
    build_plans(own_bundle, roles=["refiner"], options=SMALL)
    kept = tmp_path / "cache" / "coop_edge" / "timing" / "trt11.4.0.106-sm86.cache"
    assert kept.read_bytes() == b"timings"
    build_plans(own_bundle, roles=["features"], options=SMALL)
    assert ("create_timing_cache", b"timings") in trt.calls
    blocked = BuildOptions(max_batch={"refiner": 4}, timing_cache=tmp_path / "tiny" / "bundle.json" / "x", force=True)
    build_plans(own_bundle, roles=["refiner"], options=blocked)
    assert "the timing cache cannot be read" in caplog.text
    assert "the timing cache cannot be written" in caplog.text


def test_without_tensorrt_it_says_so(own_bundle, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match="no TensorRT here"):
        build_plans(own_bundle)
