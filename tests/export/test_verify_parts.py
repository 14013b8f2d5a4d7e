"""The measures of the verification, each against an answer known by hand."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from coop_edge.config import RefineConfig
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from export.data.data import make_stream
from export.networks.refiner import cell_pixels
from export.train.poses import refined_step
from export.verify import engines as verify_engines
from export.verify.engines import Reference
from export.verify.outputs import MAX_TIES, Answers, Decisions, compare_outputs
from export.verify.poses import (
    CentredBatch,
    Poses,
    coarse_poses,
    compare_poses,
    model_points,
    pose_shift,
    refined_poses,
)
from tests.export.small_bundles import SIZE, fine_refiner, small_net
from tests.export.small_nets import refiner_batch

PATCHES = 4


def row(wanted, given, *, role="refiner", output="flow", precision="fp32", decisions=None):
    (found,) = compare_outputs("engine", role, precision, {output: wanted}, {output: given}, decisions)
    return found


def test_the_difference_is_relative_to_the_largest_value():
    wanted = np.array([[8.0, -4.0, 0.0]], np.float32)
    found = row(wanted, wanted + np.array([0.0, 0.0, 2e-4], np.float32))
    assert found.difference == pytest.approx(2e-4, rel=1e-3)
    assert found.scale == 8.0
    assert found.relative == pytest.approx(2.5e-5, rel=1e-3)
    assert found.passed
    assert not row(wanted, wanted + np.float32(1e-3)).passed


def test_a_difference_everywhere_is_not_hidden_by_one_large_value():
    wanted = np.ones(10_000, np.float32)
    wanted[0] = 100.0
    found = row(wanted, wanted + np.float32(2e-3))
    assert found.relative == pytest.approx(2e-5, rel=1e-2)
    assert found.relative_l2 == pytest.approx(0.2 / math.sqrt(19_999), rel=1e-3)
    assert not found.passed
    assert "2e-05 (L2: 0.00141), wanted at most 0.0001" in found.complaint


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_value_that_is_not_finite_fails(bad, precision):
    wanted = np.ones((2, 3), np.float32)
    given = wanted.copy()
    given[1, 1] = bad
    found = row(wanted, given, precision=precision)
    assert not found.passed
    assert "refiner/flow" in found.complaint


def test_an_output_of_another_shape_or_dtype_fails():
    wanted = np.ones((2, 3), np.float32)
    for given in (wanted[:1], wanted.astype(np.float16)):
        assert not row(wanted, given).passed
    assert not compare_outputs("engine", "refiner", "fp32", {"flow": wanted}, {})[0].passed


def test_zeros_allow_nothing_and_no_elements_allow_all():
    wanted = np.zeros((2, 3), np.float32)
    assert row(wanted, wanted).passed
    assert row(wanted, wanted + np.float32(1e-30)).relative == math.inf
    assert row(wanted[:0], wanted[:0]).passed


def test_fp16_outputs_are_left_to_the_poses_except_the_score():
    wanted = np.ones(4, np.float32)
    assert row(wanted, wanted + np.float32(0.5), precision="fp16").passed
    assert row(wanted, wanted + np.float32(0.005), role="selector", output="score", precision="fp16").passed
    assert not row(wanted, wanted + np.float32(0.05), role="selector", output="score", precision="fp16").passed


def decoder(n=200):
    """n samples of one patch row: class 0 leads everywhere, class 1 by the gap, no match by the other gap behind."""
    index = np.zeros((n, PATCHES), np.int32)
    probability = np.full((n, PATCHES), 0.5, np.float32)
    gap = np.full((n, PATCHES, PATCHES), 3.0)
    gap[..., 0] = 0.0
    gap[0, 0, 1] = 1e-5  # here alone class 1 is as good
    match_gap = np.full((n, PATCHES), 3.0)
    match_gap[0, 1] = 1e-5  # here alone no match is
    outputs = {"probability": probability, "index": index, "offset": np.zeros((n, PATCHES, 2), np.float32)}
    return outputs, Decisions(gap, match_gap, 1e-4, 1e-4)


def changed(outputs, **changes):
    given = {name: array.copy() for name, array in outputs.items()}
    for name, (at, value) in changes.items():
        given[name][at] = value
    return given


def decoder_rows(given):
    outputs, decisions = decoder()
    rows = compare_outputs("engine", "coarse_decoder", "fp32", outputs, given, decisions)
    return {r.output: r for r in rows}


def test_a_tie_may_go_either_way_and_is_counted():
    outputs, _ = decoder()
    rows = decoder_rows(changed(outputs, index=((0, 0), 1), offset=((0, 0), 0.4), probability=((0, 1), 0.0)))
    assert all(r.passed for r in rows.values())
    assert {name: r.ties for name, r in rows.items()} == {"index": 1, "probability": 1, "offset": 0}


@pytest.mark.parametrize("value", [1, -1, PATCHES])
def test_a_flip_is_no_tie(value):
    outputs, _ = decoder()
    rows = decoder_rows(changed(outputs, index=((5, 0), value)))
    assert {name for name, r in rows.items() if not r.passed} == {"index"}
    assert (rows["index"].difference, rows["index"].ties) == (1.0, 0)


def test_a_match_that_is_lost_without_a_tie_fails_the_probability():
    outputs, _ = decoder()
    rows = decoder_rows(changed(outputs, probability=((5, 1), 0.0)))
    assert {name for name, r in rows.items() if not r.passed} == {"probability"}


def test_an_offset_of_the_same_class_has_to_agree():
    outputs, _ = decoder()
    assert not decoder_rows(changed(outputs, offset=((5, 1), 0.1)))["offset"].passed


def test_many_ties_fail():
    outputs, decisions = decoder()
    decisions.index_gap[...] = 0.0
    at = (slice(0, math.ceil(len(outputs["index"]) * 2 * MAX_TIES)), slice(None))
    rows = compare_outputs("engine", "coarse_decoder", "fp32", outputs, changed(outputs, index=(at, 1)), decisions)
    index = next(r for r in rows if r.output == "index")
    assert not index.passed
    assert index.complaint.endswith("elements are ties, wanted at most 1%")


@pytest.mark.parametrize("head", ["hybrid", "classification", "regression"])
def test_gaps_are_those_of_the_network(head):
    """PyTorch's own answer has no gap, and another answer has one."""
    net = small_net("coarse", head=head)
    reference = Reference({"coarse": net})
    images = np.random.default_rng(0).random((3, 3, SIZE, SIZE), dtype=np.float32)
    tokens = reference.run("coarse_encoder", {"image": images})["tokens"]
    feed = {"query": tokens, "template": tokens[::-1].copy()}
    outputs, decisions = reference.run("coarse_decoder", feed), reference.decisions(feed)
    patches = tokens.shape[1]
    assert decisions.index_gap.shape == (3, patches, patches)
    own = np.take_along_axis(decisions.index_gap, outputs["index"][..., None].astype(int), axis=-1)
    np.testing.assert_allclose(own, 0, atol=1e-6)
    assert (decisions.index_gap > decisions.index_tie).mean() > 0.5
    far = decisions.match_gap > decisions.match_tie
    if head != "regression":
        with torch.inference_mode():
            logits = net.compare(*(torch.from_numpy(feed[k]) for k in ("query", "template"))).logits.numpy()
        lead = logits[..., :-1].max(axis=-1) - logits[..., -1]
        np.testing.assert_array_equal((outputs["probability"] > 0)[far], (lead > 0)[far])
        np.testing.assert_allclose(decisions.match_gap, np.abs(lead), atol=1e-6)


