"""The machine and its driver, from files and a driver that stand for machines the tests do not have."""

from __future__ import annotations

import ctypes
import shutil

import pytest

from coop_edge.doctor import isolate, machine

R36 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 2025\n"
R38 = "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, DATE: Fri Aug 22 00:55:42 2025\n"


@pytest.mark.parametrize(
    ("model", "release", "found"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit\0", R36, ("NVIDIA Jetson AGX Orin Developer Kit", "36.4.3", 6)),
        ("NVIDIA Jetson AGX Thor Developer Kit\0", R38, ("NVIDIA Jetson AGX Thor Developer Kit", "38.2.0", 7)),
        ("NVIDIA Jetson Orin Nano\0", None, ("NVIDIA Jetson Orin Nano", None, None)),
        (None, R36, (None, "36.4.3", 6)),  # a container does not always see the device tree
        ("NVIDIA Jetson X\0", R36.replace("R36", "R99"), ("NVIDIA Jetson X", "99.4.3", None)),
        ("Raspberry Pi 5 Model B Rev 1.0\0", None, None),
        (None, None, None),
    ],
)
def test_a_jetson_is_known_by_its_files(tmp_path, model, release, found):
    if model is not None:
        (tmp_path / "proc/device-tree").mkdir(parents=True)
        (tmp_path / "proc/device-tree/model").write_text(model)
    if release is not None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/nv_tegra_release").write_text(release)
    jetson = machine.jetson(tmp_path)
    assert (jetson and (jetson["model"], jetson["l4t"], jetson["jetpack"])) == found
    assert machine.system(tmp_path)["jetson"] == jetson


class FakeDriver:
    """libcuda with ``devices`` of (name, major, minor, bytes), each call answering ``fails.get(call, 0)``."""

    def __init__(self, devices=(), version=13000, **fails):
        self.devices, self.version, self.fails = devices, version, fails

    def __getattr__(self, name):
        def call(*arguments):
            answer = getattr(type(self), f"_{name}", None)
            if answer is not None and not self.fails.get(name, 0):
                answer(self, *(getattr(argument, "_obj", argument) for argument in arguments))  # _obj: what byref holds
            return self.fails.get(name, 0)

        return call

    def _cuGetErrorName(self, code, text):
        text.value = {100: b"CUDA_ERROR_NO_DEVICE", 999: b"CUDA_ERROR_UNKNOWN"}[code]

    def _cuDriverGetVersion(self, version):
        version.value = self.version

    def _cuDeviceGetCount(self, count):
        count.value = len(self.devices)

    def _cuDeviceGet(self, handle, index):
        handle.value = index

    def _cuDeviceGetName(self, name, _, handle):
        name.value = self.devices[handle.value][0].encode()

    def _cuDeviceTotalMem_v2(self, memory, handle):
        memory.value = self.devices[handle.value][3]

    def _cuDeviceGetAttribute(self, value, attribute, handle):
        value.value = self.devices[handle.value][{75: 1, 76: 2}[attribute]]


ORIN, THOR = ("Orin", 8, 7, 64 << 30), ("Thor", 11, 0, 128 << 30)


@pytest.mark.parametrize("devices", [[ORIN], [ORIN, THOR]])
def test_gpus_are_those_the_driver_lists(devices, tmp_path):
    facts = machine.gpu(lambda _: FakeDriver(devices), tmp_path)
    assert facts["absent"] is None
    assert facts["driver_cuda"] == 13000
    assert [(d["name"], d["sm"], d["memory_bytes"]) for d in facts["devices"]] == [
        (name, f"{major}{minor}", memory) for name, major, minor, memory in devices
    ]


@pytest.mark.parametrize(
    ("driver", "absent"),
    [
        (FakeDriver(cuInit=100), "finds no usable GPU (CUDA_ERROR_NO_DEVICE)"),
        (FakeDriver(cuInit=7, cuGetErrorName=1), "finds no usable GPU (error 7)"),
        (FakeDriver([]), "lists no GPU"),
        (OSError("libcuda.so.1: cannot open shared object file"), "no NVIDIA driver (libcuda.so.1: cannot open"),
    ],
)
def test_no_gpu_is_said_with_the_reason(driver, absent, tmp_path):
    def load(name):
        assert name == "libcuda.so.1"
        if isinstance(driver, OSError):
            raise driver
        return driver

    facts = machine.gpu(load, tmp_path)
    assert absent in facts["absent"]
    assert facts["devices"] == []


def test_a_driver_that_fails_on_the_way_is_quoted(tmp_path):
    outcome = isolate.here(lambda: machine.gpu(lambda _: FakeDriver([ORIN], cuDeviceGetName=999), tmp_path))
    assert outcome.problem == "RuntimeError: the CUDA driver answers CUDA_ERROR_UNKNOWN"


def test_on_this_machine_the_driver_is_asked_for_real():
    facts = machine.gpu()
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert "no NVIDIA driver" in facts["absent"]
    else:
        assert facts["absent"] or facts["devices"]


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", "580.65.06"),
        ("", None),
    ],
)
def test_the_release_of_the_driver(tmp_path, text, release):
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    assert machine.gpu(lambda _: FakeDriver([ORIN]), tmp_path)["driver"] == release


def test_storage_of_a_folder_that_is_not_there_yet(tmp_path):
    facts = machine.storage(tmp_path / "a/b")
    assert facts == {
        "folder": str(tmp_path / "a/b"),
        "writable": True,
        "free_bytes": pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1),
    }
    assert not (tmp_path / "a").exists()
