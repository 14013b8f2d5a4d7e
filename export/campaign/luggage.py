"""What a trip carries: networks in shards, and a log; a folder of few files, valid whenever the trip is cut off.

Files: the shards of each role (``export.shards``; at rest one set), ``campaign.json``, and at the end ``matches.jpg``.
``campaign.json`` is {"schema": 1, "trips": [...]}, one entry per trip, oldest first; what a trip needs to go on from
(weights, steps, pairs seen) is in the shards themselves, so that a log that was lost costs nothing but the history.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from coop_edge.base.files import atomic_write
from coop_edge.errors import InputError
from export.networks import Net
from export.shards import halved, networks_in, shards_of, split
from export.train.checkpoint import Provenance, read_metadata, save_sharded
from export.train.report import write_report

SCHEMA = 1
LOG, PICTURE = "campaign.json", "matches.jpg"
MOST_FILES = 8
"""In the folder, at rest and while a set of two shards is exchanged."""


class Luggage:
    """The folder that a trip leaves behind, filled with what was brought. Raises InputError, ConfigError, OSError.

    brought: the folder of the trip before; None starts anew. ``folder`` may be the same one, else it holds no trip yet.
    """

    def __init__(self, folder: Path, brought: Path | None) -> None:
        self.folder = folder
        if brought is not None and not brought.is_dir():
            raise InputError(f"--brought {brought}: no such folder; wanted the one that the trip before wrote")
        here = brought is not None and folder.is_dir() and folder.samefile(brought)
        if not here and folder.is_dir() and ((folder / LOG).exists() or any(folder.glob("*.safetensors"))):
            raise InputError(f"{folder} holds a trip already: --brought {folder} goes on from it, --out names another")
        found = [] if brought is None else networks_in(brought)
        if brought is not None and not found:
            raise InputError(f"--brought {brought}: holds no network; without --brought a campaign starts anew")
        self._trips = _read_log(brought / LOG) if brought is not None else []
        folder.mkdir(parents=True, exist_ok=True)
        if brought is not None and not here:
            carried = [shard for network in found for shard in shards_of(network)]
            if self._trips:  # else a kill before the first save would end with networks that have no history
                carried.append(brought / LOG)
            for path in carried:
                with atomic_write(folder / path.name) as file, path.open("rb") as source:
                    shutil.copyfileobj(source, file)
        (folder / PICTURE).unlink(missing_ok=True)  # of another trip's network
        self.trip: dict[str, Any] = {"number": len(self._trips) + 1, "roles": {}}

    def network(self, role: str) -> Path | None:
        """The role's network, if there is one."""
        files = {read_metadata(path).role: path for path in networks_in(self.folder)}
        return files.get(role)

    def check_room(self, net: Net) -> None:
        """Raise InputError if the folder would hold too many files with this network in it."""
        others = [path for path in networks_in(self.folder) if read_metadata(path).role != net.role]
        count = len(split(halved(net.state_dict()))) + sum(len(shards_of(path)) for path in others)
        if count + 2 > MOST_FILES:
            raise InputError(
                f"the networks take {count} shards, with log and picture more than {MOST_FILES} files: "
                "wanted a smaller --size; larger ones train where their files can stay (python -m export train)"
            )

    def pack(self, net: Net, provenance: Provenance, weights: Mapping[str, Tensor], entry: Mapping[str, Any]) -> None:
        """Put the role's network in place of its older state, and what the log says of it."""
        save_sharded(self.folder, net, provenance, weights)
        self.trip["roles"][net.role] = dict(entry)
        self.write_log()

    def write_log(self) -> None:
        """``campaign.json`` with this trip as it stands."""
        write_report(self.folder / LOG, {"schema": SCHEMA, "trips": [*self._trips, self.trip]})

    def add_picture(self, picture: Path) -> None:
        """Take a finished picture along."""
        with atomic_write(self.folder / PICTURE) as file:
            file.write(picture.read_bytes())


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text())
        if content["schema"] == SCHEMA:
            return list(content["trips"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a campaign's log ({error}); without it only history is lost") from error
    raise InputError(f"{path}: schema {content['schema']!r}, this version reads {SCHEMA}")
