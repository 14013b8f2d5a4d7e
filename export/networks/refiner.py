"""Predicts the flow from the render at the current pose to the query, and how far to trust it (Co-op, stage 2).

Matching comes first: the similarities of the rendered image's decoded tokens and the query's tokens give an expected
position (soft-argmax) per patch, hence a flow; fine matching, where there is any, makes it one per cell of 8 pixels; a
DPT head adds what is finer. A head that regresses the whole flow from DPT features instead hardly learns when samples
are few.

Output cell (i, j) stands for the rendered pixel (x, y) = (stride j + stride // 2, stride i + stride // 2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from coop_edge.errors import InputError
from export.networks.config import RefinerNetConfig
from export.networks.dpt import LEVELS, DptHead
from export.networks.fine import FineMatch, FineMatcher
from export.networks.trunk import Matcher, OffsetHead, Trunk, grid_of


class RefinerOutput(NamedTuple):
    """Outputs of the refiner, float32; H = W = S / stride."""

    flow: Tensor  # [N,2,H,W] pixels (x, y), rendered -> query
    scale: Tensor  # [N,1,H,W] Laplace scale b, pixels
    certainty_logit: Tensor  # [N,1,H,W]
    sensitivity: Tensor  # [N,1,H,W] in [0, 1]
    coarse_flow: Tensor  # [N,2,rows,columns] pixels, per patch: the matching alone
    match_logits: Tensor  # [N,T,T] similarities of rendered and query patches
    fine_logits: Tensor | None = None  # [N,(S/8)^2,(S/4)^2] of rendered cells and query features (``FineMatch``)


def cell_pixels(stride: int) -> slice:
    """Return the pixels that the output cells stand for, along one axis of the S x S image."""
    return slice(stride // 2, None, stride)


class RefinerNet(nn.Module):
    """The refiner: both crops pass one encoder, and the rendered image's tokens attend to the query's."""

    role = "refiner"

    def __init__(self, config: RefinerNetConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or RefinerNetConfig()
        dim = c.trunk.decoder_dim
        self.trunk = Trunk(c.trunk, maps=c.fine_channels > 0)
        self.matcher = Matcher(dim, c.match_dim)
        self.offset = OffsetHead(dim)
        depth = c.trunk.decoder_depth
        # The encoder's tokens and the decoder at thirds of its depth.
        self.levels = [round(depth * i / (LEVELS - 1)) for i in range(LEVELS)]
        self.channels = {"flow": 2, "certainty": 1}
        if c.flow == "laplace":
            self.channels["scale"] = 1
        if c.sensitivity:
            self.channels["sensitivity"] = 1
        if c.fine_channels:
            self.fine = FineMatcher(c.trunk.stem_channels, dim, c.fine_channels, c.dpt_channels)
        self.dpt = DptHead((dim,) * LEVELS, c.dpt_channels, sum(self.channels.values()), c.stride)
        # The residual starts small: until it has learnt something, the matching alone is better.
        last = self.dpt.head[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()

    def forward(self, query: Tensor, render: Tensor, chosen: Tensor | None = None) -> RefinerOutput:
        """Compare crops of the image with renders, both [N,3,S,S] float32 RGB in [0, 1], by the same virtual camera.

        chosen: where fine matching looks instead of at what is most similar, see ``fine.expected_match``.
        """
        if query.shape != render.shape:
            raise InputError(f"render: wanted the query's shape {list(query.shape)}, got {list(render.shape)}")
        images = torch.cat([query, render])
        both, maps = self.trunk.encode_with_maps(images)
        memory, tokens = both.chunk(2)
        grid = grid_of(tokens)
        decoded = self.trunk.decode(tokens, memory, grid)
        coarse_flow, logits = self._match(decoded[-1], memory, grid)
        fine = None
        if self.config.fine_channels:
            fine = self._match_finely(maps, tokens, memory, decoded[-1], grid, coarse_flow, chosen)
        stages = [tokens, *decoded]
        raw = self.dpt([stages[i] for i in self.levels], grid, fine.found if fine else None).float()
        return self._outputs(raw, coarse_flow, logits, fine)

    def confidence(self, out: RefinerOutput) -> Tensor:
        """Return W = certainty * sensitivity * P_R with P_R = 1 - exp(-R / b), [N,1,H,W].

        The certainty is detached: the pose must not teach what is visible. P_R is the probability that the error along
        one axis is below R if errors are Laplace distributed with scale b.
        """
        flow_probability = -torch.expm1(-self.config.radius_px / out.scale)
        return out.certainty_logit.detach().sigmoid() * out.sensitivity * flow_probability

    def export_outputs(self, query: Tensor, render: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return flow, scale, certainty and sensitivity: the bundle's ``refiner``."""
        return self.exported(self(query, render))

    def exported(self, out: RefinerOutput) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the part of ``out`` that ``export_outputs`` gives."""
        return out.flow, out.scale, out.certainty_logit.sigmoid(), out.sensitivity

    def _match(self, decoded: Tensor, memory: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the flow per patch [N,2,rows,columns], pixels, and the similarities [N,T,T]."""
        rows, columns = grid
        logits = self.matcher(decoded, memory)
        probability = functional.softmax(logits, dim=-1)
        y = torch.arange(rows, device=decoded.device, dtype=torch.float32).repeat_interleave(columns)
        x = torch.arange(columns, device=decoded.device, dtype=torch.float32).repeat(rows)
        centres = torch.stack([x, y], dim=-1)  # [T,2] in patches; the half patch cancels in the difference
        # Sums, not a matrix product: autocast would round positions to a fraction of a pixel.
        expected = torch.stack([(probability * x).sum(dim=-1), (probability * y).sum(dim=-1)], dim=-1)
        expected = expected + self.offset(decoded, probability @ memory)
        flow = (expected - centres) * self.config.trunk.patch_size
        return flow.transpose(1, 2).unflatten(2, (rows, columns)), logits

    def _match_finely(
        self,
        maps: list[Tensor],
        tokens: Tensor,
        memory: Tensor,
        decoded: Tensor,
        grid: tuple[int, int],
        coarse_flow: Tensor,
        chosen: Tensor | None,
    ) -> FineMatch:
        # Called once per image: FP16's rules (``export.onnx.precision``) know the nodes as /features/ and /features_1/.
        of_query, of_render = zip(*(m.chunk(2) for m in maps), strict=True)
        query = self.fine.features(list(of_query), memory, grid, None)
        render = self.fine.features(list(of_render), tokens, grid, decoded)
        found: FineMatch = self.fine(render, query, coarse_flow, grid[0], chosen)
        return found

    def _outputs(self, raw: Tensor, coarse_flow: Tensor, logits: Tensor, fine: FineMatch | None) -> RefinerOutput:
        c = self.config
        parts = dict(zip(self.channels, raw.split(list(self.channels.values()), dim=1), strict=True))
        size = [raw.shape[2], raw.shape[3]]
        start = fine.flow if fine else coarse_flow
        flow = functional.interpolate(start, size=size, mode="bilinear", align_corners=False)
        flow = flow + parts["flow"] * c.stride
        ones = torch.ones_like(parts["certainty"])
        scale, sensitivity = ones, ones
        if "scale" in parts:
            scale = c.scale_min_px + (c.scale_max_px - c.scale_min_px) * parts["scale"].sigmoid()
        if "sensitivity" in parts:
            sensitivity = parts["sensitivity"].sigmoid()
        fine_logits = fine.logits if fine else None
        return RefinerOutput(flow, scale, parts["certainty"], sensitivity, coarse_flow, logits, fine_logits)
