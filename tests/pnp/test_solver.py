"""What both operations of CpuPnpSolver share: input checks, dtypes, threads, the module's own functions."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import coop_edge.pnp as pnp
from benchmarks.pnp_problems import make_problems, perturbed
from coop_edge.config import RansacConfig
from coop_edge.errors import InputError
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.render.cpu import CpuRenderer
from tests.stages.scene import colored_box

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def problems():
    return make_problems(7, 40, shape="mixed", noise_px=1.0, outliers=0.2, padding=3, seed=1)


@pytest.fixture(scope="module")
def solver():
    return CpuPnpSolver(threads=1)


def arguments(problems, operation):
    common = {"points_object": problems.points_object, "points_image": problems.points_image, "K": problems.K}
    if operation == "ransac_epnp":
        return {**common, "valid": problems.valid}
    return {**common, "weights": problems.weights, "T_init": problems.T_camera_object}


def flipped(K):
    K = K.copy()
    K[2, 0, 0] *= -1
    return K


CHANGES = [
    ("both", "points_object", lambda a: a[0], r"points_object: wanted an array \[B,N,3\]"),
    ("both", "points_object", lambda a: a.tolist(), "points_object: wanted an array"),
    ("both", "points_object", lambda a: a.astype(complex), "points_object: wanted real numbers"),
    ("both", "points_image", lambda a: a[:, :-1], r"points_image: wanted \[7,43,2\]"),
    ("both", "points_image", lambda a: np.concatenate([a, a[..., :1]], -1), "points_image: wanted an array"),
    ("both", "K", lambda a: a[:3], r"K: wanted \[3,3\] or \[7,3,3\]"),
    ("both", "K", lambda a: np.swapaxes(a, 1, 2), "transposed"),
    ("both", "K", flipped, "positive focal"),
    ("ransac_epnp", "valid", lambda a: a[:, 1:], r"valid: wanted \[7,43\]"),
    ("ransac_epnp", "valid", lambda a: a.astype(float), "valid: wanted dtype bool, got float64"),
    ("ransac_epnp", "valid", lambda a: a.astype(np.uint8), "valid: wanted dtype bool, got uint8"),
    ("weighted_lm", "weights", lambda a: a[:3], r"weights: wanted \[7,43\]"),
    ("weighted_lm", "weights", lambda a: a.astype(complex), "weights: wanted real numbers"),
    ("weighted_lm", "T_init", lambda a: a[:3], r"T_init: wanted \[7,4,4\]"),
    ("weighted_lm", "T_init", lambda a: a[:, :3], "T_init: wanted an array"),
    ("weighted_lm", "T_init", lambda a: 2 * a, "T_init: last row"),
    ("weighted_lm", "T_init", lambda a: a * [[1], [1], [-1], [1]], "reflection"),
]


WRONG = [(o, *rest) for applies, *rest in CHANGES for o in ("ransac_epnp", "weighted_lm") if applies in ("both", o)]


@pytest.mark.parametrize(("operation", "name", "change", "message"), WRONG)
def test_wrong_input_says_what_was_wanted(solver, problems, operation, name, change, message):
    given = arguments(problems, operation)
    given[name] = change(given[name])
    with pytest.raises(InputError, match=message):
        getattr(solver, operation)(**given)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "all"])
def test_threads_are_checked(threads):
    with pytest.raises(InputError, match="threads"):
        CpuPnpSolver(threads=threads)


def test_far_more_threads_than_cores_are_refused():
    for make in (CpuPnpSolver, functools.partial(CpuRenderer, colored_box())):
        with pytest.raises(InputError, match=r"threads: 500 are far more than the \d+ cores"):
            make(threads=500)


@pytest.mark.parametrize("threads", [2, 3, 16, None])
def test_the_number_of_threads_changes_nothing(solver, problems, threads):
    many = CpuPnpSolver(threads=threads)
    T_init = perturbed(problems.T_camera_object, 0.05, 0.02)
    for operation in ("ransac_epnp", "weighted_lm"):
        given = arguments(problems, operation)
        if operation == "weighted_lm":
            given["T_init"] = T_init
        one, other = getattr(solver, operation)(**given), getattr(many, operation)(**given)
        np.testing.assert_array_equal(one.T_camera_object, other.T_camera_object)
        for name in one.statistics.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one.statistics, name), getattr(other.statistics, name))
    many.close()


def test_closing_stops_the_threads_and_a_later_call_starts_new_ones(solver, problems):
    many, given = CpuPnpSolver(threads=2), arguments(problems, "ransac_epnp")
    many.close()  # nothing to stop yet
    for _ in range(2):
        before = threading.active_count()
        np.testing.assert_array_equal(
            many.ransac_epnp(**given).T_camera_object, solver.ransac_epnp(**given).T_camera_object
        )
        assert threading.active_count() > before
        many.close()
        many.close()
        assert threading.active_count() == before


_FORK = """
import os, signal
import numpy as np
from benchmarks.pnp_problems import make_problems
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.render.cpu import CpuRenderer
from tests.stages.scene import colored_box

