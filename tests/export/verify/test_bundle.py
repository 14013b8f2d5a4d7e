"""Verification: a sound bundle passes, damage is found and named."""

from __future__ import annotations

import json

import onnx
import pytest
import torch

from coop_edge.runtime.bundle import Bundle
from export.data.batch import take
from export.verify import bundle as verify
from export.verify.bundle import (
    SEED,
    VerificationError,
    compare,
    verify_bundle,
    write_report,
)
from export.verify.engines import Reference, find_engines
from export.verify.report import complaints_of
from tests.export.small_bundles import (
    ROLES,
    fine_refiner,
    save_nets,
    small_net,
    spoil,
    write_bundles,
)
from tests.export.verify.known_pairs import KINDS, OUTPUTS, TIMES, pairs_of


def rows_of(bundle, files, pairs):
    return compare(bundle, Reference.of(bundle, files), find_engines(bundle, 1).present, pairs)


def test_a_sound_fp32_bundle_keeps_every_bound(originals, files, pairs):
    outputs, poses = rows_of(originals["fp32"], files, pairs)
    assert {role: {r.output for r in outputs if r.role == role} for role in OUTPUTS} == OUTPUTS
    assert all(r.bound == (0 if r.output == "index" else 1e-4) for r in outputs)
    assert complaints_of(outputs, poses, allow_few_poses=False) == []
    assert {p.kind: (p.solved, p.lost) for p in poses} == dict.fromkeys(("coarse", "refined"), (KINDS * TIMES, 0))
    assert all(p.right >= KINDS * TIMES // 2 for p in poses), "the networks know the pairs: these are no chance poses"
    assert 0 < next(p for p in poses if p.kind == "refined").median_px < 1e-3


def test_a_sound_fp16_bundle_is_judged_by_its_poses(originals, files, pairs):
    outputs, poses = rows_of(originals["fp16"], files, pairs)
    assert {r.role: r.bound for r in outputs} == dict.fromkeys(OUTPUTS)
    assert max(r.relative for r in outputs) > 1e-4, "half precision that is no different from single is none"
    assert complaints_of(outputs, poses, allow_few_poses=False) == []


def test_a_sound_bundle_with_fine_matching_keeps_every_bound(learnt, pairs, tmp_path):
    """And a temperature that is a little off does not pass for ties."""
    nets = [learnt[0][0], fine_refiner()]
    (tmp_path / "checkpoints").mkdir()
    files = save_nets(tmp_path / "checkpoints", nets)
    bundle = write_bundles({"fp32": tmp_path / "fp32"}, nets)["fp32"]
    assert any("/fine/" in node.name for node in onnx.load(bundle.network("refiner").path).graph.node)
    outputs, _ = rows_of(bundle, files, pairs)
    assert [r.complaint for r in outputs if not r.passed] == []
    with torch.no_grad():
        nets[1].fine.log_temperature.add_(0.05)
    (tmp_path / "other").mkdir()
    outputs, _ = rows_of(bundle, save_nets(tmp_path / "other", nets), pairs)
    assert "flow" in {r.output for r in outputs if not r.passed}
    assert {r.role for r in outputs if not r.passed} == {"refiner"}


@pytest.mark.parametrize("role", OUTPUTS)
def test_a_changed_weight_is_found_in_the_graph_that_has_it(role, bundle_of, files, pairs):
    bundle = bundle_of("fp32")
    spoil(bundle, role)
    outputs, _ = rows_of(Bundle.load(bundle.folder), files, pairs)
    assert {r.role for r in outputs if not r.passed} == {role}


def test_a_changed_weight_of_an_fp16_graph_is_found_by_the_pose(bundle_of, files, pairs):
    bundle = bundle_of("fp16")
    spoil(bundle, "refiner")
    outputs, poses = rows_of(Bundle.load(bundle.folder), files, pairs)
    assert all(r.passed for r in outputs)
    (complaint,) = complaints_of(outputs, poses, allow_few_poses=False)
    assert complaint.startswith("ONNX Runtime, CPU: refined pose: median difference ")
    assert complaint.endswith("% of the diameter, wanted below 0.1 px and 0.1%")


def test_weights_of_another_training_are_found(bundle_of, tmp_path, quick):
    bundle = bundle_of("fp32")
    with pytest.raises(
        VerificationError, match="bundle small fails: ONNX Runtime, CPU: coarse_encoder/tokens"
    ) as error:
        verify_bundle(bundle.folder, save_nets(tmp_path, [small_net(role) for role in ROLES]), threads=1)
    assert error.value.report["verdict"] == "failed"


def test_the_report_is_plain_data_that_the_manifest_holds(bundle_of, files, quick, pairs):
    bundle = bundle_of("fp16")
    report = verify_bundle(bundle.folder, files, samples=KINDS * TIMES, threads=1)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["verdict"] == "passed"
    assert report["poses_not_judged"] == []
    assert report["pairs"] == {
        "objects": "held-out, procedural",
        "samples": KINDS * TIMES,
        "drawn": {"coarse": KINDS * TIMES, "refiner": KINDS * TIMES},
        "seed": SEED,
        "hardness": 0.0,
        "sha256": pairs.digest,
    }
    assert report["bounds"]["fp32_relative"] == 1e-4
    assert report["bounds"]["pose_median_px"] == 0.1
    assert report["bounds"]["pose_median_diameters"] == 0.001
    assert {row["kind"] for row in report["poses"]} == {"coarse", "refined"}
    assert report["graphs"] == {role: network.sha256 for role, network in bundle.networks.items()}
    write_report(bundle.folder, report)
    again = Bundle.load(bundle.folder)
    assert again.verification == report
    assert again.networks == bundle.networks


def test_too_few_poses_are_no_verdict_unless_allowed(originals, files, pairs, monkeypatch):
    few = pairs_of(take(pairs.coarse, slice(3)), pairs.refiner)
    monkeypatch.setattr(verify, "draw_pairs", lambda *_: few)
    with pytest.raises(
        VerificationError, match="coarse pose: not enough poses: PyTorch solves 3 of 3 pairs, a verdict"
    ):
        verify_bundle(originals["fp32"].folder, files, threads=1)
    report = verify_bundle(originals["fp32"].folder, files, threads=1, allow_few_poses=True)
    assert (report["verdict"], report["poses_not_judged"]) == ("passed", ["coarse"])
