"""The base of all options: conversion to and from plain data, and the checks of their ranges.

``from_dict`` and ``to_dict`` convert to and from nested plain data; an unknown key is a ``ConfigError`` that lists the
known ones, so that a misspelt option is never silently ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from coop_edge.errors import ConfigError

C = TypeVar("C", bound="Config")


def _require(condition: bool, config: Config, name: str, wanted: str) -> None:
    if not condition:
        given = getattr(config, name)
        raise ConfigError(f"{type(config).__name__}.{name} = {given!r}: wanted {wanted}")


@dataclass(frozen=True)
class Config:
    """Base of all option classes: conversion to and from plain data, with unknown keys refused."""

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
        """Build from nested plain data. Raises ConfigError on an unknown key or a value out of range."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__}: wanted a mapping of options, got {type(values).__name__}")
        fields = {f.name for f in dataclasses.fields(cls)}
        hints = typing.get_type_hints(cls)
        arguments: dict[str, Any] = {}
        for key, value in values.items():
            if key not in fields:
                close = difflib.get_close_matches(str(key), fields, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ConfigError(f"{cls.__name__} has no option {key!r}{hint} (options: {', '.join(sorted(fields))})")
            kind = hints[key]
            nested = isinstance(kind, type) and issubclass(kind, Config)
            arguments[key] = kind.from_dict(value) if nested and isinstance(value, Mapping) else value
        return cls(**arguments)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain data; ``from_dict`` is its inverse."""
        return dataclasses.asdict(self)

    def _int(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        integral = isinstance(value, int) and not isinstance(value, bool)
        _require(integral and low <= value <= high, self, name, f"an integer in [{low}, {high}]")

    def _number(self, name: str, low: float, high: float, *, or_off: bool = False) -> None:
        value = getattr(self, name)
        real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        allowed = real and (low <= value <= high or (or_off and value == 0))
        _require(allowed, self, name, f"{'0 (off) or ' if or_off else ''}a number in [{low:g}, {high:g}]")

    def _flag(self, name: str) -> None:
        _require(isinstance(getattr(self, name), bool), self, name, "True or False")

    def _choice(self, name: str, choices: tuple[str, ...]) -> None:
        _require(getattr(self, name) in choices, self, name, f"one of {', '.join(map(repr, choices))}")

    def _nested(self, **kinds: type[Config]) -> None:
        for name, kind in kinds.items():
            _require(isinstance(getattr(self, name), kind), self, name, f"{kind.__name__} or a mapping of its options")
