"""Trains the refiner."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from export.networks import Net, RefinerNet, RefinerOutput
from export.networks.fine import CELL, STEP
from export.networks.refiner import cell_pixels
from export.train.differentiable_pnp import limit_gradient, solve_pnp
from export.train.evaluate_refiner import evaluate_refiner
from export.train.losses import certainty_loss, laplace_nll, matching_loss, pose_loss
from export.train.task import Task

BATCH = 16
"""Number of pairs that an evaluation draws at once."""
POSE_RAMP = (0.05, 0.2)
"""Shares of the run between which the pose loss comes in: before there is a flow, it teaches nothing."""
POSE_WEIGHT = 4.0
MATCHING_WEIGHT = 0.5
GRADIENT_LIMIT = 0.04
"""Norm of the pose loss's gradient by one pair's flow, and by its confidences, over the batch size. That of a healthy
problem is half of it, and that of the flow's likelihood 1 / (b sqrt(cells)): the two stay comparable."""


class RefinerTask(Task):
    """Laplace likelihood of the flow, certainty, matching of patches, and the pose through PnP (Co-op, stage 2).

    Figures named ``easy_...`` are those of pairs of hardness 0: whole objects, lit and coloured as rendered.
    """

    role = "refiner"
    stream_role = "refiner"

    def losses(self, model: nn.Module, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        out: RefinerOutput = model(batch["query"], batch["render"])
        net = model.module if isinstance(model, DistributedDataParallel) else model
        net = getattr(net, "_orig_mod", net)
        assert isinstance(net, RefinerNet)
        cells = cell_pixels(net.config.stride)
        points = batch["object_points"][:, cells, cells]
        silhouette = torch.isfinite(points[..., 0])
        visible = batch["visible"][:, cells, cells] & silhouette
        parts = {
            "flow": laplace_nll(out.flow, out.scale, batch["flow"][:, :, cells, cells], visible),
            "certainty": certainty_loss(out.certainty_logit, visible, silhouette),
            "matching": MATCHING_WEIGHT * self._matching(out, batch),
        }
        if net.config.sensitivity:
            weight = min(max((progress - POSE_RAMP[0]) / (POSE_RAMP[1] - POSE_RAMP[0]), 0.0), 1.0)
            parts["pose"] = POSE_WEIGHT * weight * self._pose(net, out, batch, points, silhouette)
        return parts

    def evaluate(self, net: Net, device: torch.device) -> dict[str, float]:
        assert isinstance(net, RefinerNet)
        figures = evaluate_refiner(net, self._held_out(1.0), device)
        easy = evaluate_refiner(net, self._held_out(0.0), device)
        return figures | {f"easy_{name}": value for name, value in easy.items()}

    def _matching(self, out: RefinerOutput, batch: dict[str, Tensor]) -> Tensor:
        patch = self.config.trunk.patch_size
        loss = _matching_on_grid(out.match_logits, batch, patch, patch, patch // 2)
        if out.fine_logits is None:
            return loss
        return loss + _matching_on_grid(out.fine_logits, batch, CELL, STEP, 0)

    @staticmethod
    def _pose(
        net: RefinerNet, out: RefinerOutput, batch: dict[str, Tensor], points: Tensor, silhouette: Tensor
    ) -> Tensor:
        """Return the pose loss, computed in float64: PnP on pixels and metres loses its digits in less."""
        limit = GRADIENT_LIMIT / max(len(points), 1)
        weights = limit_gradient(net.confidence(out)[:, 0], limit).double() * silhouette
        image = cell_centres(net.config.stride, out.flow).double() + limit_gradient(out.flow, limit).double()
        solution = solve_pnp(
            points.flatten(1, 2).double(),
            image.flatten(2).transpose(1, 2),
            weights.flatten(1),
            batch["K"],
            batch["T_init"],
        )
        return pose_loss(solution, batch["T_true"], batch["model_points"].double(), batch["diameter"])

    def _held_out(self, hardness: float) -> list[tuple[Any, Any]]:
        """Draw (batch, scenes) once, so that every evaluation has the same pairs."""
        if hardness not in self._drawn:
            with self.held_out_stream(BATCH, keep_scenes=True, hardness=hardness) as stream:
                batches = [next(stream) for _ in range(-(-self.options.evaluate_samples // BATCH))]
            self._drawn[hardness] = batches
        return self._drawn[hardness]

    @cached_property
    def _drawn(self) -> dict[float, list[tuple[Any, Any]]]:
        return {}


def _matching_on_grid(logits: Tensor, batch: dict[str, Tensor], cell: int, step: int, first: int) -> Tensor:
    """Return the ``matching_loss`` of the middle pixels of cells, ``cell`` pixels wide, against candidates on
    pixels first, first + step, ... of both axes. logits [N,(S/cell)^2,(S/step)^2]."""
    centres = cell_pixels(cell)
    side = batch["flow"].shape[2] // step
    here = cell_centres(cell, batch["flow"][:, :, centres, centres])
    position = (here + batch["flow"][:, :, centres, centres] - first) / step
    return matching_loss(logits, position, (side, side), batch["visible"][:, centres, centres])


def cell_centres(stride: int, flow: Tensor) -> Tensor:
    """Return the pixels (x, y) that the cells of a map [N,2,H,W] stand for, [2,H,W]."""
    height, width = flow.shape[2:]
    y = stride // 2 + stride * torch.arange(height, device=flow.device)
    x = stride // 2 + stride * torch.arange(width, device=flow.device)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
