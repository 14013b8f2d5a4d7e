"""RANSAC's substreams, on all backends: a problem comes out the same, bit for bit, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pnp_problems import make_problems
from coop_edge import pnp
from coop_edge.config import RansacConfig, RansacSearchConfig
from coop_edge.errors import InputError
from coop_edge.kernels.device import CupyDevice
from coop_edge.pnp.base import PnpStatus
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.cuda import CudaPnpSolver
from tests.cuda_host.host_device import HostDevice
from tests.oracles import pnp_ransac as oracle
from tests.pnp.cuda_support import arrays_of, assert_same_bits, to_host

DETECTIONS, PLACES = 8, 5
SEARCH = RansacSearchConfig(hypotheses=64)


class Backend:
    """A solver that takes and gives NumPy arrays."""

    def __init__(self, solver, device=None):
        self.solver, self.device = solver, device

    def solve(self, problems, substreams=None, search=SEARCH, rows=slice(None), seed=0):
        put = self.device.xp.asarray if self.device else np.asarray
        given = [put(a[rows]) for a in (problems.points_object, problems.points_image, problems.valid, problems.K)]
        substreams = None if substreams is None else put(substreams)
        result = self.solver.ransac_epnp(*given, RansacConfig(seed=seed), search=search, substreams=substreams)
        return to_host(self.device, result) if self.device else result


BACKENDS = {
    "cpu": lambda: Backend(CpuPnpSolver(threads=1)),
    "cpu, threads": lambda: Backend(CpuPnpSolver(threads=2)),
    "host": lambda: Backend(CudaPnpSolver(device := HostDevice()), device),
    "cupy": lambda: Backend(CudaPnpSolver(device := CupyDevice()), device),
}


@pytest.fixture(scope="module", params=[*list(BACKENDS)[:-1], pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request):
    made = BACKENDS[request.param]()
    yield made
    if isinstance(made.solver, CpuPnpSolver):
        made.solver.close()


@pytest.fixture(scope="module")
def problems():
    """As the coarse stage has them: 64 matches, few of them right, of 8 detections with 5 templates each."""
    return make_problems(DETECTIONS * PLACES, 64, shape="mixed", noise_px=1.5, outliers=(0.3, 0.8), padding=5, seed=21)


def places(detections=DETECTIONS):
    return np.tile(np.arange(PLACES, dtype=np.uint32), detections)


def rows_of(result, rows):
    return {name: array[rows] for name, array in arrays_of(result).items()}


def assert_rows(result, rows, wanted):
    for name, array in rows_of(result, rows).items():
        np.testing.assert_array_equal(array, arrays_of(wanted)[name], err_msg=name)


def test_a_detection_alone_is_the_detection_in_a_batch(backend, problems):
    together = backend.solve(problems, places())
    assert (together.statistics.status == PnpStatus.SOLVED).mean() > 0.9
    for i in range(DETECTIONS):
        rows = slice(PLACES * i, PLACES * (i + 1))
        assert_rows(together, rows, backend.solve(problems, places(1), rows=rows))
    one = 3 * PLACES + 4
    assert_rows(together, slice(one, one + 1), backend.solve(problems, np.array([4], np.uint32), rows=[one]))


def test_the_order_of_detections_does_not_matter(backend, problems):
    together = backend.solve(problems, places())
    order = np.random.default_rng(0).permutation(DETECTIONS)
    rows = (PLACES * order[:, None] + np.arange(PLACES)).reshape(-1)
    shuffled = backend.solve(problems, places(), rows=rows)
    assert_rows(together, rows, shuffled)


def test_without_substreams_a_problem_draws_by_its_index(backend, problems):
    by_index = backend.solve(problems, np.arange(len(problems), dtype=np.uint32))
    assert_same_bits(backend.solve(problems), by_index)


def test_backends_draw_the_same_samples(problems):
    cpu, host = (BACKENDS[name]().solve(problems, places() + np.uint32(7)) for name in ("cpu", "host"))
    for name in ("status", "hypotheses", "n_inliers"):
        np.testing.assert_array_equal(getattr(cpu.statistics, name), getattr(host.statistics, name), err_msg=name)
    np.testing.assert_array_equal(cpu.inliers, host.inliers)


@pytest.mark.parametrize("substream", [0, 1, 2**31, 2**32 - 1])
def test_draws_the_oracles_samples(backend, problems, substream):
    result = backend.solve(problems, np.array([substream], np.uint32), rows=[2])
    v = problems.valid[2]
    X, u = problems.points_object[2, v], problems.points_image[2, v]
    R, _, inliers, drawn, score = oracle.ransac(X, u, problems.K[2], RansacConfig(), SEARCH, problem=substream)
    assert result.statistics.hypotheses[0] == drawn
    np.testing.assert_array_equal(result.inliers[0, v], inliers)
    np.testing.assert_allclose(result.statistics.score[0], score, rtol=2e-5)
    np.testing.assert_allclose(result.T_camera_object[0, :3, :3], R, atol=1e-5)


def test_another_substream_and_another_seed_give_other_samples(backend, problems):
    """One sample, unrefined: its score is its fingerprint."""
    raw = RansacSearchConfig(hypotheses=1, refine=False, min_inliers=4)
    rows = np.zeros(60, int)
    same = backend.solve(problems, np.full(60, 9, np.uint32), raw, rows)
    assert len(np.unique(same.statistics.score)) == 1
    streams = backend.solve(problems, np.arange(60, dtype=np.uint32), raw, rows)
    seeds = [backend.solve(problems, np.full(1, 9, np.uint32), raw, rows[:1], s) for s in range(60)]
    for scores in (streams.statistics.score, np.concatenate([r.statistics.score for r in seeds])):
        solved = scores[np.isfinite(scores)]
        assert len(solved) > 20
        # 60 samples of 3 out of 64 points: two alike, up to their order, are one in 20.
        assert len(np.unique(solved)) >= len(solved) - 1


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("points", [0, 3])
def test_nothing_to_solve(backend, batch, points):
    result = backend.solve(make_problems(batch, points), np.zeros(batch, np.uint32))
    assert result.T_camera_object.shape == (batch, 4, 4)
    assert (result.statistics.status == PnpStatus.TOO_FEW_POINTS).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:2], r"substreams: wanted an array \[3\] to go with points_object, got shape \(2,\)"),
        (lambda a: a[:, None], r"substreams: wanted an array \[3\] .*got shape \(3, 1\)"),
        (lambda a: a[0], r"substreams: wanted an array \[3\] .*got shape \(\)"),
        (lambda a: a.astype(np.int64), r"substreams: wanted dtype uint32, got int64; convert with"),
        (lambda a: a.astype(np.float32), "substreams: wanted dtype uint32, got float32"),
    ],
)
def test_wrong_substreams_say_what_was_wanted(backend, change, message):
    with pytest.raises(InputError, match=message):
        backend.solve(make_problems(3, 8), change(np.arange(3, dtype=np.uint32)))


def test_a_list_is_refused(backend):
    """On a GPU an array would have to be uploaded behind the caller's back, and backends take the same."""
    p = make_problems(3, 8)
    put = backend.device.xp.asarray if backend.device else np.asarray
    with pytest.raises(InputError, match=r"substreams: .*list"):
        backend.solver.ransac_epnp(
            *map(put, (p.points_object, p.points_image, p.valid, p.K)), search=SEARCH, substreams=[0, 1, 2]
        )


def test_the_module_function_takes_them(problems):
    given = (problems.points_object, problems.points_image, problems.valid, problems.K)
    options = {"search": SEARCH, "substreams": places()}
    assert_same_bits(
        pnp.ransac_epnp(*given, **options),
        CpuPnpSolver(threads=1).ransac_epnp(*given, **options),
    )
