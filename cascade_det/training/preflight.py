"""What only a late step of a run would meet, met before the first: no hour of mining for a misspelt name."""

from __future__ import annotations

from typing import Any

from cascade_det.core.imaging import Resample
from cascade_det.core.recipe import build_evaluators, build_heads, build_stage, stage_train
from cascade_det.core.schema import Recipe
from cascade_det.data.picture_set import PictureSet
from cascade_det.data.sources import Source
from cascade_det.errors import RecipeError, choices
from cascade_det.evaluation.run import rehearse
from cascade_det.model_file import load_model
from cascade_det.training.fit import check_trainer
from cascade_det.training.mining import build_views
from cascade_det.training.optimisation import optimisation
from cascade_det.training.plan import Plan


def check_parts(recipe: Recipe) -> None:
    """Build what needs no data as the steps will: views, nets, optimizers, the trainer, the model to start from.

    Raises:
        RecipeError: a part refuses its parameters, a stage that learns has no sampler, or pictures are to be resampled
            in a way that cuts no training windows.
        RunError, ModelError: `init` names no model.
    """
    import torch

    if recipe.image.resample == Resample.pooled:
        raise RecipeError(
            "image.resample='pooled': is for comparison with ports of MTCNN and cuts no turned or mirrored "
            "windows; train with linear or area."
        )
    build_views(recipe)
    for name, section in recipe.stages.items():
        if not build_stage(recipe, name).trainable:
            continue
        if not section.samplers:
            raise RecipeError(
                f"stages.{name}.samplers: a stage that learns needs at least one, such as "
                "`samplers: {windows: {kind: iou_bands}}`."
            )
        values: Any = stage_train(recipe, name)
        own = section.train.optimizer or section.train.schedule
        optimisation(
            [torch.nn.Parameter(torch.zeros(1))],
            values.optimizer,
            values.schedule,
            values.lr,
            max(1, values.samples // values.batch_size),
            f"stages.{name}.train" if own else "train",
        )
    check_trainer(recipe)
    if recipe.init:
        load_model(Plan(recipe).init_file())


def check_truth(recipe: Recipe, train: PictureSet) -> None:
    """Raise a `RecipeError` where a head learns from a column of truth that no training picture has."""
    wanted = [
        (f"stages.{stage}.heads.{name}", column)
        for stage in recipe.stages
        for name, head in build_heads(recipe, stage).items()
        for column in head.extras
    ]
    known = {column for number in range(len(train) if wanted else 0) for column in train.annotations(number).extras}
    for key, column in wanted:
        if column not in known:
            raise RecipeError(
                f"{key}: learns from {column!r} of the objects, which no picture of data.train says anything of; "
                f"{choices(column, known)}."
            )


def rehearse_evaluation(recipe: Recipe, sources: list[Source]) -> None:
    """Run every evaluator on the truth of each source as if nothing were found; no picture is read.

    Raises:
        RecipeError: an evaluator cannot do what its parameters ask of this truth, such as group by an unknown field.
        DataError: a source has not the truth that a protocol needs.
    """
    evaluators = build_evaluators(recipe)
    for source in sources:
        rehearse(recipe, source, evaluators)
