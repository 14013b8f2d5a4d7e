"""Images and devices for the Estimator on a GPU: what is read where it is, what is refused, and which probe failed."""

# ruff: noqa: F811  (fixtures are imported and named again)
from __future__ import annotations

import sys

import numpy as np
import pytest

from coop_edge import Estimator
from coop_edge.errors import BackendUnavailable, InputError
from tests.estimators import AS_REFINED, SMALL, knowing, tiny_bundle
from tests.estimators_gpu import assert_same, both, cupy, gpu, on_cpu, table  # noqa: F401
from tests.runtime.fake_arrays import DOWNLOAD, IN_PLACE, UPLOAD
from tests.runtime.fake_cuda import FakeCupy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


class OnlyAnInterface:
    """As PyCUDA's GPUArray is to CuPy: something that says where its memory is."""

    def __init__(self, array, **changed) -> None:
        self.array = array  # keeps the memory
        self.shape, self.dtype = array.shape, array.dtype
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changed}


@pytest.mark.parametrize("kind", ["CuPy", "interface", "strided"])
def test_an_image_on_the_gpu_is_read_where_it_is(gpu, kind, table, on_cpu, tmp_path):
    image = gpu.asarray(table.image)
    if kind == "strided":  # BGR memory that is seen as RGB
        image = gpu.ascontiguousarray(image[..., ::-1])[..., ::-1]
    given = image if kind == "CuPy" else OnlyAnInterface(image)
    with knowing(tmp_path, table, config=AS_REFINED, device="cuda") as (estimator, _):
        transfers = getattr(gpu, "transfers", [])
        transfers.clear()
        found = both(estimator, table, given)
    assert_same(found, on_cpu, radians=1e-5, metres=1e-6, score=1e-4)
    assert (UPLOAD, table.image.nbytes) not in transfers
    assert (DOWNLOAD, table.image.nbytes) not in transfers
    if isinstance(gpu, FakeCupy):
        assert transfers.count((IN_PLACE, 0)) == (0 if kind == "CuPy" else 2)


@pytest.mark.gpu
@pytest.mark.parametrize("owner", ["torch", "pycuda"])
def test_an_image_of_another_library_is_read_where_it_is(owner, table, on_cpu, tmp_path):
    pytest.importorskip(owner)
    if owner == "torch":
        import torch

        image = torch.as_tensor(table.image, device="cuda")
    else:
        from pycuda import gpuarray

        image = gpuarray.to_gpu(table.image)
    with knowing(tmp_path, table, config=AS_REFINED, device="cuda") as (estimator, _):
        found = both(estimator, table, image)
    assert_same(found, on_cpu, radians=1e-5, metres=1e-6, score=1e-4)


def test_wrong_images_on_the_gpu_are_refused(cupy, table, tmp_path):
    image = cupy.put(table.image)
    elsewhere = cupy.put(table.image)
    elsewhere.device_id = 1
    cases = {
        "wanted dtype uint8": cupy.put(table.image.astype(np.float32)),
        r"wanted RGB \[240,320,3\], got \[320, 240, 3\]; width and height look swapped": cupy.put(
            table.image.transpose(1, 0, 2)
        ),
        "wanted on GPU 3, where the networks are, got on GPU 1": elsewhere,
        "its __cuda_array_interface__ cannot be read: ValueError: a null pointer": OnlyAnInterface(image, data=(0, 0)),
        "wanted an array uint8": "picture.png",
    }
    with knowing(tmp_path, table, device="cuda") as (estimator, _):
        for says, wrong in cases.items():
            with pytest.raises(InputError, match=f"image: {says}"):
                estimator.estimate(wrong, SMALL, table.detections())
        assert all(result.success for result in estimator.estimate(image, SMALL, table.detections()))


def no_device(cupy, ort):
    cupy.cuda.runtime.getDeviceCount = lambda: 0


def broken_driver(cupy, ort):
    def fails():
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    cupy.cuda.runtime.getDeviceCount = fails


def no_provider(cupy, ort):
    ort.available = ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (no_device, "CuPy finds no CUDA device"),
        (broken_driver, "CuPy fails on this machine: RuntimeError: cudaErrorInsufficientDriver"),
        (no_provider, "nothing runs tiny/coarse_encoder on CUDA; .*was built without CUDAExecutionProvider"),
    ],
)
def test_cuda_that_cannot_be_names_the_probe_that_failed(cupy, folder, breaks, says):
    breaks(cupy, sys.modules["onnxruntime"])
    with pytest.raises(BackendUnavailable, match=f"device='cuda' was asked for, but {says}"):
        Estimator.from_engines(folder, device="cuda")


def test_auto_takes_the_gpu_where_everything_for_it_is_there(cupy, folder):
    with Estimator.from_engines(folder, threads=1) as estimator:
        assert (estimator.backend.name, estimator.backend.reason) == ("cuda", "CuPy and a CUDA device answer")
