"""Solves poses on an NVIDIA GPU, through CuPy. The algorithm is that of docs/solvers.md.

Arrays go in and come out as CuPy arrays, nothing passes through the host and nothing waits for the GPU: failures are
found on the device and come back as statuses. Work is queued on CuPy's current stream.

Memory: each operation keeps its scratch and grows it when a larger batch comes. Inputs that are C-contiguous and all
float32 (the network's outputs) or all float64 are read in place; others are converted, which allocates. With
``out=`` and arrays of that kind, a call whose shapes have been seen before allocates nothing and can be captured in a
CUDA graph::

    out = solver.weighted_lm(X, u, w, K, T_init)               # compiles, allocates
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        solver.weighted_lm(X, u, w, K, T_init, out=out)
        graph = stream.end_capture()
    graph.launch(stream)                                        # new contents of X, u, w, K, T_init; results in out

The solver and the arrays must outlive the graph. One solver serves one stream at a time, since its scratch is shared.

Precision: points, samples, scores and sums within a warp are FP32, on centred and normalised coordinates; FP64 is for
what there is one of per problem (poses, the 6 x 6 solves, sums over warps and blocks, the stopping rule), since Orin
computes FP64 at 1/64 of its FP32 rate. Each source in ``kernels/`` says what that costs. Against the CPU solver on the
tests' problems: the same samples, numbers of hypotheses and inliers; poses within 2e-6 rad and 2e-6 of the distance,
plus 2 % of their standard deviation (typically 0.01 %).

Two answers differ from the CPU solver's, because raising would mean waiting for the GPU: a problem whose K is no
pinhole camera's, whose T_init or anchor is no rigid motion, or whose prior's information cannot be one, comes back as
NON_FINITE instead of InputError.
"""

from __future__ import annotations

from typing import Any

from coop_edge.config import LmConfig, RansacConfig, RansacSearchConfig
from coop_edge.errors import InputError
from coop_edge.kernels.device import Device
from coop_edge.pnp import cuda_lm, cuda_ransac
from coop_edge.pnp.base import (
    DepthTargets,
    LineTargets,
    LmResult,
    MeasuredDepths,
    PosePrior,
    RansacResult,
)
from coop_edge.pnp.checks import check_correspondences, check_substreams
from coop_edge.pnp.checks_targets import check_lm_inputs, check_measured
from coop_edge.pnp.cuda_arrays import Scratch, check_on_device

Array = Any


class CudaPnpSolver:
    """``pnp.base.PnpSolver`` on a GPU. ``device``: CuPy's current device if None."""

    def __init__(self, device: Device | None = None) -> None:
        if device is None:
            from coop_edge.kernels.device import CupyDevice

            device = CupyDevice()
        self.device = device
        self._scratch = Scratch(device)

    def ransac_epnp(
        self,
        points_object: Array,
        points_image: Array,
        valid: Array,
        K: Array,
        config: RansacConfig | None = None,
        *,
        search: RansacSearchConfig | None = None,
        substreams: Array | None = None,
        measured: MeasuredDepths | None = None,
        out: RansacResult | None = None,
    ) -> RansacResult:
        """Do ``PnpSolver.ransac_epnp``; ``out``: arrays of an earlier result of the same shapes, written and returned.

        Raises:
            InputError: wrong shapes or dtypes, or arrays that are not on the device.
        """
        check_on_device(self.device, points_object=points_object, points_image=points_image, valid=valid, K=K)
        batch = check_correspondences(points_object, points_image, valid, "valid", K)
        if valid.dtype.kind != "b":
            raise InputError(f"valid: wanted dtype bool, got {valid.dtype}; compare a score with a threshold first")
        if substreams is not None:
            check_on_device(self.device, substreams=substreams)
            check_substreams(substreams, batch)
        count = int(points_object.shape[1])
        if isinstance(measured, MeasuredDepths):
            check_on_device(self.device, **{f"measured.{name}": a for name, a in measured._asdict().items()})
        check_measured(measured, batch, count)
        if out is None:
            out = cuda_ransac.empty_result(self.device, batch, count)
        else:
            cuda_ransac.check_result(out, batch, count)
        if batch:
            given = points_object, points_image, valid, K
            options = config or RansacConfig(), search or RansacSearchConfig()
            cuda_ransac.run(self.device, self._scratch, *given, *options, out, substreams=substreams, measured=measured)
        return out

    def weighted_lm(
        self,
        points_object: Array,
        points_image: Array,
        weights: Array,
        K: Array,
        T_init: Array,
        config: LmConfig | None = None,
        *,
        prior: PosePrior | None = None,
        lines: LineTargets | None = None,
        depths: DepthTargets | None = None,
        out: LmResult | None = None,
    ) -> LmResult:
        """Do ``PnpSolver.weighted_lm``; ``out``: arrays of an earlier result of the same shapes, written and returned.

        FP32 cannot tell costs apart that differ by less than 1e-6: a step that promises less is taken and ends the
        iteration (LmStop.COST), whatever ``cost_tolerance``. A set of points counts as DEGENERATE from a scaled pivot
        of 1e-6 on.

        Raises:
            InputError: wrong shapes or dtypes, or arrays that are not on the device.
        """
        given = points_object, points_image, weights, K, T_init
        arrays = dict(zip(("points_object", "points_image", "weights", "K", "T_init"), given, strict=True))
        for what, held in (("prior", prior), ("lines", lines), ("depths", depths)):
            if isinstance(held, (PosePrior, LineTargets, DepthTargets)):
                arrays |= {f"{what}.{name}": array for name, array in held._asdict().items()}
        check_on_device(self.device, **arrays)
        batch = check_lm_inputs(*given, prior, lines, depths)
        if out is None:
            out = cuda_lm.empty_result(self.device, batch)
        else:
            cuda_lm.check_result(out, batch)
        if batch:
            cuda_lm.run(self.device, self._scratch, given, config or LmConfig(), prior, lines, depths, out)
        return out

    def close(self) -> None:
        """Give the scratch back; a later call allocates anew. CUDA graphs captured before must not run any more."""
        self._scratch = Scratch(self.device)
