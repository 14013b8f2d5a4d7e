"""From findings to the report: statuses, verdict, commands, JSON. Machines are described in ``machines``."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

import coop_edge.doctor
from coop_edge.doctor import Report, assemble, findings
from coop_edge.doctor.isolate import Outcome
from coop_edge.doctor.report import GROUPS
from coop_edge.doctor.table import show
from tests.doctor.machines import ABSENT, BUNDLE, NO_CUDA, SPACE, changed, orin, plain, planned, with_gpu

PIP = "python -m pip install"


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch):
    """Advice does not depend on the machine the tests run on."""
    monkeypatch.setattr(findings, "pip", lambda: PIP)
    monkeypatch.setattr(findings, "TOOLKITS", ())
    monkeypatch.delenv("CUDA_PATH", raising=False)


def row(report: Report, name: str):
    (found,) = [row for row in report.rows if row.name == name]
    return found


def bundles(*found: dict, **more) -> dict[str, Outcome]:
    return changed("bundles", bundles=list(found), **more)


FULL = {**SPACE, "free_bytes": 1000}
NOWHERE = {"folder": None, "writable": False, "free_bytes": 0}
BROKEN = {"name": "torn", "folder": "/opt/engines/torn", "fails": "BundleError: not JSON", "roles": [], "plans": []}
BOTH_ORT = {"onnxruntime": {"onnxruntime": "1.22.0", "onnxruntime-gpu": "1.22.0"}}
CASES = {  # machine, devices that are ready, statuses of some rows
    "no GPU": (plain(), {"cpu"}, {"gpu": "optional", "cupy": "optional", "tensorrt": "optional", "bundles": "ok"}),
    "GPU": (with_gpu(), {"cpu", "cuda"}, {"gpu": "ok", "cupy": "ok", "onnxruntime_cuda": "ok", "cuda_runner": "ok"}),
    "GPU without Numba": (with_gpu(numba=ABSENT), {"cuda"}, {"numba": "missing", "numba_cache": "optional"}),
    "GPU without CuPy": (with_gpu(cupy=ABSENT), {"cpu"}, {"cupy": "missing"}),
    "CUDA listed, CPU taken": (
        with_gpu(
            onnxruntime=Outcome(
                facts={
                    "version": "1.22.0",
                    "listed": ["CUDAExecutionProvider", "CPUExecutionProvider"],
                    "fails": {"cpu": None, "cuda": NO_CUDA},
                },
                said="[E:onnxruntime] Failed to load libonnxruntime_providers_cuda.so with error: libcudnn.so.9: none",
            )
        ),
        {"cpu"},
        {"onnxruntime": "ok", "onnxruntime_cuda": "broken", "cuda_runner": "missing"},
    ),
    "CUDA listed, no GPU": (
        plain(
            **changed("onnxruntime", listed=["CUDAExecutionProvider"], fails={"cpu": None, "cuda": NO_CUDA}),
        ),
        {"cpu"},
        {"onnxruntime_cuda": "optional", "cuda_runner": "optional"},
    ),
    "both ONNX Runtimes": (plain(**changed("distributions", families=BOTH_ORT)), {"cpu"}, {"conflicts": "broken"}),
    "ONNX Runtime crashes": (
        plain(onnxruntime=Outcome(problem="crashed with SIGILL")),
        set(),
        {"onnxruntime": "broken", "onnxruntime_cuda": "optional"},
    ),
    "a broken bundle beside a good one": (
        plain(**bundles(BROKEN, BUNDLE)),
        {"cpu"},
        {"bundle:torn": "broken", "bundle:coop-xs": "ok", "bundles": "ok"},
    ),
    "only a broken bundle": (plain(**bundles(BROKEN)), set(), {"bundle:torn": "broken", "bundles": "broken"}),
    "no bundle": (with_gpu(**bundles()), set(), {"bundles": "missing", "cuda_runner": "ok"}),
    "Orin without TensorRT": (orin(), {"cpu"}, {"jetson": "ok", "tensorrt": "missing", "cuda_runner": "missing"}),
    "Orin with plans": (orin(**planned(True)), {"cpu", "cuda"}, {"plans:coop-xs": "ok", "cuda_runner": "ok"}),
    "plans of another SM": (
        orin(**planned(False, "built for SM 89, wanted SM 87")),
        {"cpu"},
        {"plans:coop-xs": "broken", "cuda_runner": "missing", "tensorrt": "ok"},
    ),
    "an old driver": (
        with_gpu(gpu=Outcome(facts={**with_gpu()["gpu"].facts, "driver_cuda": 11040})),
        {"cpu"},
        {"gpu": "broken"},
    ),
    "the GPU probe hangs": (with_gpu(gpu=Outcome(problem="gave no answer within 90 s")), {"cpu"}, {"gpu": "broken"}),
    "an old Python": (plain(**changed("python", supported=False)), set(), {"python": "broken"}),
    "a cache that is read-only": (
        plain(**changed("numba", storage={**SPACE, "writable": False})),
        {"cpu"},
        {"numba_cache": "broken", "cupy_cache": "optional"},
    ),
    "a full disk": (
        plain(**changed("numba", storage={**SPACE, "free_bytes": 1000})),
        {"cpu"},
        {"numba_cache": "broken"},
    ),
    "a cache that a power cut has damaged": (
        plain(**changed("numba", storage={**SPACE, "damaged": ["/home/a/cache/a.nbi", "/home/a/my cache/a.1.nbc"]})),
        {"cpu"},
        {"numba_cache": "broken"},
    ),
    "nowhere to keep code": (
        plain(**changed("numba", cache_folder=None, storage=NOWHERE)),
        {"cpu"},
        {"numba_cache": "broken"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_statuses_and_verdict(case):
    outcomes, ready, statuses = CASES[case]
    report = assemble.report(outcomes)
    assert {device for device, names in report.blocked_by.items() if not names} == ready
    assert report.ready == bool(ready)
    assert {name: row(report, name).status for name in statuses} == statuses
    assert bool(report.next_steps) == (not ready)
    for names in report.blocked_by.values():
        assert all(row(report, name).status != "ok" for name in names)


@pytest.mark.parametrize("case", CASES)
def test_the_json_has_the_same_keys_on_every_machine(case):
    outcomes = CASES[case][0]
    report = json.loads(json.dumps(assemble.report(outcomes).to_dict()))
    assert list(report) == ["schema", "coop_edge", "ready", "devices", "next_steps", "rows"]
    assert report["schema"] == 1
    assert {device: set(entry) for device, entry in report["devices"].items()} == {
        "cpu": {"ready", "blocked_by"},
        "cuda": {"ready", "blocked_by"},
    }
    for entry in report["rows"]:
        assert list(entry) == ["name", "group", "status", "found", "purpose", "required_for", "fix", "data"]
        assert entry["status"] in ("ok", "missing", "broken", "optional")
        assert entry["group"] in GROUPS
        assert entry["found"]
        assert "\n" not in entry["found"]
        assert entry["purpose"]
        assert set(entry["required_for"]) <= {"cpu", "cuda"}
    names = [entry["name"] for entry in report["rows"]]
    assert len(names) == len(set(names))
    documented = re.search(r"always there: (.*?);", coop_edge.doctor.__doc__, re.DOTALL)[1]
    assert [name for name in names if ":" not in name] == [name.strip() for name in documented.split(",")]


@pytest.mark.parametrize(
    ("outcome", "status", "found"),
    [
        (ABSENT, "ok", "0.19.0 (not imported; --deep does)"),
        (Outcome(facts={"version": "0.19.0"}), "ok", "0.19.0"),
        (Outcome(problem="crashed with SIGILL"), "broken", "0.19.0: crashed with SIGILL"),
    ],
)
def test_open3d_is_imported_by_a_deep_look_alone(outcome, status, found):
    looked = row(assemble.report(plain(open3d=outcome)), "open3d")
    assert (looked.status, looked.found) == (status, found)


def test_of_a_probe_that_failed_nothing_else_is_made_up():
    failed = Outcome(problem="ValueError: no")
    report = assemble.report(with_gpu(distributions=failed, numba=failed, system=failed))
    for name in ("conflicts", "numba", "system"):
        assert (row(report, name).status, row(report, name).found) == ("broken", "ValueError: no")
    for name in ("open3d", "numba_cache", "jetson"):
        assert row(report, name).status == "optional"
        assert row(report, name).found.startswith("unknown: ")


def test_a_report_stands_when_every_probe_fails():
    outcomes = {name: Outcome(problem=f"ValueError: {name}") for name in with_gpu() if name != "open3d"}
    report = assemble.report(outcomes)
    assert not report.ready
    assert {r.status for r in report.rows if r.name in outcomes} == {"broken"}
    assert row(report, "cupy").found == "ValueError: cupy"
    assert "ValueError: bundles" in row(report, "bundles").found
    show(report, Console(file=io.StringIO(), width=80))


def test_what_is_missing_for_the_cpu_is_one_command():
    outcomes = plain(numpy=ABSENT, opencv=ABSENT, trimesh=ABSENT, numba=ABSENT, onnxruntime=ABSENT)
    steps = assemble.report(outcomes).next_steps
    assert len(steps) == 1
    assert steps[0].startswith(f"{PIP} ")
    for name in ("numpy", "opencv-python-headless", "trimesh", "scipy", "pillow", "numba", "onnxruntime"):
        assert re.search(rf'[ "]{name}[<>" ]|[ "]{name}$', steps[0]), name


def test_the_shortest_way_is_taken():
    one = assemble.report(with_gpu(numba=ABSENT, trimesh=ABSENT)).next_steps
    assert len(one) == 1
    assert "trimesh" in one[0]
    assert "numba" not in one[0]  # CUDA needs trimesh alone, the CPU both
    (step,) = assemble.report(plain(**bundles())).next_steps
    assert "engines/" in step
    assert not any("cupy" in step for step in assemble.report(plain(numba=ABSENT)).next_steps)


@pytest.mark.parametrize(
    ("driver", "cupy", "tensorrt", "onnxruntime"),
    [
        (13000, "cupy-cuda13x[ctk]", "tensorrt", "onnxruntime-gpu[cuda,cudnn]>=1.27"),
        (12080, "cupy-cuda12x[ctk]", "tensorrt-cu12", "onnxruntime-gpu[cuda,cudnn]>=1.21,<1.27"),
        (11040, "", "", "onnxruntime"),
    ],
)
def test_packages_follow_the_cuda_version_of_the_driver(driver, cupy, tensorrt, onnxruntime):
    gpu = Outcome(facts={**with_gpu()["gpu"].facts, "driver_cuda": driver})
    outcomes = with_gpu(cupy=ABSENT, onnxruntime=ABSENT, gpu=gpu)
    report = assemble.report(outcomes)
    assert (cupy in row(report, "cupy").fix) if cupy else row(report, "cupy").fix == ""
    assert re.search(rf'install "{re.escape(onnxruntime)}["><]', row(report, "onnxruntime").fix)
    fix = row(report, "tensorrt").fix
    assert re.search(rf'"{tensorrt}>=', fix) if tensorrt else fix == ""


def test_with_a_toolkit_cupy_brings_no_second_one(monkeypatch):
    monkeypatch.setenv("CUDA_PATH", "/usr/local/cuda")
    fix = row(assemble.report(with_gpu(cupy=ABSENT)), "cupy").fix
    assert "cupy-cuda13x>=" in fix
    assert "[ctk]" not in fix


def test_on_a_jetson_nothing_points_to_the_wheel_without_code_for_it(monkeypatch):
    report = assemble.report(orin(cupy=ABSENT, onnxruntime=ABSENT))
    assert not any("onnxruntime-gpu" in r.fix for r in report.rows)
    assert f"{PIP} " in row(report, "onnxruntime").fix
    assert "cupy-cuda12x>=" in row(report, "cupy").fix
    assert row(report, "tensorrt").fix.endswith("apt-get install -y python3-libnvinfer")
    assert "coop-edge build" in row(report, "cuda_runner").fix
    assert "no code for Orin or Thor" in row(assemble.report(orin()), "onnxruntime_cuda").found

    monkeypatch.setattr("sys.prefix", "/home/a/venv")
    seen = orin(system_tensorrt=Outcome(facts={"folder": "/usr/lib/python3.10/dist-packages/tensorrt"}))
    tensorrt = row(assemble.report(seen), "tensorrt")
    assert "not visible" in tensorrt.found
    assert tensorrt.fix.endswith("/home/a/venv/pyvenv.cfg")


def test_what_is_here_and_broken_is_installed_again():
    torn = Outcome(problem="ImportError: libGL.so.1: cannot open shared object file")
    report = assemble.report(plain(numba=torn, trimesh=ABSENT, numpy=ABSENT, opencv=torn))
    assert row(report, "numba").fix.startswith(f"{PIP} --force-reinstall")
    assert row(report, "opencv").fix.startswith(f"{PIP} --force-reinstall")
    assert "--force-reinstall" not in row(report, "trimesh").fix
    again = [step for step in report.next_steps if "--force-reinstall" in step]
    assert len(report.next_steps) == 2
    assert len(again) == 1
    assert "numba" in again[0]
    assert "opencv" in again[0]
    assert "trimesh" not in again[0]

    windows = changed("distributions", families={"opencv": {"opencv-python": "4.11"}})
    assert row(assemble.report(plain(opencv=torn, **windows)), "opencv").fix.startswith(
        "sudo apt-get install -y libgl1"
    )


def test_cupy_for_a_newer_cuda_than_the_drivers_is_replaced():
    fails = "CuPy fails on this machine: cudaErrorInsufficientDriver"
    report = assemble.report(
        with_gpu(
            gpu=Outcome(facts={**with_gpu()["gpu"].facts, "driver_cuda": 12060}),
            cupy=Outcome(facts={**with_gpu()["cupy"].facts, "fails": fails}),
            **changed("distributions", families={"cupy": {"cupy-cuda13x": "14.2.0"}}),
        )
    )
    assert row(report, "cupy").status == "broken"
    assert fails in row(report, "cupy").found
    assert row(report, "cupy").fix.startswith("python -m pip uninstall -y cupy-cuda13x && python -m pip install")
    assert "cupy-cuda12x[ctk]" in row(report, "cupy").fix


def test_conflicts_are_repaired_by_keeping_the_build_that_is_of_use():
    families = {**BOTH_ORT, "opencv": {"opencv-python": "4.11", "opencv-python-headless": "4.11"}, "cupy": {}}
    distributions = changed("distributions", families=families)
    fix = row(assemble.report(plain(**distributions)), "conflicts").fix
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && python -m pip install" in fix
    assert re.search(r'install "?onnxruntime[>"]', fix)
    assert "pip uninstall -y opencv-python opencv-python-headless && " in fix
    assert fix.count("uninstall") == 2
    assert re.search(r'install "?onnxruntime-gpu', row(assemble.report(with_gpu(**distributions)), "conflicts").fix)


def test_an_unfit_plan_is_quoted_with_the_command_that_rebuilds_it():
    found = row(assemble.report(orin(**planned(False, "built for SM 89, wanted SM 87"))), "plans:coop-xs")
    assert "coarse_encoder, coarse_decoder, refiner: built for SM 89, wanted SM 87" in found.found
    assert found.fix == "coop-edge build /opt/engines/coop-xs"


def test_what_onnx_runtime_logs_is_quoted():
    report = assemble.report(CASES["CUDA listed, CPU taken"][0])
    assert NO_CUDA in row(report, "onnxruntime_cuda").found
    assert "libcudnn.so.9" in row(report, "onnxruntime_cuda").found


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("case", CASES)
def test_the_table_fits_and_commands_are_whole(case, width):
    report = assemble.report(CASES[case][0])
    console = Console(record=True, width=width, file=io.StringIO())
    show(report, console)
    lines = console.export_text().splitlines()
    for entry in report.rows:
        if entry.fix:
            assert f"    {entry.fix}" in lines
    table = [line for line in lines if line[:1] in "┏┃┡│├└"]
    assert max(map(len, table)) <= width
    if report.ready:
        assert any(line.startswith("An Estimator can run on") for line in lines[-2:])
    else:
        assert lines[-1] == f"  {len(report.next_steps)}. {report.next_steps[-1]}"


def test_damaged_code_is_deleted_and_a_cache_that_is_read_only_moved():
    files = ["/home/a/cache/a.nbi", "/home/a/my cache/a.1.nbc"]
    found = row(assemble.report(plain(**changed("numba", storage={**SPACE, "damaged": files}))), "numba_cache")
    assert "2 files of compiled code are damaged" in found.found
    assert found.fix == "rm /home/a/cache/a.nbi '/home/a/my cache/a.1.nbc'"
    read_only = assemble.report(plain(**changed("numba", storage={**SPACE, "writable": False, "damaged": []})))
    assert row(read_only, "numba_cache").fix.startswith("export NUMBA_CACHE_DIR=")
