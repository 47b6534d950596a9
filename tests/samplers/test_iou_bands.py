"""Random windows by bands: overlaps are recomputed here, counts are capped, near windows touch their object."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_det.core.types import Annotations, CropPlan, SampleRole
from cascade_det.samplers.iou_bands import IouBands

quick = settings(deadline=None, max_examples=30)
HW = (90, 120)
LEARNED = (1, 3)  # rows of `scene`


def overlaps(window: Any, box: Any) -> tuple[float, float, float]:
    """Return IoU, the share of the box that is in the window, and the common part of the smaller of the two."""
    width = max(0.0, min(window[2], box[2]) - max(window[0], box[0]))
    height = max(0.0, min(window[3], box[3]) - max(window[1], box[1]))
    own, other = ((b[2] - b[0]) * (b[3] - b[1]) for b in (window, box))
    common = width * height
    return common / (own + other - common), common / other, common / min(own, other)


def squared(box: Any) -> list[float]:
    """Return the smallest square around a box."""
    half = max(box[2] - box[0], box[3] - box[1]) / 2
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return [x - half, y - half, x + half, y + half]


def scene(seed: int) -> Annotations:
    """Return four objects: 1 and 3 to learn from, 0 ignored, 2 too low."""
    rng = np.random.default_rng(seed)
    side = rng.uniform(12, 45, (4, 2))
    side[2, 1] = rng.uniform(3, 11)
    corner = rng.random((4, 2)) * (np.array(HW[::-1]) - side)
    return Annotations.of(np.concatenate([corner, corner + side], axis=1), ignore=np.arange(4) == 0)


def sample(truth: Annotations, seed: int = 0, image_hw: tuple[int, int] = HW, **params: Any) -> CropPlan:
    return IouBands(**params).sample(image_hw, (12, 12), truth, None, np.random.default_rng(seed))


def of_role(plan: CropPlan, role: SampleRole) -> CropPlan:
    return plan[plan.role == role]


def test_a_picture_without_objects_gives_the_wanted_negatives_inside_it() -> None:
    plan = sample(Annotations.empty(), negatives_per_image=50)
    assert len(plan) == 50
    assert (plan.role == SampleRole.negative).all()
    assert (plan.boxes >= -1e-3).all()
    assert (plan.boxes <= [120.001, 90.001, 120.001, 90.001]).all()
    height = plan.boxes[:, 3] - plan.boxes[:, 1]
    assert height.min() >= 12 - 1e-3
    assert height.max() <= 45 + 1e-3  # half of the picture
    assert height.max() - height.min() > 20
    assert len(np.unique(plan.boxes, axis=0)) == 50


@pytest.mark.parametrize("image_hw", [(1, 1), (5, 300), (13, 13)])
def test_a_small_picture_narrows_the_windows(image_hw: tuple[int, int]) -> None:
    plan = sample(Annotations.empty(), image_hw=image_hw, negatives_per_image=20)
    assert len(plan) == 20
    assert (plan.boxes >= -1e-3).all()
    assert (plan.boxes <= np.array([image_hw[1], image_hw[0]] * 2) + 1e-3).all()


@quick
@given(st.integers(0, 9999), st.booleans())
def test_bands_hold(seed: int, fit_truth: bool) -> None:
    truth = scene(seed)
    plan = sample(truth, seed, fit_truth=fit_truth)
    for window, role, row in zip(plan.boxes, plan.role, plan.truth, strict=True):
        if role == SampleRole.negative:
            continue
        assert row in LEARNED
        box = truth.boxes[row]
        iou = overlaps(window, squared(box) if fit_truth else box)[0]
        low, high = (0.65, 1.0) if role == SampleRole.positive else (0.4, 0.65)
        assert low - 1e-4 <= iou <= high + 1e-4


@quick
@given(st.integers(0, 9999), st.booleans(), st.sampled_from([0.0, 0.1]))
def test_nothing_negative_shows_an_object(seed: int, fit_truth: bool, coverage_iou: float) -> None:
    truth = scene(seed)
    plan = of_role(sample(truth, seed, fit_truth=fit_truth, coverage_iou=coverage_iou), SampleRole.negative)
    for window in plan.boxes:
        for row, box in enumerate(truth.boxes):
            iou, coverage, shared = overlaps(window, box)
            assert iou < 0.3 + 1e-4
            if fit_truth:
                assert overlaps(window, squared(box))[0] < 0.3 + 1e-4
            if row in LEARNED:  # to learn from: no window around the whole
                assert coverage <= 0.9 + 1e-4 or iou <= coverage_iou + 1e-4
            else:  # too low, or ignored
                assert shared <= 0.3 + 1e-4


def test_every_role_is_found() -> None:
    plans = [sample(scene(seed), seed, fit_truth=True) for seed in range(5)]
    for role in (SampleRole.negative, SampleRole.part, SampleRole.positive):
        assert sum(len(of_role(plan, role)) for plan in plans) > 20, role


@quick
@given(st.integers(0, 9999), st.integers(0, 30), st.integers(0, 5), st.integers(0, 12))
def test_counts_are_capped(seed: int, per_image: int, per_box: int, tries: int) -> None:
    params = {"negatives_per_image": per_image, "negatives_per_box": per_box, "tries_per_box": tries}
    plan = sample(scene(seed), seed, **params)
    assert (plan.role == SampleRole.negative).sum() <= per_image + 2 * per_box
    for row in LEARNED:
        assert (plan.truth == row).sum() <= tries


@quick
@given(st.integers(0, 9999))
def test_near_negatives_touch_an_object_to_learn_from(seed: int) -> None:
    truth = scene(seed)
    plan = sample(truth, seed, negatives_per_image=0, negatives_per_box=20, tries_per_box=0)
    for window in plan.boxes:
        gaps = [max(w - b for w, b in zip([*window[:2], *box[:2]], [*box[2:], *window[2:]], strict=True))
                for box in truth.boxes[list(LEARNED)]]  # fmt: skip
        assert min(gaps) <= 1e-3


def test_near_negatives_come_from_every_side() -> None:
    truth = Annotations.of(np.array([[50, 35, 70, 55]]))
    plan = sample(truth, negatives_per_image=0, negatives_per_box=200, tries_per_box=0)
    centre = (plan.boxes[:, :2] + plan.boxes[:, 2:]) / 2 - [60, 45]
    assert len(plan) > 100
    for quadrant in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        assert ((centre * quadrant) > 0).all(axis=1).sum() > 5, quadrant


@pytest.mark.parametrize(("share", "near", "anywhere"), [(0.0, 0, 40), (0.5, 20, 20), (1.0, 40, 0)])
def test_near_share_splits_the_negatives(share: float, near: int, anywhere: int) -> None:
    """On a large picture with one object in a corner, a window that touches it is a near one."""
    truth = Annotations.of(np.array([[0, 0, 20, 20]]))
    plan = sample(truth, image_hw=(4000, 4000), negatives_per_image=40, near_share=share, tries_per_box=0)
    touching = ((plan.boxes[:, :2] <= 20) & (plan.boxes[:, 2:] >= 0)).all(axis=1).sum()
    assert len(plan) == near + anywhere
    assert near <= touching <= near + 4
    alone = sample(Annotations.empty(), negatives_per_image=40, near_share=share)
    assert len(alone) == 40  # no object: all lie anywhere


def test_an_ignored_picture_gives_nothing() -> None:
    truth = Annotations.of(np.array([[0, 0, 120, 90]]), ignore=np.array([True]))
    assert len(sample(truth, negatives_per_image=500)) == 0


def test_a_picture_full_of_objects_gives_what_there_is() -> None:
    corner = np.stack(np.meshgrid(np.arange(0, 120, 15), np.arange(0, 90, 15)), axis=-1).reshape(-1, 2)
    truth = Annotations.of(np.concatenate([corner, corner + 15], axis=1))
    plan = sample(truth, negatives_per_image=300, negatives_per_box=0, tries_per_box=0, coverage_iou=0.0)
    assert len(plan) < 300


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"negatives_per_image": -1}, "must be >= 0"),
        ({"negatives_per_box": -1}, "must be >= 0"),
        ({"tries_per_box": -1}, "must be >= 0"),
        ({"near_share": 1.5}, r"near_share=1\.5 must lie in \[0, 1\]"),
        ({"near_share": -0.5}, r"near_share=-0\.5"),
        ({"part": 0.2}, "must rise"),
    ],
)
def test_refuses(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IouBands(**params)
