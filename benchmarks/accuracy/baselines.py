"""Baselines without training of ours: local features matched with the 42 templates, then EPnP + RANSAC.

A detection is cropped as the Estimator crops it; its features are matched with those of each template; the templates
with the most matches are lifted to the object's surface and solved by the same solver that the Estimator uses. The pose
with the most inliers is the answer, and its score is ``score_of`` of them.

SIFT: Lowe, IJCV 2004, with the square-rooted descriptors of Arandjelovic and Zisserman (CVPR 2012), matched both ways
with the ratio test. LightGlue: ``benchmarks.accuracy.lightglue``.
"""

from __future__ import annotations

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.records import Box
from coop_edge import Backend, Camera, Detection, Mesh, PoseEstimate, RansacConfig, TemplateSet
from coop_edge.config import CoarseConfig
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.geometry.crop import REFERENCE_SIZE
from coop_edge.pnp.base import PnpStatus
from coop_edge.stages.crop import Crops, crop_detections
from coop_edge.types import StageTimes

SIZE = 224
"""Side of crops and templates, pixels."""
PATCH = 8
"""A mask decides patch by patch which keypoints of a crop are taken, pixels."""
THRESHOLD_PX = 4.0
"""RANSAC's, in a crop of ``REFERENCE_SIZE``: keypoints are matched more exactly than the networks' patches."""
HALF_SCORE = 20
"""Inliers with which a pose scores one half."""
SMOOTH = 0.05
"""Object points of neighbouring template pixels are interpolated if they are at most this share of a diameter apart."""


@dataclass(frozen=True, eq=False)
class Features:
    """n keypoints of one image. points: float64 [n,2] pixels (x, y); data: what the matcher knows of them besides."""

    points: np.ndarray
    data: Any

    def __len__(self) -> int:
        return len(self.points)


class Matcher(ABC):
    """Local features, and which of two images belong together."""

    @abstractmethod
    def extract(self, image: np.ndarray, mask: np.ndarray) -> Features:
        """Return the features of an image, RGB uint8 [S,S,3], whose keypoints' pixels lie in ``mask`` bool [S,S]."""

    @abstractmethod
    def match(self, query: Features, template: Features) -> np.ndarray:
        """Return pairs (index in query, index in template), integers [m,2]. No features, no pairs."""

    def close(self) -> None:  # noqa: B027 - most have nothing to release
        """Release what was loaded."""


@dataclass(frozen=True, eq=False)
class Onboarded:
    """The templates' features of one object, and the object points float64 [n,3] of their keypoints, metres."""

    features: tuple[Features, ...]
    points: tuple[np.ndarray, ...]


