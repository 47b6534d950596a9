"""NME: which objects are measured, which detection measures them, and by what length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cascade_det.core.types import Annotations, Detections
from cascade_det.evaluation.points import Normaliser, PointErrors, match_for_points, measurable, point_errors

# eyes 10 px apart in a box of 30 x 40 px: sqrt(w h) = 34.64, diagonal = 50
BOX = [0.0, 0.0, 30.0, 40.0]
POINTS = [[10.0, 10.0], [20.0, 10.0], [15.0, 20.0], [11.0, 30.0], [19.0, 30.0]]


def f32(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def truth_of(known: list[int], ignore: bool = False, points: Any = POINTS) -> Annotations:
    return Annotations(f32([BOX]), np.asarray([ignore]), f32([points]), np.asarray([known], bool))


def found_at(shifts: list[float], scores: list[float], boxes: list[list[float]] | None = None) -> Detections:
    points = f32([np.add(POINTS, [shift, 0]) for shift in shifts])
    return Detections(f32(boxes or [BOX] * len(shifts)), f32(scores), points)


ALL = [1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("truth", "found", "percent", "total"),
    [
        ([], [], [], 0),  # no pictures
        ([Annotations.empty(5)], [Detections.empty(5)], [], 0),  # nothing there, nothing found
        ([Annotations.empty(0)], [Detections.empty()], [], 0),  # an object without points
        ([truth_of(ALL)], [Detections.empty()], [], 1),  # nothing found, and no points column
        ([Annotations.empty(5)], [found_at([1], [0.9])], [], 0),  # no objects
        ([truth_of(ALL)], [found_at([1], [0.9]).replace(points=None)], [], 1),  # detections have no points
        ([truth_of(ALL)], [found_at([1], [0.9])], [10], 1),
        ([truth_of([1, 1, 1, 0, 0])], [found_at([2], [0.9])], [20], 1),  # three known points are enough
        ([truth_of([1, 1, 0, 0, 0])], [found_at([2], [0.9])], [], 0),  # two are not
        ([truth_of([1, 0, 1, 1, 1])], [found_at([2], [0.9])], [], 0),  # an eye is unknown
        ([truth_of(ALL, ignore=True)], [found_at([2], [0.9])], [], 0),  # ignored
        ([truth_of(ALL, points=[POINTS[0]] * 5)], [found_at([2], [0.9])], [], 0),  # eyes coincide: d = 0
        ([truth_of(ALL)], [found_at([1], [0.5])], [10], 1),  # score 0.5 takes part
        ([truth_of(ALL)], [found_at([1], [0.49])], [], 1),
        ([truth_of(ALL)], [found_at([1, 3], [0.4, 0.9], [BOX, [0, 0, 30, 30]])], [30], 1),  # the best above 0.5
        ([truth_of(ALL)], [found_at([1, 3], [0.9, 0.6], [[0, 0, 30, 30], BOX])], [30], 1),  # IoU decides, not score
        ([truth_of(ALL)], [found_at([1, 3], [0.6, 0.9])], [10], 1),  # a tie: the first
        ([truth_of(ALL)], [found_at([1], [0.9], [[0, 0, 30, 20]])], [10], 1),  # IoU 0.5 matches
        ([truth_of(ALL)], [found_at([1], [0.9], [[0, 0, 30, 19.9]])], [], 1),
        ([truth_of(ALL)] * 2, [found_at([1], [0.9]), found_at([4], [0.9])], [10, 40], 2),
    ],
)
def test_errors(truth: list[Annotations], found: list[Detections], percent: list[float], total: int) -> None:
    errors = point_errors(truth, found)
    assert errors.percent == pytest.approx(percent, rel=1e-6)
    assert errors.total == total
    assert errors.nme == (pytest.approx(np.mean(percent)) if percent else None)


@pytest.mark.parametrize(
    ("percent", "failure_rate", "auc"),
    [
        ([], None, None),
        ([0], 0, 1),
        ([10], 0, 0),  # 10 % is no failure, and adds no area
        ([10.1], 1, 0),
        ([5], 0, 0.5),
        ([2.5, 5, 40, 12], 0.5, (0.75 + 0.5) / 4),
    ],
)
def test_failures_and_area(percent: list[float], failure_rate: float | None, auc: float | None) -> None:
    rows = np.zeros(len(percent), np.intp)
    errors = PointErrors(np.asarray(percent, np.float64), rows, rows, total=9)
    assert (errors.failure_rate, errors.auc) == (failure_rate, pytest.approx(auc) if auc is not None else None)


def test_the_area_is_that_under_the_curve() -> None:
    percent = np.random.default_rng(0).uniform(0, 20, 50)
    rows, steps = np.zeros(50, np.intp), (np.arange(100_000) + 0.5) / 10_000  # 0 to 10 %
    share = np.searchsorted(np.sort(percent), steps, side="right") / 50
    assert PointErrors(percent, rows, rows, 50).auc == pytest.approx(share.mean(), abs=1e-4)


@pytest.mark.parametrize(("name", "length"), [("eyes", 10.0), ("box", 1200**0.5), ("diagonal", 50.0)])
def test_normaliser(name: str, length: float) -> None:
    errors = point_errors([truth_of(ALL)], [found_at([2], [0.9])], Normaliser.from_value(name))
    assert errors.nme == pytest.approx(200 / length)


def test_coinciding_eyes_can_be_measured_by_the_box() -> None:
    truth = truth_of(ALL, points=[POINTS[0]] * 5)
    assert measurable(truth, Normaliser.box).tolist() == [True]
    assert measurable(truth, Normaliser.eyes).tolist() == [False]


def test_unknown_points_do_not_count() -> None:
    found = found_at([1], [0.9])
    assert found.points is not None
    points = found.points.copy()
    points[0, 3:] += 1000
    assert point_errors([truth_of([1, 1, 1, 0, 0])], [found.replace(points=points)]).nme == pytest.approx(10)


def test_mean_is_over_objects_not_points() -> None:
    truth = [truth_of(ALL), truth_of([1, 1, 1, 0, 0])]
    assert point_errors(truth, [found_at([1], [0.9]), found_at([3], [0.9])]).nme == pytest.approx(20)


def test_rows_name_the_objects() -> None:
    boxes = f32([[90, 90, 99, 99], BOX])
    truth = Annotations(boxes, np.zeros(2, bool), f32([POINTS] * 2), np.ones((2, 5), bool))
    errors = point_errors([Annotations.empty(5), truth], [Detections.empty(5), found_at([1], [0.9])])
    assert (errors.picture.tolist(), errors.row.tolist(), errors.total) == ([1], [1], 2)


def test_two_objects_may_take_one_detection() -> None:
    assert match_for_points(np.asarray([BOX, BOX]), found_at([1], [0.9])).tolist() == [0, 0]


def test_wrong_values_name_the_choices() -> None:
    with pytest.raises(ValueError, match="eyes, box, diagonal"):
        Normaliser.from_value("pupil")
    with pytest.raises(ValueError, match="4 points, the truth has 5"):
        point_errors([truth_of(ALL)], [found_at([1], [0.9]).replace(points=np.zeros((1, 4, 2)))])
