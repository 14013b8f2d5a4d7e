"""The commands `train`, `profile`, `assets` and `pairs`."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from coop_edge.errors import CoopEdgeError
from export.cli.common import errors, fail


class Role(str, Enum):
    """Networks that are trained."""

    coarse = "coarse"
    refiner = "refiner"
    selector = "selector"


class PairRole(str, Enum):
    """Kinds of training pairs; the selector sees the refiner's."""

    coarse = "coarse"
    refiner = "refiner"


class Head(str, Enum):
    """Heads of the coarse network."""

    hybrid = "hybrid"
    classification = "classification"
    regression = "regression"


class Logits(str, Enum):
    """Class logits of the coarse network."""

    dot = "dot"
    linear = "linear"


class Flow(str, Enum):
    """Flow of the refiner."""

    laplace = "laplace"
    deterministic = "deterministic"


class Switch(str, Enum):
    """On or off."""

    on = "on"
    off = "off"


class Precision(str, Enum):
    """Of matrix products."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Device(str, Enum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Data(str, Enum):
    """Who draws pairs."""

    auto = "auto"
    cpu = "cpu"
    device = "device"


class Size(str, Enum):
    """Size presets."""

    xs = "xs"
    s = "s"
    b = "b"
    l = "l"  # noqa: E741 (the name of the preset)


def train(
    role: Annotated[Role, typer.Argument(help="Which network.")],
    size: Annotated[Size | None, typer.Option(help="Size preset [default: xs].")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall time of this run [default: 60].")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run [default: out/training/ROLE_SIZE].")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    init: Annotated[
        Path | None, typer.Option(help="Start from a coarse checkpoint, or from a CroCo-v2-shaped state dict.")
    ] = None,
    pack: Annotated[Path | None, typer.Option(help="Asset pack; procedural objects alone without one.")] = None,
    photos: Annotated[Path | None, typer.Option(help="Folder of photographs for textures and backgrounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the first weights and the data [default: 0].")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per step and process [default: 16].")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that draw pairs [default: 1].")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch; 0 = its own choice.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate; 0 = the size's.")] = None,
    head: Annotated[Head | None, typer.Option(help="Coarse: what is predicted [default: hybrid].")] = None,
    logits: Annotated[Logits | None, typer.Option(help="Coarse: class logits [default: dot].")] = None,
    flow: Annotated[Flow | None, typer.Option(help="Refiner: with a scale or without [default: laplace].")] = None,
    fine_channels: Annotated[
        int | None, typer.Option(min=0, help="Refiner: channels of fine matching, 0 = none [default: 64; b and l 0].")
    ] = None,
    pose_loss: Annotated[Switch | None, typer.Option(help="Refiner: the loss through PnP [default: on].")] = None,
    no_match: Annotated[
        Switch | None, typer.Option(help="Coarse: background is labelled *no match*, or not at all [default: on].")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="auto = bfloat16 where the device is fast at it.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where to train [default: auto].")] = None,
    data: Annotated[
        Data | None, typer.Option(help="Who draws pairs: workers, or the device [default: auto, a GPU does].")
    ] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile.")] = None,
    evaluate_minutes: Annotated[float | None, typer.Option(help="Between evaluations [default: 10].")] = None,
    evaluate_samples: Annotated[int | None, typer.Option(help="Held-out pairs of one [default: 256].")] = None,
    ramp: Annotated[int | None, typer.Option(help="Pairs until they are as hard as they get [default: 60000].")] = None,
    hardness: Annotated[float | None, typer.Option(help="Of pairs at the end of the ramp [default: 1].")] = None,
    checkpoint_minutes: Annotated[float | None, typer.Option(help="Between checkpoints [default: 3].")] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Stop after so many steps, over which the rate falls; 0 = no bound.")
    ] = None,
) -> None:
    """Train on pairs rendered on the fly. Several processes: torchrun --nproc-per-node N -m export train ..."""
    for name, value, wanted in (("head", head, "coarse"), ("logits", logits, "coarse"), ("flow", flow, "refiner"),
                                ("fine-channels", fine_channels, "refiner"),
                                ("pose-loss", pose_loss, "refiner"), ("no-match", no_match, "coarse")):  # fmt: skip
        if value is not None and role.value != wanted:
            fail(f"--{name} is an option of the {wanted} network, not of the {role.value}", 2)
    from export.train.session import Plan
    from export.train.session import train as run
    from export.train.watch import TrainingDivergedError

    options: dict[str, Any] = {
        "size": size,
        "minutes": minutes,
        "seed": seed,
        "batch_size": batch_size,
        "workers": workers,
        "threads": threads,
        "learning_rate": learning_rate,
        "precision": precision,
        "device": device,
        "data": data,
        "compile": compile_,
        "evaluate_minutes": evaluate_minutes,
        "evaluate_samples": evaluate_samples,
        "ramp": ramp,
        "hardness": hardness,
        "checkpoint_minutes": checkpoint_minutes,
        "max_steps": max_steps,
        "pack": str(pack.absolute()) if pack else None,
        "photos": str(photos.absolute()) if photos else None,
        "pose_loss": None if pose_loss is None else pose_loss is Switch.on,
        "no_match": None if no_match is None else no_match is Switch.on,
    }
    net = _given({"head": head, "logits": logits, "flow": flow, "fine_channels": fine_channels})
    try:
        folder = run(Plan(role.value, _given(options), net, out, resume, init))
    except TrainingDivergedError as error:
        fail(str(error), 3)
    except (CoopEdgeError, OSError) as error:
        fail(f"{type(error).__name__}: {error}", 2)
    typer.echo(folder)


def profile(
    role: Annotated[Role, typer.Argument(help="Which network.")],
    size: Annotated[Size, typer.Option(help="Size preset.")] = Size.xs,
    seconds: Annotated[float, typer.Option(min=0.0, help="To measure, after warming up.")] = 60.0,
    batch_size: Annotated[int, typer.Option(help="Pairs per step.")] = 16,
    workers: Annotated[
        int, typer.Option(help="Processes that draw pairs, or make objects for a device that does.")
    ] = 1,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch; 0 = its own choice.")] = 0,
    pack: Annotated[Path | None, typer.Option(help="Asset pack; procedural objects alone without one.")] = None,
    precision: Annotated[
        Precision, typer.Option(help="auto = bfloat16 where the device is fast at it.")
    ] = Precision.auto,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    data: Annotated[Data, typer.Option(help="Who draws pairs: workers, or the device (auto: a GPU does).")] = Data.auto,
    compile_: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile.")] = False,
) -> None:
    """Print the pairs per second of each stage of training: drawing, forward, backward."""
    from export.train.session import Plan
    from export.train.throughput import measure

    options: dict[str, Any] = {
        "size": size,
        "batch_size": batch_size,
        "workers": workers,
        "threads": threads,
        "precision": precision,
        "device": device,
        "data": data,
        "compile": compile_,
        "pack": str(pack.absolute()) if pack else None,
    }
    try:
        typer.echo(measure(Plan(role.value, _given(options)), seconds).table())
    except (CoopEdgeError, OSError) as error:
        fail(f"{type(error).__name__}: {error}", 2)


def assets(
    sources: Annotated[
        list[str], typer.Argument(help="Folders or archives of meshes, or sweethome3d, kicad, random_urdfs (fetched).")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The pack, a .npz file.")],
    max_faces: Annotated[int, typer.Option(help="Meshes with more triangles are simplified.")] = 5000,
    texture: Annotated[int, typer.Option(help="Longest side of a texture, pixels.")] = 256,
    limit: Annotated[int | None, typer.Option(help="Most objects, in equal shares from the sources.")] = None,
) -> None:
    """Turn folders of meshes into a compact asset pack for `train --pack`."""
    logging.getLogger("trimesh").setLevel(logging.CRITICAL)
    logging.getLogger("export").setLevel(logging.ERROR)  # what was left out is counted below
    from rich.progress import Progress

    from export.data.assets import Source, build_pack
    from export.data.sources import NAMES, fetch

    try:
        found = [s for name in sources for s in (fetch(name) if name in NAMES else [Source(name)])]
        with Progress(console=errors) as progress:
            task = progress.add_task("meshes")
            report = build_pack(
                found,
                output,
                max_faces,
                texture,
                limit,
                lambda done, total: progress.update(task, completed=done, total=total),
            )
    except (CoopEdgeError, OSError) as error:
        fail(f"{type(error).__name__}: {error}", 2)
    typer.echo(f"{output}: {report.count} objects, {report.bytes / 1e6:.1f} MB; {len(report.failed)} files left out")
    for name, count in sorted(report.added.items()):
        typer.echo(f"  {count:5d}  {name}")


def pairs(
    role: Annotated[PairRole, typer.Argument(help="Which network's pairs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture, .png or .jpg.")],
    size: Annotated[int, typer.Option(help="Side of the images, pixels.")] = 128,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Pairs.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the pairs.")] = 0,
    heldout: Annotated[bool, typer.Option("--heldout", help="Of held-out objects.")] = False,
    data: Annotated[Data, typer.Option(help="Who draws them: one by one (cpu), or whole batches (device).")] = Data.cpu,
    device: Annotated[Device, typer.Option(help="Where: cpu, or cuda.")] = Device.cpu,
    pack: Annotated[Path | None, typer.Option(help="Asset pack.")] = None,
    photos: Annotated[Path | None, typer.Option(help="Folder of photographs.")] = None,
) -> None:
    """Draw training pairs with their labels into a picture, to look at."""
    from export.data.batch import on_host
    from export.data.data import make_stream
    from export.data.pictures import write_pairs
    from export.train.distributed import pick_device

    split = "heldout" if heldout else "train"
    try:
        with make_stream(
            role.value, size, batch_size=count, workers=0, seed=seed, split=split, pack=pack, photos=photos,
            device=str(pick_device(device.value)), data=data.value,
        ) as stream:  # fmt: skip
            write_pairs(output, on_host(next(stream)), count)
    except (CoopEdgeError, OSError) as error:
        fail(f"{type(error).__name__}: {error}", 2)
    typer.echo(output)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, enumerations as their values."""
    return {k: v.value if isinstance(v, Enum) else v for k, v in options.items() if v is not None}
