"""Batches of pairs: what they hold, labels per photograph, start poses, distributions, and how a GPU draws them."""

from __future__ import annotations

import functools
import math
from dataclasses import fields

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from coop_edge.geometry import se3
from export.data import pairs
from export.data.batch import PATCH, CoarseBatch, RefinerBatch, on_host
from export.data.geometry import Random
from export.data.objects import MODEL_POINTS
from export.data.pairs import PairGenerator
from export.data.render_cuda import KernelRenderer
from export.data.starts import SMALL, WIDE, StartMix, draw_spread
from export.data.stream import make_stream
from tests.cuda_host.host_device import HostDevice
from tests.export.data.cases import CPU, generator_of, one, stock_of, things

SIZE = 48
T = (SIZE // PATCH) ** 2
RECORDED = {
    ("coarse", 1.0): ((118.96, 53.76, 35.55, 0.3089, 0.302, 0.2282), (30.01, 14.56, 19.07, 0.1049, 0.1206, 0.1421)),
    ("coarse", 0.0): ((120.85, 56.04, 32.68, 0.3102, 0.3434, 0.3282), (21.52, 11.66, 16.44, 0.1043, 0.1215, 0.1188)),
    ("refiner", 1.0): (
        (119.24, 52.75, 29.54, 0.2596, 0.7992, 9.805, 0.4139), (31.01, 15.26, 16.18, 0.0968, 0.1885, 4.16, 0.175)
    ),
    ("refiner", 0.0): (
        (123.92, 55.87, 27.62, 0.2628, 0.9281, 9.982, 0.4152), (22.41, 12.74, 14.66, 0.1, 0.0789, 3.948, 0.1674)
    ),
}  # fmt: skip
"""Role and hardness: means and standard deviations over 768 held-out pairs of 96 pixels that an earlier program drew
one by one. See ``figures``."""


@pytest.fixture(scope="module")
def stock():
    return stock_of(things(8))


def values(batch) -> list[torch.Tensor]:
    return [getattr(batch, f.name) for f in fields(batch)]


def same(a, b) -> bool:
    return all(torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)) for x, y in zip(*map(values, (a, b)), strict=True))


def contents(batch) -> dict:
    return {f.name: (getattr(batch, f.name).dtype, tuple(getattr(batch, f.name).shape)) for f in fields(batch)}


def test_a_coarse_batch_is_what_was_agreed(stock):
    batch = generator_of(stock, SIZE, 2).coarse(one(20))
    assert isinstance(batch, CoarseBatch)
    assert contents(batch) == {
        "query": (torch.uint8, (20, SIZE, SIZE, 3)), "template": (torch.uint8, (20, SIZE, SIZE, 3)),
        "match_index": (torch.int64, (20, T)), "offset": (torch.float32, (20, T, 2)),
        "on_target": (torch.bool, (20, T)), "template_points": (torch.float32, (20, SIZE, SIZE, 3)),
        "K_query": (torch.float64, (20, 3, 3)), "T_query": (torch.float64, (20, 4, 4)),
        "diameter": (torch.float64, (20,)), "query_index": (torch.int64, (20,)),
    }  # fmt: skip
    batch = on_host(batch)
    assert batch.match_index.min() >= 0
    assert batch.match_index.max() == T
    assert not batch.offset[batch.match_index == T].any()
    assert np.abs(batch.offset).max() <= 0.5
    assert batch.on_target[batch.match_index < T].all()
    assert 0.02 < (batch.on_target & (batch.match_index == T)).mean() < 0.5  # turned away in the template
    assert 0.1 < (~batch.on_target).mean() < 0.9
    on = np.isfinite(batch.template_points).all(axis=-1)
    assert (on | np.isnan(batch.template_points).all(axis=-1)).all()
    for image, silhouette in zip(batch.template, on, strict=True):  # black but for samples beside the outline
        beyond = cv2.dilate(silhouette.astype(np.uint8), np.ones((3, 3))) == 0
        assert not image[beyond].any()
    se3.check_transform(batch.T_query)
    assert set(batch.diameter) <= {thing.diameter for thing in stock.things}


