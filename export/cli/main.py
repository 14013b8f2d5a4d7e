"""The command `python -m export`: the workstation side.

Exit codes: 0 done, 1 a bundle fails its verification or a trip was cut short, 2 wrong use, 3 training diverged.
"""

from __future__ import annotations

import typer

from export.cli import bundles, campaign, training

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def _root() -> None:
    """The workstation side of coop_edge."""


for _command in (
    training.train,
    training.profile,
    training.assets,
    training.pairs,
    campaign.campaign,
    bundles.onnx,
    bundles.verify,
):
    app.command()(_command)


def main() -> None:
    app()
