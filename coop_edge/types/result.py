"""Results: the pose of one detection, or why there is none."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coop_edge.base.files import atomic_write
from coop_edge.base.plain import floats
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.types.checks import count, frozen, real, unit
from coop_edge.types.times import StageTimes


class Painter(Protocol):
    """Draws a result over a copy of an image."""

    @property
    def image(self) -> NDArray[np.uint8] | None:
        """Return the image that the result was found in; None if it is not known."""
        ...

    def __call__(self, image: Any, result: PoseEstimate) -> NDArray[np.uint8]:
        """Return a copy of ``image`` with the result drawn over it."""
        ...

    def write(self, path: str | os.PathLike[str], drawn: NDArray[np.uint8]) -> None:
        """Write what was drawn as a picture."""
        ...


@dataclass(frozen=True, eq=False)
class Motion:
    """What tracking remembers of an object.

    Attributes:
        T_last: its last pose.
        T_before: that in the image before, None if unknown.
        images_lost: images since the one of ``T_last`` in which it was not found.
    """

    T_last: NDArray[np.float64]  # [4,4] T_camera_object
    T_before: NDArray[np.float64] | None
    images_lost: int


@dataclass(frozen=True, eq=False, repr=False)
class PoseEstimate:
    """The answer for one detection. A failure has a reason and no pose: never a made-up one, never an identity.

    It is true (``if result:``) where there is a pose; ``rvec``, ``tvec`` and ``quaternion`` are other forms of it.

    Attributes:
        success: whether there is a pose.
        reason: "" on success, else one readable line.
        T_camera_object: float64 [4,4], metres, or None.
        score: in [0, 1]; with a score map in the bundle the probability that the pose is off by less than a tenth of
            the diameter.
        presence: in [0, 1], by default the score (``replace`` keeps what it was): the score as it would be at six
            diameters from the camera, by which poses are refused or trusted. The same as the score with measured depth.
        n_inliers: matches that fit the pose.
        reprojection_rms_px: root mean square reprojection error of those, pixels of the image, or None.
        covariance: float64 [6,6] of (translation m, rotation rad) in camera axes (the order of ROS's
            PoseWithCovariance; ``pnp.base`` gives the equation), or None.
        recovered: whether it was found by a search, not in its box or where it was tracked.
        motion: what tracking remembers of the object, set by ``Estimator.track``; to_dict leaves it out.
        painter: draws it, set by the Estimator that found it; it is not kept by pickle.
        used_depth: whether measured depth was used; False without a depth image, and where too little of the object has
            any.

    Raises:
        InputError: a success without a pose or with a reason, a failure with a pose or without a reason, or a value of
            another type or shape, or out of its range.
    """

    success: bool
    reason: str = ""
    T_camera_object: NDArray[np.float64] | None = None
    score: float = 0.0
    n_inliers: int = 0
    reprojection_rms_px: float | None = None
    covariance: NDArray[np.float64] | None = None
    times: StageTimes | None = None
    object: str = ""
    recovered: bool = False
    motion: Motion | None = field(default=None, repr=False)
    painter: Painter | None = field(default=None, repr=False)
    used_depth: bool = False
    presence: float = math.nan

    def __post_init__(self) -> None:
        for name in ("success", "recovered", "used_depth"):
            value = getattr(self, name)
            if not isinstance(value, (bool, np.bool_)):
                raise InputError(f"PoseEstimate.{name}: wanted True or False, got {value!r}")
            object.__setattr__(self, name, bool(value))
        object.__setattr__(self, "score", unit(self.score, "PoseEstimate.score"))
        presence = self.score if real(self.presence) and math.isnan(self.presence) else self.presence
        object.__setattr__(self, "presence", unit(presence, "PoseEstimate.presence"))
        object.__setattr__(self, "n_inliers", count(self.n_inliers, "n_inliers", low=0))
        if not isinstance(self.reason, str):
            raise InputError(f"PoseEstimate.reason: wanted text, got {type(self.reason).__name__}")
        if self.times is not None and not isinstance(self.times, StageTimes):
            raise InputError(f"PoseEstimate.times: wanted StageTimes or None, got {type(self.times).__name__}")
        if self.success:
            self._check_success()
        elif not self.reason:
            raise InputError("PoseEstimate: success=False wants a reason")
        elif self.T_camera_object is not None or self.covariance is not None:
            raise InputError("PoseEstimate: success=False must not carry a pose or a covariance")
        rms = self.reprojection_rms_px
        if rms is not None:
            if not (real(rms) and math.isfinite(rms) and rms >= 0.0):
                raise InputError(f"reprojection_rms_px: wanted a number >= 0 or None, got {rms!r}")
            object.__setattr__(self, "reprojection_rms_px", float(rms))

    def _check_success(self) -> None:
        if self.reason:
            raise InputError(f"PoseEstimate: success=True must not carry a reason, got {self.reason!r}")
        if self.T_camera_object is None:
            raise InputError("PoseEstimate: success=True wants T_camera_object [4,4]")
        T = se3.check_transform(self.T_camera_object)
        if T.shape != (4, 4):
            raise InputError(f"T_camera_object: wanted [4,4], got {list(T.shape)}")
        object.__setattr__(self, "T_camera_object", frozen(T))
        if self.covariance is None:
            return
        covariance = floats(self.covariance, "covariance")
        if covariance.shape != (6, 6) or not np.isfinite(covariance).all():
            raise InputError(f"covariance: wanted a finite [6,6], got shape {list(covariance.shape)}")
        # Rotation and translation variances differ by orders of magnitude: compare as a correlation.
        scale = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
        unit = covariance / np.maximum(np.outer(scale, scale), 1e-300)
        if (np.abs(unit - unit.T) > 1e-6).any() or (np.diag(covariance) < 0).any():
            raise InputError("covariance: wanted a symmetric matrix with a non-negative diagonal")
        if np.linalg.eigvalsh((unit + unit.T) / 2).min() < -1e-6:
            raise InputError("covariance: wanted a positive semi-definite matrix")
        object.__setattr__(self, "covariance", frozen(covariance))

    def __bool__(self) -> bool:
        """Tell whether there is a pose."""
        return self.success

    def __repr__(self) -> str:
        """Return one line: object, score, and the pose as position and rotation, or the reason."""
        named = f"PoseEstimate({self.object!r}, score {self.score:.2f}"
        if self.T_camera_object is None or self.rvec is None:
            return f"{named}, no pose: {self.reason})"
        x, y, z = self.T_camera_object[:3, 3]
        angle = float(np.linalg.norm(self.rvec))
        axis = ", ".join(f"{value:.2f}" for value in self.rvec / max(angle, 1e-12))
        return f"{named}, t = ({x:.4f}, {y:.4f}, {z:.4f}) m, R = {math.degrees(angle):.1f} deg about ({axis}))"

    @property
    def rvec(self) -> NDArray[np.float64] | None:
        """Return the rotation object -> camera as axis times angle, radians [3], as in OpenCV; None without."""
        return None if self.T_camera_object is None else se3.so3_log(self.T_camera_object[:3, :3])

    @property
    def tvec(self) -> NDArray[np.float64] | None:
        """Return the position of the object's origin in the camera's frame, metres [3]; None without a pose."""
        return None if self.T_camera_object is None else self.T_camera_object[:3, 3].copy()

    @property
    def quaternion(self) -> NDArray[np.float64] | None:
        """Return the rotation object -> camera as a unit quaternion [4], (x, y, z, w) as in ROS; None without."""
        if self.rvec is None:
            return None
        half = 0.5 * float(np.linalg.norm(self.rvec))
        return np.array([*(0.5 * np.sinc(half / math.pi) * self.rvec), math.cos(half)])

    @property
    def pose(self) -> NDArray[np.float64]:
        """Return ``T_camera_object``, [4,4] metres.

        Raises:
            InputError: there is no pose.
        """
        if self.T_camera_object is None:
            raise InputError(f"PoseEstimate of {self.object!r}: has no pose ({self.reason})")
        return self.T_camera_object

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: arrays as nested lists, metres and radians."""
        out: dict[str, Any] = {}
        for f in fields(self):
            if f.name in ("painter", "motion"):
                continue
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                value = value.tolist()
            elif isinstance(value, StageTimes):
                value = {g.name: getattr(value, g.name) for g in fields(value)} | {"total_ms": value.total_ms}
            out[f.name] = value
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PoseEstimate:
        """Make a result of what ``to_dict`` returned, or the JSON file that ``save`` wrote.

        Args:
            values: by the names of the attributes; "success" at least.

        Returns:
            The result, without ``motion`` and ``painter``.

        Raises:
            InputError: a name is unknown, or a value is not one of a result.
        """
        known = {f.name for f in fields(cls)} - {"painter", "motion"}
        given = dict(values)
        if unknown := sorted(set(given) - known):
            raise InputError(f"PoseEstimate: unknown value {unknown[0]!r} (known: {', '.join(sorted(known))})")
        for name in ("T_camera_object", "covariance"):
            if given.get(name) is not None:
                given[name] = floats(given[name], name)
        if isinstance(times := given.get("times"), Mapping):
            given["times"] = StageTimes(**{f.name: times[f.name] for f in fields(StageTimes) if f.name in times})
        if "success" not in given:
            raise InputError("PoseEstimate: wanted a value for 'success'")
        return cls(**given)

    def to_bop_csv(self, scene_id: int, image_id: int, object_id: int) -> str:
        """Return the line of BOP's results file for this pose: scene_id,im_id,obj_id,score,R,t,time.

        R row by row and t in mm, blanks between numbers; time in seconds, -1 if it is not known.

        Args:
            scene_id, image_id, object_id: numbers of BOP's files.

        Raises:
            InputError: there is no pose; BOP's file has no line for that.
        """
        if self.T_camera_object is None:
            raise InputError(
                f"{self.object or 'PoseEstimate'}: there is no pose ({self.reason}); BOP's file leaves it out"
            )
        R, t = self.T_camera_object[:3, :3], 1e3 * self.T_camera_object[:3, 3]
        time = -1.0 if self.times is None else 1e-3 * self.times.total_ms
        texts = (" ".join(f"{value:.10g}" for value in part.ravel().tolist()) for part in (R, t))
        return f"{scene_id},{image_id},{object_id},{self.score:.10g},{','.join(texts)},{time:.6f}"

    def plot(self) -> NDArray[np.uint8]:
        """Return the image it was found in, RGB uint8 [height,width,3], with the result drawn over it; see ``draw``.

        The image is the array that was given then, as it is now.

        Raises:
            InputError: the image is not known: the result is not an Estimator's, has been pickled, or its image was on
                a GPU.
        """
        image = None if self.painter is None else self.painter.image
        if image is None:
            raise InputError(f"{self.object or 'PoseEstimate'}: its image is not known any more; use draw(image)")
        return self.draw(image)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to a file: as JSON (.json, ``to_dict``), or as a picture (.png, .jpg ..., ``plot``).

        Raises:
            InputError: the suffix is another, or the image is not known (``plot``).
            OSError: the file cannot be written.
        """
        if Path(path).suffix.lower() == ".json":
            with atomic_write(path) as file:
                file.write(json.dumps(self.to_dict(), indent=2).encode() + b"\n")
        else:
            drawn = self.plot()
            assert self.painter is not None
            self.painter.write(path, drawn)

    def draw(self, image: Any) -> NDArray[np.uint8]:
        """Return a copy of the image with this result drawn over it: outline, box, axes and score, or the reason.

        Args:
            image: RGB uint8 [height,width,3], the one it was found in or another of the same camera.

        Raises:
            InputError: the image has another size, or no Estimator made the result (``draw_overlay`` takes camera and
                mesh).
        """
        if self.painter is None:
            raise InputError(
                f"{self.object or 'PoseEstimate'}: only the results of an Estimator know their camera and mesh; use "
                "draw_overlay(image, camera, [OverlayItem(result, mesh)], renderer=...)"
            )
        return self.painter(image, self)

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle keeps: all but the painter, which holds a mesh and a backend."""
        return {**self.__dict__, "painter": None}
