"""The verbs that tell what is there: parts and models."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from cascade_det.cli.common import write_json
from cascade_det.errors import RecipeError, choices

_GIVEN = {
    "name", "window_hw", "net", "heads", "num_points", "flip_points", "object_category", "base_dir", "max_pixels",
    "self",
}  # fmt: skip


def parts(
    name: Annotated[
        Optional[str], typer.Argument(metavar="[NAME]", help="A part, a kind of part, or `recipe`.")
    ] = None,
    plugin: Annotated[Optional[list[str]], typer.Option("--plugin", help="Import a plug-in first.")] = None,
    json_file: Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Write the result.")] = None,
) -> None:
    """List what can be named in a recipe: registered parts with their parameters, and all keys.

    Examples:

    `cascade-det parts`

    `cascade-det parts iou_bands`

    `cascade-det parts recipe`
    """
    from cascade_det.core import registry
    from cascade_det.core.schema import document_keys

    for source in plugin or []:
        registry.load_plugin(source, Path.cwd())
    if name == "recipe":
        keys = [{"key": key, "step": step, "help": text} for key, step, text in document_keys()]
        for entry in keys:
            print(f"{entry['key']:<40} [{entry['step']}] {entry['help']}")
        write_json(json_file, keys)
        return
    rows = []
    for owner in registry.ALL:
        for part_name in owner.names():
            if name in (None, owner.kind, part_name):
                rows.append(describe(owner.kind, part_name, owner.get(part_name)))
    if not rows:
        known = {"recipe", *(o.kind for o in registry.ALL), *(n for o in registry.ALL for n in o.names())}
        raise RecipeError(f"parts {name!r}: {choices(name, known)}.")
    for row in rows:
        print(f"{row['kind']:<10} {row['name']:<16} {row['module']}: {row['summary']}")
        if name is not None:
            for param, default in row["params"].items():
                print(f"{'':<12}{param} = {default}")
            print(row["doc"])
    write_json(json_file, rows)


def describe(kind: str, name: str, part: Callable[..., Any]) -> dict[str, Any]:
    """Return kind, name, module, first line of the docstring, parameters with defaults and the docstring of a part."""
    doc = inspect.getdoc(part) or ""
    own = [value for key, value in inspect.signature(part).parameters.items() if key not in _GIVEN]
    return {
        "kind": kind,
        "name": name,
        "module": getattr(part, "__module__", ""),
        "summary": doc.split("\n")[0],
        "params": dict(map(_parameter, own)),
        "doc": doc,
    }


def _parameter(value: inspect.Parameter) -> tuple[str, str]:
    """Return a parameter's name and default as they are shown."""
    if value.kind is value.VAR_KEYWORD:
        return f"**{value.name}", ""
    return value.name, "(needed)" if value.default is value.empty else repr(value.default)


def models(
    json_file: Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Write the result.")] = None,
) -> None:
    """List the models that come with the package, with their figures on the pictures that they were chosen by.

    Example:

    `cascade-det models`
    """
    from cascade_det.cascade import find_model
    from cascade_det.core.shipped import find_shipped, shipped_names
    from cascade_det.evaluation.summary import summary_line
    from cascade_det.model_file import load_model

    rows = []
    for name in shipped_names("models", ".safetensors"):
        recipe = load_model(find_model(name)).recipe
        category, description = recipe["object"]["category"], recipe.get("description", "")
        beside = find_shipped("models", name, ".json")
        figures = json.loads(beside.read_text(encoding="utf-8"))["figures"] if beside else {}
        rows.append({"name": name, "category": category, "description": description, "figures": figures})
        print(f"{name:<16} {category:<12} {description}")
        for pictures, metrics in figures.items():
            print(f"  {summary_line(pictures, metrics)}")
    write_json(json_file, rows)
