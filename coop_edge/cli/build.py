"""The command `coop-edge build`: TensorRT plans of a bundle, for the GPU at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from coop_edge.cli.options import Json
from coop_edge.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from coop_edge.runtime.build import BuiltPlan

_BATCH_HELP = "N for every role, or ROLE=N; may be given several times."


def build(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or the name of an installed one.")],
    role: Annotated[list[str] | None, typer.Option(help="Build this role alone; may be given several times.")] = None,
    max_batch: Annotated[list[str] | None, typer.Option(help="Largest batch: " + _BATCH_HELP)] = None,
    opt_batch: Annotated[list[str] | None, typer.Option(help="Batch to tune for: " + _BATCH_HELP)] = None,
    workspace: Annotated[int, typer.Option(min=1, help="TensorRT's scratch memory, MB.")] = 1024,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let TensorRT compute FP32 products in TF32: faster, less exact.")
    ] = False,
    engine: Annotated[str | None, typer.Option(help="tensorrt or tensorrt_rtx; default: what is installed.")] = None,
    device: Annotated[int | None, typer.Option(min=0, help="Index of the GPU.")] = None,
    sm: Annotated[
        str | None,
        typer.Option(
            help="Build for a GPU of this compute capability, such as 86, that is not here (TensorRT for RTX only)."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder for the plans; default: the bundle's, or the cache if that cannot be written to."),
    ] = None,
    timing_cache: Annotated[Path | None, typer.Option(help="File of kernel timings; default: in the cache.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Rebuild plans that are there already.")] = False,
    as_json: Json = False,
) -> None:
    """Build the TensorRT plans of a bundle on the device that will run them, and verify them."""
    from coop_edge.runtime.build import BuildOptions, build_plans
    from coop_edge.runtime.bundle import Bundle

    loaded = Bundle.load(bundle)
    roles = role or list(loaded.networks)
    options = BuildOptions(
        opt_batch=_batches("--opt-batch", opt_batch, roles),
        max_batch=_batches("--max-batch", max_batch, roles),
        workspace_mb=workspace,
        tf32=tf32,
        timing_cache=timing_cache or "auto",
        folder=folder,
        sm=sm,
        force=force,
    )
    with _progress() as progress:
        plans = build_plans(loaded, roles=roles, options=options, engine=engine, device=device, progress=progress)
    if as_json:
        typer.echo(json.dumps({"bundle": loaded.name, "plans": [_entry(plan) for plan in plans]}))
        return
    Console().print(_table(plans))


def _batches(option: str, given: list[str] | None, roles: list[str]) -> dict[str, int]:
    """Read batches by role: "N" counts for every role; "ROLE=N", for one, takes precedence."""
    batches: dict[str, int] = {}
    for text in sorted(given or [], key=lambda text: "=" in text):
        role, _, number = text.rpartition("=")
        if not number.isdecimal():
            raise InputError(f"{option}: wanted N or ROLE=N, got {text!r}")
        batches.update(dict.fromkeys([role] if role else roles, int(number)))
    return batches


def _entry(plan: BuiltPlan) -> dict[str, Any]:
    info = plan.info
    return {
        "role": plan.role,
        "plan": str(plan.path),
        "reused": plan.reused,
        "runtime": f"{info.flavour}{info.version}",
        "sm": info.sm,
        "batch": list(info.batch),
        "bytes": info.plan_bytes,
        "seconds": info.build_seconds,
        "verification": dict(info.verification),
    }


def _table(plans: list[BuiltPlan]) -> Table:
    folders = ", ".join(dict.fromkeys(str(plan.path.parent) for plan in plans))
    table = Table("plan", "N: 1, opt, max", "MB", "seconds", "off ONNX Runtime by", caption=f"in {folders}")
    for plan in plans:
        info = plan.info
        errors = info.verification.get("outputs", {})
        worst = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        seconds = "was there" if plan.reused else f"{info.build_seconds:.1f}"
        batch = ", ".join(map(str, info.batch))
        verdict = worst or f"not verified: {info.verification.get('reason', 'no report')}"
        table.add_row(plan.path.name, batch, f"{info.plan_bytes / 1e6:.1f}", seconds, verdict)
    table.columns[0].overflow = "fold"  # a name is of use only when whole
    return table


@contextmanager
def _progress() -> Iterator[BuildProgress]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    console = Console(stderr=True)
    bars = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    with bars:
        yield BuildProgress(bars)


class BuildProgress:
    """Shows TensorRT's phases as nested bars of rich, which is safe to call from several threads."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._depth: dict[str, int] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self._depth[phase] = 0 if parent is None else self._depth.get(parent, 0) + 1
        self._tasks[phase] = self._bars.add_task("  " * self._depth[phase] + phase, total=steps)

    def step(self, phase: str, step: int) -> bool:
        if phase in self._tasks:
            self._bars.update(self._tasks[phase], completed=step + 1)
        return True

    def finish(self, phase: str) -> None:
        if phase in self._tasks:
            self._bars.remove_task(self._tasks.pop(phase))
