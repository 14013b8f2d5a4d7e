"""The ranking loss against SciPy and finite differences, and the score against what the estimator sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from coop_edge.errors import InputError
from export.networks import CONFIGS, CoarseNet, build
from export.networks.coarse import CoarseOutput
from export.train.coarse import CoarseTask
from export.train.options import TrainOptions
from export.train.ranking import SHARPNESS, evidence, ranking_loss
from export.train.task import to_tensors
from tests.export.small_nets import NET, coarse_batch

T = 4
WHICH = torch.tensor([0, 0, 0, 1, 1, 2])
INDEX = torch.tensor([[0, 1, 2, 4], [0, 1, 4, 4], [4, 4, 4, 4], [3, 4, 4, 4], [4, 4, 4, 4], [1, 2, 3, 0]])
ON = torch.tensor([[True, True, True, False]] * 3 + [[True, True, False, False]] * 2 + [[True] * 4])


def rand(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_cross_entropy_of_two_lists():
    score = rand(6).abs()
    lists = []
    for rows, on in ((slice(0, 3), 3), (slice(3, 5), 2)):  # the third query has one template, which ranks nothing
        shared = (INDEX[rows] < T).sum(dim=1).numpy() / on
        wanted = softmax(SHARPNESS * shared)
        lists.append(-(wanted * log_softmax(SHARPNESS * score[rows].numpy() / on)).sum())
    assert ranking_loss(score, INDEX, ON, WHICH).item() == pytest.approx(np.mean(lists))
    assert torch.autograd.gradcheck(lambda x: ranking_loss(x, INDEX, ON, WHICH), score.clone().requires_grad_())
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    assert ranking_loss(score[order], INDEX[order], ON[order], WHICH[order]).item() == pytest.approx(np.mean(lists))


def test_scores_that_are_right_have_the_least_loss_and_the_nearest_template_is_preferred():
    right = (INDEX < T).sum(dim=1).double()
    least = ranking_loss(right, INDEX, ON, WHICH)
    for seed in range(20):
        assert ranking_loss(right + 0.5 * rand(6, seed=seed), INDEX, ON, WHICH) > least
    even = torch.ones(6, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(ranking_loss(even, INDEX, ON, WHICH), even)[0]
    assert gradient[0] < 0 < gradient[2], "the template that shows most gains, the one that shows nothing loses"
    assert gradient[3] < 0 < gradient[4]
    assert gradient[5] == 0


@pytest.mark.parametrize("rows", [[], [0], [2, 4], [5]])
def test_without_a_list_there_is_no_loss_and_no_gradient(rows):
    """No pairs, one template, templates that share nothing with the query."""
    score = rand(len(rows)).requires_grad_()
    which = torch.zeros(len(rows), dtype=torch.int64)
    loss = ranking_loss(score, INDEX[rows], ON[rows], which)
    assert loss.item() == 0.0
    assert not torch.autograd.grad(loss, score)[0].any()


def test_large_scores_stay_finite():
    score = torch.tensor([1e4, -1e4, 0.0, 1e4, 1e4, 0.0], dtype=torch.float64, requires_grad=True)
    loss = ranking_loss(score, INDEX, ON, WHICH)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, score)[0]).all()


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"wanted a row of each argument for each pair, got \[6, 6, 6, 5\]"):
        ranking_loss(rand(6), INDEX, ON, WHICH[:5])


@pytest.mark.parametrize("head", ["hybrid", "classification", "regression"])
def test_the_score_is_what_the_estimator_sums_where_the_step_is_hard(head):
    torch.manual_seed(0)
    net = build(CONFIGS["coarse"].from_dict({**NET["coarse"], "head": head}))
    assert isinstance(net, CoarseNet)
    query, template = net.encode(torch.rand(5, 3, 32, 32)), net.encode(torch.rand(5, 3, 32, 32))
    out = net.compare(query, template)
    if out.logits is not None:
        with torch.no_grad():  # some patches matched, some not
            out.logits[..., -1] += torch.randn(out.logits.shape[:-1])
    probability, _, _ = net.decode(query, template)
    if out.logits is not None:
        shares = torch.softmax(out.logits, dim=-1)
        best = shares[..., :-1].max(dim=-1).values
        probability = torch.where(best > shares[..., -1], best, torch.zeros(()))
    np.testing.assert_allclose(evidence(out, 1e-6).detach(), probability.detach().sum(dim=-1), rtol=1e-4)
    assert (probability == 0).any()
    assert (probability > 0).any()


def test_the_score_has_a_gradient_everywhere():
    logits = rand(3, T, T + 1)
    none = (None, None, None)
    assert torch.autograd.gradcheck(lambda x: evidence(CoarseOutput(x, *none)), logits.clone().requires_grad_())
    matched = rand(3, T)
    assert torch.autograd.gradcheck(
        lambda x: evidence(CoarseOutput(None, None, None, x)), matched.clone().requires_grad_()
    )
    beaten = torch.zeros(1, 1, T + 1, dtype=torch.float64)
    beaten[..., -1] = 2.0
    beaten.requires_grad_()
    gradient = torch.autograd.grad(evidence(CoarseOutput(beaten, *none)).sum(), beaten)[0]
    assert gradient[..., -1] < 0, "less of no match, more evidence"


def test_training_ranks_the_templates_of_a_photograph():
    """The part of the loss, its weight, and that rows of one photograph are one list."""
    batch = coarse_batch(np.random.default_rng(0), 6, 32)
    batch.match_index[::2] = 4
    batch.query_index[...] = [7, 7, 7, 9, 9, 9]
    tensors = to_tensors(batch, torch.device("cpu"))
    torch.manual_seed(0)
    config = CONFIGS["coarse"].from_dict(NET["coarse"])
    net = build(config).eval()
    parts = {w: CoarseTask(config, TrainOptions(ranking=w)).losses(net, tensors, 0.5) for w in (0.0, 1.0, 2.0)}
    assert parts[0.0].keys() == {"class", "offset"}
    assert parts[1.0]["ranking"] > 0
    assert parts[2.0]["ranking"].item() == pytest.approx(2 * parts[1.0]["ranking"].item())
    out = net(tensors["query"][[0, 3]], tensors["template"], tensors["match_index"], torch.tensor([0, 0, 0, 1, 1, 1]))
    which = torch.tensor([0, 0, 0, 1, 1, 1])
    wanted = ranking_loss(evidence(out), tensors["match_index"], tensors["on_target"], which)
    assert parts[1.0]["ranking"].item() == pytest.approx(wanted.item(), rel=1e-5)
