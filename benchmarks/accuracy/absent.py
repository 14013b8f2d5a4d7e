"""Measures how often a pose is invented: ``python -m benchmarks.accuracy.absent DATASET --json FILE``.

Boxes of the truth are estimated, and boxes in which the object is not: another object's box, a random one, and one
elsewhere in a picture that shows the object. The least presence (``advanced.select.min_presence``) is to refuse the
latter and keep what is right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.accuracy.checkout import commit
from benchmarks.accuracy.dataset import DEPTH_HELP, SENSOR_DEPTH, BopDataset
from benchmarks.accuracy.evidence import Sought, is_right
from benchmarks.accuracy.journal import ImageJournal, journal_path
from benchmarks.accuracy.measure import progress
from benchmarks.accuracy.methods import object_name
from benchmarks.accuracy.records import Box, ImageKey
from benchmarks.common import command, print_table, write_json
from coop_edge import Camera, Detection, Estimator, EstimatorConfig, PoseEstimate
from coop_edge.base.hardware import hardware
from coop_edge.config import EFFORTS
from coop_edge.errors import InputError
from coop_edge.stages.clock import StageClock

PRESENT = "present"
KINDS = {"other": 4, "random": 1, "elsewhere": 1}
"""Boxes without the object, per image: around another object; anywhere, of an object that is not in the picture; beside
an object that is."""
THRESHOLDS = (0.1, 0.2, 0.25, 0.27, 0.3, 0.4, 0.5, 0.6)
TRIES = 200
"""Boxes drawn at random until one does not touch the object."""


@dataclass(frozen=True)
class Tried:
    """A box and what was made of it."""

    kind: str  # PRESENT or one of KINDS
    obj_id: int
    bbox: tuple[float, float, float, float]
    found: bool  # refused at most for its presence
    presence: float
    right: bool  # within a tenth of the diameter (MSSD), refused or not


@dataclass(frozen=True)
class TriedImage:
    """All boxes tried in one image."""

    image: ImageKey
    boxes: tuple[Tried, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        scene_id, im_id = self.image
        return {"scene_id": scene_id, "im_id": im_id, "boxes": [vars(each) for each in self.boxes]}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TriedImage:
        """Make it of what ``to_plain`` returned."""
        boxes = tuple(Tried(**each | {"bbox": tuple(each["bbox"])}) for each in plain["boxes"])
        return cls((plain["scene_id"], plain["im_id"]), boxes)


def boxes_of(dataset: BopDataset, image: ImageKey) -> list[tuple[str, Sought]]:
    """Return the boxes to try in an image with their kinds: those of the truth, and ``KINDS`` without their object."""
    truths = {truth.obj_id: truth for truth in dataset.truth(*image)}
    camera, rng = dataset.camera(*image), np.random.default_rng([1, *image])
    sought = [dataset.sought(target)[0] for target in dataset.targets_of(*image)]
    shown = [(each, each.bbox_visib) for each in sought if each.bbox_visib is not None]
    out = [(PRESENT, Sought(i, Box(t.obj_id, box), t.T_camera_object)) for i, (t, box) in enumerate(shown)]
    missing = [obj_id for obj_id in dataset.object_ids if obj_id not in truths]
    if not shown:
        return out

    def some_box(avoid: Sequence[float] | None) -> tuple[float, float, float, float] | None:
        for _ in range(TRIES):
            width, height = np.array(shown[rng.integers(len(shown))][1])[2:] * rng.uniform(0.8, 1.25, 2)
            x, y = rng.uniform(0, camera.width - width), rng.uniform(0, camera.height - height)
            if avoid is None or _apart((x, y, width, height), avoid):
                return float(x), float(y), float(width), float(height)
        return None

    absent: list[tuple[str, int, tuple[float, float, float, float] | None]] = []
    for obj_id in rng.permutation(missing)[: KINDS["other"]].tolist():
        absent.append(("other", obj_id, shown[rng.integers(len(shown))][1]))
    for obj_id in rng.permutation(missing)[: KINDS["random"]].tolist():
        absent.append(("random", obj_id, some_box(None)))
    for obj_id in rng.permutation(list(truths))[: KINDS["elsewhere"]].tolist():
        absent.append(("elsewhere", obj_id, some_box(truths[obj_id].bbox_obj)))
    return out + [(kind, Sought(-1, Box(obj_id, box), None)) for kind, obj_id, box in absent if box is not None]


def try_image(dataset: BopDataset, estimator: Estimator, image: ImageKey, depth: str | None = None) -> TriedImage:
    """Estimate in all boxes of an image; depth: folder of the depth images that the Estimator is given."""
    boxes = boxes_of(dataset, image)
    detections = [Detection(object_name(sought.box.obj_id), sought.box.bbox) for _, sought in boxes]
    measured = None if depth is None else dataset.depth(*image, folder=depth)
    every, believed = answers(estimator, dataset.image(*image), dataset.camera(*image), detections, measured)
    tried = []
    for (kind, sought), result, kept in zip(boxes, every, believed, strict=True):
        T = result.T_camera_object
        right = T is not None and is_right(T, sought, dataset)
        tried.append(Tried(kind, sought.box.obj_id, sought.box.bbox, kept.success, result.presence, right))
    return TriedImage(image, tuple(tried))


def answers(
    estimator: Estimator,
    image: np.ndarray,
    camera: Camera,
    detections: Sequence[Detection],
    depth: np.ndarray | None = None,
) -> tuple[list[PoseEstimate], list[PoseEstimate]]:
    """Return what ``estimate`` does with no least score at all, and with its own, but a least presence of nothing.

    Only the latter refuses poses at which image and render do not look alike, or that leave much of the box empty.
    """
    names = [detection.object for detection in detections]
    with estimator._call("absent"):
        picture, measured = estimator._read(image, camera, depth, None)
        frame = estimator._frame(picture, camera, measured)
        index = estimator._registry.indices(names)
        found = estimator._pipeline.hypotheses(frame, detections, index, StageClock())
        out = []
        for least in (0.0, estimator.config.select.min_score):
            config = estimator.config.updated([f"select.min_score={least}", "advanced.select.min_presence=0"])
            out.append(found.choose(config).estimates(names))
    return out[0], out[1]


def figures(tried: Sequence[Tried], least: float) -> dict[str, Any]:
    """Return what a least presence does: the shares of absent objects accepted and of right poses kept.

    "accepted" has them by kind, "thresholds" for others, [presence, absent accepted, right kept].
    """
    right = np.array([each.presence if each.found else -1.0 for each in tried if each.right])
    absent = [each for each in tried if each.kind != PRESENT]
    presence = np.array([each.presence if each.found else -1.0 for each in absent])

    def share(values: np.ndarray, threshold: float) -> float:
        return float(np.mean(values >= threshold)) if len(values) else 0.0

    kinds = {kind: np.array([each.kind == kind for each in absent], bool) for kind in KINDS}
    return {
        "min_presence": least,
        "absent_accepted": share(presence, least),
        "right_kept": share(right, least),
        "accepted": {kind: share(presence[own], least) for kind, own in kinds.items()},
        "counts": {
            "present": len(tried) - len(absent),
            "right": len(right),
            **{kind: int(own.sum()) for kind, own in kinds.items()},
        },
        "thresholds": [[value, share(presence, value), share(right, value)] for value in THRESHOLDS],
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Estimate in all boxes, with a record beside ``options.json``, and sum up.

    Raises:
        CoopEdgeError: the data set or the engines cannot be used, or the record is of other options.
        OSError: a file cannot be written.
    """
    dataset = BopDataset(options.dataset, options.split, limit=options.limit)
    config = EstimatorConfig(effort=options.effort)
    least = config.advanced.select.min_presence
    about = {"dataset": dataset.name, "untextured": options.untextured, "depth": options.depth}
    about |= {"config": config.to_dict()}
    done: dict[ImageKey, TriedImage] = {}
    with Estimator.from_engines(options.engines, device=options.device, config=config) as estimator:
        about |= {"engines": estimator.bundle.name, "score": _map_of(estimator, options)}
        with ImageJournal(
            journal_path(options.json), about, to_plain=TriedImage.to_plain, from_plain=TriedImage.from_plain
        ) as journal:
            left = [image for image in dataset.images if image not in journal.done]
            for obj_id in dataset.object_ids if left else ():
                model = dataset.models[obj_id]
                mesh = model.load_mesh(untextured=options.untextured)
                estimator.add_object(object_name(obj_id), mesh, symmetries=model.symmetries)
            with progress(f"boxes of {dataset.name}", len(dataset.images), len(journal.done)) as advance:
                for image in left:
                    journal.append(try_image(dataset, estimator, image, options.depth))
                    advance()
            done = journal.done
    tried = [each for image in dataset.images for each in done[image].boxes]
    result = {"benchmark": "absent", "images": len(dataset.images), **figures(tried, least), **about}
    result |= {"commit": commit(), "hardware": hardware()}
    write_json(options.json, result)
    journal_path(options.json).unlink(missing_ok=True)
    return result


