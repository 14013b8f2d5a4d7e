"""Measures a refiner's flow at start poses that are off by a known angle, on the images of a data set.

    python -m benchmarks.accuracy.flow CHECKPOINT... --dataset FOLDER --start 5 --start 15

A start pose is the truth (of those that a symmetry allows the nearest), turned by that angle about the object's centre.
What is compared is the flow from there to the truth, before (none is predicted) and after, of rendered points that the
image shows by its depth image.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.dataset import BopDataset
from benchmarks.common import command, print_table, write_json
from coop_edge.base.hardware import hardware
from coop_edge.base.missing import install_extra
from coop_edge.config import EstimatorConfig
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.ops.cpu import CpuOperations
from coop_edge.render import CpuRenderer
from coop_edge.render.base import back_project
from coop_edge.runtime.base import Runner
from coop_edge.stages.crop import in_sight, pose_crop

Array = np.ndarray[Any, Any]

TOLERANCE = 0.01
"""Of depth comparisons, as a share of the diameter."""
STARTS = (5.0, 15.0)
OPS = CpuOperations()


@dataclass(frozen=True, eq=False)
class FlowPairs:
    """M crops of one image with renders at their start poses, S x S pixels, and the flow that is right."""

    query: Array  # float32 [M,3,S,S]
    render: Array  # float32 [M,3,S,S]
    flow: Array  # float64 [M,2,S,S] pixels (x, y), NaN where the image does not show the rendered point


def flow_pairs(dataset: BopDataset, degrees: float, size: int) -> Iterator[FlowPairs]:
    """Make the pairs of the targets of each image, start poses off by ``degrees``.

    The axis of a turn depends on the image and the object alone. Targets out of sight, or with nothing to be seen, are
    left out.

    Raises:
        InputError: an image without depth.
    """
    place = {obj_id: i for i, obj_id in enumerate(dataset.object_ids)}
    meshes = [dataset.models[obj_id].load_mesh() for obj_id in dataset.object_ids]
    if not meshes:
        return
    renderer = CpuRenderer(meshes, threads=1)
    margin = EstimatorConfig().advanced.refine.margin
    for image in dataset.images:
        camera, depth = dataset.camera(*image), dataset.depth(*image)
        if depth is None:
            raise InputError(f"scene {image[0]}, image {image[1]}: has no depth, wanted it to tell what is hidden")
        truths = [t for target in dataset.targets_of(*image) for t in dataset.sought(target)]
        index = np.array([place[t.obj_id] for t in truths], np.int64)
        centre = np.array([meshes[i].centre for i in index]).reshape(-1, 3)
        diameter = np.array([meshes[i].diameter for i in index])
        T_true = np.array([t.T_camera_object for t in truths]).reshape(-1, 4, 4)
        T = np.array(
            [_turned(p, c, degrees, (*image, t.obj_id)) for p, c, t in zip(T_true, centre, truths, strict=True)]
        )
        T = T.reshape(-1, 4, 4)
        seen = in_sight(T, centre, diameter)
        index, centre, diameter, T, T_true = (a[seen] for a in (index, centre, diameter, T, T_true))
        symmetries = [dataset.models[dataset.object_ids[i]].symmetries for i in index]
        alike = [s.nearest_symmetric(a, b) for s, a, b in zip(symmetries, T_true, T, strict=True)]
        T_true = np.array(alike).reshape(-1, 4, 4)
        crop = pose_crop(camera, T, centre, diameter, size, margin)
        T_crop = crop.to_crop(T)
        view = renderer.render(T_crop, crop.K, size, mesh_index=index)
        points = back_project(view.depth, T_crop, crop.K).reshape(len(T), -1, 3).astype(np.float64)
        there = project(crop.K, se3.transform(crop.to_crop(T_true), points))
        y, x = np.mgrid[:size, :size].reshape(2, -1)
        shown = shown_by(depth, camera.K, se3.transform(T_true, points), TOLERANCE * diameter)
        shown &= ((there >= -0.5) & (there < size - 0.5)).all(axis=2)
        flow = np.where(shown[..., None], there - np.stack([x, y], axis=1), np.nan)
        flow = np.swapaxes(flow, 1, 2).reshape(len(T), 2, size, size)
        query = OPS.warp(OPS.upload(dataset.image(*image)), crop.H, size, crop.lens)
        kept = np.isfinite(flow).any(axis=(1, 2, 3))
        yield FlowPairs(query[kept], OPS.as_network_image(view.rgb)[kept], flow[kept])


def _turned(T: Array, centre: Array, degrees: float, key: Iterable[int]) -> Array:
    """Turn a pose [4,4] by an angle about an axis through the object's centre."""
    axis = np.random.default_rng(list(key)).normal(size=3)
    R = se3.so3_exp(np.radians(degrees) * axis / np.linalg.norm(axis))
    return T @ se3.from_rt(R, centre - R @ centre)


