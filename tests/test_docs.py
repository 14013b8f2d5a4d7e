"""The site builds without a warning; its snippets run, its commands exist, and what is generated is up to date."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import coop_edge
from coop_edge.demo import load_scene

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def fences(page: str, *languages: str) -> list[tuple[str, str, str]]:
    """(language, rest of the first line, text) of a page's code blocks, in order."""
    return [found for found in FENCE.findall((DOCS / page).read_text()) if found[0] in languages]


def commands(page: str) -> list[str]:
    """The command lines of a page, continued ones in one piece, without comments."""
    text = "\n".join(block for _, _, block in fences(page, "bash")).replace("\\\n", " ")
    return [line for line in (" ".join(shlex.split(line, comments=True)) for line in text.splitlines()) if line]


def test_the_site_builds_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        try:
            missing = importlib.util.find_spec(package) is None
        except ModuleNotFoundError:
            missing = True
        if missing:
            pytest.skip(f"{package} is not installed (extra docs)")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search("WARNING|ERROR", done.stdout + done.stderr), done.stdout + done.stderr
    for name in ("quickstart", "options", "solvers", "reference/estimator", "checkout/CHANGELOG"):
        assert (tmp_path / "site" / name / "index.html").is_file()
    estimator = (tmp_path / "site" / "reference" / "estimator" / "index.html").read_text()
    assert 'id="coop_edge.Estimator.add_object"' in estimator
    assert not re.findall(r"(?:src|href)=\"https?://[^\"]+\.(?:js|css)\"", estimator), "a page fetches from elsewhere"


def test_every_page_is_in_the_navigation():
    navigation = set(re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert set(PAGES) <= navigation


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:\s]+)[^):]*\)", (DOCS / page).read_text())
    broken = [link for link in links if not (DOCS / page).parent.joinpath(link).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_named_benchmarks_exist(page):
    for module in re.findall(r"python -m (benchmarks(?:\.\w+)+)", (DOCS / page).read_text()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_public_name_is_in_the_reference():
    described = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    errors = {name for name, home in coop_edge._HOME.items() if home == "errors"}  # described as a module
    assert "::: coop_edge.errors" in described
    names = set(coop_edge.__all__) - errors - {"__version__"}
    assert {name for name in names if not re.search(rf"^::: coop_edge\.{name}$", described, re.MULTILINE)} == set()


def test_the_options_page_is_up_to_date():
    make = runpy.run_path(str(DOCS / "make_options.py"))
    assert (DOCS / "options.md").read_text() == make["page"](), "run python docs/make_options.py"


def test_the_options_page_has_every_option_with_its_range():
    text = (DOCS / "options.md").read_text()
    for name in coop_edge.EstimatorConfig.names():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        _, _, default, allowed, effect, _ = (cell.strip() for cell in row.replace("\\|", "").split("|"))
        assert default, name
        assert allowed, f"{name}: make_options.py does not know its check"
        assert effect, f"{name} has no docstring"


@pytest.fixture
def demo_files(tmp_path, monkeypatch):
    """A folder with a mesh and a picture under the names that the pages use, as the working directory."""
    scene = load_scene()
    for name, (mesh, _) in scene.meshes.items():
        shutil.copy(mesh, tmp_path / f"{name}{mesh.suffix}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


ELSEWHERE = {"quickstart.md", "guides/meshes.md"}
"""Pages whose snippets run in another test: below, and tests/mesh/test_documentation.py."""


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE and fences(page, "python")])
def test_snippets_run(page, demo_files, capsys):
    names: dict = {}
    for number, (_, rest, text) in enumerate(fences(page, "python")):
        if "notest" not in rest.split():
            exec(compile(text, f"{page}, snippet {number}", "exec"), names)


def test_the_quick_start_works_step_by_step(tmp_path, monkeypatch, capsys):
    """All blocks in their order. Installing is the test of the wheel's."""
    from coop_edge.cli.main import app

    names: dict = {}
    ran = []
    monkeypatch.chdir(tmp_path)
    for language, _, text in fences("quickstart.md", "bash", "python"):
        if language == "python":
            exec(compile(text, "quickstart.md", "exec"), names)
        for line in text.splitlines() if language == "bash" else ():
            if line.startswith("cd "):
                monkeypatch.chdir(line.split()[1])
            elif line.startswith("coop-edge "):
                done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
                assert done.exit_code == 0, f"{line}\n{done.output}"
                ran.append(line.split()[1])
    assert ran == ["demo", "demo", "onboard", "estimate"]
    assert (tmp_path / "demo.png").is_file()
    assert Path("mug_views.png").is_file()
    assert Path("poses.png").is_file()
    away = abs(names["result"].T_camera_object[:3, 3] - load_scene().truth["mug"][:3, 3]).max()
    assert away < 0.02, f"the mug is {1000 * away:.0f} mm off"


def _commands_of(app: typer.Typer) -> dict[str, set[str]]:
    group = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


def _options(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words if re.match(r"-{1,2}[a-z]", word)} - {"--help"}


@pytest.mark.parametrize("page", [*(page for page in PAGES if commands(page)), "../README.md"])
def test_commands_and_their_options_exist(page):
    """Those of `python -m export`: tests/export/cli/test_pages.py."""
    from coop_edge.cli.main import app

    known = _commands_of(app)
    for line in commands(page):
        words = line.split()
        if words[0] == "coop-edge" and not words[1].startswith("-"):
            assert words[1] in known, line
            unknown = _options(words[2:]) - known[words[1]]
            assert not unknown, f"{line}: no option {unknown}"
        elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks"):
            module = ROOT / words[2].replace(".", "/")
            files = [module.with_suffix(".py")] if module.with_suffix(".py").is_file() else list(module.glob("*.py"))
            assert files, line
            source = "".join(file.read_text() for file in [*files, *(ROOT / "benchmarks" / "gpu").glob("command.py")])
            assert [option for option in _options(words[3:]) if f'"{option}"' not in source] == [], line
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), line


def test_the_notebook_runs():
    notebook = json.loads((DOCS / "examples" / "quickstart.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"quickstart.ipynb, cell {number}", "exec"), names)
    assert [result.object for result in names["results"]] == list(names["scene"].meshes)
    assert all(result.success for result in names["results"])
    assert not names["missing"].success
    assert names["missing"].T_camera_object is None
    assert names["missing"].reason


def test_the_notebook_is_stored_as_it_came_out():
    """With outputs, without an error, and nothing of the machine that made it."""
    text = (DOCS / "examples" / "quickstart.ipynb").read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"]) >= 2
    assert not re.search(r"/(home|root|tmp|work|usr)/", text)
    assert len(text) < 2_000_000


def test_the_tracking_picture_is_made_by_its_script(tmp_path):
    make = runpy.run_path(str(DOCS / "examples" / "make_tracking_gif.py"))
    with Image.open(DOCS / "images" / "tracking.gif") as kept:
        assert (kept.n_frames, kept.size) == (make["FRAMES"], make["SIZE"])
    errors = make["main"](tmp_path / "tracking.gif", count=2)
    with Image.open(tmp_path / "tracking.gif") as made:
        assert (made.n_frames, made.size) == (2, make["SIZE"])
    assert sorted(errors)[1] < 0.1, f"share of the diameter: {errors}"


def test_the_page_of_commands_has_all_of_them():
    from coop_edge.cli.main import app

    listed = re.findall(r"^\| `([\w-]+)[ `]", (DOCS / "guides" / "commands.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(_commands_of(app))
