"""Views of a stock by the CUDA kernels (on the host, and on a GPU where there is one) against the CPU renderer."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from export.data.device_geometry import Draw, camera_matrix, from_rt, random_rotation, rotate
from export.data.device_render import HostRasterizer, KernelRasterizer, Layers, Lights, rasterizer
from export.data.device_stock import Stock
from tests.cuda_host.host_device import HostDevice
from tests.export.device_cases import CPU, stock_of, things

SIZE = 40
SLOTS = [0, 1, -1, 2, 3, 3, 4]


@pytest.fixture(scope="module")
def made():
    return things(5)


@pytest.fixture(scope="module", params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request, made):
    device = CPU if request.param == "host" else torch.device("cuda")
    stock = stock_of(made, device)
    return KernelRasterizer(stock, HostDevice()) if request.param == "host" else rasterizer(stock)


@pytest.fixture(scope="module")
def host(made) -> HostRasterizer:
    return HostRasterizer(stock_of(made))


def cameras(stock: Stock, slots: list[int]):
    """Views of each object by itself, from two and a half to five diameters away."""
    n = len(slots)
    which = torch.tensor([max(s, 0) for s in slots], dtype=torch.int64)
    draw = Draw(CPU, 3)
    R, distance = random_rotation(draw, n), stock.diameter.cpu()[which] * draw.uniform(2.5, 5.0, n)
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


def test_albedo_depth_and_triangles(kernels, host):
    given = cameras(host._stock, SLOTS)
    device = kernels._stock.device
    compare(kernels.look(*(t.to(device) for t in given), SIZE), host.look(*given, SIZE))


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
        seen = each.look(*(t.to(where) for t in cameras(host._stock, SLOTS)), SIZE)
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
        seen = each.look(*(t.to(where) for t in given), SIZE)
        assert seen.rgb.shape == (len(slots), SIZE, SIZE, 3)
        assert not seen.rgb.any()


def test_an_exchanged_object_is_drawn(made):
    stock = stock_of(made[:2])
    kernels, host = KernelRasterizer(stock, HostDevice()), HostRasterizer(stock)
    stock.put(1, made[3])
    given = cameras(stock, [0, 1, 1])
    compare(kernels.look(*given, SIZE), host.look(*given, SIZE))


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
    fake = SimpleNamespace(xp=SimpleNamespace(cuda=cuda, asarray=lambda t: t.numpy()), kernel=HostDevice().kernel)
    stock = stock_of(made[:1])
    kernels = KernelRasterizer(stock, fake)
    given = cameras(stock, [0])
    assert (kernels.look(*given, SIZE).triangle >= 0).any()
    assert not used
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77))
    stock.device = torch.device("cuda", 1)
    with kernels._stream():
        assert used == ["device 1", "stream 77"]
