from __future__ import annotations

import subprocess
import sys


def test_importing_the_rooms_loads_no_heavy_package():
    code = (
        "import sys, coop_edge.mesh, coop_edge.templates\n"
        "heavy = {'trimesh', 'scipy', 'cv2', 'numba', 'PIL', 'open3d', 'cupy', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from coop_edge.mesh import Mesh, Symmetries, nearest_symmetric\n"
        "Symmetries(continuous=(((0, 0, 1), (0, 0, 0)),)).transforms(0.1)\n"
        "assert 'scipy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
