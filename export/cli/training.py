"""Defines the commands `train`, `options`, `evaluate`, `profile` and `throughput`."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from export.cli.common import Pack, Role, Settings, Size, fail, settings_of, wrong_use_said


def train(
    role: Annotated[Role, typer.Argument(help="Which network.")],
    size: Size = None,
    minutes: Annotated[float | None, typer.Option(help="Wall time of this run [default: 60].")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run [default: out/training/ROLE_SIZE].")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of a bundle, a run or a file; of the other network only the trunk is taken."
        ),
    ] = None,
    pack: Pack = None,
    setting: Settings = None,
) -> None:
    """Train a network on pairs rendered on the fly. On several GPUs: torchrun --nproc-per-node N -m export train ..."""
    if resume is not None and (init is not None or out is not None):
        fail("--resume goes on in its folder with the weights it finds: wanted neither --init nor --out with it", 2)
    from export.train import run
    from export.train.monitor import TrainingDivergedError

    settings = settings_of(setting, size=size, minutes=minutes, pack=pack)
    with wrong_use_said():
        try:
            if resume is not None:
                folder = resume
                stopped_by = run.resume(role.value, folder, settings)
            else:
                options, config = run.options_from(role.value, settings, init)
                folder = out or Path("out") / "training" / f"{role.value}_{options.size}"
                stopped_by = run.start(role.value, options, config, folder, init)
        except TrainingDivergedError as error:
            fail(str(error), 3)
    typer.echo(folder)
    if stopped_by:
        fail(
            f"{signal.Signals(stopped_by).name} ended the run before its time; --resume {folder} goes on",
            128 + stopped_by,
        )


def options(role: Annotated[Role, typer.Argument(help="Which network.")], size: Size = None) -> None:
    """List the options of training and of a network, as `--set` takes them, with their defaults."""
    from export.train.run import NETWORK, options_from

    with wrong_use_said():
        run, network = options_from(role.value, settings_of(None, size=size))
    for name, value, text in [*run.described(), *network.described(NETWORK)]:
        typer.echo(f"{name}={value}\n    {text}")


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Network file.")],
    samples: Annotated[int, typer.Option(min=1, help="Held-out pairs, rounded up to whole batches.")] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    pack: Pack = None,
    photos: Annotated[Path | None, typer.Option(help="Folder of photographs for backgrounds.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Measure a network on held-out objects, as training does at its end."""
    from export.train.run import evaluate_checkpoint

    with wrong_use_said():
        figures = evaluate_checkpoint(checkpoint, samples, device, pack, photos)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        typer.echo(f"{name:34s} {value:.4g}")


def profile(
    role: Annotated[Role, typer.Argument(help="Which network.")],
    size: Size = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Time to measure, after warming up.")] = 60.0,
    pack: Pack = None,
    setting: Settings = None,
) -> None:
    """Print the pairs per second of each stage of training: drawing, forward, backward."""
    from export.train.run import options_from
    from export.train.throughput import measure

    with wrong_use_said():
        options, config = options_from(role.value, settings_of(setting, size=size, pack=pack))
        typer.echo(measure(role.value, options, config, seconds).table())


def throughput(
    role: Annotated[Role, typer.Argument(help="Which network.")],
    size: Size = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="CPU time to measure of each, after warming up.")] = 60.0,
    pack: Pack = None,
    setting: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare labels per second of CPU time: one label per photograph, and several, as training draws them."""
    from export.train.run import options_from
    from export.train.throughput import compare, cost_table

    with wrong_use_said():
        options, config = options_from(role.value, settings_of(setting, size=size, pack=pack))
        costs = compare(role.value, options, config, seconds)
    if as_json:
        typer.echo(json.dumps([{**asdict(c), "labels_per_cpu_second": c.per_second} for c in costs], indent=2))
        return
    typer.echo(cost_table(costs))
