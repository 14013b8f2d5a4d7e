"""Which objects lie where, and from where they are looked at. Metres; world z is up, the table's top is z = 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.datasets.make_dataset.settle import Body, Table
from coop_edge.geometry import camera as pinhole
from coop_edge.geometry import se3
from coop_edge.mesh import Mesh

FEWEST, MOST = 4, 7
"""Objects of the set in a scene; up to two others lie among them."""
SMALLEST_PX, LARGEST_PX = 60.0, 250.0
"""Focal length times diameter over distance, at 640 pixels of width."""
_SPREAD = 0.065  # metres; standard deviation of where things are put down
_HIGHEST = 0.35  # metres; of an object's middle over the table


@dataclass(frozen=True, eq=False)
class Placed:
    """An object on the table. index: into the bodies; target: whether it belongs to the set."""

    index: int
    T_world_object: np.ndarray
    target: bool


@dataclass(frozen=True, eq=False)
class View:
    """A camera: K [3,3] for pixels whose top-left centre is (0, 0); size (width, height)."""

    K: np.ndarray
    size: tuple[int, int]
    T_world_camera: np.ndarray

    def camera_object(self, T_world_object: np.ndarray) -> np.ndarray:
        """Return T_camera_object."""
        return np.asarray(se3.invert(self.T_world_camera) @ T_world_object)


def deal(targets: int, scenes: int, rng: np.random.Generator) -> list[list[int]]:
    """Choose which of ``targets`` objects each scene gets: each about as often as any other, none twice in a scene."""
    deck: list[int] = []
    hands = []
    for _ in range(scenes):
        hand: list[int] = []
        for _ in range(min(targets, int(rng.integers(FEWEST, MOST + 1)))):
            if not set(deck) - set(hand):
                deck += rng.permutation(targets).tolist()
            card = next(c for c in deck if c not in hand)
            deck.remove(card)
            hand.append(card)
        hands.append(hand)
    return hands


def arrange(
    bodies: Sequence[Body], hand: Sequence[int], others: Sequence[int], rng: np.random.Generator
) -> list[Placed]:
    """Put the objects ``hand`` and ``others`` (indices of bodies) down one after the other, in a random order.

    What finds no rest in twelve attempts is left out.
    """
    table = Table()
    placed = []
    order = [(i, True) for i in hand] + [(i, False) for i in others]
    for k in rng.permutation(len(order)):
        index, target = order[k]
        for _ in range(12):
            x, y = rng.normal(0.0, _SPREAD, 2)
            T = table.settle(bodies[index], se3.random_rotation(rng), float(x), float(y))
            if T is None:
                continue
            middle = se3.transform(T, bodies[index].mesh.centre[None])[0]
            if np.linalg.norm(middle[:2]) < 3.0 * _SPREAD and middle[2] < _HIGHEST:
                table.add(bodies[index], T)
                placed.append(Placed(index, T, target))
                break
    return placed


def views(
    placed: Sequence[Placed], meshes: Sequence[Mesh], count: int, size: tuple[int, int], rng: np.random.Generator
) -> tuple[list[View], float]:
    """Draw ``count`` cameras of one make about the scene, within 70 degrees of each other.

    Every target shows its centre and is between SMALLEST_PX and LARGEST_PX large.

    Returns:
        The cameras, and the azimuth (radians) of the middle one, which stands opposite the back wall.

    Raises:
        RuntimeError: no camera is found for which that holds.
    """
    width, height = size
    f = width / 640.0 * rng.uniform(560.0, 1050.0)
    middle = np.array([width - 1, height - 1]) / 2 + rng.uniform(-0.012, 0.012, 2) * width
    K = np.array([[f, 0, middle[0]], [0, f, middle[1]], [0, 0, 1.0]])
    targets = [p for p in placed if p.target]
    centres = np.stack([se3.transform(p.T_world_object, meshes[p.index].centre[None])[0] for p in targets])
    diameters = np.array([meshes[p.index].diameter for p in targets])
    azimuth = rng.uniform(0.0, 2.0 * np.pi)
    found: list[View] = []
    for _ in range(4000):
        if len(found) == count:
            return found, azimuth
        view = _look(K, size, centres, diameters, azimuth, rng)
        local = se3.transform(se3.invert(view.T_world_camera), centres)
        pixels = pinhole.project(K, local)
        sizes = f * diameters / local[:, 2] * 640.0 / width
        margin = 0.04 * width
        inside = (pixels > margin).all() and (pixels < np.array(size) - 1 - margin).all()
        if inside and sizes.min() >= SMALLEST_PX and sizes.max() <= LARGEST_PX:
            found.append(view)
    raise RuntimeError(f"no {count} cameras see all of {len(targets)} objects at {SMALLEST_PX:g} to {LARGEST_PX:g} px")


def _look(
    K: np.ndarray,
    size: tuple[int, int],
    centres: np.ndarray,
    diameters: np.ndarray,
    azimuth: float,
    rng: np.random.Generator,
) -> View:
    """A camera that looks at the scene from above the table's edge, held a little crooked."""
    wanted = np.exp(rng.uniform(np.log(90.0), np.log(210.0))) * size[0] / 640.0
    distance = float(np.clip(K[0, 0] * np.median(diameters) / wanted, 0.35, 1.6))
    turn, elevation = azimuth + np.radians(rng.uniform(-35.0, 35.0)), np.radians(rng.uniform(18.0, 68.0))
    target = 0.5 * (centres.min(axis=0) + centres.max(axis=0)) + rng.normal(0.0, 0.02, 3)
    forward = -np.array([np.cos(elevation) * np.cos(turn), np.cos(elevation) * np.sin(turn), np.sin(elevation)])
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    roll = np.radians(rng.normal(0.0, 6.0))
    x = np.cos(roll) * right + np.sin(roll) * np.cross(forward, right)
    R = np.stack([x, np.cross(forward, x), forward], axis=1)
    return View(K, size, se3.from_rt(R, target - distance * forward))
