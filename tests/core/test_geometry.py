"""Boxes and frames: overlap, aspect, and truth that follows its crop through turn and mirror."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cascade_det.core.geometry import (
    aspect_reach,
    box_area,
    box_sides,
    clip_boxes,
    coverage_matrix,
    crop_truth,
    fit_similarity,
    fit_to_aspect,
    intersection_matrix,
    iou_matrix,
    mirror_detections,
    mirror_truth,
    similarity_windows,
)
from cascade_det.core.types import Annotations, CropPlan, CropTruth, Detections, SampleRole
from cascade_det.heads.box_offset import BoxOffset

quick = settings(deadline=None, max_examples=40)
NONE = np.zeros((0, 4), np.float32)
FLIP = np.array([1, 0, 2])
windows = st.tuples(st.integers(4, 60), st.integers(4, 60))


@st.composite
def box_arrays(draw: st.DrawFn, smallest: int = 0, rows: int = 6) -> NDArray[np.float32]:
    """Return up to `rows` boxes with whole edges, sides from `smallest` to 40, some of them outside the origin."""
    sides = st.integers(smallest, 40)
    row = st.tuples(st.integers(-30, 60), st.integers(-30, 60), sides, sides)
    corners = np.array(draw(st.lists(row, max_size=rows)), np.float32).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)


def pixel_count(a: Any, b: Any) -> tuple[int, int]:
    """Return the pixels in both boxes and in either, counted one by one."""
    inside = []
    for x0, y0, x1, y1 in (a, b):
        inside.append({(x, y) for x in range(int(x0), int(x1)) for y in range(int(y0), int(y1))})
    return len(inside[0] & inside[1]), len(inside[0] | inside[1])


@pytest.mark.parametrize("function", [iou_matrix, coverage_matrix, intersection_matrix])
def test_no_boxes(function: Any) -> None:
    one = np.array([[0, 0, 2, 2]], np.float32)
    assert function(NONE, one).shape == (0, 1)
    assert function(one, NONE).shape == (1, 0)
    assert function(NONE, NONE).shape == (0, 0)


def test_no_boxes_elsewhere() -> None:
    assert fit_to_aspect(NONE, (12, 24)).shape == clip_boxes(NONE, (9, 9)).shape == (0, 4)
    assert aspect_reach(NONE, (12, 12)).shape == box_area(NONE).shape == (0,)


@pytest.mark.parametrize(
    ("a", "b", "iou", "coverage"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1, 1),
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3, 1 / 2),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0, 0),  # edges touch: nothing in common
        ([0, 0, 10, 10], [2, 2, 4, 4], 0.04, 1),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0, 0),  # no area
        ([3, 3, 1, 1], [0, 0, 4, 4], 0, 0),  # inverted
    ],
)
def test_overlap_of_two(a: list[int], b: list[int], iou: float, coverage: float) -> None:
    one, two = np.array([a], np.float32), np.array([b], np.float32)
    assert iou_matrix(one, two)[0, 0] == pytest.approx(iou)
    assert iou_matrix(two, one)[0, 0] == pytest.approx(iou)
    assert coverage_matrix(one, two)[0, 0] == pytest.approx(coverage)


@quick
@given(box_arrays(rows=3), box_arrays(rows=3))
def test_overlap_counts_pixels(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    iou = iou_matrix(a, b)
    assert iou.shape == (len(a), len(b))
    for i, one in enumerate(a):
        for j, two in enumerate(b):
            common, either = pixel_count(one, two)
            assert intersection_matrix(a, b)[i, j] == common
            assert iou[i, j] == pytest.approx(common / max(either, 1))


@quick
@given(box_arrays(), windows)
def test_fit_encloses_with_the_window_aspect(boxes: NDArray[np.float32], window_hw: tuple[int, int]) -> None:
    fitted = fit_to_aspect(boxes, window_hw)
    assert fitted.dtype == boxes.dtype
    width, height = box_sides(fitted)
    np.testing.assert_allclose(width * window_hw[0], height * window_hw[1], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(fitted[:, :2] + fitted[:, 2:], boxes[:, :2] + boxes[:, 2:], atol=1e-3)
    assert (fitted[:, :2] <= boxes[:, :2] + 1e-3).all()
    assert (fitted[:, 2:] >= boxes[:, 2:] - 1e-3).all()
    own_width, own_height = box_sides(boxes)
    touches = np.minimum(np.abs(width - own_width), np.abs(height - own_height))  # the smallest: one side is kept
    np.testing.assert_allclose(touches, 0, atol=1e-3)
    np.testing.assert_allclose(fit_to_aspect(fitted, window_hw), fitted, atol=1e-3)


@pytest.mark.parametrize(
    ("box", "window_hw", "expected"),
    [
        ([0, 0, 10, 20], (12, 12), [-5, 0, 15, 20]),
        ([0, 0, 20, 10], (12, 12), [0, -5, 20, 15]),
        ([0, 0, 10, 10], (24, 12), [0, -5, 10, 15]),  # twice as high as wide
        ([0, 0, 10, 10], (12, 24), [-5, 0, 15, 10]),
    ],
)
def test_fit_by_hand(box: list[int], window_hw: tuple[int, int], expected: list[int]) -> None:
    np.testing.assert_allclose(fit_to_aspect(np.array([box], np.float32), window_hw), [expected])


@pytest.mark.parametrize("object_hw", [(10, 10), (20, 10), (10, 30), (7, 31)])
@pytest.mark.parametrize("window_hw", [(12, 12), (24, 12), (12, 47)])
def test_reach_is_the_best_iou_of_any_window(object_hw: tuple[int, int], window_hw: tuple[int, int]) -> None:
    height, width = object_hw
    box = np.array([[-width / 2, -height / 2, width / 2, height / 2]])
    half = np.geomspace(0.5, 200, 4000)[:, None]
    half_hw = np.concatenate([half, half * window_hw[1] / window_hw[0]], axis=1)
    tried = np.concatenate([-half_hw[:, ::-1], half_hw[:, ::-1]], axis=1)
    ratio = (height / width) / (window_hw[0] / window_hw[1])
    root = np.sqrt(min(ratio, 1 / ratio))
    assert aspect_reach(box, window_hw)[0] == pytest.approx(root / (2 - root))
    assert aspect_reach(box, window_hw)[0] == pytest.approx(iou_matrix(tried, box).max(), abs=2e-3)


@pytest.mark.parametrize("box", [[0, 0, 0, 9], [0, 0, 9, 0], [4, 4, 4, 4]])
def test_reach_of_a_line_is_nothing(box: list[int]) -> None:
    assert aspect_reach(np.array([box], np.float32), (12, 12))[0] == pytest.approx(0, abs=1e-3)


def test_clip() -> None:
    clipped = clip_boxes(np.array([[-3, -4, 50, 60], [2, 3, 4, 5]], np.float32), (20, 30))
    np.testing.assert_array_equal(clipped, [[0, 0, 30, 20], [2, 3, 4, 5]])
    assert clipped.dtype == np.float32


def truth_of(box: list[float], points: list[list[float]], known: list[bool] | None = None) -> Annotations:
    """Return one object with its points; `known` by default all."""
    return Annotations(
        np.array([box], np.float32),
        np.zeros(1, bool),
        np.array([points], np.float32),
        np.ones((1, len(points)), bool) if known is None else np.array([known]),
        {"age": np.array([7])},
    )


def plan_of(window: list[float], angle: float = 0, mirror: bool = False, truth: int = 0) -> CropPlan:
    """Return a plan of one window."""
    role = [SampleRole.points]
    return CropPlan(*map(np.array, ([window], role, [truth], [angle], [mirror])))


# a window of 20 x 10 px at (100, 50) with an object in its left half and three points
OBJECT = truth_of([100, 50, 110, 60], [[102, 55], [108, 55], [105, 59]])
WINDOW = [100.0, 50.0, 120.0, 60.0]


@pytest.mark.parametrize(
    ("angle", "mirror", "box", "points"),
    [
        (0, False, [0, 0, 0.5, 1], [[0.1, 0.5], [0.4, 0.5], [0.25, 0.9]]),
        (0, True, [0.5, 0, 1, 1], [[0.6, 0.5], [0.9, 0.5], [0.75, 0.9]]),
        (180, False, [0.5, 0, 1, 1], [[0.9, 0.5], [0.6, 0.5], [0.75, 0.1]]),
        # a window turned clockwise sees the picture turned the other way: offsets (-8, 0), (-2, 0), (-5, 4) from the
        # centre become (0, 8), (0, 2), (4, 5)
        (90, False, [0.25, 0.5, 0.75, 1.5], [[0.5, 1.3], [0.5, 0.7], [0.7, 1.0]]),
    ],
)
def test_truth_in_the_crop_by_hand(angle: float, mirror: bool, box: list[float], points: list[list[float]]) -> None:
    moved = crop_truth(plan_of(WINDOW, angle, mirror), OBJECT, FLIP)
    np.testing.assert_allclose(moved.box, [box], atol=1e-5)
    np.testing.assert_allclose(moved.points, [points], atol=1e-5)
    assert moved.points_known.all()
    assert moved.has_box.all()
    assert moved.role.tolist() == [SampleRole.points]
    assert moved.extras["age"].tolist() == [7]


def test_a_picture_without_objects_keeps_its_columns() -> None:
    moved = crop_truth(plan_of(WINDOW, truth=-1), OBJECT[:0], FLIP)
    assert {name: (column.shape, column.dtype) for name, column in moved.extras.items()} == {
        name: ((1, *column.shape[1:]), column.dtype) for name, column in OBJECT.extras.items()
    }


def test_no_windows_and_no_objects() -> None:
    none = CropPlan.concat([])
    assert len(crop_truth(none, OBJECT, FLIP)) == 0
    assert crop_truth(none, OBJECT, FLIP).points.shape == (0, 3, 2)
    assert len(crop_truth(none, Annotations.empty(3), FLIP)) == 0
    background = crop_truth(plan_of(WINDOW, truth=-1), Annotations.empty(3), FLIP)
    for found in (background, crop_truth(plan_of(WINDOW, 30, True, truth=-1), OBJECT, FLIP)):
        assert not found.has_box.any()
        assert not found.box.any()
        assert not found.points.any()
        assert not found.points_known.any()


def test_no_points_at_all() -> None:
    truth = Annotations.of(np.array([[100, 50, 110, 60]]))
    moved = crop_truth(plan_of(WINDOW, 10, True), truth, np.arange(0))
    assert moved.points.shape == (1, 0, 2)
    assert mirror_truth(moved, np.array([True]), np.arange(0)).points_known.shape == (1, 0)


@pytest.mark.parametrize(("mirror", "known"), [(False, [True, False, True]), (True, [False, True, True])])
def test_an_unknown_point_holds_nothing_and_follows_the_mirror(mirror: bool, known: list[bool]) -> None:
    truth = truth_of([100, 50, 110, 60], [[102, 55], [108, 55], [105, 59]], [True, False, True])
    moved = crop_truth(plan_of(WINDOW, mirror=mirror), truth, FLIP)
    np.testing.assert_array_equal(moved.points_known, [known])
    assert not moved.points[~moved.points_known].any()
    left = moved.points[0, 1 if mirror else 0]  # the point that is left in the picture is right in the mirror
    np.testing.assert_allclose(left, [0.9, 0.5] if mirror else [0.1, 0.5], atol=1e-6)


angles = st.floats(-180, 180, width=32)


@quick
@given(angles, st.booleans(), windows)
def test_points_go_back_to_the_picture(angle: float, mirror: bool, window_hw: tuple[int, int]) -> None:
    """Undo the documented frame by hand: unmirror, scale, turn clockwise on the screen, move to the centre."""
    points = np.array([[[3, 4], [9, -2], [0, 0]]], np.float32)
    window = fit_to_aspect(np.array([[-7, -9, 20, 14]], np.float32), window_hw)
    truth = Annotations(np.zeros((1, 4)), np.zeros(1, bool), points, np.ones((1, 3), bool))
    moved = crop_truth(plan_of(window[0].tolist(), angle, mirror), truth, np.arange(3))
    unit = moved.points[0].astype(np.float64)
    if mirror:
        unit[:, 0] = 1 - unit[:, 0]
    offset = (unit - 0.5) * (window[0, 2:] - window[0, :2])
    radians = np.deg2rad(angle)
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    np.testing.assert_allclose(offset @ turn.T + (window[0, :2] + window[0, 2:]) / 2, points[0], atol=1e-3)


@quick
@given(box_arrays(smallest=4, rows=1), angles)
def test_a_turned_box_holds_all_four_corners(boxes: NDArray[np.float32], angle: float) -> None:
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    known = np.ones((len(boxes), 4), bool)
    truth = Annotations(boxes, np.zeros(len(boxes), bool), corners, known)
    plan = CropPlan.concat([plan_of([-10, -10, 50, 20], angle)] * len(boxes))
    moved = crop_truth(plan, truth, np.arange(4))
    hull = np.concatenate([moved.points.min(axis=1), moved.points.max(axis=1)], axis=1)
    np.testing.assert_allclose(moved.box, hull, atol=1e-5)


@st.composite
def crop_truths(draw: st.DrawFn) -> CropTruth:
    rows = draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    has_box, known = rng.random(rows) < 0.7, rng.random((rows, 3)) < 0.6
    low = rng.uniform(-0.5, 0.5, (rows, 2))
    box = np.concatenate([low, low + rng.uniform(0.1, 1, (rows, 2))], axis=1)
    return CropTruth(
        np.zeros(rows, np.int8),
        np.where(has_box[:, None], box, 0),
        has_box,
        np.where(known[..., None], rng.random((rows, 3, 2)), 0),
        known,
    )


@quick
@given(crop_truths(), st.integers(0, 31))
def test_mirror_twice_is_nothing(truth: CropTruth, bits: int) -> None:
    chosen = (bits >> np.arange(len(truth)) & 1).astype(bool)
    once = mirror_truth(truth, chosen, FLIP)
    twice = mirror_truth(once, chosen, FLIP)
    for name in ("box", "points"):
        np.testing.assert_allclose(getattr(twice, name), getattr(truth, name), atol=1e-6)
        np.testing.assert_array_equal(getattr(once, name)[~chosen], getattr(truth, name)[~chosen])
    np.testing.assert_array_equal(twice.points_known, truth.points_known)
    np.testing.assert_array_equal(once.has_box, truth.has_box)
    assert not once.box[~once.has_box].any()
    assert not once.points[~once.points_known].any()


@quick
@given(crop_truths())
def test_mirror_swaps_and_negates_the_horizontal_offsets(truth: CropTruth) -> None:
    truth = truth.replace(has_box=np.ones(len(truth), bool))
    before, after = (BoxOffset().encode(t) for t in (truth, mirror_truth(truth, np.ones(len(truth), bool), FLIP)))
    np.testing.assert_allclose(after[:, [0, 2]], -before[:, [2, 0]], atol=1e-6)
    np.testing.assert_array_equal(after[:, [1, 3]], before[:, [1, 3]])


@quick
@given(st.floats(-40, 40), st.booleans())
def test_mirror_of_a_crop_equals_a_mirrored_window(angle: float, mirror: bool) -> None:
    """Flipping a crop while fitting teaches what cutting the window mirrored teaches."""
    truth = truth_of([100, 50, 110, 60], [[102, 55], [108, 55], [105, 59]], [True, False, True])
    flipped = mirror_truth(crop_truth(plan_of(WINDOW, angle, mirror), truth, FLIP), np.array([True]), FLIP)
    cut = crop_truth(plan_of(WINDOW, angle, not mirror), truth, FLIP)
    np.testing.assert_allclose(flipped.box, cut.box, atol=1e-5)
    np.testing.assert_allclose(flipped.points, cut.points, atol=1e-5)
    np.testing.assert_array_equal(flipped.points_known, cut.points_known)


def umeyama(points: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the similarity of least squares as the paper has it, by a singular value decomposition."""
    p, q = points - points.mean(axis=0), target - target.mean(axis=0)
    u, d, vt = np.linalg.svd(q.T @ p / len(p))
    sign = np.array([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    a = (d * sign).sum() / (p**2).sum(axis=1).mean() * (u * sign) @ vt
    return np.column_stack([a, target.mean(axis=0) - a @ points.mean(axis=0)])


FIVE = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])
moves = st.tuples(st.floats(0.05, 20), st.floats(-180, 180), st.floats(-500, 500), st.floats(-500, 500))