def test_a_refiner_batch_is_what_was_agreed(stock):
    batch = generator_of(stock, SIZE, 2).refiner(one(7))
    assert isinstance(batch, RefinerBatch)
    assert contents(batch) == {
        "query": (torch.uint8, (7, SIZE, SIZE, 3)), "render": (torch.uint8, (7, SIZE, SIZE, 3)),
        "object_points": (torch.float32, (7, SIZE, SIZE, 3)), "flow": (torch.float32, (7, 2, SIZE, SIZE)),
        "visible": (torch.bool, (7, SIZE, SIZE)), "K": (torch.float64, (7, 3, 3)), "T_init": (torch.float64, (7, 4, 4)),
        "T_true": (torch.float64, (7, 4, 4)), "R_crop": (torch.float64, (7, 3, 3)),
        "model_points": (torch.float32, (7, MODEL_POINTS, 3)),
        "diameter": (torch.float64, (7,)), "query_index": (torch.int64, (7,)),
    }  # fmt: skip
    batch = on_host(batch)
    for name in ("flow", "K", "model_points"):
        assert np.isfinite(getattr(batch, name)).all(), name
    for name in ("T_init", "T_true"):
        se3.check_transform(getattr(batch, name))
    extent = np.ptp(batch.model_points, axis=1).max(axis=1)
    assert (extent <= batch.diameter * 1.0001).all()
    assert (extent > batch.diameter * 0.3).all()


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_no_pairs(stock, role):
    batch = getattr(generator_of(stock, SIZE), role)(one(0))
    assert len(batch.query) == 0
    assert contents(batch) == {
        name: (dtype, (0, *shape[1:]))
        for name, (dtype, shape) in contents(getattr(generator_of(stock, SIZE), role)(one(2))).items()
    }


def test_several_templates_of_one_query(stock):
    batch = on_host(generator_of(stock, SIZE, 3).coarse(one(4), labels=3, first=100))
    np.testing.assert_array_equal(batch.query_index, np.repeat([100, 101, 102, 103], 3))
    for name in ("query", "T_query", "K_query", "on_target", "diameter"):
        np.testing.assert_array_equal(getattr(batch, name)[::3], getattr(batch, name)[2::3], err_msg=name)
    assert (batch.template[::3] != batch.template[1::3]).any(axis=(1, 2, 3)).all()


def test_several_start_poses_of_one_photograph(stock):
    """The same object at the same pose, in crops aimed by different start poses."""
    batch = on_host(generator_of(stock, SIZE, 3).refiner(one(4), labels=2, mix=StartMix(halfway=0.5)))
    np.testing.assert_array_equal(batch.query_index, [0, 0, 1, 1, 2, 2, 3, 3])
    away = np.linalg.norm(batch.T_true[:, :3, 3], axis=1)  # crops turn the camera, they do not move it
    np.testing.assert_allclose(away[::2], away[1::2], rtol=1e-9)
    np.testing.assert_array_equal(batch.diameter[::2], batch.diameter[1::2])
    assert (np.abs(batch.T_init[::2] - batch.T_init[1::2]).max(axis=(1, 2)) > 1e-4).all()


