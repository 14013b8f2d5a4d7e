"""The command `campaign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coop_edge.errors import CoopEdgeError
from export.cli.common import fail
from export.cli.training import Data, Device, Size

_TRUNK = {"image_size": 64, "stem_channels": 8, "encoder_dim": 48, "encoder_depth": 2, "encoder_heads": 4,
          "decoder_dim": 48, "decoder_depth": 2, "decoder_heads": 4}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    "coarse": {"trunk": _TRUNK, "match_dim": 16},
    "refiner": {"trunk": _TRUNK, "match_dim": 16, "dpt_channels": 16, "fine_channels": 8, "radius_px": 1.0},
}
"""Networks of a rehearsal."""


def campaign(
    out: Annotated[Path, typer.Option(help="Folder to carry back: at most 8 files of at most 15 MiB.")],
    brought: Annotated[Path | None, typer.Option(help="Folder of the trip before; without it all starts anew.")] = None,
    minutes: Annotated[float, typer.Option(help="Of the whole trip, from start to exit.")] = 9.0,
    coarse_share: Annotated[
        float, typer.Option(help="Of the minutes, for the coarse network, which comes first; 0 or 1 trains one alone.")
    ] = 0.5,
    last: Annotated[bool, typer.Option("--last", help="Last trip: the learning rate falls.")] = False,
    reserve: Annotated[float, typer.Option(help="Minutes kept for judging each network.")] = 1.0,
    size: Annotated[Size, typer.Option(help="Size preset.")] = Size.s,
    pack: Annotated[Path | None, typer.Option(help="Asset pack; procedural objects alone without one.")] = None,
    photos: Annotated[Path | None, typer.Option(help="Folder of photographs for textures and backgrounds.")] = None,
    seed: Annotated[int, typer.Option(help="Of new networks and their data.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per step [default: 64 on a GPU, else 16].")] = None,
    data: Annotated[Data, typer.Option(help="Who draws pairs: workers, or the device (auto: a GPU does).")] = Data.auto,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that draw pairs or objects [default: on a GPU all cores but one, else 1]."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch; 0 = its own choice.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate; 0 = the size's.")] = None,
    hardness: Annotated[float | None, typer.Option(help="Of pairs at the end of the ramp [default: 1].")] = None,
    ramp: Annotated[int | None, typer.Option(help="Pairs until they are as hard as they get [default: 60000].")] = None,
    evaluate_samples: Annotated[int | None, typer.Option(help="Held-out pairs to judge by [default: 128].")] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile.")] = None,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    max_steps: Annotated[int | None, typer.Option(help="Of each network; 0 = as many as the minutes allow.")] = None,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Tiny networks, to try the whole way on any machine.")
    ] = False,
) -> None:
    """Train both networks on a machine that is at hand for minutes; go on there, another time, from what was carried.

    Exit codes: 0 done, 1 cut short by a signal or by the time (what was trained is in --out), 2 wrong use, 3 training
    diverged.
    """
    from export.campaign.trip import Trip, run_trip
    from export.train.watch import TrainingDivergedError

    options: dict[str, Any] = {
        "size": size.value,
        "seed": seed,
        "device": device.value,
        "data": data.value,
        "batch_size": batch_size,
        "workers": workers,
        "threads": threads,
        "learning_rate": learning_rate,
        "hardness": hardness,
        "ramp": ramp,
        "evaluate_samples": evaluate_samples,
        "compile": compile_,
        "max_steps": max_steps,
        "pack": str(pack.absolute()) if pack else None,
        "photos": str(photos.absolute()) if photos else None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    nets = TINY if rehearsal else {}
    try:
        finished = run_trip(Trip(out, brought, minutes, coarse_share, reserve, last, given, nets))
    except TrainingDivergedError as error:
        fail(str(error), 3)
    except (CoopEdgeError, OSError) as error:
        fail(f"{type(error).__name__}: {error}", 2)
    for path in sorted(out.iterdir()):
        typer.echo(f"{path.stat().st_size / 2**20:8.2f} MiB  {path}")
    if not finished:
        fail(f"stopped by a signal, or too little time was left for a network; {out} holds what was trained", 1)
