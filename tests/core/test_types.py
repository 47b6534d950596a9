"""The types that parts exchange: shapes, selection, stacking and the empty case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_det.core.types import Annotations, CropPlan, CropTruth, Detections, SampleRole

BOXES = np.arange(12).reshape(3, 4)
SCORES = [0.5, 0.25, 0.75]


def detections() -> Detections:
    return Detections(BOXES, SCORES, np.arange(12).reshape(3, 2, 2), {"name": np.array(["a", "b", "c"])})


def annotations() -> Annotations:
    return Annotations(BOXES, [0, 1, 0], np.ones((3, 2, 2)), np.eye(3, 2), {"name": np.array(["a", "b", "c"])})


def plan() -> CropPlan:
    return CropPlan(BOXES, [0, 1, 2], [-1, 0, 1], [0, 5, -5], [0, 1, 0])


def crop_truth() -> CropTruth:
    return CropTruth([0, 1, 2], BOXES, [0, 1, 1], np.ones((3, 2, 2)), np.eye(3, 2), {"name": np.array(["a", "b", "c"])})


@pytest.mark.parametrize(
    ("empty", "num_points"),
    [
        (Detections.empty(), None),
        (Detections.empty(0), None),
        (Detections.empty(5), 5),
        (Annotations.empty(), 0),
        (Annotations.empty(5), 5),
    ],
)
def test_empty(empty: Detections | Annotations, num_points: int | None) -> None:
    assert len(empty) == 0
    assert empty.boxes.shape == (0, 4)
    assert (None if empty.points is None else empty.points.shape) == (
        None if num_points is None else (0, num_points, 2)
    )
    for index in (np.zeros(0, bool), np.zeros(0, np.intp), slice(None)):
        assert len(empty[index]) == 0


def test_no_rows_pass_through_every_method() -> None:
    empty = Detections.empty(5)
    for result in (empty.clip((4, 4)), empty.scaled(2), empty.sorted(), Detections.concat([empty, empty])):
        assert len(result) == 0
        assert result.points is not None
        assert result.points.shape == (0, 5, 2)
    assert len(Detections.concat([])) == len(CropPlan.concat([])) == 0
    assert CropPlan.concat([]).boxes.shape == (0, 4)


@pytest.mark.parametrize("make", [detections, annotations, plan, crop_truth])
@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (np.array([False, False, False]), []),
        (np.array([True, False, True]), [0, 2]),
        (np.array([2, 0, 0]), [2, 0, 0]),
        (slice(1, None), [1, 2]),
    ],
)
def test_selects_rows_of_every_column(make: Any, index: Any, rows: list[int]) -> None:
    whole, chosen = make(), make()[index]
    assert len(chosen) == len(rows)
    for name in type(whole).__slots__:
        before, after = getattr(whole, name), getattr(chosen, name)
        columns = [(before, after)] if isinstance(before, np.ndarray) else [(before[k], after[k]) for k in before]
        for one, other in columns:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one[rows], other)


@pytest.mark.parametrize(
    ("make", "dtypes"),
    [
        (detections, {"boxes": "f4", "scores": "f4", "points": "f4"}),
        (annotations, {"boxes": "f4", "ignore": "?", "points": "f4", "points_known": "?"}),
        (plan, {"boxes": "f4", "role": "i1", "truth": "i4", "angle_deg": "f4", "mirror": "?"}),
        (crop_truth, {"role": "i1", "box": "f4", "has_box": "?", "points": "f4", "points_known": "?"}),
    ],
)
def test_columns_have_one_dtype(make: Any, dtypes: dict[str, str]) -> None:
    value = make()
    for name, dtype in dtypes.items():
        column = getattr(value, name)
        assert column.dtype == np.dtype(dtype)
        assert column.flags.c_contiguous


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Detections(np.zeros((2, 3)), np.zeros(2)), r"boxes must have shape \(\*, 4\), got \(2, 3\)"),
        (lambda: Detections(np.zeros(4), np.zeros(1)), r"boxes must have shape"),
        (lambda: Detections(np.zeros((2, 4)), np.zeros(3)), r"scores must have shape \(2\), got \(3,\)"),
        (lambda: Detections(np.zeros((2, 4)), np.zeros((2, 1))), r"scores must have shape"),
        (lambda: Detections(np.zeros((2, 4)), np.zeros(2), np.zeros((2, 5))), r"points must have shape \(2, \*, 2\)"),
        (lambda: Detections(np.zeros((2, 4)), np.zeros(2), None, {"a": np.zeros(3)}), r"extras\['a'\].*2 rows"),
        (lambda: Detections(np.zeros((2, 4)), np.zeros(2), None, {"a": np.float32(1)}), r"extras\['a'\]"),
        (lambda: detections()[0], r"boxes must have shape"),
        (lambda: annotations().replace(ignore=np.zeros(2, bool)), r"ignore must have shape \(3\)"),
        (lambda: annotations().replace(points_known=np.zeros((3, 1), bool)), r"points_known must have shape \(3, 2\)"),
        (lambda: CropPlan(BOXES, [0], [0], [0], [0]), r"role must have shape \(3\)"),
        (lambda: crop_truth().replace(box=np.zeros((2, 4))), r"box must have shape \(3, 4\), got \(2, 4\)"),
    ],
)
def test_refuses_other_shapes(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_is_immutable() -> None:
    with pytest.raises(AttributeError):
        detections().boxes = BOXES


def test_concat_keeps_order_and_columns() -> None:
    first, second = detections()[:1], detections()[1:]
    whole = Detections.concat([first, second])
    np.testing.assert_array_equal(whole.boxes, BOXES)
    np.testing.assert_array_equal(whole.extras["name"], ["a", "b", "c"])
    assert whole.points is not None
    np.testing.assert_array_equal(whole.points, detections().points)
    np.testing.assert_array_equal(CropPlan.concat([plan()[:2], plan()[2:]]).angle_deg, plan().angle_deg)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"points": None}, "with and without points"), ({"extras": {}}, "cannot concatenate.*extras")],
)
def test_concat_refuses_other_columns(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detections.concat([detections(), detections().replace(**change)])


def test_clip_moves_boxes_alone() -> None:
    found = Detections([[-5, -5, 50, 60], [100, 100, 120, 120]], [1, 1], np.full((2, 1, 2), -9))
    clipped = found.clip((20, 30))
    np.testing.assert_array_equal(clipped.boxes, [[0, 0, 30, 20], [30, 20, 30, 20]])
    np.testing.assert_array_equal(clipped.points, found.points)
    assert clipped.boxes.dtype == np.float32


def test_scaled_moves_boxes_and_points() -> None:
    doubled = detections().scaled(2)
    np.testing.assert_array_equal(doubled.boxes, BOXES * 2)
    np.testing.assert_array_equal(doubled.points, np.arange(12).reshape(3, 2, 2) * 2)
    assert doubled.boxes.dtype == np.float32
    assert detections()[:0].replace(points=None).scaled(2).points is None


def test_sorted_by_score_then_index() -> None:
    found = Detections(np.arange(16).reshape(4, 4), [0.1, 0.9, 0.9, 0.5])
    np.testing.assert_array_equal(found.sorted().boxes[:, 0], [4, 8, 12, 0])


def test_annotations_of_boxes_alone() -> None:
    truth = Annotations.of(BOXES, num_points=2)
    assert not truth.ignore.any()
    assert not truth.points_known.any()
    assert truth.points.shape == (3, 2, 2)
    assert Annotations.of([], num_points=2).boxes.shape == (0, 4)
    np.testing.assert_array_equal(Annotations.of(BOXES, ignore=np.array([1, 0, 1], bool)).ignore, [True, False, True])


@pytest.mark.parametrize(("truth", "expected"), [(-1, [-1, -1, -1]), ([2, 0, 1], [2, 0, 1])])
def test_upright_plan(truth: Any, expected: list[int]) -> None:
    made = CropPlan.upright(BOXES, SampleRole.part, truth)
    np.testing.assert_array_equal(made.truth, expected)
    assert (made.role == SampleRole.part).all()
    assert not made.angle_deg.any()
    assert not made.mirror.any()
    assert len(CropPlan.upright(np.zeros((0, 4)), SampleRole.part, np.zeros(0))) == 0


@st.composite
def any_detections(draw: st.DrawFn) -> Detections:
    """Draw up to 6 detections, with or without points; `extras` number the rows."""
    rows = draw(st.integers(0, 6))
    number = st.floats(-100, 100, width=32)
    boxes = np.reshape(draw(st.lists(number, min_size=4 * rows, max_size=4 * rows)), (rows, 4))
    scores = draw(st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=rows, max_size=rows))  # few values: ties
    points = np.arange(rows * 4).reshape(rows, 2, 2) if draw(st.booleans()) else None
    return Detections(boxes, np.array(scores), points, {"row": np.arange(rows)})


def assert_same(one: Detections, other: Detections) -> None:
    for name in ("boxes", "scores", "points"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.extras.keys() == other.extras.keys()
    np.testing.assert_array_equal(one.extras["row"], other.extras["row"])


@given(any_detections(), st.data())
def test_what_is_taken_apart_goes_together_again(found: Detections, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(found)))
    assert_same(Detections.concat([found[:cut], found[cut:]]), found)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(found), max_size=len(found))), bool)
    parts = Detections.concat([found[mask], found[~mask]])
    assert_same(parts[np.argsort(parts.extras["row"])], found)
    assert_same(found[np.flatnonzero(mask)], found[mask])
    turned = found[np.arange(len(found))[::-1]]
    assert_same(turned[::-1], found)
    if found.points is not None:  # the rows stay together
        np.testing.assert_array_equal(parts.points[:, 0, 0], parts.extras["row"] * 4)  # type: ignore[index]


@given(any_detections())
def test_sorted_is_a_permutation_by_falling_score(found: Detections) -> None:
    ranked = found.sorted()
    rows = ranked.extras["row"]
    assert sorted(rows) == list(range(len(found)))
    assert_same(found[rows], ranked)
    steps = np.diff(ranked.scores)
    assert (steps <= 0).all()
    assert (np.diff(rows)[steps == 0] > 0).all()  # equal scores keep their order


@given(any_detections(), st.integers(1, 50), st.integers(1, 50))
def test_clip_once_is_clip_twice(found: Detections, height: int, width: int) -> None:
    clipped = found.clip((height, width))
    assert_same(clipped.clip((height, width)), clipped)
    assert (clipped.boxes >= 0).all()
    assert (clipped.boxes <= [width, height, width, height]).all()
    assert_same(clipped.replace(boxes=found.boxes), found)


@given(any_detections())
def test_replace_changes_one_column_of_a_copy(found: Detections) -> None:
    changed = found.replace(scores=found.scores / 2)
    np.testing.assert_array_equal(changed.scores, found.scores / 2)
    assert_same(changed.replace(scores=found.scores), found)
    assert_same(found.replace(), found)