@pytest.mark.parametrize("labels", [1, 2, 3, 8])
def test_kinds_of_starts_have_their_shares_however_many_share_a_photograph(labels):
    """Each photograph has the kinds in the shares of the mix, as far as its labels go."""
    mix = StartMix(halfway=0.25, small=0.25, wide=0.25)
    spread = draw_spread(Random(CPU, 4), 800, labels, mix)
    kinds = torch.stack(
        [
            (spread > 1.0).all(dim=1) & (spread <= torch.tensor(WIDE)).all(dim=1),
            (spread <= torch.tensor(SMALL)).all(dim=1),
            (spread == 1.0).all(dim=1),
        ]
    )
    assert kinds.double().mean(dim=1).tolist() == pytest.approx([0.25, 0.25, 0.25], abs=0.05)  # some halfway are small
    if labels == 8:
        wide, _, full = kinds.view(3, 800, 8).sum(dim=2)
        assert (wide == 2).all()
        assert (full == 2).all()
    assert (draw_spread(Random(CPU, 4), 50, labels, StartMix()) == 1.0).all(), "held-out pairs: all of it"


@pytest.mark.parametrize(("mix", "low", "high"), [
    (StartMix(halfway=1.0), 0.08, 0.4),  # the mean square of a uniform number's square is a fifth
    (StartMix(small=1.0), 0.003, 0.04),  # a third of the square of a fifth
    (StartMix(wide=1.0), 2.5, 6.0),  # (27 - 1) / 6 of a uniform number from 1 to 3, less where angles wrap
])  # fmt: skip
def test_start_poses_are_as_far_off_as_their_kind(stock, mix, low, high):
    angles = {}
    for kind in (StartMix(), mix):
        batch = on_host(generator_of(stock, SIZE, 5).refiner(0 * one(60), mix=kind))
        angles[kind] = se3.rotation_angle(batch.T_init[:, :3, :3], batch.T_true[:, :3, :3])
    ratio = np.mean(np.square(angles[mix])) / np.mean(np.square(angles[StartMix()]))
    assert low < ratio < high


