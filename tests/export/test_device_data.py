"""The stream that draws whole batches as tensors: what it gives, that it goes on, how it trains, and its stock."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from export.train.session import Plan, train
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from coop_edge.errors import BackendUnavailable, InputError
from coop_edge.geometry import se3
from export.cli.main import app
from export.data import data, device_data
from export.data.batch import PATCH, CoarseBatch, RefinerBatch, on_host
from export.data.data import Recipe, make_stream
from export.data.device_data import DeviceStream
from export.data.device_geometry import Draw
from export.data.device_objects import Delivery, Limits, ObjectRecipe
from export.data.device_pairs import STAGES, Drawer
from export.data.device_render import KernelRasterizer
from export.data.device_stock import Stock
from export.data.objects import MODEL_POINTS
from export.train import throughput
from export.train.task import to_tensors
from tests.cuda_host.host_device import HostDevice
from tests.export.device_cases import CPU, SMALL, stock_of, things
from tests.export.small_nets import NET

SIZE = 48
T = (SIZE // PATCH) ** 2
QUICK = {"minutes": 60, "batch_size": 4, "workers": 0, "evaluate_samples": 0, "precision": "float32", "device": "cpu"}


@pytest.fixture(autouse=True)
def _few_objects(monkeypatch):
    """Streams start with a handful of objects: making them is what takes the time."""
    monkeypatch.setattr(device_data, "FIRST", 5)
    monkeypatch.setitem(device_data.CAPACITY, "cpu", 8)


def stream(role: str = "coarse", *, batch_size: int = 6, start: int = 0, workers: int = 0, **options) -> DeviceStream:
    made = make_stream(
        role, SIZE, batch_size=batch_size, workers=workers, seed=0, data="device", start=start, **options
    )
    assert isinstance(made, DeviceStream)
    return made


def same(a, b) -> bool:
    return all(torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)) for x, y in zip(*map(values, (a, b)), strict=True))


def values(batch) -> list[torch.Tensor]:
    return [getattr(batch, f.name) for f in fields(batch)]


def test_a_coarse_batch_is_what_was_agreed():
    with stream(batch_size=9) as s:
        batch = next(s)
    assert isinstance(batch, CoarseBatch)
    wanted = {
        "query": (torch.uint8, (9, SIZE, SIZE, 3)), "template": (torch.uint8, (9, SIZE, SIZE, 3)),
        "match_index": (torch.int64, (9, T)), "offset": (torch.float32, (9, T, 2)), "on_target": (torch.bool, (9, T)),
        "template_points": (torch.float32, (9, SIZE, SIZE, 3)), "K_query": (torch.float64, (9, 3, 3)),
        "T_query": (torch.float64, (9, 4, 4)), "diameter": (torch.float64, (9,)),
    }  # fmt: skip
    assert {
        f.name: (getattr(batch, f.name).dtype, tuple(getattr(batch, f.name).shape)) for f in fields(batch)
    } == wanted
    matched = batch.match_index < T
    assert matched.any()
    assert batch.on_target[matched].all()
    assert not batch.offset[~matched].any()
    assert batch.offset.abs().max() <= 0.5
    on = torch.isfinite(batch.template_points).all(dim=-1)
    assert (on | batch.template_points.isnan().all(dim=-1)).all()
    se3.check_transform(batch.T_query.numpy())


def test_a_refiner_batch_is_what_was_agreed():
    with stream("refiner", batch_size=5) as s:
        batch = next(s)
    assert isinstance(batch, RefinerBatch)
    wanted = {
        "query": (torch.uint8, (5, SIZE, SIZE, 3)), "render": (torch.uint8, (5, SIZE, SIZE, 3)),
        "object_points": (torch.float32, (5, SIZE, SIZE, 3)), "flow": (torch.float32, (5, 2, SIZE, SIZE)),
        "visible": (torch.bool, (5, SIZE, SIZE)), "K": (torch.float64, (5, 3, 3)), "T_init": (torch.float64, (5, 4, 4)),
        "T_true": (torch.float64, (5, 4, 4)), "model_points": (torch.float32, (5, MODEL_POINTS, 3)),
        "diameter": (torch.float64, (5,)),
    }  # fmt: skip
    assert {
        f.name: (getattr(batch, f.name).dtype, tuple(getattr(batch, f.name).shape)) for f in fields(batch)
    } == wanted
    for name in ("flow", "K", "model_points"):
        assert torch.isfinite(getattr(batch, name)).all(), name
    for name in ("T_init", "T_true"):
        se3.check_transform(getattr(batch, name).numpy())


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_a_batch_is_drawn_again_alike(role):
    with stream(role) as a, stream(role) as b, stream(role, split="heldout") as c:
        first, again, other = next(a), next(b), next(c)
        assert same(first, again)
        assert not same(first, other)
        assert not same(next(a), first)
        assert a.position == 12


def test_large_batches_are_drawn_in_parts(monkeypatch):
    monkeypatch.setitem(device_data.AT_ONCE, "cpu", 4)
    with stream(batch_size=10) as s:
        batch = next(s)
    assert len(batch.query) == 10
    assert len(torch.unique(batch.diameter)) > 1
    assert not same(replace_rows(batch, 0, 4), replace_rows(batch, 4, 8))


def replace_rows(batch, low: int, high: int):
    return replace(batch, **{f.name: getattr(batch, f.name)[low:high] for f in fields(batch)})


def test_objects_are_renewed_and_a_stream_goes_on_with_new_ones(monkeypatch):
    monkeypatch.setattr(device_data, "PAIRS_PER_OBJECT", 2)
    with stream(batch_size=6) as s:
        next(s)
        names = [thing.mesh.name for thing in s.stock.things if thing]
        next(s)
        next(s)
        later = [thing.mesh.name for thing in s.stock.things if thing]
    assert names == [f"procedural/{i}" for i in range(5)]
    assert sorted(later) == sorted(f"procedural/{i}" for i in range(3, 11))  # eight slots; the oldest are gone
    with stream(batch_size=6, start=12) as s:
        next(s)
        assert s.stock.things[0].mesh.name == "procedural/6"


def test_workers_make_the_objects():
    with stream(workers=2, batch_size=3) as s:
        batch = next(s)
        assert len(batch.query) == 3
        names = {thing.mesh.name for thing in s.stock.things if thing}
    assert {f"procedural/{i}" for i in range(5)} <= names
    s.close()  # once more does nothing


def test_hardness_rises_with_the_ramp():
    """Easy pairs have whole targets near the template's view; so far more of their patches are matched."""
    shares = []
    for options in ({"ramp": 10**6}, {"hardness": 1.0}):
        with stream(batch_size=16, **options) as s:
            batches = [next(s) for _ in range(2)]
        matched = sum(int((b.match_index < T).sum()) for b in batches)
        shares.append(matched / sum(int(b.on_target.sum()) for b in batches))
    assert shares[0] > shares[1] + 0.05


