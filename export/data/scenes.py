"""Scenes of one to three objects, and the crops that show them: a whole batch at once, as tensors.

A scene lives in the frame of its *base camera*, whose centre all views of it share: a view is a rotation and a K, as in
``coop_edge.geometry.crop``. Lengths are those of the target. The other objects are brought to a size that suits it: an
object scaled by s about the camera's centre looks the same from there, only its depths are s times as large. So objects
are drawn as they are, with poses in their own metres, and their depths multiplied.

Every scene has ``ITEMS`` places; a place may be empty (slot -1). Where occluders are tried until one suits, all that
may be tried are drawn, and the first that suits is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from export.data.geometry import Pixels, Random, crop_camera, from_rt, random_rotation, rotate, turned
from export.data.render import Composite, StockRenderer
from export.data.stock import ObjectStock

ITEMS = 3
"""Places of a scene: the target, and two others."""
NEAREST, FARTHEST = 2.0, 12.0
"""Distance of the target from the camera over its diameter; drawn log-uniformly."""
OCCLUDER_SHARE = 0.55
"""Share of scenes in which an occluder is tried, at hardness 1."""
TRIES = 4
"""Occluders that are tried, until one hides something and not too much."""
LEAST_VISIBLE, MOST_VISIBLE = 0.25, 0.97
"""Shares of the target's silhouette between which an occluder must leave it uncovered."""
CUT_SHARE = 0.07
"""Share of scenes where the edge of the photograph cuts through the target, at hardness 1."""
BOX_SHIFT, BOX_SIZES = 0.3, (0.7, 1.4)
"""Largest shift of a loose box, in its width and height, and the range of factors of its width and height."""
FOCAL = 1000.0
"""Of the base camera, whose principal point is (0, 0): any pixel unit does, boxes only pass through it."""
PROBE = 64
"""Side of the views in which placements are judged, pixels."""
PROBE_MARGIN = 1.02


@dataclass(frozen=True, eq=False)
class Items:
    """Objects in N scenes, k to a scene."""

    slot: Tensor  # int64 [N,k], -1 = empty
    T: Tensor  # float64 [N,k,4,4] object -> base camera, in the object's own metres
    scale: Tensor  # float64 [N,k] depths in the scene over those of that pose

    def only(self, present: Tensor) -> Items:
        """Return the items where ``present`` [N,k]; the other places are empty."""
        return replace(self, slot=torch.where(present, self.slot, -1))


@dataclass(frozen=True, eq=False)
class Scenes:
    """N scenes; items[:, 0] are the targets."""

    items: Items
    edge: Tensor  # float64 [N,3]: what lies at x with edge . x < 0 is outside the photograph; 0 = no edge
    diameter: Tensor  # float64 [N] of the targets
    centre: Tensor  # float64 [N,3] of the targets, in the base camera

    def __len__(self) -> int:
        return len(self.edge)

    def repeated(self, times: int) -> Scenes:
        """Repeat each scene ``times`` times in a row."""
        if times == 1:
            return self
        items = Items(*(getattr(self.items, f.name).repeat_interleave(times, dim=0) for f in fields(Items)))
        return Scenes(items, *(t.repeat_interleave(times, dim=0) for t in (self.edge, self.diameter, self.centre)))


@dataclass(frozen=True, eq=False)
class SceneViews:
    """What N cameras at the base cameras' centres see; n x n pixels."""

    seen: Composite
    R: Tensor  # float64 [N,3,3]: base camera -> this camera
    K: Tensor  # float64 [N,3,3]


@dataclass(frozen=True, eq=False)
class Probe:
    """Small views of whole targets, in which placements are judged."""

    R: Tensor  # float64 [N,3,3]
    K: Tensor  # float64 [N,3,3]
    covered: Tensor  # bool [N,n,n]: where the target is
    visible: Tensor  # bool [N,n,n]: where it is neither hidden nor outside the photograph


def look(renderer: StockRenderer, items: Items, R: Tensor, K: Tensor, size: int, colors: bool = True) -> SceneViews:
    """Render all items without light and keep the nearest at each pixel. colors: whether albedo is wanted."""
    T = turned(R[:, None], items.T)
    return SceneViews(renderer.nearest(items.slot, T, items.scale, K, size, colors), R, K)