def flow_row(given, n=200):
    """Of a flow of 8 px everywhere that may be 9 in the first column of the first row as well."""
    wanted = np.full((n, 4), 8.0, np.float32)
    high = wanted.copy()
    high[0, 0] = 9.0
    got = wanted.copy()
    for at, value in given.items():
        got[at] = value
    (found,) = compare_outputs(
        "engine", "refiner", "fp32", {"flow": wanted}, {"flow": got}, Answers({"flow": wanted}, {"flow": high})
    )
    return found


@pytest.mark.parametrize("value", [9.0, 8.4, 9.0005])
def test_a_window_may_be_either_and_what_it_moves_is_counted(value):
    found = flow_row({(0, 0): value})
    assert found.passed
    assert (found.ties, found.relative, found.relative_l2) == (1, 0.0, 0.0)


def test_what_agrees_is_no_tie_though_it_could_be():
    assert flow_row({}).ties == 0
    assert flow_row({(0, 0): 8.0005}).ties == 0


@pytest.mark.parametrize("given", [{(0, 0): 9.1}, {(0, 0): 7.9}, {(0, 1): 8.5}, {(0, 0): np.nan}, {(0, 0): np.inf}])
def test_what_no_window_accounts_for_fails(given):
    found = flow_row(given)
    assert not found.passed
    assert found.ties == 0


