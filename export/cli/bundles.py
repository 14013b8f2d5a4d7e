"""The commands `onnx` and `verify`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from coop_edge.errors import CoopEdgeError
from export.cli.common import errors, fail


class GraphPrecision(str, Enum):
    """Of the graphs of a bundle."""

    fp32 = "fp32"
    fp16 = "fp16"


def onnx(
    checkpoint: Annotated[
        list[Path], typer.Option(help="Checkpoint file, or folder of a training run; once for each network.")
    ],
    name: Annotated[str, typer.Option(help="Of the bundle.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder, e.g. engines/NAME.")],
    precision: Annotated[GraphPrecision, typer.Option(help="fp16 = half where it cannot hurt.")] = GraphPrecision.fp32,
    version: Annotated[str, typer.Option(help="Of the weights.")] = "1.0.0",
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "Apache-2.0",
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle that is there.")] = False,
    allow_few_poses: Annotated[
        bool, typer.Option("--allow-few-poses", help="Judge by the outputs alone where PyTorch finds too few poses.")
    ] = False,
    pack: Annotated[Path | None, typer.Option(help="Asset pack of checkpoints that name no licences.")] = None,
    hardware: Annotated[str, typer.Option(help="Machine of checkpoints that name none.")] = "",
    commit: Annotated[str, typer.Option(help="Commit of checkpoints that name none.")] = "",
) -> None:
    """Turn checkpoints into a bundle of ONNX graphs, and verify it; a bundle that fails is not written.

    Checkpoints say where they come from, and what they say counts; --pack, --hardware and --commit are for those of
    earlier versions, which say less. Exit codes: 0 written, 1 a bound of the verification fails, 2 wrong use.
    """
    from export.onnx.bundle import export_bundle
    from export.onnx.provenance import Provenance, licences_of
    from export.verify.bundle import VerificationError, verify_bundle
    from export.verify.report import print_report

    def verified(folder: Path) -> Any:
        errors.print("verifying")
        report = verify_bundle(folder, checkpoint, allow_few_poses=allow_few_poses)
        print_report(report)
        return report

    try:
        licences = {} if pack is None else licences_of(pack, None)
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
            unstated=Provenance(licences=licences, hardware=hardware, code=commit),
        )
    except VerificationError as error:
        print_report(error.report)
        fail(f"{error}; nothing was written", 1)
    except (CoopEdgeError, OSError) as error:
        fail(f"{type(error).__name__}: {error}", 2)
    for role, network in bundle.networks.items():
        typer.echo(f"  {role:15s} {network.precision}  {network.path.stat().st_size / 1e6:7.2f} MB")
    typer.echo(output)


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    checkpoint: Annotated[
        list[Path], typer.Option(help="Checkpoint file, or folder of a training run; once for each network.")
    ],
    samples: Annotated[int, typer.Option(min=1, help="Rendered pairs of each kind, coarse and refiner.")] = 64,
    threads: Annotated[int, typer.Option(min=0, help="Of ONNX Runtime; 0 = its own choice.")] = 0,
    allow_few_poses: Annotated[
        bool, typer.Option("--allow-few-poses", help="Judge by the outputs alone where PyTorch finds too few poses.")
    ] = False,
) -> None:
    """Hold a bundle against its checkpoints: outputs and poses; the report goes into the bundle if it passes.

    Exit codes: 0 passed, 1 a bound fails (the bundle keeps its old report), 2 wrong use.
    """
    from export.verify.bundle import VerificationError, verify_bundle, write_report
    from export.verify.report import print_report

    options = {"samples": samples, "threads": threads, "allow_few_poses": allow_few_poses}
    try:
        report = verify_bundle(bundle, checkpoint, **options)
        print_report(report)
        typer.echo(write_report(bundle, report))
    except VerificationError as error:
        print_report(error.report)
        fail(str(error), 1)
    except (CoopEdgeError, OSError) as error:
        fail(f"{type(error).__name__}: {error}", 2)
