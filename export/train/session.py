"""A training run from options to files: new, resumed, or started from other weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from coop_edge.errors import ConfigError, InputError
from export.data.data import make_stream
from export.networks import CONFIGS, CoarseNet, Net, NetConfig, build, load_croco, preset, read_state_dict
from export.train.checkpoint import load_state, parameters_of, start_from
from export.train.coarse import CoarseTask
from export.train.distributed import Group, join
from export.train.loop import StreamMaker, Trainer
from export.train.options import TrainOptions
from export.train.refiner import RefinerTask, SelectorTask
from export.train.report import plot, write_report
from export.train.task import Task

TASKS: dict[str, type[Task]] = {"coarse": CoarseTask, "refiner": RefinerTask, "selector": SelectorTask}
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
    "rank_correlation",
)


@dataclass(frozen=True)
class Plan:
    """What to train: ``net`` holds options of the network, ``train`` those of the run; only what was asked for."""

    role: str
    train: Mapping[str, Any] = field(default_factory=dict)
    net: Mapping[str, Any] = field(default_factory=dict)
    out: Path | None = None
    resume: Path | None = None
    init: Path | None = None


def train(plan: Plan, streams: StreamMaker = make_stream) -> Path:
    """Run a plan; returns the folder with ``ROLE.safetensors``, CSV files, ``report.json`` and ``curves.png``.

    Raises ConfigError, InputError, BackendUnavailable, TrainingDivergedError.
    """
    if plan.role not in CONFIGS:
        raise ConfigError(f"role: wanted one of {', '.join(CONFIGS)}, got {plan.role!r}")
    if plan.resume is not None and plan.init is not None:
        raise InputError("--resume goes on with the weights it finds and --init starts from others: wanted one of them")
    options, config = _resumed(plan, plan.resume) if plan.resume is not None else network_of(plan)
    folder = plan.resume or plan.out or Path("out") / "training" / f"{plan.role}_{options.size}"
    if plan.resume is None and (folder / "training_state.pt").exists():
        raise InputError(f"{folder} holds a run already: --resume {folder} goes on with it, --out names another folder")
    if options.threads:
        torch.set_num_threads(options.threads)
    with join(options.device) as group:
        torch.manual_seed(options.seed)
        net = build(config)
        if plan.init is not None:
            initialise(net, plan.init)
        task = TASKS[plan.role](config, options)
        trainer = Trainer(task, net, options, folder, group, resume=plan.resume is not None, streams=streams)
        trainer.run()
        if group.first:
            _report(trainer, group)
    return folder


def initialise(net: Net, path: Path) -> None:
    """Start a network from a file: a coarse checkpoint of ours (refiner, selector), or a CroCo-v2-shaped state dict."""
    state = read_state_dict(path)
    if any(name.startswith("trunk.") for name in state):
        if isinstance(net, CoarseNet):
            raise InputError(f"--init {path}: a checkpoint of this project; a coarse run goes on from one by --resume")
        start_from(net, path)
    else:
        load_croco(net.trunk, state)


def network_of(plan: Plan) -> tuple[TrainOptions, NetConfig]:
    """Options and network of a new run. Raises ConfigError."""
    options = TrainOptions.from_dict(plan.train)
    net = dict(plan.net)
    if plan.role == "refiner":
        # What the pose loss alone can teach is left out with it.
        net.setdefault("sensitivity", options.pose_loss)
    return options, preset(plan.role, options.size, **net)


def _resumed(plan: Plan, folder: Path) -> tuple[TrainOptions, NetConfig]:
    """Options of the earlier run with those of the plan in their place; the network cannot change."""
    state = load_state(folder)
    if state["role"] != plan.role:
        raise InputError(f"--resume {folder} holds a {state['role']} run, wanted a {plan.role} one")
    known = {f.name for f in fields(TrainOptions)}
    before = TrainOptions.from_dict(
        {k: v for k, v in state["options"].items() if k in known and k != "max_steps"}
    ).to_dict()
    for name in ("size", "pose_loss", "no_match"):
        if plan.train.get(name, before[name]) != before[name]:
            raise ConfigError(f"--resume {folder}: its {name} is {before[name]!r}, which cannot become another")
    config: NetConfig = CONFIGS[plan.role].from_dict(state["config"])
    for name, value in plan.net.items():
        if getattr(config, name) != value:
            raise ConfigError(
                f"--resume {folder}: its {name} is {getattr(config, name)!r}, which cannot become another"
            )
    return TrainOptions.from_dict({**before, **plan.train}), config


def _report(trainer: Trainer, group: Group) -> None:
    """report.json (with the last evaluation as "final") and curves.png."""
    from coop_edge.base.hardware import hardware

    provenance = trainer.provenance()
    rows = trainer.evaluations.rows
    counters = ("step", "samples", "minutes")
    history = [{k: float(v) for k, v in row.items() if v not in (None, "")} for row in rows]
    report = {
        "role": trainer.task.role,
        "size": trainer.options.size,
        "parameters": parameters_of(trainer.net),
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
