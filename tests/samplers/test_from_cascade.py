"""Windows from the stages before: fitted candidates, banded by their best object, capped and drawn by chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_det.core.types import Annotations, CropPlan, Detections, SampleRole
from cascade_det.samplers.from_cascade import FromCascade

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


def squared(boxes: Any) -> Any:
    """Return the smallest squares around boxes ``(N, 4)``."""
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def scene(seed: int) -> tuple[Annotations, Detections]:
    """Return objects (1 and 3 to learn from, 0 ignored, 2 too low) and candidates on and off them."""
    rng = np.random.default_rng(seed)
    side = rng.uniform(14, 45, (4, 2))
    side[2, 1] = 6
    corner = rng.random((4, 2)) * (np.array(HW[::-1]) - side)
    boxes = np.concatenate([corner, corner + side], axis=1)
    near = np.repeat(boxes, 12, axis=0)
    near = near + rng.normal(0, 0.12, near.shape) * np.tile(near[:, 2:] - near[:, :2], 2)
    stray = rng.random((30, 2)) * HW[::-1]
    found = np.concatenate([near, np.concatenate([stray, stray + rng.uniform(4, 50, (30, 2))], axis=1)])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    return Annotations.of(boxes, ignore=np.arange(4) == 0), Detections(found, rng.random(len(found)))


def sample(truth: Annotations, found: Detections | None, seed: int = 0, **params: Any) -> CropPlan:
    return FromCascade(**params).sample(HW, (12, 12), truth, found, np.random.default_rng(seed))


def test_it_asks_for_candidates() -> None:
    assert FromCascade.needs_candidates


@pytest.mark.parametrize("found", [None, Detections.empty(), Detections.empty(5)])
def test_no_candidates(found: Detections | None) -> None:
    truth, _ = scene(0)
    assert len(sample(truth, found)) == 0
    assert len(sample(Annotations.empty(), found, tries_per_box=5)) == 0
    around = sample(truth, found, tries_per_box=20, fit_truth=True)
    assert set(around.truth) == set(LEARNED)  # an object that is never found still teaches
    assert set(around.role) == {SampleRole.positive, SampleRole.part}


def test_without_objects_every_candidate_is_a_negative() -> None:
    _, found = scene(0)
    plan = sample(Annotations.empty(), found, negatives_per_image=1000)
    np.testing.assert_allclose(plan.boxes, squared(found.boxes), atol=1e-3)
    assert (plan.role == SampleRole.negative).all()


def test_without_objects_to_learn_from_there_are_no_positives() -> None:
    truth, found = scene(0)
    plan = sample(truth.replace(ignore=np.ones(4, bool)), found, tries_per_box=5)
    assert len(plan) > 0
    assert (plan.role == SampleRole.negative).all()


@quick
@given(st.integers(0, 9999), st.booleans(), st.sampled_from([0, 6]))
def test_bands_hold(seed: int, fit_truth: bool, tries: int) -> None:
    truth, found = scene(seed)
    plan = sample(truth, found, seed, fit_truth=fit_truth, tries_per_box=tries)
    reference = squared(truth.boxes) if fit_truth else truth.boxes
    for window, role, row in zip(plan.boxes, plan.role, plan.truth, strict=True):
        iou = [overlaps(window, box)[0] for box in reference]
        if role == SampleRole.negative:
            assert max(iou) < 0.3 + 1e-4
            continue
        assert row in LEARNED
        assert iou[row] >= max(iou[1], iou[3]) - 1e-4  # the best object it could teach
        low, high = (0.65, 1.0) if role == SampleRole.positive else (0.4, 0.65)
        assert low - 1e-4 <= iou[row] <= high + 1e-4


@quick
@given(st.integers(0, 9999), st.booleans())
def test_nothing_negative_shows_an_object(seed: int, fit_truth: bool) -> None:
    truth, found = scene(seed)
    plan = sample(truth, found, seed, fit_truth=fit_truth)
    for window in plan.boxes[plan.role == SampleRole.negative]:
        for row, box in enumerate(truth.boxes):
            iou, coverage, shared = overlaps(window, box)
            assert iou < 0.3 + 1e-4
            if row in LEARNED:
                assert coverage <= 0.9 + 1e-4 or iou <= 0.1 + 1e-4
            else:
                assert shared <= 0.3 + 1e-4


@quick
@given(st.integers(0, 9999))
def test_windows_are_fitted_candidates(seed: int) -> None:
    truth, found = scene(seed)
    plan = sample(truth, found, seed)
    assert len(plan) > 0
    for window in plan.boxes:
        assert np.abs(squared(found.boxes) - window).max(axis=1).min() < 1e-3


def test_every_role_is_found() -> None:
    plans = [sample(*scene(seed), fit_truth=True) for seed in range(5)]
    for role in (SampleRole.negative, SampleRole.part, SampleRole.positive):
        assert sum((plan.role == role).sum() for plan in plans) > 10, role


@quick
@given(st.integers(0, 9999), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_counts_are_capped(seed: int, negatives: int, positives: int, parts: int) -> None:
    truth, found = scene(seed)
    caps = {"negatives_per_image": negatives, "positives_per_box": positives, "parts_per_box": parts}
    plan, everything = (sample(truth, found, seed, **c) for c in (caps, dict.fromkeys(caps, 1000)))
    assert (plan.role == SampleRole.negative).sum() == min(negatives, (everything.role == SampleRole.negative).sum())
    for role, cap in ((SampleRole.positive, positives), (SampleRole.part, parts)):
        for row in LEARNED:
            there = ((everything.role == role) & (everything.truth == row)).sum()
            assert ((plan.role == role) & (plan.truth == row)).sum() == min(cap, there)


def test_capped_negatives_are_drawn_from_all_candidates() -> None:
    """Candidates come by falling score: the cap must not keep the first ones."""
    _, found = scene(0)
    plan = sample(Annotations.empty(), found, negatives_per_image=30)
    rows = [int(np.abs(squared(found.boxes) - window).max(axis=1).argmin()) for window in plan.boxes]
    assert len(set(rows)) == 30
    assert max(rows) > 60


@pytest.mark.parametrize("nms", ["keep", None, 0, 0.5, 1])
def test_takes_a_threshold_or_none_or_keep(nms: Any) -> None:
    assert FromCascade(nms=nms).nms == nms


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"nms": "off"}, r"nms='off' must be a threshold in \[0, 1\], null \(off\) or 'keep'"),
        ({"nms": 1.5}, r"nms=1\.5"),
        ({"nms": -0.1}, r"nms=-0\.1"),
        ({"nms": float("nan")}, "nms=nan"),
        ({"negatives_per_image": -1}, "must be >= 0"),
        ({"positives_per_box": -1}, "must be >= 0"),
        ({"parts_per_box": -1}, "must be >= 0"),
        ({"tries_per_box": -1}, "must be >= 0"),
        ({"negative": 0.9}, "must rise"),
    ],
)
def test_refuses(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FromCascade(**params)
