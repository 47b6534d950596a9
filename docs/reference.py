"""Makes the reference pages from the schema and the registries when the site is built, so they cannot fall behind."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from cascade_det.cli.inspect_verbs import describe
from cascade_det.core import registry
from cascade_det.core.schema import document_keys

_ROOT = Path(__file__).parent.parent
_STEPS = {
    "mine": "cut anew",
    "fit": "fitted anew",
    "calibrate": "calibrated anew",
    "evaluate": "scored anew",
    "none": "nothing is redone",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that have no file of their own."""
    pages = {
        "reference/recipe.md": "\n".join(_recipe_page()),
        "reference/parts.md": "\n".join(_parts_page()),
        "contributing.md": (_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def _recipe_page() -> Iterator[str]:
    yield "# Recipe keys\n"
    yield "Every key of a recipe file and the step that it belongs to: a change of the key redoes that step and all"
    yield "after it (" + ", ".join(f"*{step}*: {what}" for step, what in _STEPS.items()) + ").\n"
    section = ""
    for key, step, text in document_keys():
        head = key.split(".")[0] if "." in key else "Top level"
        if head != section:
            section = head
            yield f"\n## {section}\n\n| key | step | meaning |\n| --- | --- | --- |"
        yield f"| `{key}` | {step} | {_cell(text)} |"


def _parts_page() -> Iterator[str]:
    yield "# Parts\n"
    yield "What `kind:` may name in a recipe, and the `params:` that each takes. Plug-ins add to these.\n"
    for owner in registry.ALL:
        yield f"\n## {owner.kind}\n"
        for name in owner.names():
            row = describe(owner.kind, name, owner.get(name))
            yield f"\n### {name}\n\n```text\n{inspect.cleandoc(row['doc'])}\n```\n"
            if row["params"]:
                yield "| parameter | default |\n| --- | --- |"
                yield from (f"| `{param}` | `{_cell(default)}` |" for param, default in row["params"].items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ") or " "
