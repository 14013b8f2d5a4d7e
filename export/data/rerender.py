"""Refiner pairs at new poses: what an iterated refinement sees next. For held-out pairs, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.stages import crop
from export.data.batch import RefinerBatch, on_host, take
from export.data.objects import TrainingObject
from export.data.pairs import PairGenerator, Photographs
from export.data.photo import Looks
from export.data.render import Lights
from export.data.render_cpu import HostRenderer
from export.data.scenes import Items, Scenes
from export.data.stock import stock_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class PairRecord:
    """What one refiner pair was made from, enough to make it again at another start pose.

    things: the scene's objects, the target first; None where a place is empty. values: the row of a ``Photographs``, by
    dotted names. fine: whether the render is supersampled. size: of the crop, pixels.
    """

    things: tuple[TrainingObject | None, ...]
    values: dict[str, Array]
    fine: bool
    size: int

    @property
    def T_true(self) -> Array:
        """Return T_camera_object [4,4] of the target in the scene's base camera."""
        return self.values["scene.items.T"][0]


def records_of(generator: PairGenerator, photographs: Photographs, labels: int, fine: int) -> list[PairRecord]:
    """Return the records of all pairs that ``generator.refiner_at`` makes with these arguments, in its order."""
    columns = {name: tensor.numpy() for name, tensor in _tensors(photographs)}
    out = []
    for i in range(len(photographs.scene) * labels):
        values = {name: column[i // labels] for name, column in columns.items()}
        slots = values["scene.items.slot"].tolist()
        things = tuple(generator.stock.things[slot] if slot >= 0 else None for slot in slots)
        out.append(PairRecord(things, values, i < fine, generator.size))
    return out


def centres_of(records: Sequence[PairRecord]) -> Array:
    """Return the targets' centres, float64 [N,3], metres, object's frame: what crops look at and the prior is about."""
    return np.array([target_of(record).mesh.centre for record in records], np.float64).reshape(-1, 3)


def target_of(record: PairRecord) -> TrainingObject:
    """Return the object that the pair is about."""
    target = record.things[0]
    assert target is not None
    return target


def rerender(batch: RefinerBatch, records: Sequence[PairRecord], T_camera_object: ArrayLike) -> RefinerBatch:
    """Return the same pairs, started from other poses.

    The crop is taken anew, by a virtual camera that looks at the object at its new pose: a homography of the same
    photograph. ``K``, ``T_init`` and ``T_true`` of the result are those of the new cameras; labels are worked out from
    geometry rendered through them. A pose that no camera can be aimed at (``in_sight``) leaves its pair as it was.

    Args:
        batch, records: as a stream with ``keep_scenes=True`` gave them, or this function before.
        T_camera_object: [N,4,4] in the cameras of ``batch``, as a network that saw it would estimate them.

    Raises:
        InputError: there are not as many records and poses as pairs.
    """
    T = np.asarray(T_camera_object, np.float64)
    n = len(batch.query)
    if len(records) != n or T.shape != (n, 4, 4):
        raise InputError(
            f"rerender: wanted as many records and poses as pairs ({n}), got {len(records)} and {list(T.shape)}; "
            "make_stream(..., keep_scenes=True) gives both"
        )
    if n == 0:
        return batch
    T = np.where(in_sight(batch, records, T)[:, None, None], T, batch.T_init)
    poses = _base_poses(batch, _orthonormal(T))
    order = np.argsort([not record.fine for record in records], kind="stable")  # supersampled ones first
    made = _view_at([records[i] for i in order], poses[order], batch.query_index[order])
    return take(made, np.argsort(order))


def _view_at(records: Sequence[PairRecord], poses: Array, query_index: Array) -> RefinerBatch:
    """Pairs at start poses [N,4,4] (base cameras); those whose renders are supersampled come first."""
    things = list({id(t): t for record in records for t in record.things if t is not None}.values())
    slot = {id(thing): i for i, thing in enumerate(things)}
    stock = stock_of(things, torch.device("cpu"))
    generator = PairGenerator(stock, HostRenderer(stock), records[0].size)
    columns = {name: torch.from_numpy(np.stack([r.values[name] for r in records])) for name in records[0].values}
    columns["scene.items.slot"] = torch.tensor([[slot.get(id(t), -1) for t in r.things] for r in records])
    made = generator.refiner_at(_photographs(columns), torch.from_numpy(poses), sum(r.fine for r in records))
    host = on_host(made)
    return type(host)(**{**vars(host), "query_index": query_index})


def _tensors(value: Any, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    """The tensors in nested dataclasses, by dotted names."""
    found = []
    for f in fields(value):
        inner, name = getattr(value, f.name), f"{prefix}{f.name}"
        found += [(name, inner)] if isinstance(inner, torch.Tensor) else _tensors(inner, f"{name}.")
    return found


def _photographs(c: dict[str, torch.Tensor]) -> Photographs:
    items = Items(*(c[f"scene.items.{f.name}"] for f in fields(Items)))
    scene = Scenes(items, c["scene.edge"], c["scene.diameter"], c["scene.centre"])
    lights = Lights(*(c[f"looks.lights.{f.name}"] for f in fields(Lights)))
    return Photographs(scene, c["picture"], c["R"], c["K"], Looks(lights, c["looks.matrix"]), c["margin"])


def in_sight(batch: RefinerBatch, records: Sequence[PairRecord], T_camera_object: ArrayLike) -> Array:
    """Tell which poses [N,4,4] in the cameras of ``batch`` the scenes' cameras can be aimed at, bool [N].

    The rule is the estimator's (``stages.crop.in_sight``); rotations may be off by single precision.
    """
    T = np.asarray(T_camera_object, np.float64)
    off = np.abs(T[:, :3, :3] @ np.swapaxes(T[:, :3, :3], 1, 2) - np.eye(3)).max(axis=(1, 2))
    seen = crop.in_sight(_base_poses(batch, T), centres_of(records), batch.diameter)
    return np.asarray(seen & (off < 1e-3))


def _base_poses(batch: RefinerBatch, T: Array) -> Array:
    """Poses [N,4,4] in the cameras of ``batch`` -> in the scenes' base cameras."""
    return se3.compose(se3.from_rt(np.swapaxes(batch.R_crop, 1, 2), np.zeros(3)), T)


def _orthonormal(T: Array) -> Array:
    """T [N,4,4] with its rotations, off by single precision, made exact (Kabsch, 1976)."""
    U, _, V = np.linalg.svd(T[:, :3, :3])
    U[:, :, 2] *= np.linalg.det(U @ V)[:, None]
    return se3.from_rt(U @ V, T[:, :3, 3])
