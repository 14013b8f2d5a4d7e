"""The stream: what it gives, that it is reproducible, how it fails and how it ends, and that networks train on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from coop_edge.errors import BackendUnavailable, InputError
from coop_edge.geometry import se3
from export.data import pairs
from export.data import stream as module
from export.data.batch import PATCH, stack, take
from export.data.pairs import STAGES
from export.data.rerender import target_of
from export.data.starts import STATED, draw_spread
from export.data.stream import LAYOUTS, TRAINING_STARTS, BlockGenerator, make_stream
from export.data.supply import DataOptions, Layout
from export.networks import CONFIGS
from export.train import run
from export.train.monitor import TrainingDivergedError
from export.train.options import TrainOptions
from export.train.task import to_tensors
from tests.export.small_nets import NET

SIZE = 48
T = (SIZE // PATCH) ** 2
FEW = Layout(lanes=3, photographs=4, first=3, held=6, samples_per_object=8)
QUICK = TrainOptions(batch_size=4, workers=0, evaluate_samples=0, precision="float32", device="cpu", ramp=0)


@pytest.fixture
def few(monkeypatch):
    """Streams in this process start with a handful of objects: making them is what takes the time."""
    monkeypatch.setitem(LAYOUTS, "cpu", FEW)


def drawn(count: int, role: str = "coarse", *, batch_size: int = 3, workers: int = 0, seed: int = 0, **options):
    with make_stream(role, SIZE, batch_size=batch_size, workers=workers, seed=seed, **options) as stream:
        return [next(stream) for _ in range(count)]


def take_all(stream) -> None:
    """More than can have been drawn ahead."""
    for _ in range(200):
        next(stream)


def assert_same(a, b) -> None:
    for f in fields(a):
        np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name), err_msg=f.name)


@pytest.mark.parametrize(("role", "numbers"), [("coarse", (1, 3)), ("refiner", (2,))])
def test_samples_do_not_depend_on_the_workers_nor_on_the_batch(role, numbers):
    alone = drawn(4, role, batch_size=6)
    assert isinstance(alone[0].query, np.ndarray)
    for workers in numbers:
        for a, b in zip(alone, drawn(4, role, batch_size=6, workers=workers), strict=True):
            assert_same(a, b)
    assert_same(stack(alone), drawn(1, role, batch_size=24)[0])


def test_another_seed_and_another_split_are_other_samples(few):
    a = drawn(1)[0].query
    for other in (drawn(1, seed=1), drawn(1, split="heldout")):
        assert (a != other[0].query).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_a_stream_goes_on_where_another_stopped(few, role):
    """Also in the midst of a block, and where the lanes have forgotten their first objects."""
    with make_stream(role, SIZE, batch_size=5, workers=0, seed=2, ramp=300) as stream:
        for _ in range(24):
            next(stream)
        assert stream.position == 120
        following = next(stream)
    block = 4 * (2 if role == "refiner" else 1)
    assert FEW.objects(DataOptions(role, SIZE, 2, labels=block // 4), 120 // block).start > 0
    assert_same(following, drawn(1, role, batch_size=5, seed=2, ramp=300, start=120)[0])
    assert_same(take(following, slice(2, 5)), drawn(1, role, batch_size=3, seed=2, ramp=300, start=122)[0])


def test_objects_are_renewed(few):
    """A lane begins with its first objects, takes in one for so many of its samples and holds so many at most."""
    options = DataOptions("coarse", SIZE, 0)
    assert FEW.objects(options, 0) == range(3)
    assert FEW.objects(options, 2) == range(3)
    assert FEW.objects(options, 6 * 3) == range(6)
    assert FEW.objects(options, 10 * 3 + 2) == range(2, 8)
    generator, names = BlockGenerator(options), []
    for block in (0, 18, 30, 48):
        generator(block)
        names.append([thing.mesh.name for thing in generator._lanes[0]._stock.things if thing])
    assert names[0] == [f"procedural/0/{i}" for i in range(3)]
    assert names[1] == [f"procedural/0/{i}" for i in range(6)]
    assert sorted(names[2]) == [f"procedural/0/{i}" for i in range(2, 8)]
    assert sorted(names[3]) == sorted(f"procedural/0/{i}" for i in range(5, 11))
    resumed = BlockGenerator(options)
    assert_same(resumed(48)[0], BlockGenerator(options)(48)[0])
    assert sorted(t.mesh.name for t in resumed._lanes[0]._stock.things) == sorted(names[3])


def test_larger_images_come_in_smaller_blocks():
    layout = LAYOUTS["cpu"]
    assert [layout.block(DataOptions("coarse", size, 0)) for size in (48, 128, 224, 2048)] == [8, 8, 3, 1]


def test_a_gpus_stream_draws_in_this_process_from_objects_that_workers_make(few, monkeypatch):
    """One lane; the objects come in the order of their numbers, the same as without workers."""
    monkeypatch.setitem(LAYOUTS, "cuda", replace(FEW, lanes=1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    class OnCpu(BlockGenerator):
        def __init__(self, options, keep, device, make_object):
            super().__init__(options, keep, "cpu", make_object)
            self.layout = LAYOUTS["cuda"]

    monkeypatch.setattr(module, "BlockGenerator", OnCpu)
    batches = {}
    for workers in (0, 2):
        with make_stream("coarse", SIZE, batch_size=6, workers=workers, seed=0, device="cuda", start=34) as stream:
            batches[workers] = [next(stream) for _ in range(3)]
            things = [t.mesh.name for t in stream._generator._lanes[0]._stock.things]
    for a, b in zip(batches[0], batches[2], strict=True):
        assert_same(a, b)
    assert sorted(things) == sorted(f"procedural/0/{i}" for i in range(3, 9))
    assert not stream._objects._processes[0].is_alive()


@pytest.mark.parametrize(("split", "views"), [("train", 4), ("heldout", 1)])
def test_a_photograph_in_training_is_seen_from_several_start_poses(few, split, views):
    """Held-out pairs are all their own."""
    (batch,) = drawn(1, "refiner", batch_size=8, split=split, start=8)
    np.testing.assert_array_equal(batch.query_index, np.arange(8, 16) // views)
    away = np.linalg.norm(batch.T_true[:, :3, 3], axis=1)
    assert np.isclose(away[::2], away[1::2], rtol=1e-9).all() == (views == 4)


@pytest.mark.parametrize(
    ("split", "small_starts", "share"), [("train", True, 0.25), ("train", False, 0), ("heldout", True, 0)]
)
def test_small_starts_can_be_left_out(few, monkeypatch, split, small_starts, share):
    mixes = []
    monkeypatch.setattr(pairs, "draw_spread", lambda *arguments: mixes.append(arguments[-1]) or draw_spread(*arguments))
    drawn(1, "refiner", batch_size=8, split=split, small_starts=small_starts)
    assert mixes[0] == replace(TRAINING_STARTS if split == "train" else STATED, small=share)


def test_a_count_of_labels_can_be_asked_for(few):
    (batch,) = drawn(1, batch_size=8, labels=4)
    np.testing.assert_array_equal(batch.query_index, np.arange(8) // 4)
    np.testing.assert_array_equal(batch.query[0], batch.query[3])
    assert_same(take(batch, slice(3, 8)), drawn(1, batch_size=5, labels=4, start=3)[0])


def test_records_belong_to_their_pairs(few):
    (part,) = drawn(1, "refiner", batch_size=7, keep_scenes=True, start=3)
    batch, records = part
    assert len(records) == 7
    for i, record in enumerate(records):
        assert target_of(record).diameter == batch.diameter[i]
        assert record.T_true[2, 3] > 0
        np.testing.assert_array_equal(target_of(record).model_points, batch.model_points[i])


def test_share_of_patches_without_a_match():
    (batch,) = drawn(1, batch_size=160, seed=4)
    assert 0.6 < (batch.match_index == T).mean() < 0.9


def test_hardness_rises_along_the_ramp():
    options = DataOptions("coarse", SIZE, 0, hardness=1.0, ramp=1000)
    assert [options.hardness_of(i) for i in (0, 250, 1000, 9999)] == [0.0, 0.25, 1.0, 1.0]
    assert DataOptions("coarse", SIZE, 0, hardness=0.5).hardness_of(0) == 0.5
    hardness = module._hardness(replace(options, labels=2), 120, 3, torch.device("cpu"))
    np.testing.assert_allclose(hardness, [0.240, 0.242, 0.244])
    assert FEW.hardness(options, 2) == 0.0
    assert FEW.hardness(options, 12) == options.hardness_of(10 * 8 * 3)


def test_a_stream_becomes_harder():
    """More patches have a match while whole objects are seen from near by."""
    shares = {}
    for name, options in (("easy", {"hardness": 0.0}), ("ramp", {"ramp": 10**9}), ("hard", {})):
        (batch,) = drawn(1, batch_size=128, **options)
        shares[name] = (batch.match_index == T).mean()
    assert shares["easy"] < shares["hard"] - 0.04
    assert shares["ramp"] < shares["hard"] - 0.04


def test_a_workers_exception_comes_out_with_its_traceback(tmp_path):
    broken = tmp_path / "pack.npz"
    broken.write_bytes(b"not a pack")
    with make_stream("coarse", SIZE, batch_size=2, workers=1, seed=0, pack=broken) as stream:
        with pytest.raises(RuntimeError, match=r"(?s)data worker failed.*Traceback.*pack\.npz"):
            next(stream)
        with pytest.raises(RuntimeError, match="data worker failed"):
            next(stream)
    with pytest.raises(InputError, match=r"pack\.npz"):
        drawn(1, pack=broken)


def test_a_worker_that_is_killed_is_reported():
    with make_stream("coarse", SIZE, batch_size=2, workers=2, seed=0) as stream:
        next(stream)
        os.kill(stream._blocks._processes[1].pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="data worker 1 ended with exit code -9"):
            take_all(stream)


def test_close_ends_the_workers():
    stream = make_stream("coarse", SIZE, batch_size=2, workers=2, seed=0)
    next(stream)
    processes = stream._blocks._processes
    stream.close()
    stream.close()
    assert not any(p.is_alive() for p in processes)
    with pytest.raises(RuntimeError, match="closed"):
        take_all(stream)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "features"}, "role: wanted one of 'coarse', 'refiner', got 'features'"),
        ({"split": "test"}, "split: wanted one of 'train', 'heldout', got 'test'"),
        ({"size": 50}, "size: wanted a multiple of 16, got 50"),
        ({"size": 0}, "size: wanted an integer of at least 16, got 0"),
        ({"batch_size": 0}, "batch_size: wanted an integer of at least 1, got 0"),
        ({"workers": -1}, "workers: wanted an integer of at least 0, got -1"),
        ({"workers": 1.5}, "workers: wanted an integer"),
        ({"seed": -1}, "seed: wanted an integer of at least 0"),
        ({"labels": 0}, "labels: wanted an integer of at least 1, got 0"),
        ({"ramp": -1}, "ramp: wanted an integer of at least 0"),
        ({"hardness": 1.5}, "hardness: wanted a number from 0 to 1"),
        ({"hardness": -0.1}, "hardness: wanted a number from 0 to 1"),
        ({"hardness": float("nan")}, "hardness: wanted a number from 0 to 1"),
        ({"device": "tpu"}, "device: wanted 'cpu' or 'cuda', got 'tpu'"),
        ({"keep_scenes": True}, "keep_scenes: wanted role='refiner'"),
        ({"pack": "nowhere.npz"}, "pack: 'nowhere.npz' does not exist; python -m export assets"),
        ({"photos": "nowhere"}, "photos: 'nowhere' is not a folder"),
    ],
)
def test_arguments_are_checked_before_a_worker_starts(change, message):
    given = {"role": "coarse", "size": SIZE, "batch_size": 1, "workers": 1, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        make_stream(given.pop("role"), given.pop("size"), **given)


def test_a_gpu_that_is_not_there_is_named():
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="finds no CUDA device"):
            make_stream("coarse", SIZE, batch_size=1, workers=0, seed=0, device="cuda")


def test_drawing_needs_neither_trimesh_nor_scikit_image():
    """A machine that is lent with a GPU need not have them."""
    script = """if True:
        import sys
        sys.modules.update(dict.fromkeys(("trimesh", "skimage", "open3d"), None))  # importing them fails
        from export.data.stream import make_stream
        with make_stream("coarse", 32, batch_size=2, workers=0, seed=0) as stream:
            print(len(next(stream).query))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2", done.stderr


