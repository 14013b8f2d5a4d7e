"""What was found in an image, and the figures of many: recall and AP of boxes, AP of poses, absent ones accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from benchmarks.accuracy import metrics
from benchmarks.accuracy.average_precision import Answers, mean_average_precision
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.records import ImageKey, Truth
from coop_edge.stages.boxes import overlaps

AMONG = (1, 5, 10)
"""Numbers of boxes per object among which a right one is sought."""
VISIBLE = 0.6
"""Share of an object that is visible in what counts for the recall of boxes."""
IOU = 0.5
IOUS = np.arange(0.5, 1.0, 0.05)
"""Intersections over union from which on a box is right: for recall; for AP, as COCO has them."""
FOUND = 0.1
"""Largest MSSD of a pose that counts as found, diameters."""


@dataclass(frozen=True, eq=False)
class Searched:
    """One object looked for in one image."""

    image: ImageKey
    obj_id: int
    truth: tuple[Truth, ...]  # its instances that are sought; none: it is absent
    boxes: np.ndarray  # [B,4], best first
    box_scores: np.ndarray  # [B]
    accepted: bool
    score: float
    mssd: float  # of the accepted pose, diameters; infinite without one or without an instance
    mspd: float  # pixels of an image 640 wide
    oracle_mssd: float  # the same of estimate() in the box of the truth; infinite for absent objects
    oracle_mspd: float
    reason: str = ""  # why it was not accepted

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data, without the image; the truth by its places among the image's annotations."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("image", "truth")}
        arrays = {name: getattr(self, name).tolist() for name in ("boxes", "box_scores")}
        return {**plain, **arrays, "truth": [each.index for each in self.truth]}

    @classmethod
    def from_plain(cls, image: ImageKey, plain: Mapping[str, Any], dataset: BopDataset) -> Searched:
        """Make it of what ``to_plain`` returned."""
        truth = {each.index: each for each in dataset.truth(*image)}
        return cls(
            image,
            truth=tuple(truth[index] for index in plain["truth"]),
            boxes=np.array(plain["boxes"], np.float64).reshape(-1, 4),
            box_scores=np.array(plain["box_scores"], np.float64),
            **{name: value for name, value in plain.items() if name not in ("truth", "boxes", "box_scores")},
        )


@dataclass(frozen=True, eq=False)
class SearchedImage:
    """All objects looked for in one image, and the processor's time that the search took."""

    image: ImageKey
    cpu_s: float
    objects: tuple[Searched, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        scene_id, im_id = self.image
        objects = [each.to_plain() for each in self.objects]
        return {"scene_id": scene_id, "im_id": im_id, "cpu_s": self.cpu_s, "objects": objects}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], dataset: BopDataset) -> SearchedImage:
        """Make it of what ``to_plain`` returned."""
        image = plain["scene_id"], plain["im_id"]
        return cls(image, plain["cpu_s"], tuple(Searched.from_plain(image, each, dataset) for each in plain["objects"]))


def figures(searched: Sequence[Searched], dataset: BopDataset) -> dict[str, Any]:
    """Return the figures of all objects looked for: what goes into the JSON file."""
    present, gone = ([each for each in searched if bool(each.truth) == wanted] for wanted in (True, False))
    clear = [each for each in present if (each.truth[0].visib_fract or 0.0) >= VISIBLE]
    ranks = np.array([_rank(each) for each in clear])
    ar, oracle = (
        _mean([_ar(getattr(each, f"{whose}mssd"), getattr(each, f"{whose}mspd")) for each in present])
        for whose in ("", "oracle_")
    )
    found, oracle_found = (
        _mean([getattr(each, f"{whose}mssd") < FOUND for each in present]) for whose in ("", "oracle_")
    )
    return {
        **{f"recall_{k}": _mean(ranks < k) for k in AMONG},
        "absent_accepted": _mean([each.accepted for each in gone]),
        "ap_boxes": _ap_boxes(searched, dataset),
        **_ap_poses(searched, dataset),
        "ar": ar,
        "oracle_boxes_ar": oracle,
        "ar_of_oracle_boxes": ar / oracle if oracle else 0.0,
        "found": found,
        "oracle_boxes_found": oracle_found,
        "found_of_oracle_boxes": found / oracle_found if oracle_found else 0.0,
        "accepted": _mean([each.accepted for each in present]),
        "counts": {"images": len(dataset.images), "targets": len(present), "visible": len(clear), "absent": len(gone)},
    }


def times(images: Sequence[SearchedImage]) -> dict[str, float]:
    """Return the processor's seconds per image and per object."""
    cpu = sum(each.cpu_s for each in images)
    count = sum(len(each.objects) for each in images)
    return {"cpu_s_per_image": cpu / max(len(images), 1), "cpu_s_per_object": cpu / max(count, 1)}


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _rank(each: Searched) -> int:
    """Place of the first right box, from 0; a large number if there is none."""
    truth = np.array([t.bbox_obj for t in each.truth if t.bbox_obj is not None], np.float64).reshape(-1, 4)
    right = (overlaps(each.boxes, truth) >= IOU).any(axis=1)
    return int(right.argmax()) if right.any() else 1 << 30


def _ar(mssd: float, mspd: float) -> float:
    return float((np.mean(mssd < metrics.SHARES) + np.mean(mspd < metrics.PIXELS)) / 2)


def _ap_boxes(searched: Sequence[Searched], dataset: BopDataset) -> float:
    def answers(each: Searched) -> Answers:
        truth = np.array([t.bbox_obj for t in each.truth if t.bbox_obj is not None], np.float64).reshape(-1, 4)
        return Answers(each.box_scores, 1.0 - overlaps(each.boxes, truth))

    objects = [[answers(each) for each in searched if each.obj_id == obj_id] for obj_id in dataset.object_ids]
    return mean_average_precision(objects, [1.0 - IOUS + 1e-9] * len(objects))


def _ap_poses(searched: Sequence[Searched], dataset: BopDataset) -> dict[str, float]:
    """AP of accepted poses as BOP has it for 6D detection: over the thresholds of MSSD and of MSPD, and their mean."""

    def of(name: str) -> float:
        def answers(each: Searched) -> Answers:
            error = np.full((1, len(each.truth)), getattr(each, name))
            return Answers(np.array([each.score])[: each.accepted], error[: each.accepted])

        objects = [[answers(each) for each in searched if each.obj_id == obj_id] for obj_id in dataset.object_ids]
        return mean_average_precision(objects, [metrics.SHARES if name == "mssd" else metrics.PIXELS] * len(objects))

    mssd, mspd = of("mssd"), of("mspd")
    return {"ap": (mssd + mspd) / 2, "ap_mssd": mssd, "ap_mspd": mspd}
