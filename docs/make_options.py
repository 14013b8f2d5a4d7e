"""Writes docs/options.md from the option classes: python docs/make_options.py. A test holds the page to the code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coop_edge import EstimatorConfig
from coop_edge.base.options import Config

PAGE = Path(__file__).parent / "options.md"
HEAD = """# Options

<!-- Written by `python docs/make_options.py` from coop_edge/config.py: change it there. -->

Every option of [`EstimatorConfig`](reference/options.md), with its default and range. An unknown name or a value out of
range raises ConfigError, which names the nearest option. Three ways to set one:

```python
from coop_edge import EstimatorConfig, RefineConfig

EstimatorConfig(refine=RefineConfig(iterations=3))
EstimatorConfig.from_dict({"refine": {"iterations": 3}})  # from_engines(config=...) takes the mapping as well
EstimatorConfig().updated(["refine.iterations=3"])  # what --set refine.iterations=3 does on the command line
```

Pixels in options are those of a 128-pixel crop and scale with the crop, unless an option says otherwise.
"""


def ranges(kind: type[Config]) -> dict[str, str]:
    """Return what each option of a class may be, as its checks ask for it: name -> text."""
    found: dict[str, str] = {}

    class Recorder(kind):  # type: ignore[valid-type, misc]
        """Notes the checks in place of making them."""

        def _int(self, name: str, low: int, high: int) -> None:
            found[name] = f"integer, {low} to {high:,}" if high < 1 << 30 else f"integer from {low}"

        def _number(self, name: str, low: float, high: float, *, or_off: bool = False) -> None:
            found[name] = f"{'0 (off) or ' if or_off else ''}{low:g} to {high:g}"

        def _flag(self, name: str) -> None:
            found[name] = "True or False"

        def _choice(self, name: str, choices: tuple[str, ...]) -> None:
            found[name] = " or ".join(f'"{choice}"' for choice in choices)

    Recorder()
    return found


def groups(config: Config, prefix: str = "") -> Iterator[tuple[str, Config]]:
    """Yield (dotted name, group) of an option class and of the groups inside it, the outer ones first."""
    yield prefix, config
    for name, value in vars(config).items():
        if isinstance(value, Config):
            yield from groups(value, f"{prefix}.{name}" if prefix else name)


def page() -> str:
    """Return the page as Markdown."""
    texts = {name: text for name, _, text in EstimatorConfig().described()}
    parts = [HEAD]
    for prefix, group in groups(EstimatorConfig()):
        options = {name: value for name, value in vars(group).items() if not isinstance(value, Config)}
        if not options:
            continue
        allowed = ranges(type(group))
        parts.append(f"\n## {prefix or 'effort'}\n\n{_first_paragraph(type(group))}\n")
        parts.append("| option | default | may be | effect |\n|---|---|---|---|")
        for name, value in options.items():
            full = f"{prefix}.{name}" if prefix else name
            parts.append(f"| `{full}` | {_shown(value)} | {allowed.get(name, '')} | {_cell(texts[full])} |")
    return "\n".join(parts) + "\n"


def _first_paragraph(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.write_text(page())