def test_many_moved_windows_fail():
    found = flow_row({(0, 0): 9.0}, n=20)
    assert not found.passed
    assert found.complaint.endswith("1 of 80 elements are ties, wanted at most 1%")


def test_windows_are_moved_one_by_one_where_two_features_are_as_good():
    logits = torch.zeros(3, 4, 5)
    logits[..., 2] = 1.0  # decided, by 1
    logits[0, 1, 4] = 1.0 - 1e-5
    logits[2, 3, 0] = 1.0 - 3e-5
    logits[2, 0, 1] = 1.0 - 2e-5
    moved = [(rows.tolist(), chosen.tolist()) for rows, chosen in verify_engines._moved_windows(logits, 1e-4)]
    assert moved == [([0, 2], [[2, 4, 2, 2], [1, 2, 2, 2]]), ([2], [[2, 2, 2, 0]])]
    assert list(verify_engines._moved_windows(logits, 5e-6)) == []


def test_a_network_without_fine_matching_has_one_answer():
    assert Reference({"refiner": small_net("refiner")}).answers({}) is None


def test_an_engine_that_decides_otherwise_at_a_tie_agrees_and_one_that_errs_elsewhere_does_not():
    """An engine of the same weights whose similarities are rounded otherwise, by more than a real one's."""
    net = fine_refiner()
    with torch.no_grad():
        net.fine.log_prior_power.fill_(-1.0)  # what is similar decides more than it does at first
    images = np.random.default_rng(0).random((2, 40, 3, SIZE, SIZE), dtype=np.float32)
    feed = {"query": images[0], "render": images[1]}
    reference = Reference({"refiner": net})
    wanted, answers = reference.run("refiner", feed), reference.answers(feed)
    assert answers is not None
    free = {name: answers.high[name] > answers.low[name] for name in wanted}
    assert 0 < free["flow"].any(axis=(1, 2, 3)).sum() < 20, "some are undecided, most are not"
    with torch.inference_mode():
        out = net(*map(torch.from_numpy, (feed["query"], feed["render"])))
        two = out.fine_logits.topk(2, dim=2)
        gap = (two.values[..., 0] - two.values[..., 1]).flatten()
        cell = int(gap.argmin())
        other = two.indices[..., 0].clone().flatten()
        other[cell] = two.indices[..., 1].flatten()[cell]
        moved = net.exported(net(torch.from_numpy(feed["query"]), torch.from_numpy(feed["render"]), other.view(40, -1)))
    given = dict(zip(wanted, (t.numpy() for t in moved), strict=True))
    sample = cell // out.fine_logits.shape[1]
    assert np.abs(given["flow"] - wanted["flow"])[sample].max() > 0.1, "a window away"
    bare = {r.output: r for r in compare_outputs("engine", "refiner", "fp32", wanted, given)}
    assert not bare["flow"].passed
    rows = compare_outputs("engine", "refiner", "fp32", wanted, given, answers)
    assert {r.output for r in rows if r.relative > 1e-4} == set()
    assert rows[0].ties > 0
    given["flow"] = given["flow"].copy()
    decided = int(np.flatnonzero(~free["flow"].any(axis=(1, 2, 3)))[0])
    given["flow"][decided, 0, 3, 3] += 0.5
    rows = compare_outputs("engine", "refiner", "fp32", wanted, given, answers)
    assert next(r for r in rows if r.output == "flow").relative > 1e-2


