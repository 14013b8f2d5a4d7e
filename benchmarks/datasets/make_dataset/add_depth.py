"""Adds a sensor's depth to a set in BOP layout that has the true one: depth_sensor beside depth, in the same steps.

python -m benchmarks.datasets.make_dataset.add_depth FOLDER [--seed N] [--split test]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.accuracy.dataset import SENSOR_DEPTH, BopDataset
from benchmarks.datasets.make_dataset.bop import write_depth
from benchmarks.datasets.make_dataset.depth_sensor import measure
from coop_edge.errors import CoopEdgeError, InputError


def add_depth(dataset: BopDataset, seed: int) -> int:
    """Write the sensor's depth of every image with targets, and return their number; those that are there are redone.

    An image's depends on the seed, its scene and its number alone.

    Raises:
        InputError: an image has no true depth.
    """
    for scene, image in dataset.images:
        depth = dataset.depth(scene, image)
        if depth is None:
            raise InputError(f"{dataset.scene_folder(scene) / 'depth'}: no depth of image {image} to start from")
        measured = measure(depth, dataset.camera(scene, image).K, sensor_rng(seed, scene, image))
        path = dataset.scene_folder(scene) / SENSOR_DEPTH / f"{image:06d}.png"
        write_depth(path, measured, dataset.depth_scale(scene, image))
    return len(dataset.images)


def sensor_rng(seed: int, scene: int, image: int) -> np.random.Generator:
    """Return what an image's sensor depth is drawn from."""
    return np.random.default_rng([seed, 5, scene, image])


def main(arguments: Sequence[str] | None = None) -> None:
    """Add depth to a set. SystemExit with a sentence for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datasets.make_dataset.add_depth", description=__doc__)
    parser.add_argument("dataset", type=Path, help="folder of the set")
    parser.add_argument("--split", default="test", help="its folder of scenes (default test)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default 0)")
    options = parser.parse_args(arguments)
    try:
        count = add_depth(BopDataset(options.dataset, options.split), options.seed)
    except (CoopEdgeError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{options.dataset}: {count} depth images in {SENSOR_DEPTH}")


if __name__ == "__main__":
    main()