class TestSimilarity:
    def test_no_objects(self) -> None:
        maps = fit_similarity(np.zeros((0, 5, 2)), FIVE)
        assert maps.shape == (0, 2, 3)
        assert len(similarity_windows(maps, (112, 96))) == 0

    @given(st.lists(moves, min_size=1, max_size=4), st.integers(2, 5))
    @quick
    def test_a_similarity_is_found_again(self, rows: list[tuple[float, ...]], count: int) -> None:
        scale, angle, dx, dy = np.array(rows).T
        cos, sin = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
        moved = np.stack([cos, -sin, dx, sin, cos, dy], axis=1).reshape(-1, 2, 3)
        target = FIVE[:count]
        points = (target - moved[:, None, :, 2]) @ np.linalg.inv(moved[:, :, :2]).transpose(0, 2, 1)
        found = fit_similarity(points, target)
        assert found[:, :, :2] == pytest.approx(moved[:, :, :2], rel=1e-7, abs=1e-7)
        assert points @ found[:, :, :2].transpose(0, 2, 1) + found[:, None, :, 2] == pytest.approx(
            np.broadcast_to(target, points.shape), abs=1e-5
        )

    @given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 5.0, 60.0]), st.booleans())
    @quick
    def test_it_is_the_papers_and_never_mirrors(self, seed: int, noise: float, mirrored: bool) -> None:
        points = FIVE * ([-1, 1] if mirrored else [1, 1]) + np.random.default_rng(seed).normal(0, noise, (3, 5, 2))
        found = fit_similarity(points, FIVE)
        assert found == pytest.approx(np.stack([umeyama(one, FIVE) for one in points]), rel=1e-6, abs=1e-6)
        assert (np.linalg.det(found[:, :, :2]) > 0).all()
        assert found[:, 0, :2] == pytest.approx(found[:, 1, 1::-1] * [1, -1], rel=1e-12)  # no shear, one scale

    @pytest.mark.parametrize(
        ("points", "fixed"),
        [
            (FIVE, True),
            (FIVE[[0, 0, 0, 0, 1]], True),  # two places are enough
            (FIVE * [1, 0], True),  # on a line
            (np.full((5, 2), 0.0), False),
            (np.full((5, 2), 4000.1), False),
            (np.float32(4000.1) + np.eye(5, 2, dtype=np.float32) * np.float32(2**-12), False),  # by rounding alone
            (np.where(np.eye(5, 2) > 0, np.nan, FIVE), False),
            (np.where(np.eye(5, 2) > 0, np.inf, FIVE), False),
        ],
    )
    def test_points_that_fix_no_turn(self, points: Any, fixed: bool) -> None:
        found = fit_similarity(np.stack([points, FIVE]), FIVE)
        assert np.isfinite(found[0]).all() == fixed
        assert np.isnan(found[0]).any() != fixed
        assert np.isfinite(found[1]).all()

    def test_a_square_in_a_mirror_fixes_no_turn(self) -> None:
        square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
        assert np.isnan(fit_similarity(square[None] * [-1, 1] + [7.3, 0], square)).all()

    @given(st.integers(0, 2**32 - 1), windows)
    @quick
    def test_windows_see_the_points_where_the_similarity_puts_them(self, seed: int, crop_hw: tuple[int, int]) -> None:
        rng = np.random.default_rng(seed)
        points = (rng.normal(0, 5, (3, 5, 2)) + FIVE).astype(np.float32)
        maps = fit_similarity(points, FIVE * rng.uniform(0.2, 3) @ np.array([[0.6, -0.8], [0.8, 0.6]]))
        plan = similarity_windows(maps, crop_hw)
        truth = Annotations.of(np.zeros((3, 4)), 5).replace(points=points, points_known=np.ones((3, 5), bool))
        plan = plan.__class__(plan.boxes, plan.role, np.arange(3), plan.angle_deg, plan.mirror)
        seen = crop_truth(plan, truth, np.arange(5)).points * [crop_hw[1], crop_hw[0]]
        assert seen == pytest.approx(points @ maps[:, :, :2].transpose(0, 2, 1) + maps[:, None, :, 2], abs=0.01)