def test_tensors_reach_the_loss_without_a_copy():
    with stream(batch_size=2) as s:
        batch = next(s)
    given = to_tensors(batch, CPU)
    for name in ("match_index", "offset", "on_target", "template_points", "K_query", "T_query", "diameter"):
        assert given[name].data_ptr() == getattr(batch, name).data_ptr(), name
    assert given["query"].shape == (2, 3, SIZE, SIZE)


@pytest.mark.parametrize("role", ["coarse", "refiner", "selector"])
def test_a_run_trains_on_pairs_of_the_device(role, tmp_path):
    folder = train(Plan(role, {**QUICK, "data": "device", "max_steps": 2}, NET[role], out=tmp_path / "run"))
    assert (folder / f"{role}.safetensors").is_file()
    folder = train(Plan(role, {"max_steps": 1}, resume=folder))
    assert '"data": "device"' in (folder / "report.json").read_text()


def test_a_step_that_is_not_finite_keeps_its_pairs(tmp_path):
    from export.train.watch import TrainingDivergedError

    def poisoned(*args, **options):
        s = make_stream(*args, **options)
        draw = s._drawer.coarse

        def bad(*rest):
            batch = draw(*rest)
            return replace(batch, offset=torch.full_like(batch.offset, torch.nan))

        s._drawer.coarse = bad
        return s

    plan = Plan("coarse", {**QUICK, "data": "device", "max_steps": 3}, NET["coarse"], out=tmp_path)
    with pytest.raises(TrainingDivergedError):
        train(plan, streams=poisoned)
    (kept,) = tmp_path.glob("diverged_*.npz")
    with np.load(kept) as arrays:
        assert arrays["query"].dtype == np.uint8


