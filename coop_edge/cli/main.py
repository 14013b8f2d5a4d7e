"""Find and track objects that are known only by their CAD models, in images and videos.

Exit codes:

0: done, and everything was found.

1: done, but an object was not found, was lost, or is wrong; `doctor`: no Estimator can run here.

2: wrong use, or something is missing here. Standard error says what; `--debug` shows the trace.

Warnings are lines on standard error, too.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

import coop_edge
from coop_edge.base.warning_lines import show_as_lines
from coop_edge.cli.annotate import Annotate, annotate
from coop_edge.cli.bench import bench
from coop_edge.cli.build import build
from coop_edge.cli.demo import demo
from coop_edge.cli.detect import detect
from coop_edge.cli.doctor import doctor
from coop_edge.cli.estimate import estimate
from coop_edge.cli.live import live
from coop_edge.cli.onboard import onboard
from coop_edge.cli.render import render
from coop_edge.cli.serve_model import serve_model
from coop_edge.cli.track import track
from coop_edge.cli.view import view
from coop_edge.errors import CoopEdgeError


class Commands(TyperGroup):
    """The commands. An expected error becomes one line and exit code 2; any other is a bug and keeps its trace."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for; Python's warnings become one line each."""
        with warnings.catch_warnings():
            show_as_lines()
            try:
                return super().invoke(ctx)
            except (CoopEdgeError, OSError) as error:
                if ctx.params["debug"] or (isinstance(error, BrokenPipeError) and _reader_left()):
                    raise
                console = Console(stderr=True)
                console.print(f"[bold red]error:[/] {type(error).__name__}: ", end="")
                console.print(str(error), markup=False, highlight=False, soft_wrap=True)
                raise typer.Exit(2) from None


def _reader_left() -> bool:
    """Tell whether standard output is a pipe that nobody reads any more; any other broken pipe is an error."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"coop-edge {coop_edge.__version__}")
        raise typer.Exit


@app.callback(help=__doc__)
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the full trace of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is being done.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("coop_edge.compile").setLevel(logging.INFO)  # the first run takes a minute: it shows progress


for _command in (
    onboard,
    render,
    doctor,
    build,
    estimate,
    detect,
    track,
    demo,
    bench,
    view,
    live,
    annotate,
    serve_model,
):
    app.command(cls=Annotate if _command is annotate else None)(_command)


def main() -> None:
    """Run the command: the entry point of the package. A reader that closes the pipe (`| head`) ends it quietly."""
    try:
        try:
            app(prog_name="coop-edge")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its end
        sys.exit(1)


if __name__ == "__main__":
    main()