p = make_problems(4, 40, seed=1)
solver = CpuPnpSolver(threads=2)
solve = lambda: solver.ransac_epnp(p.points_object, p.points_image, p.valid, p.K).T_camera_object
before = solve()
child = os.fork()
if child == 0:
    signal.alarm(60)  # a child that waits for the parent's threads ends by the signal
    same = np.array_equal(solve(), before)
    solver.close()
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0, "the child hung or differed"
assert np.array_equal(solve(), before)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own():
    """In a process of its own: pytest and its plug-ins are no place to fork."""
    result = subprocess.run([sys.executable, "-c", _FORK], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_an_error_in_a_thread_is_raised_and_leaves_the_solver_usable(problems):
    many, given = CpuPnpSolver(threads=2), arguments(problems, "ransac_epnp")
    solved = []

    def fail(i):
        if i == 3:
            raise MemoryError("no room for problem 3")
        solved.append(i)

    with pytest.raises(MemoryError, match="problem 3"):
        many._each(fail, len(problems))
    assert set(solved) >= {0, 2, 4, 6}  # the other thread's share
    assert np.isfinite(many.ransac_epnp(**given).T_camera_object).all()
    many.close()


def test_a_problem_alone_is_a_problem_in_a_batch(solver, problems):
    """LM at any place of a batch; RANSAC at the same place, since samples are keyed by it."""
    together = solver.weighted_lm(**arguments(problems, "weighted_lm"))
    for i in (0, 3, 6):
        alone = solver.weighted_lm(**{k: v[i : i + 1] for k, v in arguments(problems, "weighted_lm").items()})
        np.testing.assert_array_equal(alone.T_camera_object[0], together.T_camera_object[i])
    longer, shorter = arguments(problems, "ransac_epnp"), {}
    for name, value in longer.items():
        shorter[name] = value[:3]
    np.testing.assert_array_equal(
        solver.ransac_epnp(**shorter).T_camera_object, solver.ransac_epnp(**longer).T_camera_object[:3]
    )


def test_dtypes_and_layouts(solver, problems):
    """float32, integers' and Fortran-ordered arrays, and one K for all are taken; results are float64."""
    K = problems.K[0]
    for operation in ("ransac_epnp", "weighted_lm"):
        given = {**arguments(problems, operation), "K": K}
        reference = getattr(solver, operation)(**given)
        assert reference.T_camera_object.dtype == np.float64
        fortran = {k: np.asfortranarray(v) for k, v in given.items()}
        np.testing.assert_array_equal(getattr(solver, operation)(**fortran).T_camera_object, reference.T_camera_object)
        single = {
            k: v.astype(np.float32) if v.dtype == float and k not in ("K", "T_init") else v for k, v in given.items()
        }
        result = getattr(solver, operation)(**single)
        assert result.T_camera_object.dtype == np.float64
        solved = np.isfinite(reference.T_camera_object) & np.isfinite(result.T_camera_object)
        assert solved.any()
        np.testing.assert_allclose(result.T_camera_object[solved], reference.T_camera_object[solved], atol=1e-2)


def in_units(T, unit):
    """Poses [B,4,4] whose lengths are counted in ``unit`` metres."""
    scaled = T.copy()
    scaled[:, :3, 3] /= unit
    return scaled


@pytest.mark.parametrize("unit", [1e-3, 0.1, 100.0])
def test_the_unit_of_length_does_not_matter(solver, problems, unit):
    """A 5 m object at 50 m, one of millimetres, or millimetres taken for metres: equal up to rounding."""
    given = {**arguments(problems, "weighted_lm"), "T_init": perturbed(problems.T_camera_object, 0.05, 0.02)}
    wanted = solver.weighted_lm(**given)
    given["points_object"], given["T_init"] = given["points_object"] / unit, in_units(given["T_init"], unit)
    result = solver.weighted_lm(**given)
    np.testing.assert_allclose(result.T_camera_object, in_units(wanted.T_camera_object, unit), rtol=1e-7, atol=1e-7)
    scale = np.r_[np.full(3, 1 / unit), np.ones(3)]
    deviation = np.sqrt(np.diagonal(wanted.covariance, axis1=1, axis2=2)) * scale
    np.testing.assert_allclose(np.sqrt(np.diagonal(result.covariance, axis1=1, axis2=2)), deviation, rtol=1e-6)
    given = arguments(problems, "ransac_epnp")
    wanted = solver.ransac_epnp(**given)
    result = solver.ransac_epnp(**{**given, "points_object": given["points_object"] / unit})
    np.testing.assert_array_equal(result.inliers, wanted.inliers)
    np.testing.assert_allclose(result.T_camera_object, in_units(wanted.T_camera_object, unit), rtol=1e-5, atol=1e-6)


def test_inputs_are_not_written_to(solver, problems):
    for operation in ("ransac_epnp", "weighted_lm"):
        given = {k: v.copy() for k, v in arguments(problems, operation).items()}
        before = {k: v.copy() for k, v in given.items()}
        for value in given.values():
            value.flags.writeable = False
        getattr(solver, operation)(**given)
        for name, value in given.items():
            np.testing.assert_array_equal(value, before[name])


def test_module_functions_are_the_solver(solver, problems):
    config = RansacConfig(seed=3)
    given = arguments(problems, "ransac_epnp")
    np.testing.assert_array_equal(
        pnp.ransac_epnp(**given, config=config).T_camera_object,
        solver.ransac_epnp(**given, config=config).T_camera_object,
    )
    given = arguments(problems, "weighted_lm")
    np.testing.assert_array_equal(pnp.weighted_lm(**given).covariance, solver.weighted_lm(**given).covariance)


def test_importing_the_package_does_not_import_numba():
    code = "import sys, coop_edge.pnp, coop_edge.pnp.base; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
