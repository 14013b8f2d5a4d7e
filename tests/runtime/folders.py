"""What a build leaves in a folder."""

from __future__ import annotations

from pathlib import Path


def entries(folder: Path) -> set[str]:
    """What a build has left in a bundle's folder."""
    return {path.name for path in folder.iterdir() if path.suffix != ".onnx" and path.name != "bundle.json"}
