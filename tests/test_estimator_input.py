"""Wrong use of an Estimator: each kind is refused with what was given and what was wanted, and changes nothing."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import trimesh

from coop_edge import (
    BackendUnavailable,
    BundleError,
    Camera,
    ConfigError,
    Detection,
    EngineError,
    Estimator,
    InputError,
    MeshError,
    PoseEstimate,
    Symmetries,
    TemplateSet,
)
from coop_edge import backend as room
from coop_edge.cli.latency import measure
from coop_edge.pnp.cpu import CpuPnpSolver
from tests.estimators import TINY, tiny_scene
from tests.runtime.networks import tiny_bundle

SCENE = tiny_scene()
CUBE, BAR = SCENE.meshes
BOX = Detection("cube", bbox=(5, 5, 20, 20))
HERE = PoseEstimate(True, T_camera_object=SCENE.placed[0].T, object="cube")


class OnGpu:
    """Claims to be an image in a GPU's memory."""

    shape, dtype = (48, 64, 3), np.dtype(np.uint8)
    __cuda_array_interface__ = {"shape": shape, "typestr": "|u1", "data": (0, False), "version": 3}  # noqa: RUF012


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"), features=False)


@pytest.fixture(scope="module")
def templates():
    return TemplateSet.render(CUBE, 32, supersample=1)


@pytest.fixture(scope="module")
def estimator(folder, templates):
    with Estimator.from_engines(folder, device="cpu", threads=1) as opened:
        opened.add_object("cube", CUBE, templates=templates)
        yield opened


def image(height=48, width=64, channels=3, dtype=np.uint8):
    return np.zeros((height, width, channels), dtype)


WRONG_IMAGES = {
    "list": ([[[0, 0, 0]]], "image: wanted an array uint8 [48,64,3], got list"),
    "none": (None, "image: wanted an array uint8 [48,64,3], got None; OpenCV's imread"),
    "float": (image(dtype=np.float32), "image: wanted dtype uint8, got float32; multiply"),
    "int": (image(dtype=np.int64), "image: wanted dtype uint8, got int64"),
    "grey": (image()[..., 0], "image: wanted RGB [48,64,3], got [48, 64]; a grey image becomes RGB with"),
    "rgba": (image(channels=4), "image: wanted RGB [48,64,3], got [48, 64, 4]; leave out the fourth channel"),
    "planar": (
        np.zeros((3, 48, 64), np.uint8),
        "image: wanted RGB [48,64,3], got [3, 48, 64]; move the channels to the end",
    ),
    "batch": (image()[None], "image: wanted RGB [48,64,3], got [1, 48, 64, 3]"),
    "transposed": (image(64, 48), "width and height look swapped"),
    "size": (image(47), "image: wanted RGB [48,64,3], got [47, 64, 3]"),
    "gpu": (OnGpu(), "image: lies on a GPU, this Estimator runs on the CPU (asked for)"),
}


@pytest.mark.parametrize(("given", "says"), WRONG_IMAGES.values(), ids=list(WRONG_IMAGES))
def test_images(estimator, given, says):
    for call, items in ((estimator.estimate, [BOX]), (estimator.estimate, []), (estimator.track, [HERE])):
        with pytest.raises(InputError, match=re.escape(says)):
            call(given, TINY, items)


