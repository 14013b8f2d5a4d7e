"""Leaves out the tests that need PyTorch (extra ``export``) where it is missing, and says so; with PyTorch they run on
one thread, as their networks are so small that threads would only wait for each other."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_IMPORT = re.compile(r"^import torch$", re.MULTILINE)
NEED_TORCH = ["cli", "data", "networks", "onnx", "train", "verify"]
NEED_TORCH += sorted(p.name for p in _HERE.glob("test_*.py") if _IMPORT.search(p.read_text()))

collect_ignore = [] if importlib.util.find_spec("torch") else NEED_TORCH


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def pytest_report_header() -> str | None:
    if collect_ignore:
        return f"PyTorch is not installed: of tests/export are left out {', '.join(collect_ignore)}"
    return None
