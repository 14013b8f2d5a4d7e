"""Checks of what the pose solvers are given beside points: depths, lines, priors; contents are not looked at."""

from __future__ import annotations

from typing import Any

from coop_edge.errors import InputError
from coop_edge.pnp.base import Array, DepthTargets, LineTargets, MeasuredDepths, PosePrior
from coop_edge.pnp.checks import check_batch, check_correspondences, check_rows


def check_measured(measured: MeasuredDepths | None, batch: int, count: int) -> None:
    """Raise InputError unless measured depths have the shapes of B problems of N points, and real numbers."""
    if measured is None:
        return
    if not isinstance(measured, MeasuredDepths):
        raise InputError(f"measured: wanted MeasuredDepths or None, got {type(measured).__name__}")
    for name, array in measured._asdict().items():
        check_rows(f"measured.{name}", array, (count,), batch)


def check_lm_inputs(
    points_object: Array,
    points_image: Array,
    weights: Array,
    K: Array,
    T_init: Array,
    prior: PosePrior | None,
    lines: LineTargets | None,
    depths: DepthTargets | None = None,
) -> int:
    """Check shapes and dtypes of what ``weighted_lm`` is given and return B; contents are not looked at."""
    batch = check_correspondences(points_object, points_image, weights, "weights", K)
    check_batch("weights", weights, (), 2)
    check_rows("T_init", T_init, (4, 4), batch)
    if prior is not None:
        if not isinstance(prior, PosePrior):
            raise InputError(f"prior: wanted a PosePrior or None, got {type(prior).__name__}")
        for name, trailing in (("T_anchor", (4, 4)), ("centre", (3,)), ("information", (6, 6))):
            check_rows(f"prior.{name}", getattr(prior, name), trailing, batch)
    _check_targets("lines", lines, LineTargets, {"pixels": 2, "normals": 2}, batch)
    _check_targets("depths", depths, DepthTargets, {"places": 3, "normals": 3}, batch)
    return batch


def _check_targets(what: str, targets: Any, kind: type[Any], vectors: dict[str, int], batch: int) -> None:
    """Raise InputError unless lines or depths have their shapes and real numbers; contents are not looked at."""
    if targets is None:
        return
    if not isinstance(targets, kind):
        raise InputError(f"{what}: wanted {kind.__name__} or None, got {type(targets).__name__}")
    check_batch(f"{what}.points", targets.points, (3,), 3)
    count = targets.points.shape[1]
    trailing: list[tuple[str, tuple[int, ...]]] = [
        ("points", (3,)),
        *((name, (n,)) for name, n in vectors.items()),
        ("weights", ()),
    ]
    for name, axes in trailing:
        check_rows(f"{what}.{name}", getattr(targets, name), (count, *axes), batch)
