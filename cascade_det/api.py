"""The Python face of training and evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cascade_det.cascade import Cascade
from cascade_det.core.recipe import build_evaluators, load_recipe
from cascade_det.core.schema import Recipe
from cascade_det.data.sources import Source
from cascade_det.evaluation.coco import fields_of
from cascade_det.evaluation.run import evaluate_source, rehearse
from cascade_det.training.pipeline import Run


def train(recipe: str | Path, *overrides: str) -> dict[str, Any]:
    """Train a recipe as ``cascade-det train`` does and return the figures of its evaluation.

    Call it from under ``if __name__ == "__main__":``, since mining starts processes.

    Args:
        recipe: file or shipped name.
        *overrides: ``KEY=VALUE``.
    """
    return Run(load_recipe(recipe, *overrides)).train()


def evaluate(model: str | Path | Cascade, source: Source, **options: Any) -> dict[str, Any]:
    """Score a model on a source of annotated pictures with the evaluators of its recipe.

    Args:
        model: a loaded cascade, or what `Cascade.load` takes.
        source: pictures and truth, such as ``cascade_det.data.formats.coco.Coco(...)``. Where it lacks a field that the
            recipe groups figures by (`evaluate.coco.params.group_by`), there are no such groups.
        **options: min_object_px, score, upto, augmentation; see `evaluate_source`.

    Returns:
        The figures as ``cascade-det evaluate --json`` writes them.

    Raises:
        CascadeError: an evaluator of the recipe cannot score this truth; no picture is read before.
    """
    cascade = model if isinstance(model, Cascade) else Cascade.load(model)
    evaluators = build_evaluators(_with_groups_of(cascade.recipe, source))
    rehearse(cascade.recipe, source, evaluators)
    return evaluate_source(cascade, source, evaluators, **options).metrics


def _with_groups_of(recipe: Recipe, source: Source) -> Recipe:
    """Return the recipe without groups by fields that the source lacks: it was written for other pictures."""
    known = fields_of(source.pictures, [source.annotations(index) for index in range(len(source.pictures))])
    parts = {
        name: replace(part, params=part.params | {"group_by": [f for f in part.params["group_by"] if f in known]})
        if part.kind == "coco" and part.params.get("group_by")
        else part
        for name, part in recipe.evaluate.items()
    }
    return replace(recipe, evaluate=parts)
