"""Starts and resumes training runs: from options to a folder with weights, figures and a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from coop_edge.base.hardware import hardware
from coop_edge.errors import ConfigError, InputError
from export.data.stream import make_stream
from export.networks import CONFIGS, NetConfig, build, load_efficientnet_lite0, preset
from export.networks.efficientnet import efficientnet_lite0
from export.train.checkpoint import (
    FROZEN,
    STATE_FILE,
    STATE_KEYS,
    load_network,
    load_state,
    network_file,
    parameters_of,
    read_metadata,
    start_from,
)
from export.train.coarse import CoarseTask
from export.train.distributed import Group, join, pick_device
from export.train.loop import StreamMaker, Trainer
from export.train.memory import keep_freed_memory
from export.train.options import TrainOptions
from export.train.refiner import RefinerTask
from export.train.report import plot, write_report
from export.train.task import Task

TASKS: dict[str, type[Task]] = {"coarse": CoarseTask, "refiner": RefinerTask}
NETWORK = "network."
"""Prefix of a setting of the network; others are of the run."""
FIXED = ("size", "no_match")
"""Options of a run that a resumed one cannot change."""
SHOWN = (
    "class_accuracy",
    "easy_class_accuracy",
    "within_5px",
    "within_16px",
    "match_recall",
    "no_match_accuracy",
    "pose_recall_10",
    "pose_recall_20",
    "error_before",
    "error_after_1",
    "error_after_5",
    "easy_error_after_5",
    "error_aligned",
)
"""Held-out figures in curves.png."""


def options_from(role: str, settings: Iterable[str], init: Path | None = None) -> tuple[TrainOptions, NetConfig]:
    """Return the options of a new run and the configuration of its network.

    Args:
        role: "coarse" or "refiner".
        settings: such as "minutes=5" for the run (``TrainOptions``), or "network.match_dim=64" for the network
            (``export.networks.config``), which starts from the preset of the run's size.
        init: what the run is to start from; if its network reads the frozen features, this one does.

    Raises:
        ConfigError: an option is unknown, or its value does not fit.
        InputError: ``init`` is not a network file, nor a folder with one.
    """
    of_run, of_network = _separated(settings)
    options = TrainOptions().updated(of_run)
    network = preset(role, options.size)
    if init is not None and read_metadata(network_file(init, role)).config.trunk.features:
        network = network.updated(["trunk.features=true"])
    return options, network.updated(of_network)


def start(
    role: str,
    options: TrainOptions,
    config: NetConfig,
    folder: Path,
    init: Path | None = None,
    streams: StreamMaker = make_stream,
) -> int:
    """Train a new network. Returns the number of the signal that ended the run, 0 if it came to its end.

    Args:
        role: "coarse" or "refiner".
        options, config: of the run and of the network.
        folder: where ``ROLE.safetensors``, the training state, CSV files, ``report.json`` and ``curves.png`` go.
        init: network file to start from: of the same role, or of another one, whose trunk is taken over.
        streams: makes the stream of pairs.

    Raises:
        ConfigError: an option is not one of this role's.
        InputError: ``folder`` holds a run already, or ``init``, the pack or the photographs cannot be used.
        BackendUnavailable: the device asked for is not there.
        TrainingDivergedError: a loss or gradient is not finite.
    """
    if (folder / STATE_FILE).exists():
        raise InputError(f"{folder} holds a run already: --resume {folder} goes on with it, --out names another folder")
    if role != "coarse" and not options.no_match:
        raise ConfigError(f"TrainOptions.no_match = False: an option of the coarse network, not of the {role}")
    if role != "refiner" and not options.small_starts:
        raise ConfigError(f"TrainOptions.small_starts = False: an option of the refiner, not of the {role} network")
    return _run(role, options, config, folder, init, streams, resume=False)


def resume(role: str, folder: Path, settings: Sequence[str] = (), streams: StreamMaker = make_stream) -> int:
    """Go on with the run in ``folder``, from its last checkpoint, with some of its options changed by ``settings``.

    Size and network cannot change; ``max_steps`` is the new run's own. Returns and raises as ``start`` does.
    """
    state = load_state(folder)
    if missing := [key for key in STATE_KEYS if key not in state]:
        raise InputError(f"--resume {folder}: {STATE_FILE} is not a training run's, it lacks {', '.join(missing)}")
    if state["role"] != role:
        raise InputError(f"--resume {folder} holds a {state['role']} run, wanted a {role} one")
    of_run, of_network = _separated(settings)
    before, config = TrainOptions.from_dict(state["options"]), CONFIGS[role].from_dict(state["config"])
    options = replace(before, max_steps=0).updated(of_run)
    changed = [name for name in FIXED if getattr(options, name) != getattr(before, name)]
    if config.updated(of_network) != config:
        changed.append("network")
    if changed:
        given = getattr(before, changed[0], None)
        raise ConfigError(
            f"--resume {folder}: its {changed[0]} cannot change"
            + (f" (it is {given!r})" if given is not None else f"; asked for {', '.join(of_network)}")
        )
    return _run(role, options, config, folder, None, streams, resume=True)


def evaluate_checkpoint(
    path: Path, samples: int, device: str = "auto", pack: Path | None = None, photos: Path | None = None
) -> dict[str, float]:
    """Return a network file's figures on held-out pairs: hard ones, and easy ones with ``easy_`` before the name.

    Args:
        path: network file.
        samples: number of pairs.
        device: "auto", "cpu" or "cuda".
        pack: asset pack; None draws procedural objects alone.
        photos: folder of photographs for backgrounds.

    Raises:
        InputError: the file is not a network file, or the pack or the photographs cannot be used.
        ConfigError: the file is of another version, or ``samples`` is less than 1.
        BackendUnavailable: the device is not there.
    """
    net, info = load_network(path)
    options = TrainOptions().updated([f"evaluate_samples={samples}", f"device={device}"])
    options = replace(options, pack=str(pack or ""), photos=str(photos or ""))
    where = pick_device(device)
    with torch.no_grad():
        net = net.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return TASKS[info.role](info.config, options).evaluate(net, where)


def _run(
    role: str,
    options: TrainOptions,
    config: NetConfig,
    folder: Path,
    init: Path | None,
    streams: StreamMaker,
    *,
    resume: bool,
) -> int:
    options = replace(
        options,
        pack=_absolute(options.pack),
        photos=_absolute(options.photos),
        features_weights=_absolute(options.features_weights),
    )
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    with join(options.device) as group:
        torch.manual_seed(options.seed)
        net = build(config)
        copied = [] if init is None else start_from(net, init)
        if config.trunk.features and not resume and not any(name.startswith(FROZEN) for name in copied):
            weights = Path(options.features_weights) if options.features_weights else None
            load_efficientnet_lite0(net.trunk.frozen.net, efficientnet_lite0(weights))
        trainer = Trainer(TASKS[role](config, options), net, options, folder, group, resume=resume, streams=streams)
        trainer.run()
        if group.first:
            _report(trainer, group)
        return trainer.stopped_by


def _absolute(path: str) -> str:
    """Return the path as it is found from any folder, as a run may be resumed from another one; "" stays."""
    return path and str(Path(path).absolute())


def _separated(settings: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the settings of the run and those of the network, the latter without their prefix."""
    settings = list(settings)
    of_run = [s for s in settings if not s.startswith(NETWORK)]
    return of_run, [s.removeprefix(NETWORK) for s in settings if s.startswith(NETWORK)]


