"""Finished runs in one JSON file, which several processes may add to; and which process is at which run."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import write_json
from coop_edge.errors import InputError

BENCHMARK = "ablations"


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Read the runs in the file, [] without one.

    Raises:
        InputError: the file is something else.
    """
    if not path.exists():
        return []
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict) or data.get("benchmark") != BENCHMARK or not isinstance(data.get("runs"), list):
        raise InputError(f"{path}: wanted a file of python -m benchmarks.ablations, got another one")
    runs: list[dict[str, Any]] = data["runs"]
    return runs


class Store:
    """The file at ``path``; ``folder`` (of the runs) holds the locks that processes share."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, variant: str, seed: int, same: dict[str, Any]) -> dict[str, Any] | None:
        """Return the finished run, or None.

        Raises:
            InputError: the file holds it with other options.
        """
        for run in read_runs(self.path):
            if run["variant"] == variant and run["seed"] == seed:
                for name, value in same.items():
                    if run["options"].get(name) != value:
                        raise InputError(
                            f"{self.path} holds {variant} (seed {seed}) with {name} = {run['options'].get(name)!r}, "
                            f"asked for {value!r}; give --json another file, as unequal runs cannot be compared"
                        )
                return run
        return None

    def add(self, run: dict[str, Any]) -> None:
        """Add a run; whatever is killed meanwhile, the file is whole."""
        with (self.folder / "results.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            runs = [*read_runs(self.path), run]
            runs.sort(key=lambda r: (r["role"], r["variant"], r["seed"]))
            write_json(self.path, {"benchmark": BENCHMARK, "runs": runs})

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Yield whether this process may do the run: False while another one does. The claim ends with the process."""
        with (self.folder / f"{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
