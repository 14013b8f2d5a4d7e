"""``coop-edge build``: plans, sidecars, verification, and every way in which a build can go wrong."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coop_edge.cli import app
from coop_edge.errors import BackendUnavailable, BundleError, EngineError, InputError
from coop_edge.runtime import plan_store
from coop_edge.runtime.build import MAX_BATCH, OPT_BATCH, BuildOptions, build_plans
from coop_edge.runtime.bundle import ROLES, Bundle
from coop_edge.runtime.plan import Target, check_plan, find_plan, plan_name, sidecar_of
from coop_edge.runtime.tensorrt_api import load
from tests.runtime.fake_tensorrt import install
from tests.runtime.networks import tiny_bundle

SHOWN = ["tensorrt-10.3.0", "tensorrt-11.4.0", "tensorrt_rtx-1.7.1"]
SMALL = BuildOptions(max_batch=dict.fromkeys(ROLES, 4))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def bundle(original, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "tiny"
    folder.mkdir()
    for path in original.iterdir():
        os.link(path, folder / path.name)
    return Bundle.load(folder, check_hashes=False)


@pytest.fixture
def trt(monkeypatch):
    return install(monkeypatch, "tensorrt-11.4.0")[0]


def entries(folder: Path) -> set[str]:
    """What a build has left in a bundle's folder."""
    return {path.name for path in folder.iterdir() if path.suffix != ".onnx" and path.name != "bundle.json"}


@pytest.mark.parametrize("surface", SHOWN)
def test_builds_and_verifies_every_role(bundle, monkeypatch, surface):
    install(monkeypatch, surface, sm="87")
    target = Target.here(load())
    for built in build_plans(bundle, options=SMALL):
        network = bundle.network(built.role)
        assert built.path == find_plan(network, target) == bundle.folder / plan_name(network, target)
        assert check_plan(built.path, network, target) == built.info
        assert not built.reused
        assert set(built.info.verification["outputs"]) == {spec.name for spec in network.outputs}
        assert max(built.info.verification["outputs"].values()) == 0.0, "the stand-in computes with ONNX Runtime itself"
        assert built.info.batch[2] == 4
    assert len(entries(bundle.folder)) == 8, "four plans, four sidecars, no lock and nothing temporary"


def test_the_second_time_it_takes_what_fits(bundle, trt):
    build_plans(bundle, roles=["refiner"], options=SMALL)
    calls = trt.count("build_serialized_network")
    (again,) = build_plans(bundle, roles=["refiner"], options=SMALL)
    assert again.reused
    assert trt.count("build_serialized_network") == calls
    for options in (
        BuildOptions(max_batch={"refiner": 5}),
        BuildOptions(max_batch={"refiner": 5}, opt_batch={"refiner": 2}),
        BuildOptions(max_batch={"refiner": 5}, workspace_mb=77),
        BuildOptions(max_batch={"refiner": 5}, workspace_mb=77, tf32=True),
        BuildOptions(max_batch={"refiner": 5}, workspace_mb=77, tf32=True, force=True),
    ):
        (built,) = build_plans(bundle, roles=["refiner"], options=options)
        assert not built.reused


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


def test_wrong_use_is_said_before_anything_is_built(bundle, trt):
    with pytest.raises(InputError, match=r"opt_batch: refiner=9 is above its max_batch, 4"):
        build_plans(bundle, options=BuildOptions(opt_batch={"refiner": 9}, max_batch={"refiner": 4}))
    with pytest.raises(InputError, match=r"role: wanted one of"):
        build_plans(bundle, roles=["refinery"])
    with pytest.raises(InputError, match=r"device: wanted the index of a GPU, 0 to 0, got 1"):
        build_plans(bundle, device=1)
    with pytest.raises(InputError, match=r"sm: TensorRT builds for the GPU it runs on, not for SM 86"):
        build_plans(bundle, options=BuildOptions(sm="86"))
    assert trt.count("Builder") == 0
    assert entries(bundle.folder) == set()


def test_no_roles_is_no_plans(bundle, trt):
    assert build_plans(bundle, roles=[]) == []


def test_a_plan_that_computes_something_else_is_not_kept(bundle, trt):
    trt.noise = 0.05
    with pytest.raises(
        EngineError, match=r"does not compute what its graph says: flow .* at most 0\.001 allowed for fp32"
    ):
        build_plans(bundle, roles=["refiner"], options=SMALL)
    assert entries(bundle.folder) == set()
    trt.noise = float("nan")
    with pytest.raises(EngineError, match=r"flow inf relative RMS error"):
        build_plans(bundle, roles=["refiner"], options=SMALL)
    trt.noise = 0.0
    build_plans(bundle, roles=["refiner"], options=SMALL)


@pytest.mark.parametrize("call", ["parse", "build_serialized_network", "Builder", "deserialize_cuda_engine"])
def test_a_build_that_fails_leaves_nothing(bundle, trt, call):
    trt.fail.add(call)
    with pytest.raises(EngineError, match=r"^tiny/refiner: "):
        build_plans(bundle, roles=["refiner"], options=SMALL)
    assert entries(bundle.folder) == set()


