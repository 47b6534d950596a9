"""The Python face of training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade_det.cascade import Cascade
from cascade_det.core.recipe import build_evaluators, load_recipe
from cascade_det.data.sources import Source
from cascade_det.evaluation.run import evaluate_source
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
        source: pictures and truth, such as ``cascade_det.data.formats.coco.Coco(...)``.
        **options: min_object_px, score, upto, augmentation; see `evaluate_source`.
    """
    cascade = model if isinstance(model, Cascade) else Cascade.load(model)
    return evaluate_source(cascade, source, build_evaluators(cascade.recipe), **options).metrics
