"""One trip: for some minutes the coarse network is trained, then the refiner, each from where the trip before left it.

Weights travel, the optimiser's state does not: after a trip the learning rate rises again over ``WARMUP`` of a role's
time, in which AdamW finds its moments. Then it is constant, and falls to a hundredth, along half a cosine, in the trip
that is called the last: nobody knows beforehand how many trips there will be, and a constant rate with a short fall at
the end comes out where a cosine of the right length would have (Haegele et al., NeurIPS 2024). What is carried and
judged is the moving average of the weights, so that any trip's result is of use.

A role's weights are written every minute, and when its time is up, before they are judged; a cut at any moment costs a
minute of training at most. SIGTERM ends the trip after the step at hand, with everything written.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from coop_edge.base.hardware import available_cores
from coop_edge.errors import ConfigError, InputError
from export.campaign.luggage import Luggage
from export.campaign.picture import write_matches
from export.data.data import make_stream
from export.networks import CoarseNet, Net, RefinerNet, build, preset
from export.onnx.provenance import hardware_name
from export.train.checkpoint import Provenance, code_version, load_network, parameters_of, start_from
from export.train.distributed import Group, pick_device
from export.train.loop import Counters, StreamMaker, Trainer
from export.train.options import TrainOptions
from export.train.session import TASKS

ROLES = ("coarse", "refiner")
WARMUP = 0.05
"""Share of a role's time in a trip over which the learning rate rises."""
LEAST = 0.02
"""Minutes; a role for which less is left is not begun."""
CURVE = 40
"""Rows of the training curve that the log keeps at most, per role and trip."""
BATCH = {"cuda": 64, "cpu": 16}
"""Pairs per step where none are asked for."""


@dataclass(frozen=True)
class Trip:
    """What to do. ``train``: options of both roles' ``TrainOptions``; ``nets``: of networks that start, by role.

    minutes: of the whole trip, from start to exit. coarse_share: of them for the coarse network, 0 to 1. reserve:
    minutes of each role's part that are kept for judging it. last: let the learning rate fall.
    """

    out: Path
    brought: Path | None = None
    minutes: float = 9.0
    coarse_share: float = 0.5
    reserve: float = 1.0
    last: bool = False
    train: Mapping[str, Any] = field(default_factory=dict)
    nets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.coarse_share <= 1.0:
            raise ConfigError(f"--coarse-share: wanted a number from 0 to 1, got {self.coarse_share}")
        for role, share in self.shares.items():
            if not self.minutes * share > self.reserve:
                raise ConfigError(
                    f"--minutes {self.minutes:g}: {role} gets {self.minutes * share:g} of them, wanted more than the "
                    f"{self.reserve:g} that --reserve keeps for judging it"
                )

    @property
    def shares(self) -> dict[str, float]:
        """Of the minutes, by role, of the roles that are trained."""
        every = {"coarse": self.coarse_share, "refiner": 1.0 - self.coarse_share}
        return {role: share for role, share in every.items() if share > 0}


def run_trip(trip: Trip, streams: StreamMaker = make_stream) -> bool:
    """Train, judge, write; whether all was done (False: a signal asked to stop, or a network found no time left).

    Raises ConfigError, InputError, BackendUnavailable, TrainingDivergedError; ``trip.out`` is valid even then.
    """
    deadline = time.monotonic() + 60 * trip.minutes
    options = _options(trip)
    device = pick_device(options.device)
    luggage = Luggage(trip.out, trip.brought)
    luggage.trip |= {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "minutes": trip.minutes,
        "last": trip.last,
        "seed": options.seed,
        "code": code_version(),
        "hardware": hardware_name(device),
        "torch": torch.__version__,
        "finished": False,
        "options": options.to_dict() | {name: Path(getattr(options, name)).name for name in ("pack", "photos")},
    }
    if options.threads:
        torch.set_num_threads(options.threads)
    work = Path(tempfile.mkdtemp(prefix="coop_edge-trip-"))  # stays if training fails, with the pairs that it failed on
    shares = trip.shares
    for i, role in enumerate(shares):
        part = shares[role] / sum(list(shares.values())[i:])
        minutes = part * (deadline - time.monotonic()) / 60 - trip.reserve
        if minutes < LEAST:
            luggage.trip["skipped"] = role
            break
        if not _trainer(role, trip, replace(options, minutes=minutes), luggage, work / role, streams).work():
            break
    else:
        if time.monotonic() < deadline:
            _add_picture(luggage, options, device, work)
        luggage.trip["finished"] = True
    luggage.write_log()
    shutil.rmtree(work)
    return bool(luggage.trip["finished"])


