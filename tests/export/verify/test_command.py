"""`python -m export verify`: what it writes, prints and refuses."""

from __future__ import annotations

import io

from rich.console import Console
from typer.testing import CliRunner

from coop_edge.runtime.bundle import Bundle
from export.cli.main import app
from export.verify.bundle import (
    verify_bundle,
)
from export.verify.report import print_report
from tests.export.small_bundles import (
    spoil,
)
from tests.export.verify.known_pairs import OUTPUTS


def run(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)], terminal_width=120)


def test_the_command_writes_a_report_that_passed(bundle_of, files, quick):
    bundle = bundle_of("fp32")
    result = run(bundle.folder, "--checkpoint", files[0].parent, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert Bundle.load(bundle.folder).verification["verdict"] == "passed"
    assert "refiner/flow" in result.output


def test_the_command_keeps_the_old_report_of_a_bundle_that_fails(bundle_of, files, quick):
    bundle = bundle_of("fp32")
    spoil(bundle, "refiner")
    before = bundle.manifest.read_bytes()
    result = run(bundle.folder, *(a for f in files for a in ("--checkpoint", f)), "--threads", 1)
    assert result.exit_code == 1
    assert "refiner/flow (fp32): relative difference" in result.output
    assert "FAILS" in result.output
    assert "Traceback" not in result.output
    assert bundle.manifest.read_bytes() == before
    assert sorted(p.name for p in bundle.folder.iterdir()) == sorted(["bundle.json", *(f"{r}.onnx" for r in OUTPUTS)])


def test_wrong_use_of_the_command_is_one_line(bundle_of, files, tmp_path):
    bundle = bundle_of("fp32")
    for arguments, wanted in (
        ((bundle.folder, "--checkpoint", files[0]), "no refiner checkpoint; given:"),
        ((bundle.folder, "--checkpoint", tmp_path), "a folder without a .safetensors file"),
        ((tmp_path / "nowhere", "--checkpoint", files[0]), "nowhere"),
    ):
        result = run(*arguments)
        assert (result.exit_code, wanted in result.output) == (2, True), result.output


def test_the_table_fits_a_terminal(originals, files, quick):
    report = verify_bundle(originals["fp16"].folder, files, threads=1)
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    assert "…" not in text
    for role in OUTPUTS:
        assert f"{role}/" in text
    assert all(f"not compared: {name}" in text for name in report["engines_not_compared"])