class MatchingMethod:
    """A ``Method`` over a matcher.

    name: for tables. hypotheses: templates per detection that go through RANSAC. threads: of renderer and solver, 0 =
    all cores. seed: of RANSAC. size: of crops and templates, pixels.
    """

    def __init__(
        self, matcher: Matcher, name: str, *, hypotheses: int = 5, threads: int = 0, seed: int = 0, size: int = SIZE
    ) -> None:
        if hypotheses < 1:
            raise InputError(f"hypotheses: wanted at least 1, got {hypotheses}")
        if size < PATCH or size % PATCH:
            raise InputError(f"size: wanted a multiple of {PATCH}, got {size}")
        self.name, self.size, self.hypotheses, self.threads = name, size, hypotheses, threads
        self.matcher, self.backend, self.margin = matcher, Backend.pick("cpu"), CoarseConfig().margin
        self.ops, self.solver = self.backend.operations(), self.backend.pnp_solver(threads=threads)
        ransac = RansacConfig(threshold_px=THRESHOLD_PX, seed=seed)
        self.ransac = replace(ransac, threshold_px=ransac.threshold_px * size / REFERENCE_SIZE)
        self.objects: dict[int, Onboarded] = {}

    def add_objects(self, dataset: BopDataset) -> None:
        """Onboard all objects among the targets."""
        for obj_id in dataset.object_ids:
            self.add_object(obj_id, dataset.models[obj_id].load_mesh())
        # The solver compiles when it first runs; that is no image's time.
        self.solver.ransac_epnp(np.zeros((1, 4, 3)), np.zeros((1, 4, 2)), np.ones((1, 4), bool), np.eye(3), self.ransac)

    def add_object(self, obj_id: int, mesh: Mesh) -> None:
        """Render the templates of an object and extract their features, once."""
        renderer = functools.partial(self.backend.renderer, threads=self.threads)
        templates = TemplateSet.render(mesh, self.size, renderer=renderer)
        features = [self.matcher.extract(*pair) for pair in zip(templates.rgb, templates.masks, strict=True)]
        points = [
            lift(one.points, surface, SMOOTH * templates.diameter)
            for one, surface in zip(features, templates.object_points, strict=True)
        ]
        self.objects[obj_id] = Onboarded(tuple(features), tuple(points))

    def estimate(self, image: np.ndarray, camera: Camera, boxes: Sequence[Box]) -> list[PoseEstimate]:
        """Return one estimate per box, in their order; N = 0 is legal.

        Raises:
            InputError: the image or a box is not valid, or its object was not added.
        """
        if unknown := sorted({box.obj_id for box in boxes} - set(self.objects)):
            raise InputError(f"object {unknown[0]}: not added; known are {', '.join(map(str, self.objects)) or 'none'}")
        if not boxes:
            return []
        start = time.perf_counter()
        detections = [Detection(f"obj_{box.obj_id:06d}", box.bbox, box.mask) for box in boxes]
        crops = crop_detections(image, camera, detections, self.size, ops=self.ops, margin=self.margin, patch=PATCH)
        cropped = time.perf_counter()
        found = [self._solve(crops, i, self.objects[box.obj_id], camera) for i, box in enumerate(boxes)]
        matched = time.perf_counter()
        times = StageTimes(crop_ms=(cropped - start) * 1e3, coarse_ms=(matched - cropped) * 1e3)
        return [replace(one, object=d.object, times=times) for one, d in zip(found, detections, strict=True)]

    def close(self) -> None:
        """Release matcher, threads and objects."""
        self.matcher.close()
        getattr(self.solver, "close", lambda: None)()
        self.objects.clear()

    def _solve(self, crops: Crops, i: int, known: Onboarded, camera: Camera) -> PoseEstimate:
        """The pose of detection ``i``, without its name and time."""
        side = self.size // PATCH
        mask = np.kron(crops.trusted[i].reshape(side, side), np.ones((PATCH, PATCH), bool))
        rgb = np.ascontiguousarray(np.rint(np.moveaxis(crops.images[i], 0, -1) * 255).astype(np.uint8))
        query = self.matcher.extract(rgb, mask)
        pairs = [self.matcher.match(query, template) for template in known.features]
        best = np.argsort([-len(p) for p in pairs], kind="stable")[: self.hypotheses]
        image_points = [query.points[pairs[t][:, 0]] for t in best]
        object_points = [known.points[t][pairs[t][:, 1]] for t in best]
        result = self.solver.ransac_epnp(*_padded(object_points, image_points), crops.camera.K[i], self.ransac)
        statistics = result.statistics
        inliers, status = np.asarray(statistics.n_inliers), np.asarray(statistics.status)
        rms = np.nan_to_num(statistics.reprojection_rms_px, nan=np.inf)
        chosen = int(np.lexsort((rms, -inliers, status != PnpStatus.SOLVED))[0])
        n = int(inliers[chosen])
        if status[chosen] != PnpStatus.SOLVED:
            figures = f"{n} inliers of {len(image_points[chosen])} matches"
            return PoseEstimate(False, f"{PnpStatus(int(status[chosen])).reason} ({figures})", n_inliers=n)
        R_camera_crop = crops.camera.R_crop_camera[i].T
        T = se3.compose(se3.from_rt(R_camera_crop, np.zeros(3)), result.T_camera_object[chosen])
        in_image = float(rms[chosen] * camera.K[0, 0] / crops.camera.K[i, 0, 0])
        return PoseEstimate(True, T_camera_object=T, score=score_of(n), n_inliers=n, reprojection_rms_px=in_image)


