"""What all samplers promise, and the rules that they share: bands, jitter and draws without replacement."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_det.core.registry import SAMPLERS
from cascade_det.core.types import Annotations, CropPlan, Detections, SampleRole
from cascade_det.samplers.base import Bands, Sampler, aspect_windows, jittered_windows, pick, pick_per_group

quick = settings(deadline=None, max_examples=30)
NONE = np.zeros((0, 4), np.float32)
WINDOWS = [(12, 12), (24, 12), (12, 30)]
PARAMS: dict[str, dict[str, Any]] = {
    "iou_bands": {"negatives_per_image": 20, "tries_per_box": 10},
    "point_windows": {"rotate_deg": 15, "min_iou": 0.3},
    "from_cascade": {"tries_per_box": 10, "negatives_per_image": 20},
}
every_sampler = pytest.mark.parametrize("kind", list(PARAMS))


def sampler_of(kind: str, **params: Any) -> Sampler:
    sampler: Sampler = SAMPLERS.build(kind, PARAMS[kind] | params, "sampler")
    return sampler


def scene(seed: int, image_hw: tuple[int, int] = (90, 120), objects: int = 4) -> tuple[Annotations, Detections]:
    """Return objects with points, the last ignored and the one before too low, and candidates on and off them."""
    rng = np.random.default_rng(seed)
    size = np.array([image_hw[1], image_hw[0]])
    side = np.maximum(1, rng.uniform(0.15, 0.5, (objects, 2)) * size)
    side[-2:-1, 1] = 5
    corner = rng.random((objects, 2)) * (size - np.minimum(side, size))
    boxes = np.concatenate([corner, corner + side], axis=1)
    points = corner[:, None] + side[:, None] * rng.uniform(0.3, 0.7, (objects, 3, 2))
    ignore = np.arange(objects) == objects - 1
    truth = Annotations(boxes, ignore, points, rng.random((objects, 3)) < 0.8)
    found = [boxes + rng.normal(0, 3, boxes.shape) for _ in range(5)]
    stray = rng.random((30, 2)) * size
    found.append(np.concatenate([stray, stray + rng.uniform(2, 40, (30, 2))], axis=1))
    candidates = np.concatenate(found)
    return truth, Detections(candidates, rng.random(len(candidates)))


def sample(
    sampler: Sampler, truth: Annotations, found: Detections | None, window_hw: tuple[int, int] = (12, 12),
    image_hw: tuple[int, int] = (90, 120), seed: int = 0,
) -> CropPlan:  # fmt: skip
    return sampler.sample(image_hw, window_hw, truth, found, np.random.default_rng(seed))


def columns(plan: CropPlan) -> list[Any]:
    return [plan.boxes, plan.role, plan.truth, plan.angle_deg, plan.mirror]


def test_the_samplers_here_are_the_samplers_there_are() -> None:
    assert set(PARAMS) == set(SAMPLERS.names())


@every_sampler
@pytest.mark.parametrize("image_hw", [(90, 120), (1, 1), (1, 300), (7, 5)])
def test_no_objects(kind: str, image_hw: tuple[int, int]) -> None:
    for found in (None, Detections.empty(), Detections([[0, 0, 9, 9]], [0.5])):
        plan = sample(sampler_of(kind), Annotations.empty(3), found, image_hw=image_hw)
        assert set(plan.role) <= {SampleRole.negative}
        assert (plan.truth == -1).all()
    if kind != "iou_bands":
        assert len(sample(sampler_of(kind), Annotations.empty(3), None, image_hw=image_hw)) == 0


@every_sampler
def test_no_windows_wanted(kind: str) -> None:
    truth, _ = scene(0)
    nothing = {
        "iou_bands": {"negatives_per_image": 0, "negatives_per_box": 0, "tries_per_box": 0},
        "point_windows": {"per_box": 0},
        "from_cascade": {"tries_per_box": 0},
    }
    assert len(sample(sampler_of(kind, **nothing[kind]), truth, None)) == 0


@quick
@given(st.sampled_from(list(PARAMS)), st.integers(0, 999), st.sampled_from(WINDOWS), st.booleans())
def test_every_plan_keeps_the_rules(kind: str, seed: int, window_hw: tuple[int, int], fit_truth: bool) -> None:
    truth, found = scene(seed)
    plan = sample(sampler_of(kind, fit_truth=fit_truth), truth, found, window_hw, seed=seed)
    width, height = plan.boxes[:, 2] - plan.boxes[:, 0], plan.boxes[:, 3] - plan.boxes[:, 1]
    assert (height > 0).all()
    np.testing.assert_allclose(width / height, window_hw[1] / window_hw[0], rtol=1e-3)
    negative = plan.role == SampleRole.negative
    np.testing.assert_array_equal(plan.truth == -1, negative)
    taught = plan.truth[~negative]
    assert not truth.ignore[taught].any()
    assert (truth.boxes[taught, 3] - truth.boxes[taught, 1] >= 12).all()
    turned = (plan.angle_deg != 0) | plan.mirror
    assert (plan.role[turned] == SampleRole.points).all()


@every_sampler
def test_equal_streams_agree_and_another_differs(kind: str) -> None:
    truth, found = scene(3)
    first, again, other = (sample(sampler_of(kind), truth, found, seed=seed) for seed in (0, 0, 1))
    assert len(first) > 5
    for one, two in zip(columns(first), columns(again), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.boxes, other.boxes)


@every_sampler
def test_the_arguments_are_left_as_they_were(kind: str) -> None:
    truth, found = scene(3)
    before = [truth.boxes.copy(), truth.points.copy(), found.boxes.copy()]
    sample(sampler_of(kind), truth, found)
    for old, new in zip(before, [truth.boxes, truth.points, found.boxes], strict=True):
        np.testing.assert_array_equal(old, new)


@every_sampler
@pytest.mark.parametrize("image_hw", [(1, 1), (1, 300), (7, 5), (40, 40)])
@pytest.mark.parametrize("window_hw", WINDOWS)
def test_tiny_pictures_filled_by_an_object(kind: str, image_hw: tuple[int, int], window_hw: tuple[int, int]) -> None:
    """Every loop is bounded: rejection would never end where an object fills the picture."""
    height, width = image_hw
    for ignore in (False, True):
        truth = Annotations(
            [[0, 0, width, height]],
            [ignore],
            [[[width / 2, height / 2]]],
            [[True]],
        )
        found = Detections(truth.boxes, [0.5])
        plan = sample(sampler_of(kind, min_train_px=1), truth, found, window_hw, image_hw)
        assert np.isfinite(plan.boxes).all()
        assert len(plan) <= 35
        if ignore:
            assert len(plan) == 0


@every_sampler
def test_points_of_none_are_no_trouble(kind: str) -> None:
    truth, found = scene(0)
    bare = Annotations.of(truth.boxes, ignore=truth.ignore)
    plan = sample(sampler_of(kind), bare, found)
    assert (len(plan) == 0) == (kind == "point_windows")


@pytest.mark.parametrize(
    "bands",
    [
        {"negative": 0.5, "part": 0.4},
        {"part": 0.7},
        {"negative": 0.0},
        {"positive": 1.1},
        {"positive": float("nan")},
    ],
)
def test_bands_must_rise(bands: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"bands negative=.* must rise within \(0, 1\]"):
        Bands(**bands)


def test_a_sampler_names_the_bands_in_its_signature() -> None:
    for kind in ("iou_bands", "from_cascade"):
        parameters = inspect.signature(SAMPLERS.get(kind)).parameters
        assert {"positive", "part", "negative", "min_train_px", "fit_truth"} <= set(parameters)
        assert parameters["part"].default == 0.4
        assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())


OBJECT = [40, 40, 60, 60]


@pytest.mark.parametrize(
    ("window", "is_negative"),
    [
        ([0, 0, 20, 20], True),
        ([55, 40, 75, 60], True),  # IoU 1/7
        ([50, 40, 70, 60], False),  # IoU 1/3
        ([40, 40, 60, 60], False),
        ([36, 36, 74, 74], False),  # IoU .277, but the whole object is in it
        ([30, 30, 85, 85], False),  # IoU .132: likewise
        ([0, 0, 100, 100], True),  # IoU .04: at this size the object is background
        ([42, 36, 80, 74], True),  # IoU .243, holds exactly 90 % of it
        ([48, 48, 52, 52], True),  # IoU .04: a patch of the object
    ],
)
def test_negatives_of_an_object(window: list[int], is_negative: bool) -> None:
    truth = Annotations.of(np.array([OBJECT]))
    assert Bands().is_negative(np.array([window], np.float32), truth, (12, 12)).tolist() == [is_negative]


@pytest.mark.parametrize(("ignore", "min_train_px"), [(True, 12), (False, 30)])
@pytest.mark.parametrize(
    ("window", "is_negative"),
    [
        ([0, 0, 20, 20], True),
        ([55, 40, 75, 60], True),  # a quarter of the window
        ([53, 40, 73, 60], False),  # 7/20 of it
        ([48, 48, 52, 52], False),  # all of it
        ([0, 0, 100, 100], False),  # it holds the object
    ],
)
def test_negatives_of_an_ignored_or_too_low_object(
    window: list[int], is_negative: bool, ignore: bool, min_train_px: float
) -> None:
    truth = Annotations.of(np.array([OBJECT]), ignore=np.array([ignore]))
    bands = Bands(min_train_px=min_train_px)
    assert bands.is_negative(np.array([window], np.float32), truth, (12, 12)).tolist() == [is_negative]
    assert not bands.trainable(truth).any()


def test_negatives_heed_every_object() -> None:
    truth = Annotations.of(np.array([[0, 0, 20, 20], OBJECT]), ignore=np.array([False, True]))
    windows = np.array([[0, 0, 20, 20], OBJECT, [80, 80, 99, 99]], np.float32)
    assert Bands().is_negative(windows, truth, (12, 12)).tolist() == [False, False, True]
    assert Bands().is_negative(windows, Annotations.empty(), (12, 12)).all()
    assert Bands().is_negative(NONE, truth, (12, 12)).shape == (0,)


def test_fitted_truth_blocks_what_either_box_blocks() -> None:
    tall = Annotations.of(np.array([[45, 0, 55, 100]]))
    windows = np.array([[0, 0, 100, 100], [45, 0, 55, 100]], np.float32)
    assert Bands().is_negative(windows[:1], tall, (12, 12)).tolist() == [True]  # IoU .1 is not above coverage_iou
    assert Bands(fit_truth=True).is_negative(windows, tall, (12, 12)).tolist() == [False, False]
    np.testing.assert_array_equal(Bands(fit_truth=True).reference_boxes(tall, (12, 12)), [[0, 0, 100, 100]])


@quick
@given(st.integers(0, 999), st.integers(0, 9), st.sampled_from(WINDOWS))
def test_jitter_stays_in_its_range(seed: int, tries: int, window_hw: tuple[int, int]) -> None:
    boxes = scene(seed)[0].boxes
    windows, rows = jittered_windows(boxes, tries, window_hw, np.random.default_rng(seed))
    np.testing.assert_array_equal(rows, np.repeat(np.arange(4), tries))
    own = boxes[rows]
    sides = own[:, 2:] - own[:, :2]
    shift = (windows[:, :2] + windows[:, 2:] - own[:, :2] - own[:, 2:]) / 2
    assert (np.abs(shift) <= 0.2 * sides + 1e-3).all()
    units = sides / [window_hw[1], window_hw[0]]
    size = (windows[:, 3] - windows[:, 1]) / window_hw[0]
    assert (size >= 0.8 * units.min(axis=1) - 1e-3).all() if tries else len(size) == 0
    assert (size <= 1.25 * units.max(axis=1) + 1e-3).all() if tries else len(rows) == 0


def test_jitter_of_nothing() -> None:
    windows, rows = jittered_windows(NONE, 5, (12, 12), np.random.default_rng(0))
    assert windows.shape == (0, 4)
    assert rows.shape == (0,)


def test_aspect_windows() -> None:
    assert aspect_windows(np.zeros((0, 2)), np.zeros(0), (12, 12)).shape == (0, 4)
    windows = aspect_windows(np.array([[10, 20]]), np.array([8.0]), (12, 24))
    np.testing.assert_array_equal(windows, [[2, 16, 18, 24]])
    assert windows.dtype == np.float32


@quick
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 99))
def test_pick_draws_without_replacement_in_order(count: int, limit: int, seed: int) -> None:
    indices = np.arange(count) * 3
    chosen = pick(indices, limit, np.random.default_rng(seed))
    assert len(chosen) == min(count, limit)
    assert set(chosen) <= set(indices)
    assert (np.diff(chosen) > 0).all()


@quick
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30), st.integers(0, 6), st.integers(0, 99))
def test_pick_per_group_caps_each_group(rows: list[tuple[int, bool]], limit: int, seed: int) -> None:
    group = np.array([row[0] for row in rows], np.intp)
    eligible = np.array([row[1] for row in rows], bool)
    chosen = pick_per_group(group, eligible, limit, np.random.default_rng(seed))
    assert (np.diff(chosen) > 0).all()
    assert eligible[chosen].all()
    for value in range(4):
        assert (group[chosen] == value).sum() == min(limit, (eligible & (group == value)).sum())


def test_picks_reach_every_row() -> None:
    """Chance must have something to choose, and choose all of it in time."""
    rng = np.random.default_rng(0)
    picked = {int(i) for _ in range(99) for i in pick(np.arange(10), 3, rng)}
    grouped = {int(i) for _ in range(99) for i in pick_per_group(np.arange(10) % 2, np.ones(10, bool), 1, rng)}
    assert picked == grouped == set(range(10))
