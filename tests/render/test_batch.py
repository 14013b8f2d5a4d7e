"""A view's picture depends on that view alone: not on its batch, threads, process, bands or earlier calls."""

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.meshes import colored_torus, grey_box, look_at_views, textured_sphere
from coop_edge.render import CpuRenderer, cpu, open3d
from tests.render.scenes import RENDERERS, intrinsics, make

SIZE = 48
K = intrinsics(SIZE)


def meshes():
    return [textured_sphere(2, texture_size=32), colored_torus(sections=16), grey_box()]


def views(n=9):
    return look_at_views(n, 0.2, seed=2), np.arange(n) % 3


def assert_same(a, b):
    for name in ("rgb", "depth", "triangle_id"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("supersample", [1, 3])
def test_batch_equals_views_one_by_one(renderer, supersample):
    T, index = views()
    renders = make(renderer, meshes(), supersample=supersample)
    batch = renders.render(T, K, SIZE, mesh_index=index)
    for i in range(len(T)):
        alone = renders.render(T[i : i + 1], K, SIZE, mesh_index=index[i : i + 1])
        np.testing.assert_array_equal(alone.rgb[0], batch.rgb[i])
        np.testing.assert_array_equal(alone.depth[0], batch.depth[i])
        np.testing.assert_array_equal(alone.triangle_id[0], batch.triangle_id[i])


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_matter(renderer, threads):
    T, index = views()
    expected = make(renderer, meshes()).render(T, K, SIZE, mesh_index=index)
    assert_same(make(renderer, meshes(), threads=threads).render(T, K, SIZE, mesh_index=index), expected)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_repeated_calls_give_the_same_in_fresh_arrays(renderer):
    T, index = views()
    renders = make(renderer, meshes(), supersample=3)
    first = renders.render(T, K, SIZE, mesh_index=index)
    kept = first.rgb.copy(), first.depth.copy(), first.triangle_id.copy()
    renders.render(T[::-1], K, 2 * SIZE, mesh_index=index[::-1])
    again = renders.render(T, K, SIZE, mesh_index=index)
    assert_same(first, again)
    for before, after in zip(kept, (first.rgb, first.depth, first.triangle_id), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not any(np.shares_memory(getattr(first, a), getattr(again, a)) for a in ("rgb", "depth", "triangle_id"))


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("s", [3, 5])
def test_supersampling_is_the_mean_of_a_finer_render(renderer, s):
    T, index = views(3)
    K_fine = K * s
    K_fine[:2, 2] += (s - 1) / 2
    K_fine[2, 2] = 1.0
    fine = make(renderer, meshes()).render(T, K_fine, SIZE * s, mesh_index=index)
    result = make(renderer, meshes(), supersample=s).render(T, K, SIZE, mesh_index=index)
    mean = fine.rgb.reshape(3, SIZE, s, SIZE, s, 3).mean(axis=(2, 4))
    difference = np.abs(result.rgb - mean).max(axis=-1)
    # Each fine pixel is rounded by itself, up to 0.5, and the mean by another 0.5.
    assert np.quantile(difference, 0.995) <= 1.0
    middle = (slice(None), slice(s // 2, None, s), slice(s // 2, None, s))
    if renderer == "cpu":  # the very same arithmetic
        assert difference.max() <= 1.0
        np.testing.assert_array_equal(result.depth, fine.depth[middle])
        np.testing.assert_array_equal(result.triangle_id, fine.triangle_id[middle])
    else:  # rays through an edge may turn with the last bit of K^-1
        assert (result.triangle_id != fine.triangle_id[middle]).mean() < 0.002
    assert result.mask.any()


@pytest.mark.parametrize(
    ("renderer", "module"), [("cpu", cpu), pytest.param("open3d", open3d, marks=pytest.mark.open3d)]
)
@pytest.mark.parametrize("supersample", [1, 3])
def test_bands_do_not_matter(monkeypatch, renderer, module, supersample):
    T, index = views(3)
    renders = make(renderer, meshes(), supersample=supersample)
    expected = renders.render(T, K, SIZE, mesh_index=index)
    monkeypatch.setattr(module, "_BAND_SAMPLES", 7 * SIZE * supersample**2)
    assert_same(renders.render(T, K, SIZE, mesh_index=index), expected)


def test_one_renderer_in_several_threads():
    T, index = views()
    renders = CpuRenderer(meshes(), supersample=3, threads=2)
    expected = renders.render(T, K, SIZE, mesh_index=index)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: renders.render(T, K, SIZE, mesh_index=index), range(12)):
            assert_same(result, expected)


def _render_sum(renders):
    T, index = views()
    return int(renders.render(T, K, SIZE, mesh_index=index).rgb.sum(dtype=np.int64))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_worker_processes(method):
    # The parent's thread pool has run: a forked child must not wait for threads that it did not inherit.
    renders = CpuRenderer(meshes(), threads=2)
    expected = _render_sum(renders)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply_async(_render_sum, (renders,)).get(timeout=120) == expected


def test_renderer_can_be_pickled():
    renders = CpuRenderer(meshes(), supersample=3, threads=2)
    assert _render_sum(pickle.loads(pickle.dumps(renders))) == _render_sum(renders)