class SiftMatcher(Matcher):
    """SIFT of OpenCV, which needs nothing installed. ratio: of the ratio test; contrast: OpenCV's threshold, lower
    than its default because crops are small and CAD models smooth."""

    def __init__(self, ratio: float = 0.85, contrast: float = 0.015) -> None:
        self.ratio = ratio
        # Without the precise upscaling OpenCV's keypoints are a quarter of a pixel off.
        self._sift = cv2.SIFT.create(contrastThreshold=contrast, enable_precise_upscale=True)

    def extract(self, image: np.ndarray, mask: np.ndarray) -> Features:
        """See ``Matcher``. data: float32 [n,128], of length 1."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        keypoints, descriptors = self._sift.detectAndCompute(grey, None)
        points = np.array([k.pt for k in keypoints], np.float64).reshape(-1, 2)
        rooted = np.zeros((0, 128), np.float32) if descriptors is None else descriptors.astype(np.float32)
        rooted = np.sqrt(rooted / np.maximum(rooted.sum(axis=1, keepdims=True), 1e-12))
        kept = inside(points, mask)
        return Features(points[kept], rooted[kept])

    def match(self, query: Features, template: Features) -> np.ndarray:
        """Match nearest neighbours of each other whose distance is below ``ratio`` times that to the second nearest."""
        if not len(query) or not len(template):
            return np.zeros((0, 2), np.int64)
        squared = np.maximum(2.0 - 2.0 * (query.data @ template.data.T), 0.0)
        forth, back = squared.argmin(axis=1), squared.argmin(axis=0)
        rows = np.arange(len(query))
        nearest = squared[rows, forth]
        squared[rows, forth] = np.inf
        kept = (back[forth] == rows) & (nearest < self.ratio**2 * squared.min(axis=1))
        return np.stack([rows[kept], forth[kept]], axis=1)


class SiftMethod(MatchingMethod):
    """SIFT matches with the templates. Options: see ``MatchingMethod``."""

    def __init__(self, *, hypotheses: int = 5, threads: int = 0, seed: int = 0, size: int = SIZE) -> None:
        if threads:
            cv2.setNumThreads(threads)
        super().__init__(SiftMatcher(), "SIFT", hypotheses=hypotheses, threads=threads, seed=seed, size=size)


def score_of(n_inliers: int) -> float:
    """Return n / (n + 20), in [0, 1), which orders poses by their inliers, as is usual for local features."""
    return n_inliers / (n_inliers + HALF_SCORE)


def inside(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Tell which points [n,2] (x, y) have their nearest pixel in ``mask`` [h,w], bool [n]."""
    pixel = np.rint(points).astype(np.int64)
    size = np.array(mask.shape[::-1])
    kept = ((pixel >= 0) & (pixel < size)).all(axis=1)
    pixel = np.clip(pixel, 0, size - 1)
    return np.asarray(kept & mask[pixel[:, 1], pixel[:, 0]])


def lift(points: np.ndarray, surface: np.ndarray, smooth: float) -> np.ndarray:
    """Return object points float64 [n,3] at sub-pixel positions [n,2] of an object-point map [S,S,3], NaN off it.

    Bilinear where the four pixels around are on the object and at most ``smooth`` metres apart, else the nearest one's:
    across an edge there is nothing between two points.
    """
    last = np.array(surface.shape[1::-1]) - 1
    low = np.clip(np.floor(points), 0, np.maximum(last - 1, 0)).astype(np.int64)
    high = np.minimum(low + 1, last)
    x0, y0, x1, y1 = low[:, 0], low[:, 1], high[:, 0], high[:, 1]
    corners = np.stack([surface[y0, x0], surface[y0, x1], surface[y1, x0], surface[y1, x1]], axis=1).astype(np.float64)
    u, v = (points - low).T
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v], axis=1)
    spread = np.linalg.norm(corners - corners[:, :1], axis=2).max(axis=1)  # NaN, hence not smooth, off the object
    pixel = np.clip(np.rint(points), 0, last).astype(np.int64)
    nearest = surface[pixel[:, 1], pixel[:, 0]].astype(np.float64)
    return np.where((spread <= smooth)[:, None], (weights[..., None] * corners).sum(axis=1), nearest)


def _padded(
    object_points: Sequence[np.ndarray], image_points: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k sets of matches as one batch: points [k,n,3] and [k,n,2], and which of them count, bool [k,n]."""
    k, n = len(image_points), max((len(p) for p in image_points), default=0)
    X, x, valid = np.full((k, n, 3), np.nan), np.full((k, n, 2), np.nan), np.zeros((k, n), bool)
    for i, (points, pixels) in enumerate(zip(object_points, image_points, strict=True)):
        X[i, : len(points)], x[i, : len(pixels)] = points, pixels
        valid[i, : len(points)] = np.isfinite(points).all(axis=1)
    return X, x, valid
