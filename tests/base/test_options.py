"""Options are described by the texts below their declarations."""

from __future__ import annotations

from dataclasses import dataclass, field

from coop_edge.base.options import Config
from coop_edge.config import EstimatorConfig


@dataclass(frozen=True)
class Part(Config):
    """Options of a part."""

    steps: int = 5
    """How many steps
    are taken."""
    bare: float = 1.0


@dataclass(frozen=True)
class Whole(Config):
    """Options of a whole."""

    rate: float = 0.5
    """Learning rate."""
    part: Part = field(default_factory=Part)
    """The part."""
    name: str = "x"
    """Its name."""


def test_options_are_described_by_the_texts_below_them():
    assert list(Whole(rate=0.25).described("w.")) == [
        ("w.rate", 0.25, "Learning rate."),
        ("w.part.steps", 5, "How many steps are taken."),
        ("w.part.bare", 1.0, ""),
        ("w.name", "x", "Its name."),
    ]


def test_the_options_of_the_estimator_are_all_described():
    described = list(EstimatorConfig().described())
    assert [name for name, _, _ in described] == EstimatorConfig.names()
    assert all(text for _, _, text in described)
