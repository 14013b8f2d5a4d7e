"""Plans as files: names, where they are looked for, and that what does not fit is refused before it is deserialised."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from coop_edge.errors import BackendUnavailable, EngineError
from coop_edge.runtime import plan as plans
from coop_edge.runtime.base import TensorSpec
from coop_edge.runtime.network import Network
from coop_edge.runtime.plan import Target, plan_name, sidecar_of
from coop_edge.runtime.plan_lookup import check_sidecar, find_plan, no_plan, read_info, read_plan
from coop_edge.runtime.plan_store import write_plan
from coop_edge.runtime.tensorrt_api import load
from tests.runtime.fake_tensorrt import install
from tests.runtime.plans import made_up_plan

TARGET = Target("trt", "10.3.0", "87", gpu="Orin")
DATA = bytes(range(256)) * 20


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "coop_edge" / "plans" / "engines"


@pytest.fixture
def network(tmp_path):
    folder = tmp_path / "engines"
    folder.mkdir()
    image = (None, 3, 32, 32)
    inputs = (TensorSpec("query", image), TensorSpec("render", image))
    return Network("refiner", folder / "refiner.onnx", "ab12" * 16, "fp16", inputs, (TensorSpec("score", (None,)),))


def store(network, folder=None, target=TARGET, **changes):
    plan = made_up_plan(network, target, folder, data=DATA, **changes)
    write_plan(plan)
    return plan.path


def test_names_carry_what_a_plan_is_bound_to(network):
    assert plan_name(network, TARGET) == "refiner-ab12ab12-trt10.3.0-sm87.plan"
    rtx = Target("rtx", "1.7.1.116", "120")
    assert plan_name(network, rtx) == "refiner-ab12ab12-rtx1.7.1.116-sm120.plan"
    assert sidecar_of(Path("x/refiner-ab12ab12-trt10.3.0-sm87.plan")).name == "refiner-ab12ab12-trt10.3.0-sm87.json"


def test_the_sidecar_comes_back_as_it_was_written_and_the_plan_is_untouched(network):
    path, made_up = store(network), made_up_plan(network, TARGET, data=DATA)
    assert read_info(path, network) == check_sidecar(path, network, TARGET) == made_up.info
    assert read_plan(path, network, TARGET) == made_up
    assert path.read_bytes() == DATA
    assert sorted(entry.name for entry in path.parent.iterdir()) == [sidecar_of(path).name, path.name]


def test_looks_beside_the_graph_and_then_in_the_cache(network, cache):
    assert find_plan(network, TARGET) is None
    in_cache = store(network, cache)
    assert find_plan(network, TARGET) == in_cache
    beside = store(network)
    assert find_plan(network, TARGET) == beside
    sidecar_of(beside).unlink()
    assert find_plan(network, TARGET) == in_cache, "a plan without its sidecar does not count"
    store(network)
    beside.write_bytes(DATA[:-1])
    assert find_plan(network, TARGET) == in_cache, "a whole plan comes before a truncated one"
    sidecar_of(in_cache).unlink()
    assert find_plan(network, TARGET) == beside, "so that opening it can say what is wrong"


def test_the_command_that_rebuilds_survives_a_shell(network):
    folder = network.path.parent / "my bundles"
    moved = dataclasses.replace(network, path=folder / "refiner.onnx")
    assert shlex.split(plans.rebuild_command(moved)) == ["coop-edge", "build", str(folder)]


def test_a_relative_cache_folder_does_not_count(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert plans.cache_folder() == Path.home() / ".cache" / "coop_edge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert plans.cache_folder() == Path.home() / ".cache" / "coop_edge"


def test_says_what_plans_there_are_instead(network, cache):
    store(network, target=dataclasses.replace(TARGET, sm="86"))
    store(network, cache, target=dataclasses.replace(TARGET, version="10.4.0"))
    assert find_plan(network, TARGET) is None
    message = no_plan(network, TARGET)
    assert "no plan refiner-ab12ab12-trt10.3.0-sm87.plan in" in message
    assert "(there is refiner-ab12ab12-trt10.3.0-sm86.plan, refiner-ab12ab12-trt10.4.0-sm87.plan)" in message
    assert message.endswith(f"build it with: coop-edge build {network.path.parent}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "10.4.0"}, r"runtime: the plan was built for TensorRT 10\.4\.0, wanted TensorRT 10\.3\.0"),
        ({"flavour": "rtx"}, r"runtime: the plan was built for TensorRT for RTX 10\.3\.0, wanted TensorRT 10\.3\.0"),
        ({"sm": "86", "gpu": "RTX 3090"}, r"SM: the plan was built for 86 \(RTX 3090\), wanted 87 \(Orin\)"),
        ({"onnx_sha256": "cd" * 32}, r"SHA-256 of refiner.onnx: the plan was built for (cd){32}, wanted (ab12){16}"),
        ({"role": "features"}, r"role: the plan was built for features, wanted refiner"),
        ({"gpu": "another Orin", "driver": "1.0", "cuda": "1.0"}, None),
    ],
)
def test_a_plan_of_something_else_is_refused_with_both_values(network, changes, message):
    path = store(network, **changes)
    if message is None:  # other boards of the same SM take it
        read_plan(path, network, TARGET)
        return
    for check in (check_sidecar, read_plan):
        with pytest.raises(
            EngineError, match=message + rf"; build it again with: coop-edge build {network.path.parent}$"
        ):
            check(path, network, TARGET)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], r"5119 bytes, wanted 5120 \(truncated or replaced\)"),
        (lambda data: b"", r"0 bytes, wanted 5120"),
        (lambda data: data + b"x", r"5121 bytes, wanted 5120"),
        (lambda data: data[:99] + bytes([data[99] ^ 4]) + data[100:], r"damaged: SHA-256 [0-9a-f]{64}, wanted"),
        (None, r"cannot be read: No such file"),
    ],
)
def test_a_damaged_plan_is_refused(network, damage, message):
    path = store(network)
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(DATA))
    with pytest.raises(EngineError, match=message + r".*build it again with: coop-edge build"):
        read_plan(path, network, TARGET)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"not complete: its sidecar refiner-.*\.json is missing"),
        (b"", r"not the sidecar of a plan"),
        (b'{"schema": 1, "role": "refi', r"not the sidecar of a plan"),
        (b"\xff\xfe\x00", r"not the sidecar of a plan"),
        (b"[]", r"not the sidecar of a plan"),
        (b"{}", r"not the sidecar of a plan: 'schema'"),
        ({"schema": 2}, r"schema 2, wanted 1"),
        ({"extra": 1}, r"unexpected keyword argument 'extra'"),
        ({"batch": [1, 50, 40]}, r"batch = \[1, 50, 40\], wanted 1 <= min <= opt <= max"),
        ({"batch": [1, 2]}, r"not enough values"),
        ({"batch": 7}, r"not the sidecar"),
        ({"plan_bytes": "many"}, r"plan_bytes = 'many', wanted int"),
        ({"sm": 87}, r"sm = 87, wanted str"),
        ({"shapes": []}, r"shapes = \[\], wanted dict"),
    ],
)
def test_a_garbled_sidecar_is_refused(network, content, message):
    path = store(network)
    sidecar = sidecar_of(path)
    if content is None:
        sidecar.unlink()
    else:
        changed = (
            json.dumps({**json.loads(sidecar.read_text()), **content}).encode()
            if isinstance(content, dict)
            else content
        )
        sidecar.write_bytes(changed)
    with pytest.raises(EngineError, match=message):
        read_plan(path, network, TARGET)
    with pytest.raises(EngineError, match=r"build the plan again with: coop-edge build"):
        read_info(path, network)


def test_this_device_and_tensorrt(monkeypatch):
    install(monkeypatch, "tensorrt-10.3.0", sm="87")
    here = Target.here(load())
    assert here == Target("trt", "10.3.0", "87", gpu="Stand-in GPU", driver="13.1", cuda="12.6")
    assert str(here) == "TensorRT 10.3.0 on SM 87"
    assert Target.here(load(), sm="86") == Target("trt", "10.3.0", "86")


def test_without_a_gpu_the_probe_that_failed_is_named(monkeypatch):
    _, cupy = install(monkeypatch, "tensorrt-10.3.0")

    def broken(index=None):
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected\nmore")

    cupy.cuda.Device = broken
    with pytest.raises(
        BackendUnavailable, match=r"cannot use a GPU here: RuntimeError: cudaErrorNoDevice: no CUDA-.*detected$"
    ):
        Target.here(load())