def shown_by(depth: Array, K: Array, points: Array, tolerance: Array) -> Array:
    """Tell which points a depth image shows, bool [M,P].

    Args:
        depth: float32 [height,width] metres, 0 = unknown.
        K: [3,3].
        points: float64 [M,P,3] in the camera, metres; NaN is not shown.
        tolerance: [M] metres around the depths of the four pixels around a point.
    """
    height, width = depth.shape
    uv = project(K, points)
    inside: Array = np.asarray(np.isfinite(uv).all(axis=-1))
    safe = np.where(inside[..., None], uv, 0.0)
    inside &= ((safe >= 0.0) & (safe <= (width - 1, height - 1))).all(axis=-1)
    column, row = np.floor(safe).astype(np.int64).clip(0, (width - 1, height - 1)).transpose(2, 0, 1)
    low, high = np.full(inside.shape, np.inf), np.full(inside.shape, -np.inf)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        near = depth[(row + dy).clip(max=height - 1), (column + dx).clip(max=width - 1)]
        low, high = np.minimum(low, np.where(near > 0, near, np.inf)), np.maximum(high, near)
    z, t = points[..., 2], tolerance[:, None]
    return np.asarray(inside & (z >= low - t) & (z <= high + t))


def flow_errors(pairs: Iterable[FlowPairs], runner: Runner, stride: int) -> dict[str, float]:
    """Return medians over all cells that the images show, pixels of the crop, and over targets; none without any.

    flow_epe_before: length of the flow that is right. flow_epe: end-point error of the one predicted. smaller: share of
    the targets whose median error is smaller after than before. targets: how many.
    """
    before, after, smaller = [], [], []
    for each in pairs:
        if not len(each.query):
            continue
        first = stride // 2
        right = each.flow[:, :, first::stride, first::stride]
        found = runner.run({"query": each.query, "render": each.render})["flow"]
        for i in range(len(right)):
            on = np.isfinite(right[i, 0])
            if on.any():
                before.append(np.linalg.norm(right[i][:, on], axis=0))
                after.append(np.linalg.norm((found[i] - right[i])[:, on], axis=0))
                smaller.append(np.median(after[-1]) < np.median(before[-1]))
    if not before:
        return {"targets": 0.0}
    return {
        "targets": float(len(before)),
        "flow_epe_before": float(np.median(np.concatenate(before))),
        "flow_epe": float(np.median(np.concatenate(after))),
        "smaller": float(np.mean(smaller)),
    }


def measure(checkpoint: Path, dataset: BopDataset, starts: Sequence[float], threads: int = 1) -> list[dict[str, float]]:
    """Return the figures of a refiner's network file at each angle, degrees.

    Raises:
        InputError: PyTorch is missing, the file is not a refiner's, or the data set has no depth.
    """
    try:
        import torch

        from export.networks import RefinerNet
        from export.train.checkpoint import load_network
        from export.train.runner import RefinerRunner
    except ModuleNotFoundError as error:
        raise InputError(f"{error}; {install_extra('export')}") from None
    if threads:
        torch.set_num_threads(threads)
    net = load_network(checkpoint, "refiner")[0]
    assert isinstance(net, RefinerNet)
    size, rows = net.config.trunk.image_size, []
    with RefinerRunner(net, size, torch.device("cpu")) as runner:
        for degrees in starts:
            found = flow_errors(flow_pairs(dataset, degrees, size), runner, net.config.stride)
            rows.append({"start_degrees": degrees, **found})
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.flow", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="+", help="network files of refiners")
    parser.add_argument("--dataset", required=True, metavar="FOLDER", help="a data set in BOP layout, with depth")
    parser.add_argument("--split", default="test", help="its folder of scenes (default test)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument(
        "--start", type=float, action="append", metavar="DEGREES", help="angle of the start poses (default 5, 15)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    parser.add_argument("--json", metavar="JSON", help="write the figures")
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 with one line on standard error."""
    options = _parser().parse_args(arguments)
    starts = options.start or list(STARTS)
    if wrong := [s for s in starts if not 0.0 <= s <= 180.0]:
        raise InputError(f"--start {wrong[0]:g}: wanted degrees from 0 to 180")
    dataset = BopDataset(options.dataset, options.split, limit=options.limit)
    found = {name: measure(Path(name), dataset, starts, options.threads) for name in options.checkpoint}
    columns = ("start_degrees", "targets", "flow_epe_before", "flow_epe", "smaller")
    for name, rows in found.items():
        print_table(name, [[row.get(c, float("nan")) for c in columns] for row in rows], columns)
    if options.json:
        write_json(options.json, {"dataset": dataset.name, "hardware": hardware(), "checkpoints": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
