"""The command `coop-edge annotate`: poses for many images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from coop_edge.cli import options
from coop_edge.cli.output import print_line
from coop_edge.errors import InputError

if TYPE_CHECKING:
    from coop_edge.base.journal import Journal

ADVICE = "give another folder"
LOCAL = "local"
"""Address of ``--ray`` that means a cluster on this machine, which ends with the run."""


class Annotate(TyperCommand):
    """The command, whose ``--ray`` may stand without a value: then Ray runs on this machine."""

    def parse_args(self, ctx: Any, args: Sequence[str]) -> list[str]:
        """Read the arguments, with a value for every ``--ray``."""
        following = [*args[1:], "-"]
        bare = [text == "--ray" and after.startswith("-") for text, after in zip(args, following, strict=True)]
        given = [f"--ray={LOCAL}" if alone else text for text, alone in zip(args, bare, strict=True)]
        return list(super().parse_args(ctx, given))


def annotate(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Pictures, folders, videos, BOP splits or scenes.")
    ],
    object_: options.Objects,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the results; the same command continues a run that was stopped."
        ),
    ],
    camera: Annotated[str | None, typer.Option(help="As for `estimate`; scenes of BOP have their own.")] = None,
    detections: Annotated[
        Path | None, typer.Option(help="COCO file, list of the BOP challenge, or JSON {IMAGE: [{object, bbox}]}.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes, each with an Estimator; 0 = one per core, on a GPU a single one.")
    ] = 0,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Run on Ray: of this machine, or of the cluster at an address; `auto` is the one that runs here.",
        ),
    ] = None,
    no_masks: Annotated[
        bool, typer.Option("--no-masks", help="Write no masks and boxes, and so no COCO labels; faster.")
    ] = False,
    rerun: options.Rerun = None,
    templates: options.Templates = None,
    ignore_colors: options.IgnoreColors = False,
    allow_outside: options.AllowOutside = False,
    engines: options.Engines = "coop-xs",
    device: options.Device = options.DeviceName.auto,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of one worker.")] = 1,
    effort: options.Effort = None,
    settings: options.Settings = None,
) -> None:
    """Annotate many images: poses as BOP and COCO files, and a page that sums them up. Exit code 1: an image failed.

    Without --detections the boxes are those of a BOP data set, and where there are none, objects are looked for in the
    whole image. The same command continues a run that was stopped.
    """
    from coop_edge.annotate.files import write_files
    from coop_edge.annotate.items import list_items
    from coop_edge.annotate.local import run_local
    from coop_edge.annotate.on_ray import import_ray, run_on_ray
    from coop_edge.annotate.recording import write_recording
    from coop_edge.annotate.worker import Setup
    from coop_edge.cli import inputs
    from coop_edge.labels.store import object_ids
    from coop_edge.visual.rerun_log import import_rerun

    import_rerun(rerun)
    if ray is not None:
        import_ray()
    flags = {"effort": effort}
    options.configured(settings, flags)  # wrong options end here
    given = [f"{name}={value.value}" for name, value in flags.items() if value is not None]
    objects = inputs.parse_objects(object_, templates or [])
    ids = object_ids([each.name for each in objects])
    places = tuple(
        (each.name, str(each.mesh.resolve()), each.unit, str(each.templates.resolve()) if each.templates else None)
        for each in objects
    )
    config = (*given, *(settings or []))
    setup = Setup(engines, device.value, config, places, threads, not no_masks, ignore_colors, allow_outside)
    items = list_items(sources, camera, detections, ids)
    record = output / "annotations.jsonl"
    header = {"images": len(items), **setup.plain(), "sources": [str(source.resolve()) for source in sources]}
    header |= {"camera": camera, "detections": str(detections.resolve()) if detections else None}
    with _journal(record, header, [item.name for item in items]) as journal:
        left = items[journal.count :]
        if journal.count:
            print_line(f"{journal.count} of {len(items)} images are there already")
        if ray is not None:
            lines: Iterable[str] = run_on_ray(left, setup, workers, None if ray == LOCAL else ray)
        else:
            lines = run_local(left, setup, min(workers or _usual_workers(device), max(1, len(left))))
        _record(journal, lines, len(items))
    summary = write_files(record, output, ids)
    if rerun is not None:
        write_recording(rerun, record, items, setup.meshes())
    print_line(f"{summary.images} images: {summary.found} poses found, {summary.missed} not; {output / 'index.html'}")
    for name, error in summary.failed[:20]:
        print_line(f"failed: {name}: {error}")
    if len(summary.failed) > 20:
        print_line(f"... and {len(summary.failed) - 20} more, see {output / 'index.html'}")
    raise typer.Exit(1 if summary.failed else 0)


@contextlib.contextmanager
def _journal(record: Path, header: dict[str, Any], names: Sequence[str]) -> Iterator[Journal]:
    """Open the record of a run. Raises InputError where an earlier run had other options, or images of other names."""
    from coop_edge.base.journal import Journal

    changed: list[str] = []

    def check(line: dict[str, Any]) -> None:
        index, name = line["index"], line["name"]
        if index < len(names) and name != names[index]:  # that there are fewer, the header says
            changed.append(f"image {index} was {name}, now it is {names[index]}")

    with Journal(record, header, ADVICE, check) as journal:
        if changed:
            raise InputError(f"{record}: the sources hold other images than in the earlier run: {changed[0]}; {ADVICE}")
        yield journal


def _usual_workers(device: options.DeviceName) -> int:
    """Return one per core on a CPU; on a GPU one, as several would hold the networks several times and wait."""
    from coop_edge.backend import probe_cuda

    on_gpu = device is options.DeviceName.cuda or (device is options.DeviceName.auto and probe_cuda() is None)
    return 1 if on_gpu else os.cpu_count() or 1


def _record(journal: Journal, lines: Iterable[str], total: int) -> None:
    """Write the lines as they come, under a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("images", total=total, completed=journal.count)
        for line in lines:
            journal.append(line)
            progress.update(bar, advance=1)
