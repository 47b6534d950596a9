"""What only a late step would meet: a column of truth that a head learns from and no picture has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cascade_det.core import registry
from cascade_det.core.recipe import recipe_from_dict
from cascade_det.core.schema import Recipe
from cascade_det.data.picture_set import PictureSet
from cascade_det.errors import RecipeError
from cascade_det.heads.classification import Classification
from cascade_det.training.preflight import check_truth


class Tilted(Classification):
    """A head of some columns."""

    field = "tilted"

    def __init__(self, columns: list[str]) -> None:
        self.extras = tuple(columns)


def recipe_of(*columns: str, images: int = 3) -> Recipe:
    heads: dict[str, Any] = {"tilted": {"kind": "tilted", "params": {"columns": list(columns)}}}
    source = {"kind": "synthetic", "params": {"images": images, "objects": [1, 1]}}
    stages = {"pnet": {"kind": "proposer", "heads": heads}}
    return recipe_from_dict({"stages": stages, "data": {"train": {"drawn": source}}}, Path())


@pytest.mark.parametrize(
    ("columns", "images", "message"),
    [
        ([], 0, None),
        (["tilt_deg", "occluded"], 3, None),
        (["tilt_deg", "ocluded"], 3, r"^stages\.pnet\.heads\.tilted: learns from 'ocluded'.*did you mean 'occluded'"),
        (["tilt_deg"], 0, r"learns from 'tilt_deg'.*Choices: \(none\)"),
    ],
)
def test_a_column_that_a_head_learns_from(
    monkeypatch: pytest.MonkeyPatch, columns: list[str], images: int, message: str | None
) -> None:
    registry.HEADS.names()
    monkeypatch.setattr(registry.HEADS, "_parts", {**registry.HEADS._parts, "tilted": Tilted})
    recipe = recipe_of(*columns, images=images)
    if message is None:
        check_truth(recipe, PictureSet.of(recipe, "train"))
        return
    with pytest.raises(RecipeError, match=message):
        check_truth(recipe, PictureSet.of(recipe, "train"))