WRONG_CALLS = {
    "no camera": (lambda e: e.estimate(image(), TINY.K, [BOX]), "camera: wanted a coop_edge Camera, got ndarray"),
    "NaN in K": (lambda e: e.estimate(image(), Camera(TINY.K * np.nan, 64, 48), [BOX]), "K: holds NaN or infinity"),
    "one detection": (
        lambda e: e.estimate(image(), TINY, BOX),
        "detections: wanted a sequence of Detection, got a sin",
    ),
    "no detections": (
        lambda e: e.estimate(image(), TINY, None),
        "detections: wanted a sequence of Detection, got None",
    ),
    "a bare box": (
        lambda e: e.estimate(image(), TINY, [BOX, (5, 5, 20, 20)]),
        "detections[1]: wanted a Detection, got tuple",
    ),
    "box outside": (
        lambda e: e.estimate(image(), TINY, [BOX, Detection("cube", bbox=(64, 0, 5, 5))]),
        "detections[1] ('cube'): bbox: [64.0, 0.0, 5.0, 5.0] (x, y, width, height) lies outside the 64x48 image",
    ),
    "NaN in the box": (lambda e: Detection("cube", bbox=(0, 0, np.nan, 5)), "bbox: holds NaN or infinity"),
    "mask of another size": (
        lambda e: e.estimate(image(), TINY, [Detection("cube", mask=np.ones((64, 48), bool))]),
        "mask: wanted [48,64] (the image's), got [64, 48]",
    ),
    "empty mask": (lambda e: Detection("cube", mask=np.zeros((48, 64), bool)), "mask: no pixel is True"),
    "unknown object": (
        lambda e: e.estimate(image(), TINY, [Detection("cub", bbox=(5, 5, 20, 20))]),
        "unknown object 'cub'; did you mean 'cube'? the objects are 'cube'",
    ),
    "unknown object, nothing like it": (
        lambda e: e.estimate(image(), TINY, [Detection("kettle", bbox=(5, 5, 20, 20))]),
        "unknown object 'kettle'; the objects are 'cube'",
    ),
    "a matrix to track": (
        lambda e: e.track(image(), TINY, [HERE.T_camera_object]),
        "results[0]: wanted a PoseEstimate",
    ),
    "one result": (lambda e: e.track(image(), TINY, HERE), "results: wanted a sequence of PoseEstimate, got a single"),
    "result of an unknown object": (
        lambda e: e.track(image(), TINY, [HERE, dataclasses.replace(HERE, object="bar")]),
        "unknown object 'bar'; the objects are 'cube'",
    ),
    "unknown object removed": (lambda e: e.remove_object("bar"), "unknown object 'bar'; the objects are 'cube'"),
    "name twice": (
        lambda e: e.add_object("cube", BAR),
        "name: there is an object 'cube' already; remove_object('cube') first",
    ),
    "no name": (lambda e: e.add_object("", BAR), "name: wanted a non-empty text, got ''"),
    "a number for a name": (lambda e: e.add_object(7, BAR), "name: wanted a non-empty text, got 7"),
    "no unit": (lambda e: e.add_object("bar", "bar.ply"), "object 'bar': wanted unit='m', 'cm', 'mm' or 'in', that of"),
    "unknown unit": (lambda e: e.add_object("bar", "bar.ply", unit="km"), "unit: wanted one of 'm', 'cm', 'mm', 'in'"),
    "unit of a Mesh": (
        lambda e: e.add_object("bar", BAR, unit="mm"),
        "a Mesh is in metres already, leave out unit='mm'",
    ),
    "no mesh": (
        lambda e: e.add_object("bar", None, templates="bar.npz"),
        "object 'bar': wanted its mesh; templates alone cannot be rendered at a new pose",
    ),
    "symmetries of another kind": (
        lambda e: e.add_object("bar", BAR, symmetries=[np.eye(4)]),
        "symmetries: wanted Symmetries or None, got list",
    ),
    "templates and symmetries": (
        lambda e: e.add_object("bar", BAR, templates="bar.npz", symmetries=Symmetries()),
        "object 'bar': templates carry the symmetries they were made with; give one of the two",
    ),
    "templates of another kind": (
        lambda e: e.add_object("bar", BAR, templates=np.zeros(3)),
        "object 'bar': templates: wanted a .npz file or a TemplateSet, got ndarray",
    ),
}


@pytest.mark.parametrize(("call", "says"), WRONG_CALLS.values(), ids=list(WRONG_CALLS))
def test_calls(estimator, call, says):
    with pytest.raises(InputError, match=re.escape(says)):
        call(estimator)
    assert list(estimator.objects) == ["cube"]
    assert len(estimator.estimate(image(), TINY, [BOX])) == 1  # nothing is left locked or half done


def test_meshes_that_cannot_be_used(estimator, tmp_path):
    with pytest.raises(MeshError, match=r"nowhere\.ply"):
        estimator.add_object("bar", tmp_path / "nowhere.ply", unit="mm")
    with pytest.raises(MeshError, match=r"diameter 173.2 m with unit='m'; with unit='mm' it would be 0.1732 m"):
        estimator.add_object("bar", trimesh.creation.box(extents=(100, 100, 100)), unit="m")
    assert list(estimator.objects) == ["cube"]


