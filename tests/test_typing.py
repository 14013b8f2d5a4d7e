"""What a type checker makes of a user's code: lists where arrays are kept, and results whose types are known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOOD = """
import numpy as np
from coop_edge import Camera, Detection, Estimator, PoseEstimate
camera = Camera([[600, 0, 319.5], [0, 600, 239.5], [0, 0, 1]], 640, 480, distortion=(0.1, 0.0, 0.0, 0.0))
boxes = [Detection("cup", [1, 2, 3, 4]), Detection("cup", np.arange(1.0, 5.0)), Detection("cup", (1, 2.5, 3, 4))]
with Estimator.from_engines("coop-xs", device="cpu") as estimator:
    estimator.add_object("cup", "cup.ply", unit="mm")
    results = estimator.estimate(np.zeros((480, 640, 3), np.uint8), camera, boxes)
first: PoseEstimate = results[0]
focal: float = float(camera.K[0, 0])
if first and first.tvec is not None:
    distance: float = float(first.tvec[2])
"""


def check(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "user.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file", os.devnull]
    command += ["--ignore-missing-imports", "--follow-imports=silent", "user.py"]
    env = os.environ | {"MYPYPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)


def test_a_users_code_is_checked(tmp_path):
    done = check(GOOD, tmp_path)
    assert done.returncode == 0, done.stdout
    wrong = check(GOOD + 'Camera("K", "640", 480)\nestimator.estimat\nfirst.scores\n', tmp_path)
    missing = ('"Estimator" has no attribute "estimat"', '"PoseEstimate" has no attribute "scores"')
    for what in ('No overload variant of "Camera"', *missing):
        assert what in wrong.stdout


def test_an_editable_install_is_a_path_that_type_checkers_follow():
    """Not an import hook: the data package lies inside the package, by a link, and the mode is set."""
    assert (ROOT / "coop_edge" / "engines").resolve() == ROOT / "engines"
    assert "[editable_wheel]\nmode = compat" in (ROOT / "setup.cfg").read_text()