def test_a_changed_graph_is_refused(bundle, trt):
    path = bundle.network("refiner").path
    data = path.read_bytes()
    path.unlink()  # a link to the other tests' file
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"refiner.onnx: not the file that bundle.json describes"):
        build_plans(bundle, roles=["refiner"], options=SMALL)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no sidecar", "garbled sidecar", "of another role"])
def test_what_is_damaged_is_built_again(bundle, trt, damage):
    target = Target.here(load())
    (built,) = build_plans(bundle, roles=["refiner"], options=SMALL)
    data = built.path.read_bytes()
    if damage == "truncated":
        built.path.write_bytes(data[:100])
    elif damage == "flipped":
        built.path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elif damage == "no sidecar":
        sidecar_of(built.path).unlink()
    elif damage == "garbled sidecar":
        sidecar_of(built.path).write_text("{")
    else:
        (other,) = build_plans(bundle, roles=["selector"], options=SMALL)
        os.replace(other.path, built.path)
        os.replace(sidecar_of(other.path), sidecar_of(built.path))
    with pytest.raises(EngineError, match=r"coop-edge build"):
        check_plan(built.path, bundle.network("refiner"), target)
    (again,) = build_plans(bundle, roles=["refiner"], options=SMALL)
    assert not again.reused
    check_plan(again.path, bundle.network("refiner"), target)


def test_a_folder_one_cannot_write_to_is_replaced_by_the_cache(bundle, trt, monkeypatch, tmp_path, caplog):
    _read_only(monkeypatch, bundle.folder)
    (built,) = build_plans(bundle, roles=["refiner"], options=SMALL)
    assert built.path.parent == tmp_path / "cache" / "coop_edge" / "plans" / "tiny"
    assert f"plans go to {built.path.parent}, because {bundle.folder}: Read-only file system" in caplog.text
    assert find_plan(bundle.network("refiner"), Target.here(load())) == built.path
    assert entries(bundle.folder) == set()


def test_no_folder_to_write_to_is_an_error_that_names_them(bundle, trt, monkeypatch, tmp_path):
    _read_only(monkeypatch, tmp_path)
    with pytest.raises(
        EngineError, match=r"no folder to write plans of refiner to \(.*tiny: Read-only.*cache.*--folder"
    ):
        build_plans(bundle, roles=["refiner"], options=SMALL)
    with pytest.raises(EngineError, match=r"no folder to write plans of refiner to \(.*elsewhere: Read-only"):
        build_plans(bundle, roles=["refiner"], options=BuildOptions(folder=tmp_path / "elsewhere"))


def test_a_file_is_no_folder(bundle, trt):
    with pytest.raises(EngineError, match=r"no folder to write plans of refiner to \(.*bundle.json: File exists\)"):
        build_plans(bundle, roles=["refiner"], options=BuildOptions(folder=bundle.manifest))


def _read_only(monkeypatch, folder):
    """As on a read-only mount, which root too cannot write to."""
    for name in ("touch", "mkdir"):
        real = getattr(Path, name)

        def refuse(path, *arguments, real=real, **options):
            if folder in (path, *path.parents) and not path.is_dir():
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real(path, *arguments, **options)

        monkeypatch.setattr(Path, name, refuse)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("write", [1, 2])  # of the plan, of the sidecar
def test_a_full_disk_is_named_and_leaves_nothing(bundle, trt, monkeypatch, code, write):
    real, written = os.fsync, []

    def full(handle):
        written.append(handle)
        if len(written) == write:
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr("coop_edge.files.os.fsync", full)
    options = BuildOptions(max_batch={"refiner": 4}, timing_cache=None)
    with pytest.raises(EngineError, match=r"the disk is full \(\d+ MB free, the plan has 1 MB.*--folder"):
        build_plans(bundle, roles=["refiner"], options=options)
    assert entries(bundle.folder) == set()
    build_plans(bundle, roles=["refiner"], options=options)


def test_a_full_disk_takes_the_old_sidecar_with_it(bundle, trt, monkeypatch):
    """The old plan is gone by then: better no plan than one that does not fit its sidecar."""
    options = BuildOptions(max_batch={"refiner": 4}, timing_cache=None)
    build_plans(bundle, roles=["refiner"], options=options)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("coop_edge.files.os.fsync", full)
    with pytest.raises(EngineError, match="the disk is full"):
        build_plans(
            bundle, roles=["refiner"], options=BuildOptions(max_batch={"refiner": 4}, timing_cache=None, force=True)
        )
    assert find_plan(bundle.network("refiner"), Target.here(load())) is None


def test_the_timing_cache_is_kept_and_its_loss_is_no_error(bundle, trt, tmp_path, caplog):
    build_plans(bundle, roles=["refiner"], options=SMALL)
    kept = tmp_path / "cache" / "coop_edge" / "timing" / "trt11.4.0.106-sm86.cache"
    assert kept.read_bytes() == b"timings"
    build_plans(bundle, roles=["selector"], options=SMALL)
    assert ("create_timing_cache", b"timings") in trt.calls
    blocked = BuildOptions(max_batch={"refiner": 4}, timing_cache=tmp_path / "tiny" / "bundle.json" / "x", force=True)
    build_plans(bundle, roles=["refiner"], options=blocked)
    assert "the timing cache cannot be read" in caplog.text
    assert "the timing cache cannot be written" in caplog.text