def test_making_objects_needs_no_pytorch():
    """The workers of a GPU's stream do nothing else."""
    script = "import sys; sys.modules['torch'] = None; import export.data.supply; print('fine')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr


def test_stages_are_watched(few):
    with make_stream("refiner", SIZE, batch_size=8, workers=0, seed=0) as stream:
        seen: list[str] = []
        stream.watch(seen.append)
        next(stream)
    assert set(seen) == set(STAGES)
    assert seen[0] == "objects"
    assert seen[-1] == "labels"


def test_arrays_reach_the_loss_without_a_copy(few):
    (batch,) = drawn(1, batch_size=2)
    given = to_tensors(batch, torch.device("cpu"))
    for name in ("match_index", "offset", "on_target", "template_points", "K_query", "T_query", "diameter"):
        assert given[name].data_ptr() == getattr(batch, name).ctypes.data, name
    assert given["query"].shape == (2, 3, SIZE, SIZE)
    se3.check_transform(batch.T_query)


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_a_run_trains_on_pairs_and_goes_on(few, role, tmp_path):
    run.start(role, replace(QUICK, max_steps=2), CONFIGS[role].from_dict(NET[role]), tmp_path / "run")
    assert (tmp_path / "run" / f"{role}.safetensors").is_file()
    run.resume(role, tmp_path / "run", ["max_steps=1"])


def test_a_step_that_is_not_finite_keeps_its_pairs(few, tmp_path):
    def poisoned(*args, **options):
        stream = make_stream(*args, **options)
        for batch in stream:
            yield replace(batch, offset=np.full_like(batch.offset, np.nan))

    with pytest.raises(TrainingDivergedError):
        run.start(
            "coarse",
            replace(QUICK, max_steps=3, batch_size=24),  # several photographs: one may have no match
            CONFIGS["coarse"].from_dict(NET["coarse"]),
            tmp_path / "run",
            streams=poisoned,
        )
    (kept,) = (tmp_path / "run").glob("diverged_*.npz")
    with np.load(kept) as arrays:
        assert arrays["query"].dtype == np.uint8