def test_the_shift_of_a_pose_is_the_mean_over_the_points():
    rng = np.random.default_rng(0)
    K = np.array([[400.0, 3.0, 31.5], [0.0, 390.0, 32.0], [0.0, 0.0, 1.0]])
    points = rng.uniform(-0.1, 0.1, (2, 50, 3))
    T_a = np.stack([se3.from_rt(se3.so3_exp(rng.normal(size=3)), [0.01, 0.02, 0.9]) for _ in range(2)])
    T_b = T_a.copy()
    T_b[:, :3, :3] = se3.so3_exp(np.array([0.0, 0.02, 0.01])) @ T_a[:, :3, :3]
    T_b[:, :3, 3] += 0.003
    pixels, metres = pose_shift(T_a, T_b, np.stack([K, K]), points)
    for i in range(2):
        a, b = se3.transform(T_a[i], points[i]), se3.transform(T_b[i], points[i])
        assert metres[i] == pytest.approx(np.linalg.norm(a - b, axis=1).mean())
        assert pixels[i] == pytest.approx(np.linalg.norm(project(K, a) - project(K, b), axis=1).mean())


def test_a_shift_is_infinite_behind_the_camera_and_without_a_pose():
    points, K = np.zeros((3, 5, 3)), np.broadcast_to(np.eye(3), (3, 3, 3))
    T_a = np.stack([se3.from_rt(np.eye(3), [0, 0, 1.0])] * 3)
    T_b = T_a.copy()
    T_b[1, 2, 3], T_b[2] = -1.0, np.nan
    pixels, metres = pose_shift(T_a, T_b, K, points)
    np.testing.assert_array_equal(pixels, [0, np.inf, np.inf])
    np.testing.assert_array_equal(metres, [0, 2, np.inf])
    assert pose_shift(T_a[:0], T_b[:0], K[:0], points[:0])[0].shape == (0,)


def sheets(n):
    """Pairs of a sheet that fills the image, and what a refiner would put out that is sure of their true flow."""
    batch = refiner_batch(np.random.default_rng(0), n, SIZE)
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    cells = cell_pixels(4)
    flow = batch.flow[:, :, cells, cells].copy()
    ones = np.ones_like(flow[:, :1])
    outputs = {"flow": flow, "scale": 1e-3 * ones, "certainty": ones.copy(), "sensitivity": ones}
    return CentredBatch(**values, centre=np.zeros((n, 3))), outputs


@pytest.mark.parametrize("n", [0, 3])
def test_true_flow_gives_the_true_pose(n):
    batch, outputs = sheets(n)
    poses = refined_poses(batch, outputs, stride=4, radius_px=2.0)
    assert poses.solved.shape == (n,)
    assert poses.solved.all()
    np.testing.assert_allclose(poses.T, batch.T_true, atol=1e-4)


def test_cells_without_confidence_take_no_part():
    batch, outputs = sheets(2)
    outputs["flow"][:, :, :5], outputs["certainty"][:, :, :5] = 50.0, 0.0
    np.testing.assert_allclose(refined_poses(batch, outputs, stride=4, radius_px=2.0).T, batch.T_true, atol=1e-4)


def test_weak_evidence_is_held_at_the_start_as_the_estimator_holds_it():
    """What an untrained network says does not carry a pose away, nor do the engines' last digits."""
    batch, outputs = sheets(3)
    outputs["certainty"] *= 1e-9
    poses = refined_poses(batch, outputs, stride=4, radius_px=2.0)
    assert poses.solved.all()
    np.testing.assert_allclose(poses.T, batch.T_init, atol=1e-4)
    values = outputs | {"confidence": outputs["certainty"]}
    free = RefineConfig(prior_sideways=0, prior_depth=0, prior_rotation=0)
    T, solved, _ = refined_step(batch, values, batch.centre, 4, free)
    assert solved.all()
    np.testing.assert_allclose(T, batch.T_true, atol=1e-4)


@pytest.mark.parametrize(("cells", "solved"), [(0, False), (2, False), (3, True)])
def test_a_pair_without_weighted_cells_has_no_pose_as_at_run_time(cells, solved):
    """The prior alone would solve it, at the start."""
    batch, outputs = sheets(2)
    outputs["certainty"][0] = 0.0
    outputs["certainty"][0, 0, 3, [1, 5, 9][:cells]] = 1.0
    poses = refined_poses(batch, outputs, stride=4, radius_px=2.0)
    assert poses.solved.tolist() == [solved, True]
    assert np.isnan(poses.T[0]).all() == (not solved)
    values = outputs | {"confidence": outputs["certainty"]}
    T, found, covariance = refined_step(batch, values, batch.centre, 4, RefineConfig())
    assert found.tolist() == [solved, True]
    for of_pose in (T, covariance):
        assert np.isfinite(of_pose).all(axis=(1, 2)).tolist() == [solved, True]
        assert np.isnan(of_pose).all(axis=(1, 2)).tolist() == [not solved, False]
    np.testing.assert_allclose(poses.T[1], batch.T_true[1], atol=1e-4)


