"""Follows objects from image to image: predicts where they go, and looks for what is lost.

An object is expected to move on as it did between the last two images. If its pose is not to be believed there, it is
tried at places around: where it was, and in a ring around the prediction. What stays lost can be looked for with
``finding``, first near where it was last seen, then farther away.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coop_edge.finding import Finder
from coop_edge.geometry import se3
from coop_edge.pipeline import Pipeline
from coop_edge.stages.bounds import Wanted
from coop_edge.stages.frame import Frame
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.select import LOST
from coop_edge.types import Motion, PoseEstimate

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

STILL, STILL_ANGLE = 0.05, np.radians(5.0)
"""Motion between two images, in diameters and radians, below which an object is expected to stay: mostly noise."""
FASTEST, FASTEST_ANGLE = 1.0, np.radians(30.0)
"""Largest motion that is expected to go on, in diameters and radians."""
RING = 0.3
"""Distance of the places tried around a prediction, diameters."""
AROUND = (2.0, 5.0)
"""Sides of the regions in which what is lost is looked for, over that of its last box; then the whole image."""


@dataclass(frozen=True, eq=False)
class Follower:
    """Follows objects by the parts of a ``Pipeline``."""

    pipeline: Pipeline

    def follow(self, frame: Frame, previous: Sequence[PoseEstimate], index: Indices) -> list[PoseEstimate]:
        """Return the poses of N objects, of which ``previous`` has those in the image before; see ``Estimator.track``.

        Args:
            index: [N] places in ``frame.models``.
        """
        out = [_still_lost(result) for result in previous]
        known = [i for i, result in enumerate(previous) if result.success]
        if not known:
            return out
        options = self.pipeline.config.advanced.track
        models = [frame.models[index[i]] for i in known]
        start = [_start(previous[i], model, predict=options.predict) for i, model in zip(known, models, strict=True)]
        names = [previous[i].object for i in known]
        found = self.pipeline.track(frame, names, index[known], np.array(start))
        lost = [k for k, result in enumerate(found) if not result.success]
        if lost and options.search:
            tries = [_around(previous[known[k]].pose, start[k], models[k]) for k in lost]
            rows = [known[k] for k in lost]
            again = self.pipeline.track(frame, [names[k] for k in lost], index[rows], np.array(tries))
            for k, result in zip(lost, again, strict=True):
                found[k] = result if result.success else found[k]
        for i, result in zip(known, found, strict=True):
            out[i] = replace(result, motion=_moved(previous[i], result))
        return out

    def relocate(
        self, frame: Frame, results: list[PoseEstimate], index: Indices, budget_s: float
    ) -> list[PoseEstimate]:
        """Look for what is lost, as long as less than ``budget_s`` seconds have passed; raises BundleError as Finder.

        An object is looked for in the image in which it is lost, and in every ``advanced.track.relocate_every``-th
        after it. Those that were lost most recently come first. Poses below ``advanced.select.trusted_presence`` are
        not taken.
        """
        config, start, out = self.pipeline.config, time.perf_counter(), list(results)
        finder, every = Finder(self.pipeline), config.advanced.track.relocate_every
        lost = [i for i, result in enumerate(results) if not result.success and result.motion is not None]
        for i in sorted(lost, key=lambda i: _lost(results[i])):
            turn, rest = divmod(_lost(results[i]) - 1, every)
            if rest or time.perf_counter() - start >= budget_s:
                continue
            region = self._region(frame, results[i], int(index[i]), turn)
            (found, *_), _ = finder.find(frame, Wanted(index[i : i + 1], 1, region))
            if found.success and found.presence >= config.advanced.select.trusted_presence:
                out[i] = replace(found, recovered=True, motion=Motion(found.pose, None, 0))
        return out

    def _region(self, frame: Frame, result: PoseEstimate, i: int, turn: int) -> tuple[float, float, float, float]:
        """Return where object i is looked for, the ``turn``-th time: near where it was, then farther away."""
        whole = (0.0, 0.0, float(frame.camera.width), float(frame.camera.height))
        assert result.motion is not None
        T = result.motion.T_last[None]
        (box,) = frame.boxes(T, np.array([i]))
        if turn >= len(AROUND) or not np.isfinite(box).all():
            return whole
        side = AROUND[turn] * box[2:].max()
        x, y = box[:2] + box[2:] / 2 - side / 2
        return float(x), float(y), float(side), float(side)


def predicted(T_before: Floats, T_last: Floats, centre: Floats, diameter: float) -> Floats:
    """Return the pose [4,4] after ``T_last``, if the motion from ``T_before`` goes on for as long again.

    The object's centre moves on a straight line and the object turns about it. Motion of less than ``STILL`` diameters,
    or ``STILL_ANGLE``, does not go on, and none larger than ``FASTEST`` and ``FASTEST_ANGLE``.

    Args:
        T_before, T_last: float64 [4,4] T_camera_object in two images.
        centre: [3] of the object, metres, object's frame.
        diameter: metres.
    """
    step = se3.transform(T_last, centre[None])[0] - se3.transform(T_before, centre[None])[0]
    length = float(np.linalg.norm(step))
    step = step * (min(1.0, FASTEST * diameter / length) if length > STILL * diameter else 0.0)
    turn = se3.so3_log(T_last[:3, :3] @ T_before[:3, :3].T)
    angle = float(np.linalg.norm(turn))
    turn = turn * (min(1.0, FASTEST_ANGLE / angle) if angle > STILL_ANGLE else 0.0)
    R = se3.so3_exp(turn) @ T_last[:3, :3]
    middle = se3.transform(T_last, centre[None])[0] + step
    return np.asarray(se3.from_rt(R, middle - R @ centre))


def _start(result: PoseEstimate, model: ObjectModel, *, predict: bool) -> Floats:
    before = None if result.motion is None else result.motion.T_before
    if not predict or before is None:
        return result.pose
    return predicted(before, result.pose, model.centre, model.diameter)


def _around(T_last: Floats, T_start: Floats, model: ObjectModel) -> Floats:
    """Return the poses [10,4,4] to try for a lost object: where it was, as predicted, and a ring around that."""
    middle = se3.transform(T_start, model.centre[None])[0]
    angle = 2.0 * np.pi * np.arange(8) / 8
    sideways, down = np.array([middle[2], 0.0, -middle[0]]), np.array([0.0, middle[2], -middle[1]])  # across the ray
    ring = [np.cos(a) * sideways / np.linalg.norm(sideways) + np.sin(a) * down / np.linalg.norm(down) for a in angle]
    moved = np.repeat(T_start[None], 8, axis=0)
    moved[:, :3, 3] += RING * model.diameter * np.array(ring)
    return np.concatenate([T_last[None], T_start[None], moved])


def _moved(previous: PoseEstimate, result: PoseEstimate) -> Motion:
    if result.success:
        return Motion(result.pose, previous.pose, 0)
    return Motion(previous.pose, None, 1)


def _lost(result: PoseEstimate) -> int:
    return 0 if result.motion is None else result.motion.images_lost


def _still_lost(previous: PoseEstimate) -> PoseEstimate:
    """What tracking says of an object that had not been found in the image before."""
    why, motion = previous.reason, previous.motion
    reason = why if why.startswith(LOST) else f"{LOST}: not found before ({why})"
    if motion is not None:
        motion = replace(motion, images_lost=motion.images_lost + 1)
    return PoseEstimate(False, reason, object=previous.object, motion=motion)