def test_two_builds_at_once_the_second_takes_what_the_first_made(bundle, trt, caplog):
    """The first holds the lock (of the file system, so that of another process) while the second asks for it."""
    building, go_on = threading.Event(), threading.Event()

    def wait(_):
        building.set()
        assert go_on.wait(60)

    trt.on_build = wait
    results = []

    def build():
        results.extend(build_plans(bundle, roles=["refiner"], options=SMALL))

    first, second = threading.Thread(target=build), threading.Thread(target=build)
    first.start()
    assert building.wait(60)
    with caplog.at_level(logging.WARNING):
        second.start()
        while "another process builds refiner-" not in caplog.text:
            assert second.is_alive()
            time.sleep(0.02)
        go_on.set()
        first.join(60)
        second.join(60)
    assert sorted(result.reused for result in results) == [False, True]
    assert trt.count("build_serialized_network") == 1
    assert entries(bundle.folder) == {results[0].path.name, sidecar_of(results[0].path).name}


def test_whoever_waited_for_a_lock_that_is_gone_takes_a_new_one(bundle):
    """Holders remove the file; a lock on a file without a name would keep nobody out."""
    network, held = bundle.network("refiner"), []

    def hold():
        with plan_store.exclusive(bundle.folder, network) as waited:
            held.append(waited)
            time.sleep(0.05)
            held.append("done")

    threads = [threading.Thread(target=hold) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert held[1::2] == ["done"] * 6, "never two inside"
    assert entries(bundle.folder) == set()


KILLED = """
import sys, time
from pathlib import Path
import pytest
from coop_edge import files
from coop_edge.runtime.build import BuildOptions, build_plans
from coop_edge.runtime.bundle import Bundle
from tests.runtime.fake_tensorrt import install
install(pytest.MonkeyPatch(), "tensorrt-11.4.0")
calls = []
def stop(handle):  # the data is written, its name is not
    calls.append(handle)
    if len(calls) == int(sys.argv[2]):
        print("writing", flush=True)
        time.sleep(600)
files.os.fsync = stop
options = BuildOptions(max_batch={"refiner": 4}, timing_cache=None, force=True)
build_plans(Bundle.load(sys.argv[1], check_hashes=False), roles=["refiner"], options=options)
"""


@pytest.mark.parametrize("write", [1, 2])  # of the plan, of the sidecar
@pytest.mark.parametrize("before", [False, True])  # is there an older plan?
def test_a_kill_in_the_middle_leaves_nothing_that_loads_and_the_next_build_is_clean(bundle, trt, write, before):
    options = BuildOptions(max_batch={"refiner": 4}, timing_cache=None)
    if before:
        build_plans(bundle, roles=["refiner"], options=options)
    command = [sys.executable, "-c", KILLED, str(bundle.folder), str(write)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    target, network = Target.here(load()), bundle.network("refiner")
    assert any(name.endswith(".tmp") for name in entries(bundle.folder)), "killed too early or too late"
    assert find_plan(network, target) is None
    (built,) = build_plans(bundle, roles=["refiner"], options=options)
    assert not built.reused
    check_plan(built.path, network, target)
    assert entries(bundle.folder) == {built.path.name, sidecar_of(built.path).name}, "the leftovers are gone"


def test_without_tensorrt_it_says_so(bundle, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match="no TensorRT here"):
        build_plans(bundle)


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(app, ["build", *map(str, arguments)])

    def test_builds_and_prints_json(self, bundle, trt):
        arguments = ("--role", "refiner", "--role", "selector", "--max-batch", "6", "--max-batch", "refiner=9")
        result = self.run(bundle.folder, *arguments, "--opt-batch", "refiner=2", "--workspace", 99, "--json")
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert {plan["role"]: plan["batch"] for plan in report["plans"]} == {
            "refiner": [1, 2, 9],
            "selector": [1, 5, 6],
        }
        assert ("set_memory_pool_limit", "WORKSPACE", 99 << 20) in trt.calls
        assert all(Path(plan["plan"]).is_file() and plan["verification"]["outputs"] for plan in report["plans"])
        assert json.loads(self.run(bundle.folder, *arguments[:4], "--json").stdout)["plans"][0]["reused"] is False

    def test_prints_a_table(self, bundle, trt):
        result = self.run(bundle.folder, "--role", "selector")
        assert result.exit_code == 0
        assert "selector-" in result.stdout
        assert "score 0.0e+00" in result.stdout

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
    def test_wrong_use_is_one_line_and_exit_code_2(self, bundle, trt, arguments, message):
        result = self.run(bundle.folder, *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())

    def test_no_such_bundle(self, trt):
        result = self.run("no-such-bundle")
        assert result.exit_code == 2
        assert "BundleError" in result.stderr
