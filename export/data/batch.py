"""What the data step hands to a training step: the agreement between the renderer side and the network side.

Pixels: the top-left pixel is centred at (0, 0). Patches are ``PATCH`` pixels wide, numbered row by row; patch (row r,
column c) of a W-patch-wide image has index r W + c and covers pixels PATCH c .. PATCH c + PATCH - 1, so its centre lies
at pixel x = PATCH (c + 1/2) - 1/2. All images are RGB uint8; poses map object to camera, metres.

A batch holds tensors of a GPU, or NumPy arrays. Its rows are labels; several may be of one photograph.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

PATCH = 16
"""Patch width, pixels."""

B = TypeVar("B")


@dataclass(frozen=True)
class CoarseBatch:
    """N query-template pairs of S x S pixels; T = (S / PATCH)^2.

    A query patch whose centre pixel shows a point of the object that the template shows too is matched: ``match_index``
    is the template patch that holds that point, ``offset`` U in [-0.5, 0.5]^2 (x, y) with template pixel
    ``PATCH (c + 1/2 + U_x) - 1/2``. Every other patch (background, another object, occluded, not seen in the template)
    has ``match_index == T``, *no match*, and offset 0. ``on_target`` tells those that show the object, inside the
    photograph, from the rest, whether the template shows that point or not.
    """

    query: Any  # uint8 [N,S,S,3]
    template: Any  # uint8 [N,S,S,3]
    match_index: Any  # int64 [N,T], T = no match
    offset: Any  # float32 [N,T,2]
    on_target: Any  # bool [N,T], True wherever match_index < T
    template_points: Any  # float32 [N,S,S,3] metres, object's frame, NaN off the object
    K_query: Any  # float64 [N,3,3] of the query crop
    T_query: Any  # float64 [N,4,4] T_camera_object in the query crop's camera: the truth, that nearest the template
    diameter: Any  # float64 [N] metres
    query_index: Any  # int64 [N], number of the photograph in its stream: rows of equal number have the same query


@dataclass(frozen=True)
class RefinerBatch:
    """N pairs of a query crop and a render at a wrong pose, both by the same virtual camera.

    ``flow`` at a rendered pixel is where its surface point lies in the query (true pose) minus the pixel itself.
    ``visible``: that point, moved to the true pose, is what the query's camera sees there (within a depth tolerance)
    and inside the image. Both mean something only on the rendered silhouette (``object_points`` finite).
    """

    query: Any  # uint8 [N,S,S,3]
    render: Any  # uint8 [N,S,S,3]
    object_points: Any  # float32 [N,S,S,3] metres, object's frame, NaN off the silhouette
    flow: Any  # float32 [N,2,S,S] pixels (x, y); 0 off the silhouette
    visible: Any  # bool [N,S,S]
    K: Any  # float64 [N,3,3]
    T_init: Any  # float64 [N,4,4] pose of the render
    T_true: Any  # float64 [N,4,4]: that nearest T_init, of an object with a symmetry
    R_crop: Any  # float64 [N,3,3] the scene's base camera -> this crop's camera
    model_points: Any  # float32 [N,P,3] points on the surface, metres, object's frame
    diameter: Any  # float64 [N] metres
    query_index: Any  # int64 [N], number of the photograph in its stream: rows of equal number are crops of one


def on_host(batch: B) -> B:
    """Copy a batch of tensors into one of NumPy arrays, waiting for the device; arrays stay as they are."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}  # type: ignore[arg-type]
    return type(batch)(**{k: v.detach().cpu().numpy() if hasattr(v, "detach") else v for k, v in values.items()})


def take(batch: B, which: Any) -> B:
    """Return the samples at ``which``: a slice, indices, or bool [N]."""
    return type(batch)(**{f.name: getattr(batch, f.name)[which] for f in fields(batch)})  # type: ignore[arg-type]


def stack(batches: list[B]) -> B:
    """Concatenate batches of one kind along N: of arrays, or of tensors.

    Raises:
        ValueError: ``batches`` is empty.
    """
    if not batches:
        raise ValueError("stack: wanted at least one batch")
    if len(batches) == 1:
        return batches[0]
    parts = {f.name: [getattr(b, f.name) for b in batches] for f in fields(batches[0])}  # type: ignore[arg-type]
    if isinstance(batches[0].query, np.ndarray):  # type: ignore[attr-defined]
        return type(batches[0])(**{name: np.concatenate(values) for name, values in parts.items()})
    import torch

    return type(batches[0])(**{name: torch.cat(values) for name, values in parts.items()})
