"""The command ``python -m benchmarks.datasets.make_dataset``."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import benchmarks.datasets.make_dataset
from benchmarks.datasets.demo_scene import sensor
from benchmarks.datasets.make_dataset import assets as asset_choice
from benchmarks.datasets.make_dataset.add_depth import sensor_rng
from benchmarks.datasets.make_dataset.arrange import Placed, View, arrange, deal, views
from benchmarks.datasets.make_dataset.assets import Asset
from benchmarks.datasets.make_dataset.bop import BopWriter
from benchmarks.datasets.make_dataset.depth_sensor import measure
from benchmarks.datasets.make_dataset.models import model_path, write_models
from benchmarks.datasets.make_dataset.readme import write_readme
from benchmarks.datasets.make_dataset.render import TracedScene
from benchmarks.datasets.make_dataset.room import room
from benchmarks.datasets.make_dataset.settle import Body
from benchmarks.datasets.make_dataset.truth import truths
from coop_edge.errors import CoopEdgeError, InputError
from coop_edge.mesh import Mesh

OTHERS = 6
"""Objects that lie about but do not belong to the set."""
PICTURES_PER_SCENE = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a set. SystemExit with a sentence for wrong use, a scene that cannot be laid out, or a key that ends it."""
    options = parse(arguments)
    mi = mitsuba(options.variant, options.threads)
    try:
        make(mi, options)
    except (CoopEdgeError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; the same command goes on with {options.output}") from None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.datasets.make_dataset",
        description=benchmarks.datasets.make_dataset.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path, help="folder of the set; one of the same options is completed")
    parser.add_argument(
        "--images", type=_positive, default=60, metavar="N", help="pictures, three of each scene (default 60)"
    )
    parser.add_argument("--objects", type=_positive, default=15, metavar="N", help="objects of the set (default 15)")
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="all that is drawn follows from it (default 0)"
    )
    parser.add_argument("--pack", type=Path, help="asset pack (python -m export assets); procedural objects without it")
    parser.add_argument("--samples", type=_positive, default=32, metavar="N", help="paths per pixel (default 32)")
    parser.add_argument("--size", type=_size, default=(640, 480), metavar="WxH", help="pixels (default 640x480)")
    variant = "Mitsuba's: llvm_ad_rgb is several times faster, and needs LLVM (DRJIT_LIBLLVM_PATH)"
    parser.add_argument("--variant", default="scalar_rgb", choices=("scalar_rgb", "llvm_ad_rgb"), help=variant)
    parser.add_argument("--threads", type=_positive, metavar="N", help="of Mitsuba; all cores if not given")
    return parser.parse_args(arguments)


def mitsuba(variant: str, threads: int | None) -> Any:
    """Return Mitsuba 3, ready; raise SystemExit with what to install where it is missing."""
    try:
        import mitsuba as mi
    except ImportError:
        raise SystemExit('Mitsuba is missing: pip install "mitsuba==3.9.1", into an environment of its own') from None
    mi.set_variant(variant)
    mi.set_log_level(mi.LogLevel.Error)
    if threads is not None:
        import drjit

        drjit.set_thread_count(threads)
    return mi


