"""Compiled code: cached, out of date when any of its sources is, and usable where nothing can be cached."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from coop_edge.base.jit import jit, stamp_of


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
