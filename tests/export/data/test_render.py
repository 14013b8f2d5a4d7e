"""Views of a stock by the CUDA kernels (on the host, and on a GPU where there is one) against the CPU renderer."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from coop_edge.render.base import Shading
from coop_edge.render.cpu import CpuRenderer
from export.data.geometry import Random, camera_matrix, from_rt, random_rotation, rotate
from export.data.render import Layers, Lights, StockRenderer
from export.data.render_cpu import HostRenderer
from export.data.render_cuda import KernelRenderer
from export.data.stock import ObjectStock
from export.data.stream import stock_renderer
from tests.cuda_host.host_device import HostDevice
from tests.export.data.cases import CPU, draw, stock_of, things

SIZE = 40
SLOTS = [0, 1, -1, 2, 3, 3, 4]


@pytest.fixture(scope="module")
def made():
    return things(5)


@pytest.fixture(scope="module", params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request, made):
    device = CPU if request.param == "host" else torch.device("cuda")
    stock = stock_of(made, device)
    return KernelRenderer(stock, HostDevice()) if request.param == "host" else stock_renderer(stock)


@pytest.fixture(scope="module")
def host(made) -> HostRenderer:
    return HostRenderer(stock_of(made))


def cameras(stock: ObjectStock, slots: list[int]):
    """Views of each object by itself, from two and a half to five diameters away."""
    n = len(slots)
    which = torch.tensor([max(s, 0) for s in slots], dtype=torch.int64)
    random = Random(CPU, 3)
    R, distance = random_rotation(random, n), stock.diameter.cpu()[which] * random.uniform(2.5, 5.0, n)
    middle = torch.stack([0.1 * distance, -0.05 * distance, distance], dim=1)
    T = from_rt(R, middle - rotate(R, stock.centre.cpu()[which]))
    K = camera_matrix(torch.linspace(80.0, 140.0, n).double(), (SIZE - 1) / 2)
    return torch.tensor(slots, dtype=torch.int64), T, K


def lights(n: int) -> Lights:
    return Lights(torch.linspace(0.1, 0.9, n).double(), torch.linspace(1.0, 0.1, n).double(), torch.arange(n) % 2 == 1)


def compare(found: Layers, wanted: Layers) -> None:
    found = Layers(found.rgb.cpu(), found.depth.cpu(), found.triangle.cpu())
    same = found.triangle == wanted.triangle
    assert same.float().mean() > 0.999  # where a corner is snapped to the next 1/256 sample
    np.testing.assert_allclose(found.depth[same], wanted.depth[same], rtol=1e-5)
    level = (found.rgb.int() - wanted.rgb.int()).abs().amax(dim=-1)
    assert level[same].float().quantile(0.99) <= 1
    assert (level <= 1).float().mean() > 0.985
    assert (wanted.triangle >= 0).float().mean() > 0.1


def test_the_host_draws_as_the_cpu_renderer(host):
    slots, T, K = cameras(host._stock, SLOTS)
    light = lights(len(SLOTS))
    seen = host.lit(slots, T, K, SIZE, light, 3)
    for i, slot in enumerate(SLOTS):
        if slot < 0:
            continue
        thing = host._stock.things[slot]
        mesh = thing.grey if light.plain[i] else thing.mesh
        shading = Shading(float(light.ambient[i]), float(light.diffuse[i]))
        wanted = CpuRenderer(mesh, shading=shading, supersample=3, threads=1).render(T[[i]].numpy(), K[i].numpy(), SIZE)
        np.testing.assert_array_equal(seen.triangle[i], wanted.triangle_id[0])
        np.testing.assert_array_equal(seen.depth[i], wanted.depth[0])
        np.testing.assert_array_equal(seen.rgb[i], wanted.rgb[0])


def test_albedo_depth_and_triangles(kernels, host):
    given = cameras(host._stock, SLOTS)
    device = kernels._stock.device
    compare(kernels.unlit(*(t.to(device) for t in given), SIZE), host.unlit(*given, SIZE))


@pytest.mark.parametrize("samples", [1, 3])
def test_every_view_has_its_own_light(kernels, host, samples):
    slots, T, K = cameras(host._stock, SLOTS)
    device, light = kernels._stock.device, lights(len(SLOTS))
    there = Lights(light.ambient.to(device), light.diffuse.to(device), light.plain.to(device))
    found = kernels.lit(*(t.to(device) for t in (slots, T, K)), SIZE, there, samples)
    compare(found, host.lit(slots, T, K, SIZE, light, samples))


def test_an_empty_place_is_black_and_far(kernels, host):
    device = kernels._stock.device
    for each in (kernels, host):
        where = device if each is kernels else CPU
        seen = each.unlit(*(t.to(where) for t in cameras(host._stock, SLOTS)), SIZE)
        empty = SLOTS.index(-1)
        assert not seen.rgb[empty].any()
        assert not seen.depth[empty].any()
        assert (seen.triangle[empty] == -1).all()
        assert (seen.triangle[empty + 1] >= 0).any()


@pytest.mark.parametrize("slots", [[], [-1, -1]])
def test_nothing_to_draw(kernels, host, slots):
    device = kernels._stock.device
    given = cameras(host._stock, slots)
    for each, where in ((kernels, device), (host, CPU)):
        seen = each.unlit(*(t.to(where) for t in given), SIZE)
        assert seen.rgb.shape == (len(slots), SIZE, SIZE, 3)
        assert not seen.rgb.any()


def test_the_nearest_of_several_objects_is_kept(host):
    """One after the other as all at once, and by hand at each pixel; depths are scaled."""
    stock = host._stock
    scene, probe = draw(stock, 2, 12)
    items = scene.items
    T = from_rt(probe.R[:, None] @ items.T[..., :3, :3], rotate(probe.R[:, None], items.T[..., :3, 3]))
    given = items.slot, T, items.scale, probe.K, 64
    found, wanted = host.nearest(*given), StockRenderer.nearest(host, *given)
    for name in ("albedo", "depth", "item", "triangle"):
        where = wanted.item >= 0 if name == "triangle" else slice(None)
        np.testing.assert_array_equal(getattr(found, name)[where], getattr(wanted, name)[where], err_msg=name)
    depth = torch.stack([host.depths(items.slot[:, k], T[:, k], probe.K, 64) for k in range(3)], dim=1)
    depth = depth * items.scale.float()[..., None, None]
    nearest, who = depth.min(dim=1)
    np.testing.assert_array_equal(found.item, torch.where(torch.isfinite(nearest), who, -1))
    np.testing.assert_array_equal(found.depth, torch.where(torch.isfinite(nearest), nearest, 0.0))
    assert len(torch.unique(found.item)) == 4
    unseen = host.nearest(*given, colors=False)
    np.testing.assert_array_equal(unseen.depth, found.depth)


def test_an_exchanged_object_is_drawn(made):
    stock = stock_of(made)
    kernels, host = KernelRenderer(stock, HostDevice()), HostRenderer(stock)
    stock.put(1, made[3])
    given = cameras(stock, [0, 1, 1])
    compare(kernels.unlit(*given, SIZE), host.unlit(*given, SIZE))


def test_launches_go_to_pytorchs_stream(made, monkeypatch):
    """On a GPU, arrays are taken where they are and kernels follow what PyTorch has launched."""
    used = []

    @contextlib.contextmanager
    def within(name):
        used.append(name)
        yield

    cuda = SimpleNamespace(
        Device=lambda index: within(f"device {index}"),
        ExternalStream=lambda handle: within(f"stream {handle}"),
        Stream=SimpleNamespace(null=within("default stream")),
    )
    host, xp = HostDevice(), SimpleNamespace(cuda=cuda, asarray=lambda t: t.numpy())
    fake = SimpleNamespace(xp=xp, kernel=host.kernel, pack=host.pack)
    stock = stock_of(made[:1])
    kernels = KernelRenderer(stock, fake)
    given = cameras(stock, [0])
    assert (kernels.unlit(*given, SIZE).triangle >= 0).any()
    assert not used
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77))
    stock.device = torch.device("cuda", 1)
    with kernels._stream():
        assert used == ["device 1", "stream 77"]