class TestMirroredDetections:
    FOUND = Detections(
        np.array([[1, 2, 5, 9], [0, 0, 4, 4]]), np.array([0.9, 0.5]), np.array([[[2, 3], [4, 3]], [[1, 1], [3, 2]]])
    )

    @pytest.mark.parametrize("points", [None, np.zeros((0, 2, 2), np.float32)])
    def test_none(self, points: NDArray[np.float32] | None) -> None:
        none = Detections(np.zeros((0, 4)), np.zeros(0), points)
        assert len(mirror_detections(none, 10, np.array([1, 0]))) == 0

    def test_in_a_picture_of_ten_pixels(self) -> None:
        now = mirror_detections(self.FOUND, 10, np.array([1, 0]))
        assert now.boxes.tolist() == [[5, 2, 9, 9], [6, 0, 10, 4]]
        assert now.points is not None
        assert now.points.tolist() == [[[6, 3], [8, 3]], [[7, 2], [9, 1]]]

    def test_twice_is_the_first_whatever_the_windows(self) -> None:
        edges = np.array([6, 4.5])
        once = mirror_detections(self.FOUND, edges, np.array([1, 0]))
        twice = mirror_detections(once, edges, np.array([1, 0]))
        assert np.allclose(twice.boxes, self.FOUND.boxes)
        assert twice.points is not None
        assert np.allclose(twice.points, self.FOUND.points)