def render(**options):
    return lambda: TemplateSet.render(BAR, **{"size": 32, "supersample": 1, **options})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (render(size=48), "templates of 'bar' were not made for the engines tiny: size 48 (wanted 32); leave out"),
        (render(margin=1.2), "not made for the engines tiny: margin 1.2 (wanted 1.05); leave out templates="),
        (render(field_of_view=30.0), "not made for the engines tiny: field_of_view 30.0 (wanted 15); leave out"),
        (lambda: dataclasses.replace(render()(), settings={}), "margin None (wanted 1.05), field_of_view None (wan"),
        (lambda: TemplateSet.render(CUBE, 32, supersample=1), "were rendered from another mesh"),
        (lambda: "nowhere.npz", "nowhere.npz: no such template file"),
    ],
    ids=["size", "margin", "field of view", "unknown settings", "another mesh", "no file"],
)
def test_templates_that_do_not_fit(estimator, make, says):
    with pytest.raises(BundleError, match=re.escape(says)):
        estimator.add_object("bar", BAR, templates=make())
    assert list(estimator.objects) == ["cube"]


def test_a_closed_estimator_says_so(folder):
    closed = Estimator.from_engines(folder, device="cpu", threads=1)
    closed.close()
    closed.close()
    calls = {
        "add_object": lambda: closed.add_object("cube", CUBE),
        "remove_object": lambda: closed.remove_object("cube"),
        "estimate": lambda: closed.estimate(image(), TINY, []),
        "track": lambda: closed.track(image(), TINY, []),
        "warmup": closed.warmup,
        "with": closed.__enter__,
    }
    for name, call in calls.items():
        with pytest.raises(EngineError, match=f"{name}: this Estimator is closed; make a new one with"):
            call()
    assert not closed.objects


def test_closing_stops_the_threads_of_the_solver(folder, monkeypatch):
    closed = []
    monkeypatch.setattr(CpuPnpSolver, "close", lambda self: closed.append(self))
    with Estimator.from_engines(folder, device="cpu", threads=2):
        assert not closed
    assert [type(solver) for solver in closed] == [CpuPnpSolver]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"engines": "coop-nowhere"}, BundleError, r"no bundle 'coop-nowhere' in .*; there: .*; give one of these"),
        ({"engines": "./nowhere/at all"}, BundleError, "nowhere/at all: no such folder"),
        ({"engines": 7}, InputError, "engines: wanted the name or the folder of a bundle, got int"),
        ({"device": "gpu"}, InputError, "device: wanted 'auto', 'cpu' or 'cuda', got 'gpu'"),
        ({"threads": -1}, InputError, "threads: wanted a number of threads, or 0 for all cores, got -1"),
        ({"threads": True}, InputError, "threads: wanted a number of threads"),
        ({"threads": 5000}, InputError, "threads: 5000 are more than the"),
        ({"config": {"refine": {"iteration": 1}}}, ConfigError, "did you mean 'iterations'"),
        ({"config": 5}, ConfigError, "config: wanted an EstimatorConfig or a mapping of its options, got int"),
    ],
    ids=[
        "no such name",
        "no such folder",
        "engines",
        "device",
        "negative threads",
        "threads",
        "many threads",
        "option",
        "config",
    ],
)
def test_opening(folder, options, error, says):
    with pytest.raises(error, match=says):
        Estimator.from_engines(**{"engines": folder, "device": "cpu", **options})


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        ("CuPy finds no CUDA device", r"device='cuda' was asked for, but CuPy finds no CUDA device"),
        (None, r"device='cuda' was asked for, but nothing runs tiny/coarse_encoder on CUDA; .*; no provider for cuda"),
    ],
    ids=["no GPU", "a GPU, but nothing that runs networks there"],
)
def test_cuda(folder, monkeypatch, probe, says):
    monkeypatch.setattr(room, "probe_cuda", lambda: probe)
    monkeypatch.setattr(room, "probe_onnxruntime", lambda device: f"no provider for {device} in it")
    with pytest.raises(BackendUnavailable, match=says):
        Estimator.from_engines(folder, device="cuda")


def test_a_bundle_of_another_number_of_templates(tmp_path):
    manifest = tiny_bundle(tmp_path, features=False) / "bundle.json"
    text = manifest.read_text()
    assert '"views": 42' in text
    manifest.write_text(text.replace('"views": 42', '"views": 60'))
    for opened in (Estimator.from_engines, measure):
        with pytest.raises(BundleError, match="its networks want 60 templates per object, this coop_edge makes 42"):
            opened(tmp_path, device="cpu")
