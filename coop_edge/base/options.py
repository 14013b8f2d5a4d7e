"""The base class of all option classes: reading from plain data and from texts, and checks of ranges.

A misspelt option is never ignored: an unknown name is a ``ConfigError`` that lists the known ones and the nearest.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from coop_edge.errors import ConfigError

C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class Config:
    """Base of all option classes: frozen dataclasses of numbers, flags, texts, choices and further option classes.

    A subclass checks its ranges in ``__post_init__`` by ``_int``, ``_number``, ``_flag`` and ``_choice``; that of this
    class checks the groups inside.
    """

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            if _is_group(kind):
                wanted = f"{kind.__name__} or a mapping of its options"
                _require(isinstance(getattr(self, name), kind), self, name, wanted)

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
        """Build from nested plain data; what is not given keeps its default.

        Raises:
            ConfigError: an unknown name or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__}: wanted a mapping of options, got {type(values).__name__}")
        return cls._built(values, cls, ())

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain data; ``from_dict`` is its inverse."""
        return dataclasses.asdict(self)

    def updated(self: C, settings: Iterable[str]) -> C:
        """Return a copy with some options changed, each given as ``name=value``: what ``--set`` takes.

        Args:
            settings: texts such as ``refine.iterations=3``; see ``parse``.

        Raises:
            ConfigError: as ``parse`` does, or on a value out of range.
        """
        return self._merged(self.parse(settings))

    @classmethod
    def parse(cls, settings: Iterable[str]) -> dict[str, Any]:
        """Read texts of the form ``name=value`` into nested plain data, as ``from_dict`` takes it.

        Args:
            settings: a nested option has a dotted name, such as ``advanced.lm.loss=huber``. The option's type says how
                a value is read: as an integer, a number, ``true`` or ``false``, a text. Ranges are not checked here.

        Raises:
            ConfigError: no such form, an unknown name, a value of another type, an option given twice.
        """
        out: dict[str, Any] = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            *groups, last = name.split(".")
            if not equals or not all((*groups, last)):
                raise ConfigError(f"setting {setting!r}: wanted NAME=VALUE, such as {cls.names()[0]}=VALUE")
            owner: type[Config] = cls
            values = out
            for depth, group in enumerate(groups):
                kind = owner._kind(group, cls, groups[:depth])
                if not _is_group(kind):
                    raise ConfigError(f"setting {setting!r}: {owner.__name__}.{group} is an option, not a group")
                owner, values = kind, values.setdefault(group, {})
            kind = owner._kind(last, cls, groups)
            if _is_group(kind):
                inside = ", ".join(f"{name}.{each}" for each in kind.names())
                raise ConfigError(f"setting {setting!r}: {name} is a group of options; set one of {inside}")
            if last in values:
                raise ConfigError(f"setting {setting!r}: {name} has been given already, as {values[last]!r}")
            values[last] = _read(kind, text, setting)
        return out

    @classmethod
    def names(cls) -> list[str]:
        """Return the dotted names of all options, nested ones included, such as ``advanced.lm.loss``."""
        out = []
        for name, kind in typing.get_type_hints(cls).items():
            out += [f"{name}.{inner}" for inner in kind.names()] if _is_group(kind) else [name]
        return out

    def described(self, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
        """Yield (dotted name, value, description) of every option; the description is the text below the field.

        Args:
            prefix: put before each name.
        """
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(type(self)))).body
        texts = {}
        for declared, text in itertools.pairwise(getattr(tree, "body", ())):
            if isinstance(declared, ast.AnnAssign) and isinstance(text, ast.Expr):
                texts[ast.unparse(declared.target)] = " ".join(str(ast.literal_eval(text.value)).split())
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Config):
                yield from value.described(f"{prefix}{field.name}.")
            else:
                yield prefix + field.name, value, texts.get(field.name, "")

    @classmethod
    def _built(cls: type[C], values: Mapping[str, Any], root: type[Config], groups: Sequence[str]) -> C:
        """``from_dict`` of the group at ``groups`` in ``root``."""
        arguments: dict[str, Any] = {}
        for name, value in values.items():
            kind = cls._kind(name, root, groups)
            nested = _is_group(kind) and isinstance(value, Mapping)
            arguments[name] = kind._built(value, root, (*groups, name)) if nested else value
        return cls(**arguments)

    @classmethod
    def _kind(cls, name: str, root: type[Config], groups: Sequence[str]) -> Any:
        """The type of the option ``name``; this class is that of the group at ``groups`` in ``root``.

        Raises ConfigError if there is none, with the options there are, and the nearest or those of this name elsewhere
        in ``root``.
        """
        kinds = typing.get_type_hints(cls)
        if name in kinds:
            return kinds[name]
        paths = [tuple(full.split(".")) for full in root.names()]
        every = dict.fromkeys(path[:depth] for path in paths for depth in range(1, len(path) + 1))  # groups too
        named = [path for path in every if path[-1] == name]
        moved = [path for path in named if path[-2:-1] == tuple(groups[-1:])]
        elsewhere = [".".join(path) for path in moved or named]
        close = elsewhere or difflib.get_close_matches(str(name), kinds, n=1)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ConfigError(f"{cls.__name__} has no option {name!r}{hint} (options: {', '.join(sorted(kinds))})")

    def _merged(self: C, values: Mapping[str, Any]) -> C:
        changes = {
            name: getattr(self, name)._merged(value) if isinstance(value, Mapping) else value
            for name, value in values.items()
        }
        return dataclasses.replace(self, **changes)

    def _int(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        integral = isinstance(value, int) and not isinstance(value, bool)
        _require(integral and low <= value <= high, self, name, f"an integer in [{low}, {high}]")

    def _number(self, name: str, low: float, high: float, *, or_off: bool = False) -> None:
        value = getattr(self, name)
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        allowed = real and -math.inf < value < math.inf and (low <= value <= high or (or_off and value == 0))
        _require(allowed, self, name, f"{'0 (off) or ' if or_off else ''}a number in [{low:g}, {high:g}]")

    def _flag(self, name: str) -> None:
        _require(isinstance(getattr(self, name), bool), self, name, "True or False")

    def _choice(self, name: str, choices: tuple[str, ...]) -> None:
        _require(getattr(self, name) in choices, self, name, f"one of {', '.join(map(repr, choices))}")


_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "an integer"),
    float: (float, "a number"),
    bool: (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    str: (str, "a text"),
}
"""How the text of an option is read, by its type, and what an error says was wanted."""


def _read(kind: Any, text: str, setting: str) -> Any:
    if typing.get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        read, wanted = choices.__getitem__, f"one of {', '.join(choices)}"
    else:
        read, wanted = _READERS[kind]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise ConfigError(f"setting {setting!r}: wanted {wanted}, got {text!r}") from None


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)


def _require(condition: bool, config: Config, name: str, wanted: str) -> None:
    if not condition:
        given = getattr(config, name)
        raise ConfigError(f"{type(config).__name__}.{name} = {given!r}: wanted {wanted}")