@pytest.mark.parametrize("drawn", ["device", "cpu"])
def test_profile_prints_every_stage(drawn, monkeypatch):
    monkeypatch.setattr(throughput, "network_of", lambda plan: small(plan))
    options = ["--device", "cpu", "--data", drawn, "--seconds", "0", "--batch-size", "2", "--workers", "0"]
    result = CliRunner().invoke(app, ["profile", "coarse", *options])
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    stages = ["waiting", "forward", "backward", "update", *(STAGES if drawn == "device" else ())]
    assert set(lines) == {"stage", "all", *stages}
    assert all(float(lines[name][1]) > 0 for name in (*stages, "all"))
    assert sum("slowest" in line for line in lines.values()) == 1


def small(plan: Plan):
    from export.train.session import network_of

    return network_of(replace(plan, net={**plan.net, **NET[plan.role]}))


def test_pairs_of_the_device_can_be_looked_at(tmp_path):
    out = tmp_path / "pairs.png"
    result = CliRunner().invoke(app, ["pairs", "coarse", "-o", str(out), "--size", "32", "-n", "2", "--data", "device"])
    assert result.exit_code == 0, result.output
    assert Image.open(out).width == 2 * 32 * 3


def test_what_cannot_be_had_is_said(tmp_path):
    with pytest.raises(InputError, match="keep_scenes"):
        stream("refiner", keep_scenes=True)
    recipe = Recipe("coarse", SIZE, 0, "train", None, None, False)
    with pytest.raises(InputError, match="device: wanted 'cuda' or 'cpu', got 'mps'"):
        DeviceStream(recipe, 1, 0, 0, "mps")
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="finds no CUDA device"):
            make_stream("coarse", SIZE, batch_size=1, workers=0, seed=0, device="cuda")
    broken = tmp_path / "pack.npz"
    broken.write_bytes(b"not a pack")
    with pytest.raises(InputError, match=r"pack\.npz"), stream(pack=broken) as s:
        next(s)
    with stream(pack=broken, workers=1) as s, pytest.raises(RuntimeError, match=r"(?s)data worker failed.*pack\.npz"):
        next(s)


