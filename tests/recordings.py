"""Reads Rerun's recordings back, by Rerun's own reader."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest


def read_recording(path: Path) -> dict[str, dict[str, dict[int, Any]]]:
    """What a recording holds: entity -> "Archetype:component" -> frame -> value. Skips the test without Rerun."""
    reader = pytest.importorskip("rerun.chunk", reason="rerun-sdk with a reader is not installed (extra rerun)")
    found: dict[str, dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    for chunk in reader.RrdReader(path).stream():
        columns = chunk.to_record_batch().to_pydict()
        for name, values in columns.items():
            if ":" in name and "frame" in columns:
                found[chunk.entity_path][name].update(zip(columns["frame"], values, strict=True))
    return found