def test_matched_template_pixels_show_the_same_point(stock):
    """A match leads to the template pixel whose own point projects back to the query patch's centre."""
    size = 64
    batch = on_host(generator_of(stock, size, 4).coarse(one(16)))
    side, errors = size // PATCH, []
    for i, t in np.argwhere(batch.match_index < side * side):
        cell = batch.match_index[i, t]
        at = PATCH * (np.array([cell % side, cell // side]) + 0.5 + batch.offset[i, t]) - 0.5
        column, row = np.rint(at).astype(int).clip(0, size - 1)
        point = batch.template_points[i, row, column].astype(float)
        if not np.isfinite(point).all():
            continue  # between pixels at an outline
        seen = batch.K_query[i] @ se3.transform(batch.T_query[i], point[None])[0]
        centre = PATCH * (np.array([t % side, t // side]) + 0.5) - 0.5
        errors.append(np.linalg.norm(seen[:2] / seen[2] - centre))
    assert len(errors) > 25
    assert np.median(errors) < 1.0  # half a template pixel, seen from the query


def figures(batch) -> np.ndarray:
    """Of each pair: mean and contrast of the query, mean of the render, share of the image that it covers; then coarse:
    shares of patches on the target and matched; refiner: share of it that is visible, root mean square flow, angle."""
    query = batch.query.astype(float)
    coarse = isinstance(batch, CoarseBatch)
    on = np.isfinite((batch.template_points if coarse else batch.object_points)[..., 0])
    image = batch.template if coarse else batch.render
    columns = [query.mean((1, 2, 3)), query.std((1, 2, 3)), image.mean((1, 2, 3)), on.mean((1, 2))]
    if coarse:
        columns += [batch.on_target.mean(1), (batch.match_index < batch.match_index.shape[1]).mean(1)]
    else:
        count = np.maximum(on.sum((1, 2)), 1)
        flow = np.sqrt((np.linalg.norm(batch.flow, axis=1) ** 2 * on).sum((1, 2)) / count)
        angle = se3.rotation_angle(batch.T_init[:, :3, :3], batch.T_true[:, :3, :3])
        columns += [batch.visible.sum((1, 2)) / count, flow, angle]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(("role", "hardness"), RECORDED)
def test_pairs_are_distributed_as_recorded(role, hardness):
    """Means within five standard errors (a few dozen objects are no independent draws), spreads within a third."""
    with make_stream(role, 96, batch_size=128, workers=0, seed=7, split="heldout", hardness=hardness) as stream:
        found = figures(next(stream))
    mean, spread = np.array(RECORDED[role, hardness])
    error = spread * math.sqrt(1 / 128 + 1 / 768)
    assert (np.abs(found.mean(axis=0) - mean) < 5 * error).all(), (found.mean(axis=0) - mean) / error
    assert (np.abs(np.log(found.std(axis=0) / spread)) < math.log(1.4)).all(), found.std(axis=0) / spread


class NoWaiting(TorchDispatchMode):
    """Raises where an operation, were its tensors on a GPU, would wait for it or copy from the host."""

    WAITS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "equal",
        "is_nonzero",
        "lift_fresh",
        "linalg_inv",
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0].removeprefix("_unsafe_")
        assert not any(name.startswith(word) for word in self.WAITS), name
        if name in ("index", "index_put", "index_put_"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_no_value_decides_what_is_launched(stock, role, as_on_a_gpu):
    """By the kernels: what ``nothing_waits_for_the_gpu`` asserts on a GPU, as far as it can be seen without one."""
    generator = PairGenerator(stock, KernelRenderer(stock, HostDevice(guard=False)), 32)
    draw = {"coarse": generator.coarse, "refiner": functools.partial(generator.refiner, mix=StartMix(halfway=0.5))}[
        role
    ]
    generator.seed(1)
    first = draw(one(6), 2)  # tables are made on first use
    generator.seed(1)
    with NoWaiting():
        again = draw(one(6), 2)
    assert same(first, again)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        float(one(1)[0])


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The branches of a GPU, on the CPU."""
    from export.data import geometry, jpeg, light, photo

    for module in (geometry, jpeg, light, photo):
        monkeypatch.setattr(module, "on_gpu", lambda tensor: True)


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_a_gpu_draws_what_a_cpu_draws(stock, role, request, monkeypatch):
    """From the same random numbers: pictures and labels are the same but where a rounding decides. Without JPEG, which
    carries a rounding over its block (``test_photo`` has it)."""
    monkeypatch.setattr(pairs, "JPEG_SHARE", 0.0)
    hosts = generator_of(stock, SIZE, 9)
    draw = {"coarse": PairGenerator.coarse, "refiner": PairGenerator.refiner}[role]
    wanted = on_host(draw(hosts, one(12), 2))
    request.getfixturevalue("as_on_a_gpu")
    kernels = PairGenerator(stock, KernelRenderer(stock, HostDevice(guard=False)), SIZE)
    kernels.seed(9)
    found = on_host(draw(kernels, one(12), 2))
    for f in fields(found):
        a, b = getattr(found, f.name), getattr(wanted, f.name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), f.name
        if a.dtype == np.uint8:
            gap = np.abs(a.astype(int) - b)
            assert np.mean(gap > 8) < 0.01, f.name
            assert gap.mean() < 0.5, f.name
        elif a.dtype in (np.bool_, np.int64):
            assert np.mean(a != b) < 0.01, f.name
        else:
            both = np.isfinite(a) & np.isfinite(b)
            assert np.mean(np.isfinite(a) != np.isfinite(b)) < 0.01, f.name
            assert np.mean(np.abs(a - b)[both] > 1e-3) < 0.01, f.name


@pytest.mark.gpu
@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_nothing_waits_for_the_gpu(role):
    """No value goes to the host while pairs are drawn: PyTorch would raise where it has to wait."""
    with make_stream(role, 64, batch_size=64, workers=0, seed=0, device="cuda") as s:
        next(s)  # compiles kernels, fills the stock
        torch.cuda.set_sync_debug_mode("error")
        try:
            batch = next(s)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(t.is_cuda for t in values(batch))
    assert torch.isfinite(on_host(batch).diameter).all()