def test_drawing_needs_neither_trimesh_nor_scikit_image():
    """A machine that is lent with a GPU need not have them."""
    script = """if True:
        import sys
        sys.modules.update(dict.fromkeys(("trimesh", "skimage", "open3d"), None))  # importing them fails
        from export.data import device_data
        from export.data.data import make_stream
        device_data.FIRST = 2
        with make_stream("coarse", 32, batch_size=2, workers=0, seed=0, data="device") as stream:
            print(len(next(stream).query))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2", done.stderr


def test_a_stock_exchanges_the_oldest_of_a_kind():
    made = things(4)
    stock = Stock(3, CPU, share=1 / 3, limits=SMALL)
    assert [stock.add(thing) for thing in made[:3]] == [0, 1, 0]
    assert stock.add(made[3], "pack") == 2
    assert (stock.count("procedural"), stock.count("pack")) == (2, 1)
    assert stock.things == [made[2], made[1], made[3]]
    share = torch.tensor([0.0, 1.0, 0.5])
    picked = stock.pick(Draw(CPU, 0), share[:, None], 3, 400)
    assert set(picked[0].tolist()) == {0, 1}
    assert set(picked[1].tolist()) == {2}
    assert 0.35 < float((picked[2] == 2).float().mean()) < 0.65


def test_a_slot_holds_what_its_object_is():
    made = things(2)
    stock = stock_of(made)
    for slot, thing in enumerate(made):
        mesh, f = thing.mesh, len(thing.mesh.faces)
        assert int(stock.face_count[slot]) == f
        corners = stock.vertices.view(-1, 4)[stock.faces[slot, :f, :3].long()][..., :3]
        np.testing.assert_array_equal(corners, mesh.vertices[mesh.faces])
        np.testing.assert_array_equal(stock.colors[slot, :f, :, :3], mesh.corner_colors)
        for i, image in enumerate(mesh.textures):
            first, height, width, _ = stock.textures[slot, i].tolist()
            texels = stock.texels.view(-1, 4)[first : first + height * width, :3]
            np.testing.assert_array_equal(texels.reshape(height, width, 3), image)
        assert float(stock.vertices[slot, :, :3].norm(dim=1).max()) == pytest.approx(mesh.radius)


def test_what_does_not_fit_is_made_anew_or_shrunk():
    thing = next(t for t in things(12) if t.mesh.textures)
    few = Limits(vertices=3000, faces=len(thing.mesh.faces) - 1, texels=1 << 18, textures=8)
    with pytest.raises(InputError, match="wanted at most"):
        Stock(1, CPU, limits=few).add(thing)
    small = Limits(vertices=3000, faces=5000, texels=5000, textures=8)
    stock = Stock(1, CPU, limits=small)
    stock.add(thing)
    kept = stock.things[0].mesh
    assert sum(image.shape[0] * image.shape[1] for image in kept.textures) <= 5000
    assert kept.vertices is thing.mesh.vertices
    recipe = ObjectRecipe(Recipe("coarse", SIZE, 0, "train", None, None, False), 0.0, Limits(faces=400))
    delivery: Delivery = recipe.artist()(0)
    assert len(delivery.thing.mesh.faces) <= 400


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_kinds_take_turns(share):
    order = ObjectRecipe(Recipe("coarse", SIZE, 0, "train", None, None, False), share)
    kinds = [order.kind_of(i) for i in range(100)]
    assert kinds.count("pack") == round(100 * share)
    if share == data.PACK_SHARE:
        assert {"pack", "procedural"} == set(kinds[:3])


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
def test_no_value_decides_what_is_launched(role):
    """By the kernels: what ``nothing_waits_for_the_gpu`` asserts on a GPU, as far as it can be seen without one."""
    stock = stock_of(things(4))
    drawer = Drawer(stock, KernelRasterizer(stock, HostDevice(guard=False)), 32)
    one = torch.ones(6, dtype=torch.float64)
    draw = drawer.coarse if role == "coarse" else functools.partial(drawer.refiner, halfway=0.5)
    drawer.seed(1)
    first = draw(one, 0 * one)  # tables are made on first use
    drawer.seed(1)
    with NoWaiting():
        again = draw(one, 0 * one)
    assert same(first, again)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        float(one[0])


@pytest.mark.gpu
@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_nothing_waits_for_the_gpu(role):
    """No value goes to the host while pairs are drawn: PyTorch would raise where it has to wait."""
    with make_stream(role, 64, batch_size=8, workers=0, seed=0, device="cuda") as s:
        next(s)  # compiles kernels, fills the stock
        torch.cuda.set_sync_debug_mode("error")
        try:
            batch = next(s)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(t.is_cuda for t in values(batch))
    assert torch.isfinite(on_host(batch).diameter).all()


@pytest.mark.gpu
@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_a_gpu_draws_what_a_cpu_draws(role):
    """Of the same scenes, which a CPU's random numbers give: see ``test_device_render`` for single views."""
    with make_stream(role, 64, batch_size=64, workers=0, seed=0, device="cuda") as s:
        batch = on_host(next(s))
    with make_stream(role, 64, batch_size=64, workers=0, seed=0, data="device") as s:
        other = on_host(next(s))
    assert abs(batch.query.mean() - other.query.mean()) < 25
    if role == "coarse":
        share, wanted = ((b.match_index < 16).mean() for b in (batch, other))
        assert abs(share - wanted) < 0.15
    else:
        assert abs(batch.visible.mean() - other.visible.mean()) < 0.15
