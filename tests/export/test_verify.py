"""Verification: a sound bundle passes, damage is found and named, and only a report that passed is written."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from coop_edge.errors import InputError
from coop_edge.runtime.bundle import Bundle
from export.cli.main import app
from export.data.batch import stack, take
from export.data.data import make_stream
from export.verify import bundle as verify
from export.verify import engines as verify_engines
from export.verify.bundle import (
    SEED,
    Pairs,
    VerificationError,
    centred,
    compare,
    draw_pairs,
    verify_bundle,
    write_report,
)
from export.verify.engines import BATCH, Reference, find_engines, run_all
from export.verify.poses import Poses
from export.verify.report import complaints_of, print_report
from tests.export.small_bundles import (
    ROLES,
    SIZE,
    fine_refiner,
    learn_by_heart,
    save_nets,
    small_net,
    spoil,
    write_bundles,
)
from tests.export.small_nets import coarse_batch

KINDS, TIMES = 4, 5
"""Pairs that the networks know by heart, and how often each is among those compared."""
OUTPUTS = {
    "coarse_encoder": {"tokens"},
    "coarse_decoder": {"probability", "index", "offset"},
    "refiner": {"flow", "scale", "certainty", "sensitivity"},
    "selector": {"score"},
}


@pytest.fixture(scope="module")
def learnt():
    """Networks that find the poses of four pairs, and these pairs."""
    nets = [small_net(role) for role in ROLES]
    coarse, refiner = (easy(role, 24) for role in ("coarse", "refiner"))
    matches = (coarse.match_index < coarse.match_index.shape[1]).sum(axis=1)
    seen = refiner.visible.sum(axis=(1, 2))
    few = pairs_of(take(coarse, np.argsort(-matches)[:KINDS]), take(refiner, np.argsort(-seen)[:KINDS]))
    learn_by_heart(nets, few)
    return nets, pairs_of(stack([few.coarse] * TIMES), stack([few.refiner] * TIMES))


def easy(role, count):
    options = {"seed": SEED, "split": "heldout", "hardness": 0.0, "keep_scenes": role == "refiner"}
    with make_stream(role, SIZE, batch_size=count, workers=0, **options) as stream:
        return centred(next(stream))


def pairs_of(coarse, refiner):
    return Pairs(coarse, refiner, len(coarse.query), len(refiner.query))


@pytest.fixture(scope="module")
def pairs(learnt):
    return learnt[1]


@pytest.fixture(scope="module")
def files(learnt, tmp_path_factory):
    return save_nets(tmp_path_factory.mktemp("checkpoints"), learnt[0])


@pytest.fixture(scope="module")
def originals(learnt, tmp_path_factory):
    return write_bundles({p: tmp_path_factory.mktemp(p) / "small" for p in ("fp32", "fp16")}, learnt[0])


@pytest.fixture
def bundle_of(originals, tmp_path):
    """precision -> a copy of the bundle that the test may damage."""

    def copy(precision: str) -> Bundle:
        return Bundle.load(shutil.copytree(originals[precision].folder, tmp_path / precision))

    return copy


@pytest.fixture
def quick(monkeypatch, pairs):
    """The pairs that the networks know, whatever is asked for."""
    monkeypatch.setattr(verify, "draw_pairs", lambda *_: pairs)


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
    assert {r.role: r.bound for r in outputs} == {**dict.fromkeys(OUTPUTS), "selector": 1e-2}
    assert max(r.relative for r in outputs) > 1e-4, "half precision that is no different from single is none"
    assert complaints_of(outputs, poses, allow_few_poses=False) == []


def test_a_sound_bundle_with_fine_matching_keeps_every_bound(learnt, pairs, tmp_path):
    """And a temperature that is a little off does not pass for ties."""
    nets = [learnt[0][0], fine_refiner(), learnt[0][2]]
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
        ((bundle.folder, "--checkpoint", files[0], "--checkpoint", files[1]), "no selector checkpoint"),
        ((bundle.folder, "--checkpoint", tmp_path), "a folder without a .safetensors file"),
        ((tmp_path / "nowhere", "--checkpoint", files[0]), "nowhere"),
    ):
        result = run(*arguments)
        assert (result.exit_code, wanted in result.output) == (2, True), result.output


def test_checkpoints_of_other_sizes_are_refused(originals, files, tmp_path):
    for option, value in (("radius_px", 1.5), ("stride", 8)):
        (path,) = save_nets(tmp_path, [small_net("refiner", **{option: value})])
        with pytest.raises(InputError, match=rf"{option} = {value}, but bundle small says"):
            Reference.of(originals["fp32"], [files[0], path, files[2]])


def test_pairs_are_the_same_every_time(originals, files):
    bundle, reference = originals["fp32"], Reference.of(originals["fp32"], files)
    first, second = (draw_pairs(bundle, reference, 2, most=2) for _ in range(2))
    assert first.digest == second.digest
    assert first.digest != draw_pairs(bundle, reference, 2, seed=SEED + 1, most=2).digest
    assert first.coarse.query.shape == first.refiner.render.shape == (2, SIZE, SIZE, 3)
    assert first.coarse.query.std() > 5, "rendered crops, not a flat colour"


class Counted:
    """A stream of batches of 8 noise pairs."""

    position = 0

    def __next__(self):
        self.position += 8
        return coarse_batch(np.random.default_rng(self.position), 8, 32)


@pytest.mark.parametrize(("solvable", "added", "drawn"), [((), 0, 40), ((3, 5), 14, 64), (range(8), 8, 16)])
def test_pairs_are_added_until_pytorch_has_poses_enough(solvable, added, drawn, monkeypatch):
    """A stream of batches of 8 pairs in which PyTorch finds poses for the same few."""
    made = []

    def poses(bundle, reference, batch):
        made.append(batch)
        return Poses(np.zeros((8, 4, 4)), np.isin(np.arange(8), solvable))

    monkeypatch.setattr(verify, "_reference_poses", poses)
    most = drawn if not solvable else 1024
    batch, count = verify._with_poses(Counted(), None, None, most)
    assert count == drawn
    wanted = [made[0].query, *(later.query[list(solvable)] for later in made[1:])]
    np.testing.assert_array_equal(batch.query, np.concatenate(wanted))
    assert len(batch.query) == 8 + added


@pytest.mark.parametrize("count", [0, 1, BATCH + 1])
def test_runs_are_split_and_joined(count, originals, files):
    bundle = originals["fp32"]
    feed = {"image": np.random.default_rng(0).random((count, 3, SIZE, SIZE), dtype=np.float32)}
    reference = Reference.of(bundle, files)
    whole = reference.call("coarse_encoder")(torch.from_numpy(feed["image"])).detach().numpy()
    (engine,) = find_engines(bundle, 1).present
    with engine.runner("coarse_encoder") as runner:
        np.testing.assert_allclose(run_all(runner, feed)["tokens"], whole, atol=1e-4)
        runner.max_batch = 3
        np.testing.assert_allclose(run_all(runner, feed)["tokens"], whole, atol=1e-4)
    np.testing.assert_allclose(reference.run("coarse_encoder", feed)["tokens"], whole, atol=1e-5)


def test_engines_that_are_not_here_are_named_with_the_reason(originals, monkeypatch):
    monkeypatch.setattr(verify_engines, "probe_cuda", lambda: "there is no GPU in this box")
    engines = find_engines(originals["fp32"], 1)
    assert [engine.name for engine in engines.present] == ["ONNX Runtime, CPU"]
    assert engines.absent == dict.fromkeys(("ONNX Runtime, CUDA", "TensorRT"), "there is no GPU in this box")


def test_a_gpus_engines_are_compared_where_they_open(originals, files, pairs, monkeypatch):
    """The CUDA provider is stood in for by the CPU's; of TensorRT there is no plan."""
    from coop_edge.backend import Backend
    from coop_edge.errors import EngineError

    (cpu,) = find_engines(originals["fp32"], 1).present

    def runner(self, bundle, role, *, threads=0, engine="auto"):
        if engine == "tensorrt":
            raise EngineError("no plan for this GPU; coop-edge build small")
        return cpu.runner(role)

    monkeypatch.setattr(verify_engines, "probe_cuda", lambda: None)
    monkeypatch.setattr(Backend, "runner", runner, raising=False)
    engines = find_engines(originals["fp32"], 1)
    assert engines.absent == {"TensorRT": "no plan for this GPU; coop-edge build small"}
    outputs, poses = compare(originals["fp32"], Reference.of(originals["fp32"], files), engines.present, pairs)
    assert (
        {row.engine for row in outputs} == {row.engine for row in poses} == {"ONNX Runtime, CPU", "ONNX Runtime, CUDA"}
    )


def test_the_table_fits_a_terminal(originals, files, quick):
    report = verify_bundle(originals["fp16"].folder, files, threads=1)
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    assert "…" not in text
    for role in OUTPUTS:
        assert f"{role}/" in text
    assert all(f"not compared: {name}" in text for name in report["engines_not_compared"])