def _report(trainer: Trainer, group: Group) -> None:
    """Write report.json (with the last evaluation as "final") and curves.png."""
    provenance = trainer.provenance()
    counters = ("step", "samples", "minutes")
    history = [{k: float(v) for k, v in row.items() if v not in (None, "")} for row in trainer.evaluations.rows]
    report: dict[str, Any] = {
        "role": trainer.task.role,
        "size": trainer.options.size,
        "parameters": parameters_of(trainer.learner.net),
        "steps": provenance.step,
        "samples": provenance.samples,
        "minutes": provenance.minutes,
        "processes": group.size,
        "device": str(group.device),
        "hardware": hardware(),
        "code": provenance.code,
        "data": provenance.data,
        "seed": provenance.seed,
        "final": {k: v for k, v in history[-1].items() if k not in counters} if history else {},
        "final_at_samples": int(history[-1]["samples"]) if history else None,
        "config": trainer.task.config.to_dict(),
        "options": trainer.options.to_dict(),
        "history": history,
    }
    write_report(trainer.folder / "report.json", report)
    title = (
        f"{trainer.task.role} {trainer.options.size}: {provenance.samples} pairs in {provenance.minutes:.0f} minutes"
    )
    plot(trainer.folder / "curves.png", title, trainer.metrics, trainer.evaluations, SHOWN)
