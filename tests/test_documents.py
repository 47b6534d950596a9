"""What the documents show: Python blocks and examples of docstrings run, and commands have the flags that they name."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import cascade_det
from cascade_det.cli.app import app
from cascade_det.core.imaging import write_image
from cascade_det.data.synthetic import Synthetic

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PLUGIN_PAGES = sorted((ROOT / "plugins").rglob("README.md"))
RECIPES_PAGE = ROOT / "recipes" / "README.md"
PACKAGE = Path(cascade_det.__file__).parent
WITH_EXAMPLES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8")]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the pictures that the pages name."""
    drawn = Synthetic(images=3)
    for name, index in (("photo.jpg", 0), ("a.jpg", 1), ("pictures/one.png", 2), ("pictures/two.png", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, drawn.read(index))
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, folder: Path) -> None:
    code = "\n".join(python_blocks(page))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_pages_show_something() -> None:
    """A changed fence would leave nothing to run."""
    counts = {page.name: len(python_blocks(page)) for page in PAGES}
    assert counts["README.md"] >= 2
    assert counts["CONTRIBUTING.md"] >= 6


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_examples_of_docstrings(path: Path) -> None:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", [*PAGES, *PLUGIN_PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    made = {"reference/recipe.md", "reference/parts.md"}  # written when the site is built
    text = page.read_text(encoding="utf-8")
    targets = {t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t} - {""} - made
    assert not [target for target in sorted(targets) if not (page.parent / target).exists()]


def commands(page: Path) -> list[list[str]]:
    """Return the words of each `cascade-det` command in the plain blocks of a page, without what surrounds it."""
    found = []
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                name, _, rest = command.partition("cascade-det ")
                if rest and re.fullmatch(r"(\s*\w+=\S+)*\s*", name):  # alone, or behind variables that it gets
                    found.append(shlex.split(rest, comments=True))
    return found


@pytest.mark.parametrize(
    "page", [page for page in [*PAGES, RECIPES_PAGE] if commands(page)], ids=lambda page: page.name
)
def test_commands_are_such_as_there_are(page: Path) -> None:
    """They are parsed, not run: verb, flags and the types of their values."""
    for words in commands(page):
        command, rest = typer.main.get_command(app), list(words)
        while hasattr(command, "commands"):
            assert rest[0] in command.commands, f"{page.name}: {words}"
            command = command.commands[rest.pop(0)]
        command.make_context(" ".join(words), rest)  # raises what does not parse


def test_pages_show_commands() -> None:
    assert len(commands(ROOT / "docs" / "new_class.md")) >= 10
    assert ["train", "quickstart"] in commands(ROOT / "README.md")


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [page.name for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in navigation]


def test_every_recipe_is_in_the_table() -> None:
    rows = RECIPES_PAGE.read_text(encoding="utf-8")
    assert not [path.stem for path in sorted((ROOT / "recipes").glob("*.yaml")) if f"| `{path.stem}` |" not in rows]
