"""An Estimator opens no connection, asks for no name and leaves nothing in the user's folders but compiled code."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coop_edge.runtime.onnx_session import import_onnxruntime
from tests.runtime.networks import tiny_bundle

ROOT = Path(__file__).parents[2]
SPY = Path(__file__).with_name("network_spy.c")
SILENT = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
"""Variables by which ONNX Runtime would be silent of itself."""
WAIT = 12
"""Seconds after which ONNX Runtime 1.32 has asked for its vendor's name, if it does (after 9)."""
USE = f"""
import sys, time
import numpy as np
from coop_edge import Camera, Detection, Estimator, Mesh
with Estimator.from_engines(sys.argv[1], device="cpu", threads=1) as estimator:
    estimator.add_object("mug", sys.argv[2], unit="m")
    camera = Camera([[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]], 64, 48)
    estimator.estimate(np.zeros((48, 64, 3), np.uint8), camera, [Detection("mug", bbox=(20, 10, 20, 20))])
    time.sleep({WAIT})
"""


@pytest.fixture(scope="module")
def spy(tmp_path_factory):
    library = tmp_path_factory.mktemp("spy") / "network_spy.so"
    subprocess.run(["g++", "-x", "c", "-shared", "-fPIC", "-o", library, SPY], check=True)
    return library


def run(spy, folder, code, *arguments, **more) -> tuple[list[str], list[str]]:
    """What a process with a home of its own asked of the network, and the files it left at home."""
    home, log = folder / "home", folder / "log"
    home.mkdir()
    plain = {name: value for name, value in os.environ.items() if name not in SILENT}
    cache = {"NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(folder / "compiled"))}
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "PYTHONPATH": str(ROOT)}
    env = plain | cache | own | {"LD_PRELOAD": str(spy), "NETWORK_LOG": str(log)} | more
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    return log.read_text().splitlines() if log.exists() else [], files


def test_the_spy_sees_what_is_asked_and_lets_nothing_out(spy, tmp_path):
    code = """
import socket, urllib.request
for attempt in (lambda: socket.getaddrinfo("example.invalid", 443), lambda: socket.create_connection(("127.0.0.1", 9)),
                lambda: socket.socket(), lambda: urllib.request.urlopen("http://localhost:9")):
    try:
        attempt()
    except OSError as error:
        continue
    raise SystemExit("reached")
socket.socketpair()
"""
    asked, _ = run(spy, tmp_path, code)
    assert {"getaddrinfo example.invalid", "getaddrinfo 127.0.0.1", "getaddrinfo localhost", "socket IPv4"} == set(
        asked
    )


def test_an_estimator_asks_nothing_of_the_network(spy, tmp_path):
    bundle = tiny_bundle(tmp_path / "tiny", features=False)
    asked, files = run(spy, tmp_path, USE, bundle, ROOT / "docs/examples/mug/mug.obj")
    assert asked == []
    assert files == []  # telemetry keeps a device's id and a database there


NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")
"""Gives a process a network of its own, in which there is nothing and no way out; the kernel counts what is tried."""
COUNT = """
from pathlib import Path
lines = Path("/proc/self/net/snmp").read_text().splitlines()
pairs = (zip(names.split()[1:], values.split()[1:]) for names, values in zip(lines[::2], lines[1::2]))
counts = {line.split(":")[0] + name: int(n) for line, each in zip(lines[::2], pairs) for name, n in each}
print(*(name for name in ("IpOutRequests", "IpOutNoRoutes", "TcpActiveOpens", "UdpOutDatagrams") if counts[name]))
"""


def counted(code, *arguments, **more) -> list[str]:
    """The kernel's counters of packets and connections that are not 0 after ``code`` has run without a network."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no network namespaces (unshare --user --net)")
    plain = {name: value for name, value in os.environ.items() if name not in SILENT}
    command = [*NAMESPACE, sys.executable, "-c", code + COUNT, *map(str, arguments)]
    done = subprocess.run(command, env=plain | more, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_kernel_counts_what_is_asked():
    code = """
import contextlib, socket
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    with contextlib.suppress(OSError):
        socket.socket(socket.AF_INET, kind).connect(("192.0.2.1", 443))
"""
    assert counted(code) == ["IpOutNoRoutes"]


def test_an_estimator_works_without_a_network_and_the_kernel_counts_nothing(tmp_path):
    """Nothing that goes round the C library either, which the spy would not see."""
    bundle = tiny_bundle(tmp_path / "tiny", features=False)
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache"), "PYTHONPATH": str(ROOT)}
    cache = {"NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(tmp_path / "compiled"))}
    assert counted(USE, bundle, ROOT / "docs/examples/mug/mug.obj", **home, **cache) == []


def test_who_wants_telemetry_can_have_it(monkeypatch):
    for given, found in ((None, "1"), ("0", "0"), ("1", "1")):
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
        if given is not None:
            monkeypatch.setenv("ORT_DISABLE_TELEMETRY", given)
        import_onnxruntime()
        assert os.environ["ORT_DISABLE_TELEMETRY"] == found


def test_nothing_imports_onnxruntime_by_another_way():
    for folder in ("coop_edge", "export", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [
                    str(argument.value)
                    for argument in (node.args if isinstance(node, ast.Call) else [])
                    if isinstance(argument, ast.Constant) and ast.unparse(node.func).endswith("import_module")
                ]
                found = [name for name in names if name.split(".")[0] == "onnxruntime"]
                assert not found or path.name == "onnx_session.py", f"{path}:{node.lineno}"
