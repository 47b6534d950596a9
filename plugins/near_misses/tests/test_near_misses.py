"""Near misses: negatives that overlap their object, at every scale and side of it, and that no rule forbids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_det.core.geometry import box_sides, iou_matrix
from cascade_det.core.registry import SAMPLERS
from cascade_det.core.types import Annotations, CropPlan, SampleRole
from cascade_det.errors import RecipeError
from cascade_det.testing import check_sampler

OBJECT = Annotations.of(np.array([[40, 40, 80, 80]]))


def sampler_of(**params: Any) -> Any:
    return SAMPLERS.build("near_misses", params, "near")


def sample(truth: Annotations, seed: int = 0, window_hw: tuple[int, int] = (12, 12), **params: Any) -> CropPlan:
    return sampler_of(**params).sample((120, 160), window_hw, truth, None, np.random.default_rng(seed))


@pytest.mark.parametrize("params", [{}, {"fit_truth": True, "per_box": 9}, {"min_iou": 0.0, "negative": 0.2}])
def test_the_contract_of_a_sampler(params: dict[str, Any]) -> None:
    check_sampler(sampler_of(**params))


@pytest.mark.parametrize(
    ("truth", "params"),
    [
        (Annotations.empty(), {}),
        (OBJECT.replace(ignore=np.ones(1, bool)), {}),
        (OBJECT, {"per_box": 0}),
        (OBJECT, {"tries": 0}),
        (OBJECT, {"min_train_px": 41}),
    ],
)
def test_nothing_to_miss(truth: Annotations, params: dict[str, Any]) -> None:
    assert len(sample(truth, **params)) == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9999), st.booleans())
def test_each_overlaps_an_object_and_none_well(seed: int, fit_truth: bool) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (3, 2))
    truth = Annotations.of(np.concatenate([corner, corner + rng.uniform(15, 50, (3, 2))], axis=1))
    plan = sample(truth, seed, per_box=3, fit_truth=fit_truth)
    best = iou_matrix(plan.boxes, truth.boxes).max(axis=1, initial=0)
    assert ((best >= 0.1 - 1e-4) & (best < 0.3)).all()
    assert (plan.role == SampleRole.negative).all()
    assert len(plan) <= 9


def test_they_lie_on_all_sides_at_all_scales() -> None:
    plan = sample(OBJECT, per_box=400, tries=20)
    assert len(plan) == 400
    scale = box_sides(plan.boxes)[1] / 40
    assert scale.min() < 0.45
    assert scale.max() > 2
    assert ((scale >= 0.35 - 1e-4) & (scale <= 2.5 + 1e-4)).all()
    side = np.sign((plan.boxes[:, :2] + plan.boxes[:, 2:]) / 2 - 60)
    assert {tuple(row) for row in side.tolist()} == {(x, y) for x in (-1, 1) for y in (-1, 1)}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"per_box": -1}, "per_box=-1"),
        ({"tries": -1}, "tries=-1"),
        ({"min_iou": 0.3}, r"min_iou=0\.3: .*below the band negative=0\.3"),
        ({"scales": [2, 1]}, r"scales=\[2, 1\] must be \[low, high\]"),
        ({"scales": [0, 1]}, r"scales=\[0, 1\]"),
        ({"negatve": 0.2}, "did you mean 'negative'"),
    ],
)
def test_refuses(params: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sampler_of(**params)