def make(mi: Any, options: argparse.Namespace) -> None:
    """Make the whole set, or what is missing of it."""
    described = {key: getattr(options, key) for key in ("images", "objects", "seed", "samples")}
    described |= {"size": list(options.size), "pack": options.pack.name if options.pack else None}
    writer = BopWriter(options.output, described)
    chosen = asset_choice.choose(options.pack, options.objects + OTHERS, options.seed)
    writer.claim()
    if not (options.output / "models" / "models_info.json").exists():
        write_models(options.output, chosen[: options.objects])
    if not (options.output / "models" / "provenance.json").exists():
        write_readme(options.output, chosen[: options.objects], f"{mi.__version__}")
    meshes = [Mesh.load(model_path(options.output, k + 1), unit="mm") for k in range(options.objects)]
    meshes += [asset.mesh for asset in chosen[options.objects :]]
    bodies = [Body(mesh) for mesh in meshes]
    scenes = range(1, -(-options.images // PICTURES_PER_SCENE) + 1)
    hands = deal(options.objects, len(scenes), np.random.default_rng([options.seed, 1]))
    for scene, hand in zip(scenes, hands, strict=True):
        wanted = min(PICTURES_PER_SCENE, options.images - PICTURES_PER_SCENE * (scene - 1))
        if missing := set(range(wanted)) - writer.done(scene):
            SceneMaker(mi, options, chosen, bodies, scene, hand).write(writer, sorted(missing))
    targets = writer.finish(list(scenes))
    report(writer, list(scenes), targets)


class SceneMaker:
    """One scene: what lies where, the room and the cameras follow from the seed and the scene's number alone."""

    def __init__(
        self, mi: Any, options: argparse.Namespace, chosen: Sequence[Asset], bodies: Sequence[Body], scene: int,
        hand: Sequence[int],
    ) -> None:  # fmt: skip
        self._mi, self._scene, self._samples, self._seed = mi, scene, options.samples, options.seed
        self._meshes, self._chosen = [body.mesh for body in bodies], chosen
        rng = np.random.default_rng([options.seed, 2, scene])
        for _ in range(20):
            others = options.objects + rng.choice(OTHERS, int(rng.integers(0, 3)), replace=False)
            self.placed: list[Placed] = arrange(bodies, hand, others.tolist(), rng)
            try:
                self.views, self._azimuth = views(self.placed, self._meshes, PICTURES_PER_SCENE, options.size, rng)
                break
            except RuntimeError:
                continue  # too far apart for one camera: put down again
        else:
            raise InputError(f"scene {scene}: no arrangement in 20 that cameras see whole; give another --seed")
        self._room_rng = np.random.default_rng([options.seed, 3, scene])

    def write(self, writer: BopWriter, images: Sequence[int]) -> None:
        """Render and write the pictures ``images``."""
        described, words = room(self._mi, self._azimuth, self._room_rng)
        objects = [(self._meshes[p.index], p.T_world_object, self._chosen[p.index].roughness) for p in self.placed]
        with tempfile.TemporaryDirectory() as name:
            traced = TracedScene(self._mi, described, objects, Path(name))
            for image in images:
                began, cpu = time.perf_counter(), time.process_time()
                self._picture(writer, traced, image, words)
                wall, cpu = time.perf_counter() - began, time.process_time() - cpu
                print(f"scene {self._scene} image {image}: {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)

    def _picture(self, writer: BopWriter, traced: TracedScene, image: int, words: dict[str, str]) -> None:
        view: View = self.views[image]
        rng = np.random.default_rng([self._seed, 4, self._scene, image])
        owner, depth = traced.first_hits(view)
        poses = [view.camera_object(p.T_world_object) for p in self.placed]
        targets = [p.target for p in self.placed]
        found = truths([self._meshes[p.index] for p in self.placed], poses, targets, view, owner, depth)
        kept = [(p.index + 1, T) for p, T in zip(self.placed, poses, strict=True) if p.target]
        camera = {
            "full_well": float(np.exp(rng.uniform(np.log(1500.0), np.log(9000.0)))),
            "white": float(rng.uniform(0.6, 1.1)),
            "lens": float(rng.uniform(0.7, 1.9)),
        }
        quality = int(rng.integers(80, 96))
        rgb = sensor.expose(traced.picture(view, self._samples), int(rng.integers(2**31)), **camera)
        entries = [(obj_id, T, truth) for (obj_id, T), truth in zip(kept, found, strict=True)]
        measured = measure(depth, view.K, sensor_rng(self._seed, self._scene, image))
        writer.write_measured(self._scene, image, measured)
        writer.write(self._scene, image, rgb, depth, view, entries, quality, {**words, **camera, "jpeg": quality})


def report(writer: BopWriter, scenes: Sequence[int], targets: int) -> None:
    """Print how many there are, and how well our renderer's outlines at the truth agree with Mitsuba's."""
    print(f"{writer.root}: {sum(len(writer.done(s)) for s in scenes)} pictures, {targets} targets")
    checks = writer.checks(scenes)
    if not checks:
        return
    iou, edge = (np.array([c[key] for c in checks]) for key in ("iou", "edge_px"))
    shift = np.array([c["shift_px"] for c in checks])
    summary = {
        "objects": len(checks),
        "iou_median": float(np.median(iou)),
        "iou_worst": float(iou.min()),
        "edge_px_median": float(np.median(edge)),
        "edge_px_worst": float(edge.max()),
        "shift_px_mean": shift.mean(axis=0).round(4).tolist(),
        "shift_px_worst": float(np.linalg.norm(shift, axis=1).max()),
    }
    print(f"visible outlines, ours at the truth against Mitsuba's: {json.dumps(summary)}")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"wanted an integer of at least 1, got {text}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"wanted an integer of at least 0, got {text}")
    return value


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(n) for n in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted WIDTHxHEIGHT, got {text!r}") from None
    if min(width, height) < 32:
        raise argparse.ArgumentTypeError(f"wanted at least 32x32, got {text}")
    return width, height


if __name__ == "__main__":
    main()