class TripTrainer(Trainer):
    """A role's part of a trip: goes on at ``before``, saves into the luggage; the rate stays constant or ``falls``."""

    def __init__(self, *arguments: Any, luggage: Luggage, before: Provenance, falls: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._luggage, self._before, self._falls = luggage, before, falls
        self.at = Counters(before.step, before.samples, before.samples, before.minutes)
        self.first_step = before.step
        self.ema.updates = before.step
        self._written = before.step if luggage.network(self.task.role) is not None else -1

    def work(self) -> bool:
        """Train and judge; False if a signal came."""
        finished = self.run()
        self._luggage.trip["roles"][self.task.role] = self._entry()
        self._luggage.write_log()
        return finished and not self._stop

    def rate(self, progress: float) -> float:
        """See the module."""
        return super().rate(progress if self._falls else min(progress, self.warmup))

    def provenance(self) -> Provenance:
        """With every machine so far."""
        own = super().provenance()
        machines = dict.fromkeys([*filter(None, self._before.hardware.split("; ")), own.hardware])
        return replace(own, hardware="; ".join(machines), licences={**self._before.licences, **own.licences})

    def _save(self) -> None:
        if self.at.step != self._written:  # a set of the same name, but of another minute, could be cut in two
            self._luggage.pack(self.net, self.provenance(), self.ema.weights, self._entry())
            self._written = self.at.step

    def _entry(self) -> dict[str, Any]:
        """What the log says of the role."""
        at, before = self.at, self._before
        rows = [{k: float(v) for k, v in row.items() if v not in (None, "")} for row in self.metrics.rows]
        figures = dict(self.evaluations.rows[-1]) if self.evaluations.rows else {}
        return {
            "parameters": parameters_of(self.net),
            "steps": at.step - before.step,
            "samples": at.samples - before.samples,
            "minutes": round(at.minutes - before.minutes, 2),
            "in_all": {"steps": at.step, "samples": at.samples, "minutes": round(at.minutes, 2)},
            "curve": rows[:: -(-len(rows) // CURVE) or 1],
            "figures": {k: v for k, v in figures.items() if k not in ("step", "samples", "minutes")},
        }


def _options(trip: Trip) -> TrainOptions:
    """Of both roles; a network that goes on keeps its seed. Checkpoints every minute, no evaluation before the end."""
    given = dict(trip.train)
    device = pick_device(given.get("device", "auto"))
    given.setdefault("batch_size", BATCH[device.type])
    given.setdefault("workers", max(1, available_cores() - 1) if device.type == "cuda" else 1)
    own = {"warmup": WARMUP, "checkpoint_minutes": 1.0, "evaluate_minutes": 1e6}
    return TrainOptions.from_dict({"size": "s", "evaluate_samples": 128, **own, **given})


def _trainer(
    role: str, trip: Trip, options: TrainOptions, luggage: Luggage, work: Path, streams: StreamMaker
) -> TripTrainer:
    net, before = _network(role, trip, options, luggage)
    luggage.check_room(net)
    options = replace(options, seed=before.seed)
    group = Group(0, 1, pick_device(options.device))
    return TripTrainer(
        TASKS[role](net.config, options),
        net,
        options,
        work,
        group,
        streams=streams,
        luggage=luggage,
        before=before,
        falls=trip.last,
    )


def _network(role: str, trip: Trip, options: TrainOptions, luggage: Luggage) -> tuple[Net, Provenance]:
    """The network that was brought, or a new one; a new refiner has the coarse network's trunk where there is one."""
    wanted = preset(role, options.size, **trip.nets.get(role, {}))
    if (path := luggage.network(role)) is not None:
        net, info = load_network(path, role)
        if info.config.trunk != wanted.trunk:
            raise InputError(f"{path}: its network is not of size {options.size}; wanted the --size it started with")
        torch.manual_seed(info.provenance.seed + info.provenance.step)
        return net, info.provenance
    torch.manual_seed(options.seed)
    net = build(wanted)
    coarse = luggage.network("coarse")
    if isinstance(net, RefinerNet) and coarse is not None:
        start_from(net, coarse)
    return net, Provenance(seed=options.seed)


def _add_picture(luggage: Luggage, options: TrainOptions, device: torch.device, work: Path) -> None:
    """Matches of the coarse network as it was written, so that the files have been read once before they travel."""
    if (path := luggage.network("coarse")) is not None:
        net = load_network(path, "coarse")[0].to(device)
        assert isinstance(net, CoarseNet)
        luggage.add_picture(write_matches(work / "matches.jpg", net, options, device))
