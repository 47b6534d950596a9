"""What the documents show runs: the Python blocks of each page in a fresh interpreter, the examples of docstrings."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cascade_det
from cascade_det.core.imaging import write_image
from cascade_det.data.synthetic import Synthetic

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PLUGIN_PAGES = sorted((ROOT / "plugins").rglob("README.md"))
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
