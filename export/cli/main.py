"""The command `python -m export`: training, and export to bundles.

Exit codes: 0 done, 1 a bundle fails its verification, 2 wrong use, 3 training diverged, 128 plus the number of a signal
that ended the training (130: Ctrl-C).
"""

from __future__ import annotations

import typer

from export.cli import bundles, data, training

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def _root() -> None:
    """Train the networks of coop_edge and turn them into bundles."""


for _command in (
    training.train,
    training.options,
    training.evaluate,
    training.profile,
    training.throughput,
    data.assets,
    data.pairs,
    bundles.onnx,
    bundles.verify,
    bundles.features,
):
    app.command()(_command)


def main() -> None:
    app()
