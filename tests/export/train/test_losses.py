"""Losses against closed forms and scipy's densities, and in double precision against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from export.networks.coarse import CoarseOutput
from export.train.differentiable_pnp import PnpSolution
from export.train.losses import (
    POSE_LIMIT,
    certainty_loss,
    class_loss,
    coarse_loss,
    laplace_nll,
    masked_mean,
    matching_loss,
    offset_loss,
    point_matching_l1,
    pose_loss,
)


def rand(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradcheck(function, *inputs):
    assert torch.autograd.gradcheck(function, tuple(x.detach().clone().requires_grad_() for x in inputs))


INDEX = torch.tensor([[0, 4, 2, 4], [3, 3, 4, 1]])  # T = 4, and 4 is no match


def test_class_loss_is_the_mean_negative_log_probability():
    logits = rand(2, 4, 5)
    log = torch.log_softmax(logits, -1)
    wanted = -np.mean([log[n, t, INDEX[n, t]].item() for n in range(2) for t in range(4)])
    assert class_loss(logits, INDEX).item() == pytest.approx(wanted)
    gradcheck(lambda x: class_loss(x, INDEX), logits)


def test_patches_without_a_label_take_no_part_in_what_says_whether_there_is_a_match():
    logits, matched, position = rand(2, 4, 5), rand(2, 4), rand(2, 4, 2)
    labelled = torch.tensor([[True, False, True, True], [True, False, False, True]])
    log = torch.log_softmax(logits, -1)
    kept = [(n, t) for n in range(2) for t in range(4) if labelled[n, t]]
    wanted = -np.mean([log[n, t, INDEX[n, t]].item() for n, t in kept])
    assert class_loss(logits, INDEX, labelled).item() == pytest.approx(wanted)
    assert class_loss(logits, INDEX, torch.zeros_like(labelled)).item() == 0
    offset = rand(2, 4, 2)
    parts = coarse_loss(CoarseOutput(logits, offset, None, None), INDEX, offset, labelled)
    assert parts["class"].item() == pytest.approx(wanted)
    density = stats.bernoulli.logpmf((INDEX < 4).numpy(), 1 / (1 + np.exp(-matched.numpy())))
    parts = coarse_loss(CoarseOutput(None, None, position, matched), INDEX, offset, labelled)
    assert parts["matched"].item() == pytest.approx(-density[labelled.numpy()].mean())
    whole = coarse_loss(CoarseOutput(None, None, position, matched), INDEX, offset)
    assert whole["matched"].item() == pytest.approx(-density.mean())
    assert whole["position"] == parts["position"]
    gradient = torch.autograd.grad(class_loss(logits.requires_grad_(), INDEX, labelled), logits)[0].abs().sum(dim=-1)
    np.testing.assert_array_equal((gradient > 0).numpy(), labelled.numpy())


def test_offset_loss_counts_matched_patches_alone():
    offset, target = rand(2, 4, 2), rand(2, 4, 2, seed=1)
    matched = [(0, 0), (0, 2), (1, 0), (1, 1), (1, 3)]
    wanted = np.mean([(offset[i] - target[i]).abs().sum().item() for i in matched])
    assert offset_loss(offset, target, INDEX).item() == pytest.approx(wanted)
    target[0, 1] = math.nan
    assert offset_loss(offset, target, INDEX).item() == pytest.approx(wanted)
    gradcheck(lambda x: offset_loss(x, target, INDEX), offset)


def test_coarse_loss_has_the_parts_that_the_head_has():
    logits, offset, position, matched = rand(2, 4, 5), rand(2, 4, 2), rand(2, 4, 2), rand(2, 4)
    target = rand(2, 4, 2, seed=1)
    assert coarse_loss(CoarseOutput(logits, offset, None, None), INDEX, target).keys() == {"class", "offset"}
    assert coarse_loss(CoarseOutput(logits, None, None, None), INDEX, target).keys() == {"class"}
    parts = coarse_loss(CoarseOutput(None, None, position, matched), INDEX, target)
    assert parts.keys() == {"position", "matched"}
    # Class 2 of a 2 x 2 grid is row 1, column 0: its centre lies at (0.5, 1.5).
    right = torch.zeros(2, 4, 2, dtype=torch.float64)
    for n in range(2):
        for t in range(4):
            right[n, t] = torch.tensor([INDEX[n, t] % 2 + 0.5, INDEX[n, t] // 2 + 0.5]) + target[n, t]
    assert coarse_loss(CoarseOutput(None, None, right, matched), INDEX, target)["position"].item() < 1e-15
    gradcheck(lambda p, m: sum(coarse_loss(CoarseOutput(None, None, p, m), INDEX, target).values()), position, matched)


def test_laplace_nll_is_scipys_density():
    flow, target = rand(2, 2, 3, 3), rand(2, 2, 3, 3, seed=1)
    scale = rand(2, 1, 3, 3, seed=2).exp()
    visible = rand(2, 3, 3, seed=3) > 0
    density = stats.laplace.logpdf(target.numpy(), flow.numpy(), scale.numpy()).sum(1)
    assert laplace_nll(flow, scale, target, visible).item() == pytest.approx(-density[visible.numpy()].mean())
    gradcheck(lambda f, b: laplace_nll(f, b, target, visible), flow, scale)


def test_certainty_loss_is_the_bernoulli_density_on_the_silhouette():
    logit, visible, silhouette = rand(2, 1, 3, 3), rand(2, 3, 3, seed=1) > 0, rand(2, 3, 3, seed=2) > 0
    log = stats.bernoulli.logpmf(visible.numpy(), 1 / (1 + np.exp(-logit[:, 0].numpy())))
    assert certainty_loss(logit, visible, silhouette).item() == pytest.approx(-log[silhouette.numpy()].mean())
    gradcheck(lambda x: certainty_loss(x, visible, silhouette), logit)


def solution(batch=2, valid=None):
    rng = np.random.default_rng(0)
    R = torch.from_numpy(se3.random_rotation(rng, (batch,)))
    valid = torch.ones(batch, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return PnpSolution(R, rand(batch, 3, seed=1), valid)


def truth(batch=2):
    rng = np.random.default_rng(1)
    return torch.from_numpy(se3.from_rt(se3.random_rotation(rng, (batch,)), rng.normal(size=(batch, 3))))


def test_pose_loss_is_disentangled():
    """An error in one of rotation, x-y, z costs what it moves the points, whatever the other two are."""
    T, points, diameter = truth(), rand(2, 7, 3), torch.tensor([5.0, 20.0], dtype=torch.float64)
    R, t = T[:, :3, :3], T[:, :3, 3]
    ok = torch.ones(2, dtype=torch.bool)
    assert pose_loss(PnpSolution(R, t, ok), T, points, diameter).item() == pytest.approx(0, abs=1e-14)
    shift = torch.tensor([[0.1, -0.2, 0.0], [0.3, 0.0, 0.0]], dtype=torch.float64)
    lift = torch.tensor([[0, 0, 0.7], [0, 0, -0.1]], dtype=torch.float64)
    xy = np.mean([0.3 / 5, 0.3 / 20])
    z = np.mean([0.7 / 5, 0.1 / 20])
    assert pose_loss(PnpSolution(R, t + shift, ok), T, points, diameter).item() == pytest.approx(xy)
    assert pose_loss(PnpSolution(R, t + lift, ok), T, points, diameter).item() == pytest.approx(z)
    other = solution()
    rotation = pose_loss(PnpSolution(other.R, t, ok), T, points, diameter).item()
    both = pose_loss(PnpSolution(other.R, t + shift + lift, ok), T, points, diameter).item()
    assert both == pytest.approx(rotation + xy + z)
    moved = np.abs(points.numpy() @ np.swapaxes((other.R - R).numpy(), 1, 2)).sum(-1).mean(-1)
    assert rotation == pytest.approx((moved / diameter.numpy()).mean())


def test_pose_loss_leaves_out_what_is_off_by_more_than_its_limit():
    T, points, diameter = truth(), rand(2, 7, 3), torch.ones(2, dtype=torch.float64)
    shift = torch.tensor([[0.2, 0.0, 0.0], [0.0, 1.01 * POSE_LIMIT, 0.0]], dtype=torch.float64)
    solved = PnpSolution(T[:, :3, :3], (T[:, :3, 3] + shift).requires_grad_(), torch.ones(2, dtype=torch.bool))
    loss = pose_loss(solved, T, points, diameter)
    assert loss.item() == pytest.approx(0.2)
    (gradient,) = torch.autograd.grad(loss, solved.t)
    assert gradient[1].abs().max() == 0


def test_pose_loss_passes_gradcheck_and_leaves_out_the_unsolved():
    T, points, diameter = truth(3), rand(3, 7, 3), torch.ones(3, dtype=torch.float64)
    s = solution(3, [True, False, True])
    gradcheck(lambda R, t: pose_loss(PnpSolution(R, t, s.valid), T, points, diameter), s.R, s.t)
    keep = [0, 2]
    some = pose_loss(PnpSolution(s.R[keep], s.t[keep], s.valid[keep]), T[keep], points[keep], diameter[keep])
    assert pose_loss(s, T, points, diameter).item() == pytest.approx(some.item())
    gradcheck(lambda R, t: point_matching_l1(R, t, T[:, :3, :3], T[:, :3, 3], points), s.R, s.t)


def test_where_nothing_applies_the_loss_is_zero_and_so_is_its_gradient():
    flow, scale = rand(2, 2, 3, 3).requires_grad_(), torch.ones(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(2, 3, 3, dtype=torch.bool)
    none_matched = torch.full((2, 4), 4)
    offset = rand(2, 4, 2).requires_grad_()
    loss = laplace_nll(flow, scale, flow.detach(), nothing) + certainty_loss(scale, nothing, nothing)
    loss = loss + offset_loss(offset, offset.detach() + 1, none_matched)
    assert loss.item() == 0
    loss.backward()
    assert all((x.grad == 0).all() for x in (flow, scale, offset))


def test_an_empty_batch_is_legal():
    f = lambda *s: torch.zeros(*s, dtype=torch.float64)  # noqa: E731
    assert class_loss(f(0, 4, 5), torch.zeros(0, 4, dtype=torch.long)).item() == 0
    assert laplace_nll(f(0, 2, 3, 3), f(0, 1, 3, 3), f(0, 2, 3, 3), f(0, 3, 3).bool()).item() == 0
    assert pose_loss(PnpSolution(f(0, 3, 3), f(0, 3), f(0).bool()), f(0, 4, 4), f(0, 7, 3), f(0)).item() == 0


def test_masked_mean_ignores_what_is_outside_and_checks_shapes():
    values = torch.tensor([1.0, math.inf, 3.0], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False, True]))
    assert mean.item() == 2
    mean.backward()
    assert values.grad.tolist() == [0.5, 0, 0.5]
    with pytest.raises(InputError, match=r"match_index: wanted \[2, 4\], got \[2, 5\]"):
        class_loss(rand(2, 4, 5), torch.zeros(2, 5, dtype=torch.long))


def position_of(flow):
    """Patches [N,2,rows,columns] moved by a flow, in patches."""
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=flow.dtype) for n in flow.shape[2:]), indexing="ij")
    return torch.stack([columns, rows]) + flow


def test_matching_loss_is_least_where_the_expected_position_is_the_truth():
    """At the minimum over all logits, soft-argmax gives the true position, between patches too."""
    flow, visible = 0.4 * rand(1, 2, 3, 4), torch.ones(1, 3, 4, dtype=torch.bool)
    logits = torch.zeros(1, 12, 12, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=400, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure():
        optimiser.zero_grad()
        loss = matching_loss(logits, position_of(flow), (3, 4), visible)
        loss.backward()
        return loss

    optimiser.step(closure)
    share = logits.detach().softmax(-1)[0]
    grid = torch.tensor([[c, r] for r in range(3) for c in range(4)], dtype=torch.float64)
    truth = grid + flow[0].flatten(1).T
    truth = torch.minimum(truth.clamp(min=0), torch.tensor([3.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(share @ grid, truth, atol=2e-3, rtol=0)


def test_matching_loss_passes_gradcheck_and_counts_visible_patches_alone():
    flow, logits = rand(2, 2, 2, 2), rand(2, 4, 4, seed=1)
    visible = torch.tensor([[[True, False], [True, True]], [[False, False], [False, True]]])
    gradcheck(lambda x: matching_loss(x, position_of(flow), (2, 2), visible), logits)
    # A flow of one patch to the right from (0, 0) makes patch 1 the one target.
    flow = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    flow[0, 0, 0, 0] = 1
    only = torch.zeros(1, 2, 2, dtype=torch.bool)
    only[0, 0, 0] = True
    wanted = -torch.log_softmax(logits[:1], -1)[0, 0, 1]
    assert matching_loss(logits[:1], position_of(flow), (2, 2), only).item() == pytest.approx(wanted.item())
