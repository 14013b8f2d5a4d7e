"""Defines the commands `assets` and `pairs`."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from export.cli.common import Pack, errors, wrong_use_said


class PairRole(str, Enum):
    """Kinds of training pairs."""

    coarse = "coarse"
    refiner = "refiner"


def assets(
    sources: Annotated[
        list[str], typer.Argument(help="Folders or archives of meshes, or sweethome3d, kicad, random_urdfs (fetched).")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The pack, a .npz file.")],
    max_faces: Annotated[int, typer.Option(help="Simplify meshes that have more triangles than this.")] = 5000,
    texture: Annotated[int, typer.Option(help="Longest side of a texture, pixels.")] = 256,
    limit: Annotated[
        int | None, typer.Option(help="Largest number of objects, in equal shares from the sources.")
    ] = None,
) -> None:
    """Turn folders of meshes into a compact asset pack for `train --pack`."""
    logging.getLogger("trimesh").setLevel(logging.CRITICAL)
    logging.getLogger("export").setLevel(logging.ERROR)  # what was left out is counted below
    from rich.progress import Progress

    from export.data.assets import Source, build_pack
    from export.data.sources import NAMES, fetch

    with wrong_use_said():
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
    typer.echo(f"{output}: {report.count} objects, {report.bytes / 1e6:.1f} MB; {len(report.failed)} files left out")
    for name, count in sorted(report.added.items()):
        typer.echo(f"  {count:5d}  {name}")


def pairs(
    role: Annotated[PairRole, typer.Argument(help="Which network's pairs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture, .png or .jpg.")],
    size: Annotated[int, typer.Option(help="Side of the images, pixels.")] = 128,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of pairs.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the pairs.")] = 0,
    heldout: Annotated[bool, typer.Option("--heldout", help="Draw pairs of held-out objects.")] = False,
    device: Annotated[str, typer.Option(help="Where pairs are drawn: cpu or cuda.")] = "cpu",
    pack: Pack = None,
    photos: Annotated[Path | None, typer.Option(help="Folder of photographs.")] = None,
) -> None:
    """Draw training pairs with their labels into a picture, to look at."""
    from export.data.batch import on_host
    from export.data.pictures import write_pairs
    from export.data.stream import make_stream
    from export.train.distributed import pick_device

    split = "heldout" if heldout else "train"
    with wrong_use_said(), make_stream(
        role.value, size, batch_size=count, workers=0, seed=seed, split=split, pack=pack, photos=photos,
        device=str(pick_device(device)),
    ) as stream:  # fmt: skip
        write_pairs(output, on_host(next(stream)), count)
    typer.echo(output)
