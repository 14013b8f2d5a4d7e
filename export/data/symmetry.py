"""Poses of objects with a continuous symmetry: those that look the same, and of them the one nearest to a reference.

What a query and a render of such an object show does not tell how far it is turned about its axis; so labels must not
ask for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.data.geometry import from_rt, hat, rotate, so3_exp
from export.data.stock import ObjectStock


def nearest_pose(stock: ObjectStock, slot: Tensor, T: Tensor, T_reference: Tensor) -> Tensor:
    """Turn poses [N,4,4] of the objects in slots [N] about their axes, as near to T_reference [N,4,4] as can be.

    Nearest in rotation. Both poses are T_camera_object of one camera. Poses of objects without a symmetry stay.
    """
    R, wanted = T[:, :3, :3], T_reference[:, :3, :3]
    axis, pivot = stock.axis[slot], stock.pivot[slot]
    # trace(M Rot(a, x)) = (tr M - a^T M a) cos x + tr(M [a]_x) sin x + const is the largest at the atan2 of the two.
    M = wanted.mT @ R
    cosine = M.diagonal(dim1=1, dim2=2).sum(dim=1) - (axis * rotate(M, axis)).sum(dim=1)
    sine = (M.mT * hat(axis)).sum(dim=(1, 2))
    turn = so3_exp(torch.atan2(sine, cosine)[:, None] * axis)
    turn = torch.where(stock.ball[slot][:, None, None], R.mT @ wanted, turn)
    return from_rt(R @ turn, T[:, :3, 3] + rotate(R, pivot - rotate(turn, pivot)))


def roll_towards(stock: ObjectStock, slot: Tensor, R: Tensor, target: Tensor) -> Tensor:
    """Return the angles [N], radians, about the line of sight that make rotations R [N,3,3] look most as ``target``.

    An object with an axis is turned so that the axis points the same way in the image; then only the angle between axis
    and line of sight differs, whatever the turns about the axis are.
    """
    M = target @ R.mT
    plain = torch.atan2(M[:, 1, 0] - M[:, 0, 1], M[:, 0, 0] + M[:, 1, 1])
    axis = stock.axis[slot]
    there, here = rotate(target, axis), rotate(R, axis)
    along = torch.atan2(there[:, 1], there[:, 0]) - torch.atan2(here[:, 1], here[:, 0])
    return torch.where((axis != 0.0).any(dim=1) | stock.ball[slot], along, plain)
