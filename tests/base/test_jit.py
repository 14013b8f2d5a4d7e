"""Compiled code: cached, out of date when any of its sources is, and usable where nothing can be cached."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numba.core.caching as caching
import numpy as np
import pytest

from coop_edge.base import compile_cache, compile_time
from coop_edge.base.jit import jit, stamp_of
from coop_edge.stages.clock import StageClock


def test_a_read_only_installation_without_a_home_works_and_says_so_once():
    script = (
        "import logging, numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "logging.basicConfig()\n"
        "from coop_edge.render import rasterize\n"
        "from coop_edge.pnp import ransac, sampling\n"
        "import numpy as np\n"
        "drawn = np.empty(sampling.MAX_SAMPLE, np.int64)\n"
        "sampling.draw_sample(0, 0, 0, 9, 3, drawn, drawn.copy())\n"
        "print(sorted(set(drawn[:3].tolist())))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split(",")) == 3
    assert done.stderr.count("NUMBA_CACHE_DIR") == 1


def test_the_stamp_changes_with_each_source(tmp_path):
    a, b = tmp_path / "a.py", tmp_path / "b.py"
    a.write_text("1")
    b.write_text("2")
    before = stamp_of([b, a])
    assert before == stamp_of([a, b])
    b.write_text("22")
    assert stamp_of([a, b]) != before
    assert stamp_of([]) == ()


def test_every_compiled_function_is_cached_under_the_stamp_of_its_room():
    from coop_edge.pnp import jit as pnp
    from coop_edge.pnp import ransac
    from coop_edge.render import rasterize

    for function, stamp in ((ransac.solve_ransac, pnp._STAMP), (rasterize.rasterize, rasterize._STAMP)):
        assert function._cache._cache_file._source_stamp == stamp
        assert len(stamp) >= 3


def test_division_follows_ieee():
    def quotient(a, b):
        return a / b

    assert np.isinf(jit(quotient, ())(1.0, 0.0))


PROGRAM = """
import logging, sys, os
logging.basicConfig(format="%(message)s")
sys.path.insert(0, os.environ["CODE"])
from compiled import triple
print(triple(int(sys.argv[1])))
"""
CODE = """
from pathlib import Path
from coop_edge.base.jit import jit, stamp_of
_STAMP = stamp_of([Path(__file__)])
def helper(x):
    return 2 * x
helper = jit(helper, _STAMP)
def triple(x):
    return helper(x) + x
triple = jit(triple, _STAMP)
"""


@pytest.fixture
def program(tmp_path):
    """Runs a program of two compiled functions in a process of its own; its cache is in ``tmp_path / "cache"``."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "compiled.py").write_text(CODE)
    env = os.environ | {"CODE": str(tmp_path / "code"), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run(x=7, **more):
        command = [sys.executable, "-c", PROGRAM, str(x)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env | more, **limits)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == 3 * x
        return done.stderr

    limits = {}
    return run, limits


def cached(tmp_path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".nbi", ".nbc"))


def harm(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "half": content[:middle],
            "zeros": bytes(len(content)),
            "a page of zeros": content[:middle] + bytes(len(content) - middle),
            "one bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "text": b"hello",
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "half", "zeros", "a page of zeros", "one bit", "text"])
def test_damaged_code_is_compiled_again_with_one_warning(program, tmp_path, how):
    run, _ = program
    assert run() == ""
    files = cached(tmp_path)
    assert {path.suffix for path in files} == {".nbi", ".nbc"}
    assert compile_cache.damaged({path.parent for path in files}) == []
    for path in files:
        harm(path, how)
        assert compile_cache.damaged([path.parent]) == [path]
        said = run()
        if path.name.startswith("compiled.triple"):  # the other one is inside it
            assert said.count("compiling again") == 1
            assert f"{path.name}: the compiled code in it is damaged" in said
            assert run() == ""  # it was mended
        else:
            path.unlink()
    for path in cached(tmp_path):
        harm(path, how)
    assert run().count("compiling again") == 1
    assert run() == ""


def test_a_full_disk_is_a_warning(program, tmp_path):
    """A limit on the size of a file stands in for the full disk: both end a write with an OSError."""
    run, limits = program

    def no_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))

    limits["preexec_fn"] = no_room
    said = run()
    assert said.count("compiled code cannot be kept there (File too large); every process compiles it anew") == 1
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))
    del limits["preexec_fn"]
    assert run() == ""
    assert cached(tmp_path)


def test_numba_still_asks_the_files_by_these_methods():
    assert issubclass(compile_cache.CheckedCacheFile, caching.IndexDataCacheFile)
    for name in ("save", "_load_index", "_load_data", "_open_for_write"):
        assert callable(getattr(caching.IndexDataCacheFile, name)), name
    from coop_edge.render import rasterize

    assert isinstance(rasterize.rasterize._cache._cache_file, compile_cache.CheckedCacheFile)


class TestTime:
    def test_the_clock_stands_still_while_something_is_compiled(self, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(compile_time.time, "perf_counter", lambda: now[0])
        start, before = compile_time.working_time(), compile_time.compile_seconds()
        with compile_time.compiling():
            now[0] += 5.0
            assert compile_time.working_time() == start
            with compile_time.compiling():  # what it calls, or another thread
                now[0] += 3.0
            assert compile_time.compile_seconds() - before == 8.0
        now[0] += 1.0
        assert compile_time.working_time() - start == 1.0
        assert compile_time.compile_seconds() - before == 8.0

    def test_an_error_ends_it(self):
        with pytest.raises(ValueError, match="no"), compile_time.compiling():
            raise ValueError("no")
        start = compile_time.working_time()
        assert compile_time.working_time() > start

    def test_a_stage_is_not_charged_with_it(self, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(compile_time.time, "perf_counter", lambda: now[0])
        clock = StageClock()
        with clock("coarse"):
            now[0] += 0.25
            with compile_time.compiling():
                now[0] += 93.0
        assert clock.times().coarse_ms == 250.0

    def test_the_first_compilation_of_ours_is_said_and_what_it_took(self, tmp_path):
        script = (
            "import logging, numpy as np\n"
            "logging.basicConfig(format='%(message)s')\n"
            "logging.getLogger('coop_edge.compile').setLevel(logging.INFO)\n"
            "from coop_edge.base.compile_time import compile_seconds\n"
            "from coop_edge.pnp import sampling\n"
            "drawn = np.empty(sampling.MAX_SAMPLE, np.int64)\n"
            "sampling.draw_sample(0, 0, 0, 9, 3, drawn, drawn.copy())\n"
            "print(compile_seconds())\n"
        )
        env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        first, second = (
            subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
            for _ in range(2)
        )
        assert "compiling the CPU's renderer and pose solvers once for this installation (about 40 s)" in first.stderr
        assert "compiled pnp.sampling.draw_sample, " in first.stderr
        assert float(first.stdout) > 0.0
        assert second.stderr == ""
        assert float(second.stdout) == 0.0
