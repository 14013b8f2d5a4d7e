"""Every way in which the files of a build can go wrong ends in a named error or a clean rebuild."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from coop_edge.errors import EngineError
from coop_edge.runtime import plan_store
from coop_edge.runtime.build import BuildOptions, build_plans
from coop_edge.runtime.bundle import ROLES, Bundle
from coop_edge.runtime.plan import Target, sidecar_of
from coop_edge.runtime.plan_lookup import find_plan, read_plan
from coop_edge.runtime.tensorrt_api import load
from tests.runtime.fake_tensorrt import install
from tests.runtime.folders import entries

SMALL = BuildOptions(max_batch=dict.fromkeys(ROLES, 4))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no sidecar", "garbled sidecar", "of another role"])
def test_what_is_damaged_is_built_again(own_bundle, trt, damage):
    target = Target.here(load())
    (built,) = build_plans(own_bundle, roles=["refiner"], options=SMALL)
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
        (other,) = build_plans(own_bundle, roles=["features"], options=SMALL)
        os.replace(other.path, built.path)
        os.replace(sidecar_of(other.path), sidecar_of(built.path))
    with pytest.raises(EngineError, match=r"coop-edge build"):
        read_plan(built.path, own_bundle.network("refiner"), target)
    (again,) = build_plans(own_bundle, roles=["refiner"], options=SMALL)
    assert not again.reused
    read_plan(again.path, own_bundle.network("refiner"), target)


def test_a_folder_one_cannot_write_to_is_replaced_by_the_cache(own_bundle, trt, monkeypatch, tmp_path, caplog):
    _read_only(monkeypatch, own_bundle.folder)
    (built,) = build_plans(own_bundle, roles=["refiner"], options=SMALL)
    assert built.path.parent == tmp_path / "cache" / "coop_edge" / "plans" / "tiny"
    assert f"plans go to {built.path.parent}, because {own_bundle.folder}: Read-only file system" in caplog.text
    assert find_plan(own_bundle.network("refiner"), Target.here(load())) == built.path
    assert entries(own_bundle.folder) == set()


def test_no_folder_to_write_to_is_an_error_that_names_them(own_bundle, trt, monkeypatch, tmp_path):
    _read_only(monkeypatch, tmp_path)
    with pytest.raises(
        EngineError, match=r"no folder to write plans of refiner to \(.*tiny: Read-only.*cache.*XDG_CACHE_HOME"
    ):
        build_plans(own_bundle, roles=["refiner"], options=SMALL)
    with pytest.raises(EngineError, match=r"no folder to write plans of refiner to \(.*elsewhere: Read-only"):
        build_plans(own_bundle, roles=["refiner"], options=BuildOptions(folder=tmp_path / "elsewhere"))


def test_a_file_is_no_folder(own_bundle, trt):
    with pytest.raises(EngineError, match=r"no folder to write plans of refiner to \(.*bundle.json: File exists\)"):
        build_plans(own_bundle, roles=["refiner"], options=BuildOptions(folder=own_bundle.manifest))


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
def test_a_full_disk_is_named_and_leaves_nothing(own_bundle, trt, monkeypatch, code, write):
    real, written = os.fsync, []

    def full(handle):
        written.append(handle)
        if len(written) == write:
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr("coop_edge.base.files.os.fsync", full)
    options = BuildOptions(max_batch={"refiner": 4}, timing_cache=None)
    with pytest.raises(EngineError, match=r"the disk is full \(\d+ MB free, the plan has 1 MB.*make room there"):
        build_plans(own_bundle, roles=["refiner"], options=options)
    assert entries(own_bundle.folder) == set()
    build_plans(own_bundle, roles=["refiner"], options=options)


def test_a_full_disk_leaves_the_old_plan(own_bundle, trt, monkeypatch):
    options = BuildOptions(max_batch={"refiner": 4}, timing_cache=None)
    (built,) = build_plans(own_bundle, roles=["refiner"], options=options)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("coop_edge.base.files.os.fsync", full)
    with pytest.raises(EngineError, match="the disk is full"):
        build_plans(
            own_bundle, roles=["refiner"], options=BuildOptions(max_batch={"refiner": 4}, timing_cache=None, force=True)
        )
    network, target = own_bundle.network("refiner"), Target.here(load())
    assert find_plan(network, target) == built.path
    read_plan(built.path, network, target)


def _build_in_a_process(folder, hold, reached, go_on, results):
    """A build that sets ``reached`` once it holds the lock (hold) or waits for it, and in the first case waits."""
    with pytest.MonkeyPatch.context() as patch:
        trt, _ = install(patch, "tensorrt-11.4.0")

        def wait(_):
            reached.set()
            assert go_on.wait(120)

        class Waiting(logging.Handler):
            def emit(self, record):
                if "another process builds refiner-" in record.getMessage():
                    reached.set()

        if hold:
            trt.on_build = wait
        else:
            logging.getLogger("coop_edge").addHandler(Waiting())
        (built,) = build_plans(Bundle.load(folder, check_hashes=False), roles=["refiner"], options=SMALL)
        results.put((built.reused, trt.count("build_serialized_network"), built.path))


def test_of_two_processes_that_build_at_once_the_second_takes_what_the_first_made(own_bundle):
    """The first is in the middle of its build, and so holds the lock, when the second asks for it."""
    context = multiprocessing.get_context("spawn")
    go_on, results, processes = context.Event(), context.Queue(), []
    try:
        for hold in (True, False):
            reached = context.Event()
            arguments = (own_bundle.folder, hold, reached, go_on, results)
            processes.append(context.Process(target=_build_in_a_process, args=arguments))
            processes[-1].start()
            assert reached.wait(120), f"exit code {processes[-1].exitcode}"
        go_on.set()
        found = sorted(results.get(timeout=120) for _ in processes)
    finally:
        for process in processes:
            process.join(0 if not go_on.is_set() else 60)
            process.kill()
    path = found[0][2]
    assert found == [(False, 1, path), (True, 0, path)]
    assert entries(own_bundle.folder) == {path.name, sidecar_of(path).name}


def test_whoever_waited_for_a_lock_that_is_gone_takes_a_new_one(own_bundle):
    """Holders remove the file; a lock on a file without a name would keep nobody out."""
    network, held = own_bundle.network("refiner"), []

    def hold():
        with plan_store.exclusive(own_bundle.folder, network) as waited:
            held.append(waited)
            time.sleep(0.05)
            held.append("done")

    threads = [threading.Thread(target=hold) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert held[1::2] == ["done"] * 6, "never two inside"
    assert entries(own_bundle.folder) == set()


def test_the_lock_goes_even_if_its_file_cannot_be_removed(own_bundle, monkeypatch):
    network, real = own_bundle.network("refiner"), Path.unlink

    def refuse(path, missing_ok=False):
        if path.suffix == ".lock":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(OSError, match="Read-only"), plan_store.exclusive(own_bundle.folder, network):
            pass
    with plan_store.exclusive(own_bundle.folder, network) as waited:
        assert not waited


def test_plans_in_a_folder_where_no_runner_looks_come_with_a_warning(own_bundle, trt, tmp_path, caplog):
    options = BuildOptions(max_batch={"refiner": 4}, folder=tmp_path / "elsewhere")
    (built,) = build_plans(own_bundle, roles=["refiner"], options=options)
    assert built.path.parent == tmp_path / "elsewhere"
    assert f"{built.path}: is not looked for in that folder" in caplog.text
    caplog.clear()
    build_plans(own_bundle, roles=["refiner"], options=BuildOptions(folder=own_bundle.folder))
    assert "looked for" not in caplog.text


KILLED = """
import sys, time
from pathlib import Path
import pytest
from coop_edge.base import files
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
def test_a_kill_in_the_middle_leaves_what_was_there_and_the_next_build_is_clean(own_bundle, trt, write, before):
    options = BuildOptions(max_batch={"refiner": 4}, timing_cache=None)
    if before:
        build_plans(own_bundle, roles=["refiner"], options=options)
    command = [sys.executable, "-c", KILLED, str(own_bundle.folder), str(write)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    target, network = Target.here(load()), own_bundle.network("refiner")
    assert any(name.endswith(".tmp") for name in entries(own_bundle.folder)), "killed too early or too late"
    assert (find_plan(network, target) is not None) == before
    (built,) = build_plans(own_bundle, roles=["refiner"], options=options)
    assert built.reused == before
    read_plan(built.path, network, target)
    assert entries(own_bundle.folder) == {built.path.name, sidecar_of(built.path).name}, "the leftovers are gone"
