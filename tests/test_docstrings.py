"""Docstrings of everything public: a first line that is a sentence, and sections instead of errors and arguments in a
paragraph."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import coop_edge

ROOT = Path(__file__).parents[1]
MODULES = [path for package in ("coop_edge", "export", "benchmarks") for path in sorted((ROOT / package).rglob("*.py"))]
KIND = re.compile(r"\w+(?:Error|Unavailable)(?:, \w+(?:Error|Unavailable))*: \S")
INLINE = re.compile(r"\bRaises (?!:)")
VERB = re.compile(r"[A-Z][a-z]*[,.]?")
NOT_VERBS = {
    *("of", "the", "a", "an", "what", "where", "how", "whether", "in", "by", "if", "all", "each", "every", "those"),
    *("which", "one", "per", "as", "from", "under", "poses", "points", "pixels", "depths", "boxes", "rows", "figures"),
    *("pictures", "crops", "pieces", "lines", "numbers", "kind", "folder", "version", "found"),
}


def public(path: Path) -> Iterator[tuple[str, ast.AST, str]]:
    """Name, node and docstring of a module's public functions, methods and classes."""

    def within(node, prefix):
        for child in node.body:
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
                if text := ast.get_docstring(child):
                    yield prefix + child.name, child, text
                if isinstance(child, ast.ClassDef):
                    yield from within(child, f"{prefix}{child.name}.")

    yield from within(ast.parse(path.read_text()), "")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings(path):
    for name, node, text in public(path):
        first = text.split("\n\n")[0]
        assert first.rstrip().endswith((".", ":", "::", "?")), f"{name}: {first!r} is no sentence"
        assert not INLINE.search(text), f"{name}: errors belong into a section Raises"
        assert "---\n" not in text, f"{name}: wanted sections as Args:, without underlines"
        if isinstance(node, ast.FunctionDef):
            word = first.split()[0]
            begins = VERB.fullmatch(word) and word.strip(",.").lower() not in NOT_VERBS
            assert begins, f"{name}: {first!r} does not begin with a verb"
        if (raises := re.search(r"^Raises:\n((?:[ ]+.*\n?)+)", text, re.MULTILINE)) is None:
            continue
        lines = raises.group(1).splitlines()
        indent = min(len(line) - len(line.lstrip()) for line in lines)
        for line in lines:
            if len(line) - len(line.lstrip()) == indent:
                assert KIND.match(line.strip()), f"{name}: {line.strip()!r} names no error"


def test_the_arguments_of_what_users_call_are_described():
    """Public names that are functions or classes: every parameter of a method stands in its docstring."""
    checked = 0
    for public_name in coop_edge.__all__:
        of = getattr(coop_edge, public_name)
        if not isinstance(of, type) or not of.__module__.startswith("coop_edge."):
            continue
        for name, member in vars(of).items():
            function = getattr(member, "__func__", member)
            if name.startswith("_") or not hasattr(function, "__code__"):
                continue
            code = function.__code__
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            text = function.__doc__ or ""
            if len(names) < 3 or "Arguments and errors are those of" in text:
                continue
            for argument in names:
                if argument not in ("self", "cls"):
                    assert re.search(rf"\b{argument}\b", text), f"{public_name}.{name}: {argument} is not described"
            checked += 1
    assert checked > 8
