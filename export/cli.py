"""The command `python -m export`: the workstation side.

Exit codes: 0 done, 1 a bundle fails its verification or a trip was cut short, 2 wrong use, 3 training diverged.
"""

from __future__ import annotations

import typer

from export import cli_bundles, cli_campaign, cli_training

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def _root() -> None:
    """The workstation side of coop_edge."""


for _command in (
    cli_training.train,
    cli_training.profile,
    cli_training.assets,
    cli_training.pairs,
    cli_campaign.campaign,
    cli_bundles.onnx,
    cli_bundles.verify,
):
    app.command()(_command)


def main() -> None:
    app()