def inside(edge: Tensor, R: Tensor, K: Tensor, row: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Tell whether pixels (u, v) [P] of views R[row], K[row] lie on this side of the photograph's edge, bool [P]."""
    m = rotate(R, edge)
    plane = torch.stack(
        [m[:, 0] / K[:, 0, 0], m[:, 1] / K[:, 1, 1],
         m[:, 2] - m[:, 0] * K[:, 0, 2] / K[:, 0, 0] - m[:, 1] * K[:, 1, 2] / K[:, 1, 1]],
    )  # fmt: skip
    a, b, c = plane.index_select(1, row)
    return a * u + b * v + c >= 0.0


def inside_view(edge: Tensor, R: Tensor, K: Tensor, size: int) -> Tensor:
    """Return ``inside`` of all pixels of size x size views, bool [N,size,size]."""
    m = rotate(R, edge)[..., None, None]
    at = torch.arange(size, dtype=torch.float64, device=edge.device)
    x = (at - K[:, 0, 2, None]) / K[:, 0, 0, None]
    y = (at - K[:, 1, 2, None]) / K[:, 1, 1, None]
    return m[:, 0] * x[:, None, :] + m[:, 1] * y[:, :, None] + m[:, 2] >= 0.0


def depths_at(views: SceneViews, items: Items, place: int, pixels: Pixels) -> Tensor:
    """Return depths float64 [P] behind pixels, in the own metres of the items at a place."""
    return pixels.of(views.seen.depth).double() / items.scale[:, place].index_select(0, pixels.row)


def draw_scenes(random: Random, stock: ObjectStock, renderer: StockRenderer, hardness: Tensor) -> tuple[Scenes, Probe]:
    """Draw N = len(hardness) scenes: a target at a uniform rotation, with or without objects before and behind it.

    hardness [N]: scales the shares of occluders and of cuts, 0 to 1.
    """
    n = len(hardness)
    slots = stock.pick(random, n, 1 + 2 + TRIES)
    target = _place(random, stock, slots[:, 0])
    diameter = stock.diameter[slots[:, 0]]
    centre = centres(target, stock)[:, 0]
    behind = _beside(random, stock, slots[:, 1:3], diameter, centre[:, 2], before=False)
    u = random.uniform(0.0, 1.0, n)
    behind = behind.only(torch.stack([u < 0.55, u < 0.2], dim=1))
    edge = _edge(random, diameter, centre[:, 2])
    edge = torch.where(random.chance(hardness * CUT_SHARE, n)[:, None], edge, 0.0)
    occluders = _beside(random, stock, slots[:, 3:], diameter, centre[:, 2], before=True)
    occluders = occluders.only(random.chance(hardness * OCCLUDER_SHARE, n)[:, None].expand(n, TRIES))
    return _first_that_suits(renderer, stock, target, behind, occluders, Scenes(target, edge, diameter, centre))


def _first_that_suits(
    renderer: StockRenderer, stock: ObjectStock, target: Items, behind: Items, occluders: Items, alone: Scenes
) -> tuple[Scenes, Probe]:
    """Take the first occluder that hides enough and not too much, else none; without one, the target alone where too
    little of it would be seen. alone: the scenes of the targets by themselves."""
    n, size = len(alone), PROBE
    R, K = crop_camera(FOCAL, amodal_box(target, stock), size, PROBE_MARGIN)
    every = _joined(target, behind, occluders)
    k = every.slot.shape[1]
    views = K[:, None].expand(n, k, 3, 3).flatten(0, 1)
    depth = renderer.depths(every.slot.flatten(), turned(R[:, None], every.T).flatten(0, 1), views, size)
    depth = depth.unflatten(0, (n, k)) * every.scale.float()[..., None, None]
    own, back, front = depth[:, :1], depth[:, 1:3], depth[:, 3:]
    covered = torch.isfinite(own[:, 0])
    within = inside_view(alone.edge, R, K, size)
    total = covered.sum(dim=(1, 2)).clamp(min=1)
    seen = (own <= front) & (own <= back[:, :1]) & (covered & within)[:, None]
    share = seen.sum(dim=(2, 3)) / total[:, None]
    suits = (occluders.slot >= 0) & (share > LEAST_VISIBLE) & (share < MOST_VISIBLE)
    hidden, which = suits.any(dim=1), suits.int().argmax(dim=1)
    row = torch.arange(n, device=K.device)
    plain = (own[:, 0] <= back.amin(dim=1)) & covered & within
    lone = ~hidden & (plain.sum(dim=(1, 2)) / total < LEAST_VISIBLE)
    visible = torch.where(hidden[:, None, None], seen[row, which], torch.where(lone[:, None, None], covered, plain))
    first = torch.where(hidden, 3 + which, 1)
    chosen = torch.stack([torch.zeros_like(first), first, torch.where(hidden, 1, 2)], dim=1)
    items = Items(every.slot.gather(1, chosen), every.T[row[:, None], chosen], every.scale.gather(1, chosen))
    items = items.only(~((torch.arange(ITEMS, device=K.device) > 0) & lone[:, None]))
    edge = torch.where(lone[:, None], 0.0, alone.edge)
    return replace(alone, items=items, edge=edge), Probe(R, K, covered, visible)


def centres(items: Items, stock: ObjectStock) -> Tensor:
    """Return the meshes' centres in the base camera, metres of the scene, float64 [N,k,3]."""
    c = stock.centre[items.slot.clamp(min=0)]
    return items.scale[..., None] * (rotate(items.T[..., :3, :3], c) + items.T[..., :3, 3])


def amodal_box(target: Items, stock: ObjectStock) -> Tensor:
    """Return boxes float64 [N,4] (x, y, width, height) of all vertices of the targets in the base cameras' pixels."""
    slot = target.slot[:, 0]
    middle = rotate(target.T[:, 0, :3, :3], stock.centre[slot]) + target.T[:, 0, :3, 3]
    p = stock.vertices[slot][..., :3] @ target.T[:, 0, :3, :3].mT.float() + middle.float()[:, None]
    uv = p[..., :2] / torch.maximum(p[..., 2:], 1e-3 * stock.diameter[slot].float()[:, None, None])
    low, high = FOCAL * uv.amin(dim=1).double(), FOCAL * uv.amax(dim=1).double()
    return torch.cat([low + 0.5, high - low], dim=1)


def draw_crops(
    random: Random, scene: Scenes, probe: Probe, stock: ObjectStock, size: int, loose: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Draw R and K [N,3,3] of crops as a detector's boxes give them: round the visible part or all of the target.

    The boxes are not quite right; a share ``loose`` of them by far (``BOX_SHIFT``, ``BOX_SIZES``).
    """
    n = len(scene)
    rows, columns = probe.visible.any(dim=2), probe.visible.any(dim=1)
    modal = random.chance(0.6, n) & rows.any(dim=1)
    box = torch.where(modal[:, None], _modal_box(probe, rows, columns), amodal_box(scene.items, stock))
    corner, extent = box[:, :2], box[:, 2:]
    corner = corner + 0.06 * random.normal(n, 2) * extent.amax(dim=1, keepdim=True)
    growth = torch.exp(0.1 * random.normal(n, 2))
    if loose:
        far = random.chance(loose, n)[:, None]
        shift = random.uniform(-BOX_SHIFT, BOX_SHIFT, n, 2) * extent
        corner = torch.where(far, box[:, :2] + shift, corner)
        low, high = BOX_SIZES
        growth = torch.where(far, low * (high / low) ** random.uniform(0.0, 1.0, n, 2), growth)
    corner = corner - 0.5 * (growth - 1.0) * extent
    return crop_camera(FOCAL, torch.cat([corner, growth * extent], dim=1), size, random.uniform(1.05, 1.35, n))


def object_crops(stock: ObjectStock, scene: Scenes, T: Tensor, size: int, margin: Tensor) -> tuple[Tensor, Tensor]:
    """Return R and K [N,3,3] of cameras that look at the targets' centres at poses T [N,4,4].

    A crop's side there is margin [N] times the diameter, as in ``coop_edge.stages.crop``.
    """
    c = rotate(T[:, :3, :3], stock.centre[scene.items.slot[:, 0]]) + T[:, :3, 3]
    side = FOCAL * scene.diameter / c[:, 2]
    corner = FOCAL * c[:, :2] / c[:, 2:] - side[:, None] / 2 + 0.5
    return crop_camera(FOCAL, torch.cat([corner, side[:, None], side[:, None]], dim=1), size, margin)


def _modal_box(probe: Probe, rows: Tensor, columns: Tensor) -> Tensor:
    """Boxes [N,4] in the base cameras of the visible pixels; means nothing where there are none."""
    size = rows.shape[1]
    at = torch.arange(size, device=rows.device, dtype=torch.float64)
    low = [torch.where(line, at, float(size)).amin(dim=1) - 0.5 for line in (columns, rows)]
    high = [torch.where(line, at, -1.0).amax(dim=1) + 0.5 for line in (columns, rows)]
    corners = torch.stack([torch.stack(low, dim=1), torch.stack(high, dim=1)], dim=1)
    flat = (corners - probe.K[:, None, :2, 2]) / probe.K[:, None, :1, 0]
    seen = torch.cat([flat, torch.ones_like(flat[..., :1])], dim=2) @ probe.R
    ends = FOCAL * seen[..., :2] / seen[..., 2:]
    low_end, high_end = ends.amin(dim=1), ends.amax(dim=1)
    return torch.cat([low_end + 0.5, high_end - low_end], dim=1)


def _place(random: Random, stock: ObjectStock, slot: Tensor) -> Items:
    """Targets on the optical axes, turned at random, at random distances."""
    n = len(slot)
    distance = stock.diameter[slot] * torch.exp(random.uniform(math.log(NEAREST), math.log(FARTHEST), n))
    centre = torch.stack([torch.zeros_like(distance), torch.zeros_like(distance), distance], dim=1)
    T = _at(random_rotation(random, n), centre, stock.centre[slot])
    return Items(slot[:, None], T[:, None], torch.ones_like(distance)[:, None])


def _at(R: Tensor, centre: Tensor, mesh_centre: Tensor) -> Tensor:
    """Poses that put the meshes' centres at ``centre`` (camera, metres)."""
    return from_rt(R, centre - rotate(R, mesh_centre))


def _beside(
    random: Random, stock: ObjectStock, slot: Tensor, diameter: Tensor, distance: Tensor, *, before: bool
) -> Items:
    """Other objects [N,k] before or behind the targets, close enough to overlap with them in the image."""
    shape = tuple(slot.shape)
    own = stock.diameter[slot]
    diameter, distance = diameter[:, None], distance[:, None]
    scale = diameter * 0.35 * (1.3 / 0.35) ** random.uniform(0.0, 1.0, *shape) / own
    reach = 0.5 * (diameter + scale * own)
    if before:
        z = torch.maximum(distance - reach * random.uniform(0.5, 1.2, *shape), 0.35 * distance)
        aside = reach * random.uniform(0.15, 0.95, *shape)
    else:
        z = distance + reach * random.uniform(0.3, 1.5, *shape)
        aside = reach * random.uniform(0.3, 1.3, *shape)
    angle = random.uniform(0.0, 2 * torch.pi, *shape)
    centre = torch.stack([aside * torch.cos(angle), aside * torch.sin(angle), distance.expand(shape)], dim=-1)
    centre = centre * (z / distance)[..., None]
    T = _at(random_rotation(random, *shape), centre / scale[..., None], stock.centre[slot])
    return Items(slot, T, scale)


def _edge(random: Random, diameter: Tensor, distance: Tensor) -> Tensor:
    """Planes through the cameras' centres that leave the targets' middles inside, float64 [N,3]."""
    n = len(diameter)
    angle = random.uniform(0.0, 2 * torch.pi, n)
    aside = 0.5 * diameter * random.uniform(0.1, 0.7, n)
    normal = torch.stack([torch.cos(angle), torch.sin(angle), aside / distance], dim=1)
    return normal / normal.norm(dim=1, keepdim=True)


def _joined(*parts: Items) -> Items:
    return Items(*(torch.cat([getattr(p, f.name) for p in parts], dim=1) for f in fields(Items)))