@pytest.fixture(scope="module")
def coarse_batch():
    with make_stream("coarse", 128, batch_size=4, workers=0, seed=5, split="heldout", hardness=0.0) as stream:
        return next(stream)


def test_true_matches_give_the_true_pose_and_too_few_none(coarse_batch):
    patches = coarse_batch.match_index.shape[1]
    matched = coarse_batch.match_index < patches
    assert (matched.sum(axis=1) >= 12).any()
    outputs = {
        "probability": matched.astype(np.float32),
        "index": np.where(matched, coarse_batch.match_index, 0).astype(np.int32),
        "offset": coarse_batch.offset,
    }
    poses = coarse_poses(coarse_batch, outputs)
    enough = matched.sum(axis=1) >= 12
    assert poses.solved[enough].all()
    reference = Poses(coarse_batch.T_query, enough)
    found = compare_poses("engine", "coarse", coarse_batch, reference, poses)
    assert (found.solved, found.right, found.lost) == (enough.sum(), enough.sum(), 0)
    assert found.median_diameters < 0.05, "points are looked up at whole pixels"
    few = {**outputs, "probability": outputs["probability"] * (np.cumsum(matched, axis=1) <= 5)}
    assert not coarse_poses(coarse_batch, few).solved.any()


def test_a_lost_pose_is_infinitely_far_and_a_found_one_is_no_gain(coarse_batch):
    truth = coarse_batch.T_query
    reference = Poses(truth, np.array([True, True, True, False]))
    T = np.where(np.array([0, 1, 0, 0], bool)[:, None, None], np.nan, truth)
    given = Poses(T, np.array([True, False, True, True]))
    found = compare_poses("engine", "coarse", coarse_batch, reference, given, minimum=3)
    assert (found.solved, found.changed, found.lost, found.right) == (3, 1, 1, 3)
    assert (found.median_px, found.p90_px) == (0.0, math.inf)
    assert found.passed()
    assert not compare_poses("engine", "coarse", coarse_batch, reference, given, minimum=4).passed()
    none = compare_poses("engine", "coarse", coarse_batch, Poses(truth, np.zeros(4, bool)), given)
    assert math.isnan(none.median_px)
    assert none.passed(allow_few_poses=True)
    assert not none.passed()


@pytest.mark.parametrize(("shift_px", "passes"), [(0.05, True), (0.2, False)])
def test_both_medians_have_to_keep_their_bounds(coarse_batch, shift_px, passes):
    """A sideways shift, small against the diameter, seen through each pair's own camera."""
    batch = coarse_batch
    T = batch.T_query.copy()
    T[:, 0, 3] += shift_px * T[:, 2, 3] / batch.K_query[:, 0, 0]
    solved = np.ones(4, bool)
    found = compare_poses("engine", "coarse", batch, Poses(batch.T_query, solved), Poses(T, solved), minimum=1)
    assert found.median_px == pytest.approx(shift_px, rel=0.1)
    assert (found.median_px < 0.1) is passes
    T = batch.T_query.copy()
    T[:, 2, 3] += 2e-3 * batch.diameter  # along the line of sight hardly a pixel moves
    found = compare_poses("engine", "coarse", batch, Poses(batch.T_query, solved), Poses(T, solved), minimum=1)
    assert found.median_diameters == pytest.approx(2e-3)
    assert not found.passed()


def test_model_points_lie_on_the_template(coarse_batch):
    points = model_points(coarse_batch)
    assert points.shape == (4, 256, 3)
    assert np.isfinite(points).all()
    shown = coarse_batch.template_points[0].reshape(-1, 3)
    gaps = np.abs(points[0][:, None] - shown[np.isfinite(shown[:, 0])]).max(axis=-1).min(axis=1)
    assert gaps.max() == 0