def _apart(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] > b[0] + b[2] or b[0] > a[0] + a[2] or a[1] > b[1] + b[3] or b[1] > a[1] + a[3]


def _map_of(estimator: Estimator, options: argparse.Namespace) -> dict[str, Any] | None:
    bundle = estimator.bundle
    grey, with_depth = bundle.grey_score_map, bundle.depth_score_map
    score_map = (with_depth if options.depth else grey if options.untextured else None) or bundle.score_map
    return None if score_map is None else score_map.to_dict()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.absent", description="Are poses invented where an object is not?"
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder of the data set, in BOP layout")
    parser.add_argument("--split", default="test", help="its folder of scenes (default test)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--engines", default="coop-xs", metavar="NAME", help="name or folder of a bundle")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu", help="default cpu")
    parser.add_argument("--effort", choices=tuple(EFFORTS), default="balanced", help="default balanced")
    parser.add_argument("--untextured", action="store_true", help="paint the models grey, as CAD without textures is")
    parser.add_argument("--depth", nargs="?", const=SENSOR_DEPTH, metavar="FOLDER", help=DEPTH_HELP)
    parser.add_argument("--json", metavar="JSON", required=True, help="all figures; a stopped run goes on beside it")
    return parser.parse_args(arguments)


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns 0; 2 with one line on standard error for wrong use; 130 if interrupted."""
    options = parse(arguments)
    try:
        if options.limit is not None and options.limit < 1:
            raise InputError(f"--limit: wanted at least 1, got {options.limit}")
        result = measure(options)
    except KeyboardInterrupt:
        print(
            f"interrupted; what is done is in {journal_path(options.json)}: the same command goes on", file=sys.stderr
        )
        return 130
    print_table(
        f"Least presence {result['min_presence']:g}: {result['absent_accepted']:.3f} of absent objects accepted, "
        f"{result['right_kept']:.3f} of right poses kept",
        [(kind, result["counts"][kind], share) for kind, share in result["accepted"].items()],
        ("box", "count", "accepted"),
    )
    print_table("Others", result["thresholds"], ("presence at least", "absent accepted", "right kept"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
