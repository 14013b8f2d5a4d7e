"""Defines the losses of Co-op, each a mean over what it applies to; zero, with a zero gradient, where there is nothing.

Means are over all patches or pixels of a batch, not per image: an image with few visible pixels weighs little.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from coop_edge.errors import InputError
from export.networks.coarse import CoarseOutput
from export.train.differentiable_pnp import PnpSolution

POSE_LIMIT = 3.0
"""Diameters of disentangled distance (three terms) beyond which a solved pose counts as unsolved."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``values`` where ``mask`` (same shape) is True; 0 if nowhere. Others may be NaN."""
    total = torch.where(mask, values, torch.zeros_like(values)).sum()
    return total / mask.sum().clamp(min=1)


def class_loss(logits: Tensor, match_index: Tensor, labelled: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of logits [N,T,T+1] against match_index int64 [N,T] in [0, T]; T is *no match*.

    labelled: bool [N,T], the patches that take part; all by default.

    Raises:
        InputError: the shapes differ.
    """
    if logits.shape[:-1] != match_index.shape:
        raise InputError(f"match_index: wanted {list(logits.shape[:-1])}, got {list(match_index.shape)}")
    values = functional.cross_entropy(logits.flatten(0, 1), match_index.flatten(), reduction="none")
    return _mean_of(values, None if labelled is None else labelled.flatten())


def offset_loss(offset: Tensor, target: Tensor, match_index: Tensor) -> Tensor:
    """Return the L1 distance |dx| + |dy| of offsets [N,T,2], patch units, over the patches with match_index < T."""
    matched = match_index < match_index.shape[1]
    return masked_mean((offset - target).abs().sum(dim=-1), matched)


def coarse_loss(
    out: CoarseOutput, match_index: Tensor, offset: Tensor, labelled: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the parts that the head has, by name; their sum is the loss.

    "class" is cross-entropy, "offset" L1. For the regression ablation "position" is the L1 distance of the matched
    patches' template positions, patch units, and "matched" the binary cross-entropy of having a match.

    Args:
        out: of the network.
        match_index, offset: [N,T] and [N,T,2] as in ``CoarseBatch``.
        labelled: bool [N,T], the patches that are told whether they have a match ("class", "matched"); all by
            default.
    """
    parts: dict[str, Tensor] = {}
    if out.logits is not None:
        parts["class"] = class_loss(out.logits, match_index, labelled)
    if out.offset is not None:
        parts["offset"] = offset_loss(out.offset, offset, match_index)
    if out.position is not None and out.matched is not None:
        count = match_index.shape[1]
        side = round(count**0.5)
        cell = torch.stack([match_index % side, match_index // side], dim=-1)
        parts["position"] = offset_loss(out.position, cell + 0.5 + offset, match_index)
        values = functional.binary_cross_entropy_with_logits(
            out.matched, (match_index < count).to(out.matched.dtype), reduction="none"
        )
        parts["matched"] = _mean_of(values, labelled)
    return parts


def laplace_nll(flow: Tensor, scale: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Return |y - mu|_1 / b + 2 log(2 b): two independent Laplace densities that share b, over the visible pixels.

    flow, target [N,2,H,W] and scale b [N,1,H,W], pixels; visible bool [N,H,W].
    """
    distance = (target - flow).abs().sum(dim=1)
    b = scale[:, 0]
    return masked_mean(distance / b + 2 * torch.log(2 * b), visible)


def matching_loss(logits: Tensor, position: Tensor, size: tuple[int, int], visible: Tensor) -> Tensor:
    """Return the cross-entropy of the refiner's similarities against where each rendered cell lies in the query.

    The target spreads over the four nearest candidates by bilinear weights, so that its expected position is the
    truth: the soft-argmax that fits it is exact. Positions off the grid of centres count at its border.

    Args:
        logits: [N,C,H*W] of C rendered cells (or patches) and the query's candidates, a grid of ``size`` (H, W).
        position: [N,2,rows,columns], C = rows * columns: (x, y) on that grid, 0 is its first centre.
        visible: bool [N,rows,columns].
    """
    height, width = size
    x, y = position[:, 0].flatten(1).clamp(0, width - 1), position[:, 1].flatten(1).clamp(0, height - 1)
    column, row = x.floor().clamp(max=width - 2).long(), y.floor().clamp(max=height - 2).long()
    right, down = (x - column)[..., None], (y - row)[..., None]
    first = (row * width + column)[..., None]
    at = torch.cat([first, first + 1, first + width, first + width + 1], dim=-1)
    weight = torch.cat([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], dim=-1)
    values = torch.logsumexp(logits, dim=-1) - (weight.to(logits.dtype) * logits.gather(-1, at)).sum(dim=-1)
    return masked_mean(values, visible.flatten(1))


def certainty_loss(logit: Tensor, visible: Tensor, silhouette: Tensor) -> Tensor:
    """Return the binary cross-entropy of "visible in the query", logit [N,1,H,W], over ``silhouette`` bool [N,H,W]."""
    values = functional.binary_cross_entropy_with_logits(logit[:, 0], visible.to(logit.dtype), reduction="none")
    return masked_mean(values, silhouette)


def point_matching_l1(R: Tensor, t: Tensor, R_true: Tensor, t_true: Tensor, points: Tensor) -> Tensor:
    """Return the mean over points [B,P,3] of |(R X + t) - (R_true X + t_true)|_1, [B], metres."""
    difference = points @ (R - R_true).transpose(1, 2) + (t - t_true)[:, None]
    return difference.abs().sum(dim=-1).mean(dim=-1)


def pose_loss(solution: PnpSolution, T_true: Tensor, points: Tensor, diameter: Tensor) -> Tensor:
    """Return the disentangled distance of model points (GenFlow, after Simonelli et al., ICCV 2019), in diameters.

    The sum of three mean L1 distances: rotation, x-y and z of the translation predicted, each with the other two at
    their true value. T_true [B,4,4]; points [B,P,3] and diameter [B] in metres. Unsolved problems take no part, nor do
    those that are off by more than ``POSE_LIMIT`` diameters: PnP that has run away has a gradient that says nothing,
    and one such pair would outweigh all others.
    """
    R_true, t_true = T_true[:, :3, :3], T_true[:, :3, 3]
    t_xy = torch.cat([solution.t[:, :2], t_true[:, 2:]], dim=-1)
    t_z = torch.cat([t_true[:, :2], solution.t[:, 2:]], dim=-1)
    distance = (
        point_matching_l1(solution.R, t_true, R_true, t_true, points)
        + point_matching_l1(R_true, t_xy, R_true, t_true, points)
        + point_matching_l1(R_true, t_z, R_true, t_true, points)
    )
    share = distance / diameter
    return masked_mean(share, solution.valid & (share.detach() < POSE_LIMIT))


def _mean_of(values: Tensor, labelled: Tensor | None) -> Tensor:
    """``masked_mean`` over the labelled entries; over all without a mask."""
    return masked_mean(values, torch.ones_like(values, dtype=torch.bool) if labelled is None else labelled)
