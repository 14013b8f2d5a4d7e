"""Describes symmetries as the BOP benchmark does (Hodan et al., ECCV 2018), and finds the nearest equivalent pose.

A symmetry S is a rigid motion of the object's frame that maps the surface onto itself (with its colours, if those are
to count): the poses T_camera_object and T_camera_object S look the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.base.plain import floats
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.mesh.units import metres_per

Array = NDArray[np.float64]

MAX_GROUP = 512
"""Largest number of discrete symmetries, products included."""
_RIGID_TOLERANCE = 1e-3  # files round to few digits; what is accepted is made exactly rigid
_EXACT = 1e-12
_SAME_ROTATION = 5e-3  # radians; products of rounded matrices drift, and no two true symmetries are that close
_SAME_AXIS = 1e-2  # 1 - |cos| below which directions count as the same axis
_TIE = 1e-7  # radians; rotations this close are decided by translation


@dataclass(frozen=True, eq=False)
class Symmetries:
    """The symmetries of one object, in its own frame, metres.

    Attributes:
        discrete: rigid transforms [4,4]; the identity and products of the given ones need not be given.
        continuous: (axis, offset) pairs, each a rotation by any angle about the unit vector ``axis`` [3] through the
            point ``offset`` [3]. Two axes that differ make a sphere: every rotation about the point where they meet.

    Raises:
        InputError: a transform is not rigid, an axis is not a unit vector, axes do not meet, a discrete symmetry does
            not keep the axis of a continuous one, or products of the discrete ones never close to a group.
    """

    discrete: tuple[Array, ...] = ()
    continuous: tuple[tuple[Array, Array], ...] = ()

    def __post_init__(self) -> None:
        rigid = tuple(_rigid(T, i) for i, T in enumerate(_sequence(self.discrete, "discrete")))
        axes = tuple(_axis(pair, i) for i, pair in enumerate(_sequence(self.continuous, "continuous")))
        object.__setattr__(self, "discrete", rigid)
        object.__setattr__(self, "continuous", axes)
        self._check_consistent()
        _ = self.group  # products that do not close are refused here, not at first use

    @classmethod
    def from_bop(cls, models_info_entry: Mapping[str, Any], unit: str = "mm") -> Symmetries:
        """Read one object's entry in BOP's models_info.json; its translations and offsets are in ``unit``.

        Reads ``symmetries_discrete`` (lists of 16, row by row) and ``symmetries_continuous`` ({"axis", "offset"});
        either may be absent.

        Args:
            models_info_entry: the object's, as JSON has it.
            unit: of its lengths, "m", "cm", "mm" or "in".

        Raises:
            InputError: the entry has another form, or its symmetries contradict each other.
        """
        scale = metres_per(unit)
        if not isinstance(models_info_entry, Mapping):
            raise InputError(f"models_info entry: wanted a mapping, got {type(models_info_entry).__name__}")
        discrete = []
        for i, values in enumerate(_sequence(models_info_entry.get("symmetries_discrete", ()), "symmetries_discrete")):
            T = floats(values, f"symmetries_discrete[{i}]")
            if T.size != 16:
                raise InputError(f"symmetries_discrete[{i}]: wanted 16 numbers, got {T.size}")
            T = T.reshape(4, 4).copy()
            T[:3, 3] *= scale
            discrete.append(T)
        continuous = []
        pairs = _sequence(models_info_entry.get("symmetries_continuous", ()), "symmetries_continuous")
        for i, pair in enumerate(pairs):
            if not isinstance(pair, Mapping) or not {"axis", "offset"} <= set(pair):
                raise InputError(f"symmetries_continuous[{i}]: wanted a mapping with 'axis' and 'offset', got {pair!r}")
            axis = floats(pair["axis"], f"symmetries_continuous[{i}].axis")
            continuous.append((axis, floats(pair["offset"], f"symmetries_continuous[{i}].offset") * scale))
        return cls(tuple(discrete), tuple(continuous))

    @property
    def trivial(self) -> bool:
        """Tell whether the object has no symmetry but the identity."""
        return len(self.group) == 1 and not self.continuous

    @cached_property
    def group(self) -> Array:
        """Return the discrete symmetries closed under products, [G,4,4], the identity first.

        Beside a continuous axis only two can differ by more than a turn about it: the identity and a flip of the axis.
        """
        generators = np.array(self.discrete, np.float64).reshape(-1, 4, 4)
        members, at = np.eye(4)[None], 0
        while at < len(members):
            for product in members[at] @ generators:
                if not self._equivalent(product, members).any():
                    members = np.concatenate([members, product[None]])
            if len(members) > MAX_GROUP:
                raise InputError(
                    f"discrete: products of the {len(self.discrete)} given symmetries exceed {MAX_GROUP} without "
                    "closing into a group; give a continuous axis instead, or more exact matrices"
                )
            at += 1
        return members

    def transforms(self, max_step: float = 0.01) -> Array:
        """Return a finite set of the symmetries, [S,4,4], the identity first.

        Continuous ones become, as in BOP, ceil(pi / max_step) equal turns, so that no surface point moves by more than
        the share ``max_step`` of the object's diameter between two; each turn is combined with each discrete symmetry.
        Of a sphere these are the turns about its given axes.

        Raises:
            InputError: ``max_step`` is outside 0 < max_step <= 1.
        """
        if not (isinstance(max_step, (int, float)) and 0.0 < max_step <= 1.0):
            raise InputError(f"max_step: wanted a share of the diameter in (0, 1], got {max_step!r}")
        n = math.ceil(math.pi / max_step)
        turns = [np.eye(4)[None]]
        for axis, offset in self.continuous:
            turns.append(_turns(axis, offset, 2.0 * np.pi * np.arange(1, n) / n))
        every = np.concatenate(turns)
        return np.asarray((every[:, None] @ self.group[None]).reshape(-1, 4, 4))

    def nearest_symmetric(self, T_camera_object: ArrayLike, T_reference: ArrayLike) -> Array:
        """Return, of all poses that look like ``T_camera_object``, the one nearest to ``T_reference``.

        It is the nearest in rotation angle and, among equals, in translation. [...,4,4] and [...,4,4] (leading axes
        broadcast, N = 0 is legal) -> [...,4,4] float64.

        The best turn about a continuous axis a is found in closed form: with M = R_ref^T R,
        trace(M Rot(a, x)) = (tr M - a^T M a) cos x + tr(M [a]_x) sin x + const, largest at the atan2 of the two.

        Raises:
            InputError: an argument is not a rigid transform.
        """
        T = se3.check_transform(T_camera_object)
        reference = se3.check_transform(T_reference, "T_reference")
        shape = np.broadcast_shapes(T.shape[:-2], reference.shape[:-2])
        T = np.broadcast_to(T, (*shape, 4, 4)).reshape(-1, 4, 4)
        reference = np.broadcast_to(reference, (*shape, 4, 4)).reshape(-1, 4, 4)
        if self._sphere_centre is not None:
            p = self._sphere_centre
            t = (T[:, :3, :3] - reference[:, :3, :3]) @ p + T[:, :3, 3]
            return se3.from_rt(reference[:, :3, :3], t).reshape(*shape, 4, 4)
        candidates = T[None] @ self.group[:, None]  # [G,N,4,4]
        if self.continuous:
            axis, offset = self.continuous[0]
            candidates = candidates @ _turns(axis, offset, _best_angle(candidates, reference, axis, offset))
        angle = se3.rotation_angle(reference[None, :, :3, :3], candidates[..., :3, :3])
        distance = np.linalg.norm(candidates[..., :3, 3] - reference[None, :, :3, 3], axis=-1)
        distance[angle > angle.min(axis=0) + _TIE] = np.inf
        best = distance.argmin(axis=0)
        return np.asarray(candidates[best, np.arange(len(T))].reshape(*shape, 4, 4))

    @cached_property
    def _sphere_centre(self) -> Array | None:
        """Return the point where differing axes meet; None for no axis or one."""
        directions = np.array([a for a, _ in self.continuous]).reshape(-1, 3)
        if not any(abs(a @ directions[0]) < 1.0 - _SAME_AXIS for a in directions):
            return None
        # The point with the least sum of squared distances to the axes.
        projections = np.eye(3) - directions[:, :, None] * directions[:, None, :]
        points = np.stack([p for _, p in self.continuous])
        return np.asarray(np.linalg.solve(projections.sum(0), (projections @ points[..., None]).sum(0)[:, 0]))

    def _check_consistent(self) -> None:
        centre = self._sphere_centre
        for i, (axis, offset) in enumerate(self.continuous):
            on_axis = self.continuous[0][1] if centre is None else centre
            gap = np.linalg.norm(np.cross(on_axis - offset, axis))
            if gap > 1e-3:
                raise InputError(
                    f"continuous[{i}]: its axis passes {gap:.3g} m beside the others; wanted axes that meet"
                )
        for i, T in enumerate(self.discrete if self.continuous and centre is None else ()):
            axis, offset = self.continuous[0]
            gap = np.linalg.norm(np.cross(T[:3, :3] @ offset + T[:3, 3] - offset, axis))
            if abs(axis @ T[:3, :3] @ axis) < 1.0 - _SAME_AXIS or gap > 1e-3:
                raise InputError(f"discrete[{i}]: does not map the continuous axis {axis} onto itself")

    def _equivalent(self, A: Array, members: Array) -> NDArray[np.bool_]:
        """Return which of ``members`` [M,4,4] equal A [4,4] up to turns about the continuous axes, [M]."""
        if self._sphere_centre is not None:
            return np.ones(len(members), bool)
        if self.continuous:
            axis = self.continuous[0][0]
            return np.asarray(members[:, :3, :3] @ axis @ (A[:3, :3] @ axis) > 0)
        # Two symmetries with one rotation differ by a translation, which no bounded object has as a symmetry.
        gap = members[:, :3, :3] - A[:3, :3]
        return np.asarray(np.einsum("mij,mij->m", gap, gap) < _SAME_ROTATION**2)


def nearest_symmetric(T_camera_object: ArrayLike, T_reference: ArrayLike, symmetries: Symmetries | None) -> Array:
    """Return ``symmetries.nearest_symmetric(T_camera_object, T_reference)``; None stands for no symmetry."""
    return (symmetries or Symmetries()).nearest_symmetric(T_camera_object, T_reference)


def _best_angle(T: Array, reference: Array, axis: Array, offset: Array) -> Array:
    """Return the angles [G,N] about the axis that bring T [G,N,4,4] nearest to the reference [N,4,4]."""
    M = np.swapaxes(reference[:, :3, :3], -1, -2) @ T[..., :3, :3]
    cosine = np.trace(M, axis1=-2, axis2=-1) - np.einsum("i,...ij,j->...", axis, M, axis)
    sine = np.einsum("...ij,ji->...", M, se3.hat(axis))
    # Where the axis points the opposite way every turn is equally far; the nearest translation decides: the shift
    # t + R (p - Rot p) - t_ref is shortest where Rot p goes furthest along w = R^T (t - t_ref) + p.
    w = np.einsum("...ji,...j->...i", T[..., :3, :3], T[..., :3, 3] - reference[:, :3, 3]) + offset
    flat = np.hypot(cosine, sine) < _TIE
    cosine = np.where(flat, w @ offset - (w @ axis) * (axis @ offset), cosine)
    sine = np.where(flat, w @ np.cross(axis, offset), sine)
    return np.arctan2(sine, cosine)


def _turns(axis: Array, offset: Array, angles: Array) -> Array:
    """Return rotations [...,4,4] by angles [...] about the axis through ``offset``."""
    R = se3.so3_exp(angles[..., None] * axis)
    return se3.from_rt(R, offset - R @ offset)


def _sequence(values: Any, name: str) -> Sequence[Any]:
    if values is None or isinstance(values, (str, Mapping)) or not hasattr(values, "__len__"):
        raise InputError(f"{name}: wanted a sequence, got {type(values).__name__}")
    return list(values)


def _rigid(T: Any, i: int) -> Array:
    T = se3.check_transform(floats(T, f"discrete[{i}]"), f"discrete[{i}]", _RIGID_TOLERANCE)
    if T.shape != (4, 4):
        raise InputError(f"discrete[{i}]: wanted [4,4], got {list(T.shape)}")
    exact = T.copy()
    if np.abs(T[:3, :3] @ T[:3, :3].T - np.eye(3)).max() > _EXACT:  # else bit for bit as given
        U, _, Vt = np.linalg.svd(T[:3, :3])  # the nearest rotation
        exact[:3, :3] = U @ Vt
    exact[3] = (0.0, 0.0, 0.0, 1.0)
    exact.setflags(write=False)
    return exact


def _axis(pair: Any, i: int) -> tuple[Array, Array]:
    pair = _sequence(pair, f"continuous[{i}]")
    if len(pair) != 2:
        raise InputError(f"continuous[{i}]: wanted (axis, offset), got {len(pair)} values")
    axis, offset = floats(pair[0], f"continuous[{i}].axis"), floats(pair[1], f"continuous[{i}].offset")
    for name, value in (("axis", axis), ("offset", offset)):
        if value.shape != (3,) or not np.isfinite(value).all():
            raise InputError(f"continuous[{i}].{name}: wanted three finite numbers, got {value}")
    length = float(np.linalg.norm(axis))
    if abs(length - 1.0) > _RIGID_TOLERANCE:
        raise InputError(f"continuous[{i}].axis: wanted a unit vector, got length {length:.6g}")
    if abs(length - 1.0) > _EXACT:
        axis = axis / length
    axis.setflags(write=False)
    offset.setflags(write=False)
    return axis, offset
