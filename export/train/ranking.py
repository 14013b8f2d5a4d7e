"""Defines the loss that ranks the templates of one query, by the score that the estimator ranks them by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from coop_edge.errors import InputError
from export.networks.coarse import CoarseOutput
from export.train.losses import masked_mean

GATE = 0.5
"""Width, in the logarithm of a probability, of the step between a match that counts and one that *no match* beats; at
run time it is a hard one, which would have no gradient."""
SHARPNESS = 8.0
"""Difference of two logits of the list for a template that shows all of what the query shows, and one that shows none
of it."""


def evidence(out: CoarseOutput, gate: float = GATE) -> Tensor:
    """Sum the matched probability over the query's patches, [N]: a template's score in ``estimate_coarse``.

    A patch counts with the probability of its best template patch where that beats *no match*, softly (``GATE``).
    """
    if out.logits is not None:
        log = functional.log_softmax(out.logits, dim=-1)
        best, none = log[..., :-1].amax(dim=-1), log[..., -1]
        return (best.exp() * torch.sigmoid((best - none) / gate)).sum(dim=-1)
    assert out.matched is not None
    return (out.matched.sigmoid() * torch.sigmoid(out.matched / gate)).sum(dim=-1)


def ranking_loss(score: Tensor, match_index: Tensor, on_target: Tensor, which: Tensor) -> Tensor:
    """Return the cross-entropy of each query's templates between their scores and what they share with the query.

    A query's list is the softmax over its templates of ``SHARPNESS`` times the score per patch that shows the object;
    the target's is that of the share of these patches whose point the template shows too. So scores that are right,
    one for each matched patch and none for the others, have the least loss.

    Args:
        score: [N], of ``evidence``.
        match_index: int64 [N,T], T = no match, as in ``CoarseBatch``.
        on_target: bool [N,T].
        which: int64 [N], the query of each row, 0 .. M - 1.

    Returns:
        The mean over the queries with two templates or more, one of which shares something with the query; 0 if there
        is none.

    Raises:
        InputError: the rows are not equal in number.
    """
    if not len(score) == len(match_index) == len(on_target) == len(which):
        given = [len(score), len(match_index), len(on_target), len(which)]
        raise InputError(f"ranking_loss: wanted a row of each argument for each pair, got {given}")
    if not len(score):
        return score.sum()
    count = int(which.max()) + 1
    patches = on_target.sum(dim=1).clamp(min=1)
    shared = (match_index < match_index.shape[1]).sum(dim=1) / patches
    found = _log_softmax_of_lists(SHARPNESS * score / patches, which, count)
    wanted = _log_softmax_of_lists(SHARPNESS * shared.to(score.dtype), which, count)
    zero = score.new_zeros(count)
    loss = zero.index_add(0, which, -wanted.exp() * found)
    length = zero.index_add(0, which, torch.ones_like(score))
    anything = zero.index_add(0, which, shared.to(score.dtype))
    return masked_mean(loss, (length > 1) & (anything > 0))


def _log_softmax_of_lists(logit: Tensor, which: Tensor, count: int) -> Tensor:
    """Log-softmax of each row among the rows of its list; logit [N], which int64 [N] in 0 .. count - 1."""
    largest = torch.full((count,), -torch.inf, dtype=logit.dtype, device=logit.device)
    largest = largest.scatter_reduce(0, which, logit.detach(), "amax")
    shifted = logit - largest[which]
    return shifted - shifted.new_zeros(count).index_add(0, which, shifted.exp()).log()[which]
