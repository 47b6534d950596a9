"""The verb that puts runs side by side: compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from cascade_det.cli.common import PLOT_SUFFIXES, print_table, say, write_json
from cascade_det.errors import RecipeError, RunError, choices


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories, folders of `evaluate --out`, or metrics.json files."),
    ],
    json_file: Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Write the tables.")] = None,
    plot: Annotated[Optional[Path], typer.Option("--plot", metavar="FILE.png", help="Draw the curves.")] = None,
) -> None:
    """Put the figures of runs side by side, with the recipe keys in which they differ.

    Figures stand for each source where all runs have the same ones, otherwise for the first of each. The recipes are
    those of run directories; the keys that only say where a run lies are left out. `--plot` draws precision over
    recall, recall over false positives per image and, where there are points, their error.

    Examples:

    `cascade-det compare runs/first runs/second`

    `cascade-det compare runs/first scored/metrics.json --json compared.json`

    `cascade-det compare runs/first scored --plot compared.png`
    """
    if len(runs) < 2:
        raise RunError(f"compare {runs[0]}: one alone has nothing to stand beside; name two or more.")
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        known = choices(plot.suffix, PLOT_SUFFIXES)
        raise RecipeError(f"--plot {plot}: {known}; the ending chooses the form of the picture.")
    from cascade_det.report import compare as comparing

    subjects = comparing.read_subjects(runs)
    compared = comparing.compare(subjects)
    curves = comparing.comparison_curves(subjects) if plot is not None else []
    for warning in compared.warnings:
        say(f"warning: {warning}")
    print_table(["figure", *compared.names], [[row, *map(_shown, v)] for row, v in compared.figures.items()])
    if compared.recipe:
        print("recipe keys that differ")
        rows = [[key, *map(_value, values)] for key, values in compared.recipe.items()]
        print_table(["key", *compared.recipe_names], rows)
    elif len(compared.recipe_names) > 1:
        print("the recipes are equal")
    write_json(json_file, compared.as_json())
    if plot is not None:
        from cascade_det.visual.plots import plot_scores

        plot_scores(curves, plot, "compared: boxes at IoU 0.5")


def _shown(value: Any) -> str:
    if value is None or value == -1:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _value(value: Any) -> str:
    """Return a recipe's value as YAML would have it in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
