"""Start poses of refiner pairs: how far off the truth, and how often, as refinement meets them at run time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from export.data.geometry import Random, from_rt, rotate, so3_exp
from export.data.scenes import Scenes
from export.data.stock import ObjectStock

ROTATION_NOISE = math.radians(15.0)
"""Standard deviation per Euler axis of start poses, about the mesh's centre."""
SIDEWAYS_NOISE, DEPTH_NOISE = 0.05, 0.25
"""Standard deviations along x, y and along z, in diameters: (1, 1, 5) cm for an object of 20 cm."""
NEARER = (2.0, 2.0, 1.0)
"""Exponents of the uniform shares of that noise, of rotation, sideways and depth, between iterations: drawn apart,
because sideways is right first and depth last, and most of them small."""
DEPTH_LIMIT = 0.05
"""Upper bound of the depth noise's standard deviation, as a share of the distance: an object of 20 cm that is 1 m away
takes the full 5 cm; from nearer by, a start pose that far off would be known to be wrong from its size alone."""
SMALL = (0.2, 0.3, 0.3)
"""Largest shares of that noise in small starts: about 5 degrees, a hundredth and a few of the diameter."""
WIDE = (3.0, 2.0, 3.0)
"""Largest multiples of that noise in wide starts, as a view that is not the nearest, or a box round the visible part
alone, gives them."""


@dataclass(frozen=True)
class StartMix:
    """Shares of start poses that have less or more than the start noise; the rest have just that."""

    halfway: float = 0.0
    """Nearer to the truth, as poses are between iterations (``NEARER``)."""
    small: float = 0.0
    """Nearly right (``SMALL``)."""
    wide: float = 0.0
    """Farther off (``WIDE``)."""


STATED = StartMix()
"""All starts have the start noise as it is stated."""


def draw_spread(random: Random, n: int, labels: int, mix: StartMix) -> Tensor:
    """Draw multiples of the start noise (rotation, sideways, depth), float64 [n labels,3], of the kinds in ``mix``.

    The ``labels`` start poses of each of n photographs, in a row, are spread over the kinds.
    """
    number = torch.arange(labels, dtype=torch.float64, device=random.device).repeat(n)
    kind = ((number + random.uniform(0.0, 1.0, n * labels)) / labels)[:, None]
    shares = random.uniform(0.0, 1.0, n * labels, 3).unbind(dim=1)
    halfway = torch.stack([s**p for s, p in zip(shares, NEARER, strict=True)], dim=1)
    small = torch.stack([s * most for s, most in zip(shares, SMALL, strict=True)], dim=1)
    wide = torch.stack([1.0 + s * (most - 1.0) for s, most in zip(shares, WIDE, strict=True)], dim=1)
    spread = torch.where(kind < mix.wide + mix.small + mix.halfway, halfway, 1.0)
    spread = torch.where(kind < mix.wide + mix.small, small, spread)
    return torch.where(kind < mix.wide, wide, spread)


def start_poses(random: Random, stock: ObjectStock, scene: Scenes, spread: Tensor) -> Tensor:
    """Move the targets' poses by ``spread`` [N,3] (rotation, sideways, depth) times the start noise.

    Returns:
        T_camera_object [N,4,4] in the base cameras.
    """
    n = len(scene)
    angles = ROTATION_NOISE * spread[:, :1] * random.normal(n, 3)
    eye = torch.eye(3, dtype=torch.float64, device=angles.device)
    turns = so3_exp(angles[..., None] * eye)  # about x, y, z
    turn = turns[:, 0] @ turns[:, 1] @ turns[:, 2]
    sideways = SIDEWAYS_NOISE * scene.diameter
    far = torch.minimum(DEPTH_NOISE * scene.diameter, DEPTH_LIMIT * scene.centre[:, 2])
    shift = (
        torch.cat([spread[:, 1:2], spread[:, 1:]], dim=1)
        * random.normal(n, 3)
        * torch.stack([sideways, sideways, far], dim=1)
    )
    z = torch.maximum(shift[:, 2], -0.3 * scene.centre[:, 2])
    shift = torch.cat([shift[:, :2], z[:, None]], dim=1)
    R = turn @ scene.items.T[:, 0, :3, :3]
    return from_rt(R, scene.centre + shift - rotate(R, stock.centre[scene.items.slot[:, 0]]))
