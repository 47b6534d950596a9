"""Drawing: what is shown where, and that pictures of any size and content are fine."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from cascade_det.core.types import Annotations, Detections
from cascade_det.visual.drawing import FOUND, IGNORED, POINT_COLOURS, TRUTH, Pen, draw, frame, shorten, text_hw, write

SIZES = [(1, 1), (3, 200), (208, 150), (640, 960), (1200, 800)]


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 90, np.uint8)


def found(*boxes: tuple[float, float, float, float], points: object = None) -> Detections:
    scores = np.linspace(1, 0.5, len(boxes)).astype(np.float32)
    return Detections(np.array(boxes).reshape(-1, 4), scores, None if points is None else np.array(points))


def has(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((image == np.array(colour)).all(axis=2))


@pytest.mark.parametrize("size", SIZES)
def test_nothing_found_gives_an_equal_copy(size: tuple[int, int]) -> None:
    image = grey(*size)
    drawn = draw(image, Detections.empty(5), truth=Annotations.empty(5))
    assert drawn is not image
    assert not np.shares_memory(drawn, image)
    np.testing.assert_array_equal(drawn, image)


def test_picture_without_pixels() -> None:
    assert draw(grey(0, 5), found((0, 0, 2, 2))).shape == (0, 5, 3)


@pytest.mark.parametrize("size", SIZES)
def test_size_kind_and_input_are_kept(size: tuple[int, int]) -> None:
    image, (height, width) = grey(*size), size
    boxes = [(0.2 * width, 0.3 * height, 0.8 * width, 0.9 * height), (-0.5 * width, -9, 3 * width, 2 * height)]
    truth = Annotations.of(np.array(boxes), 5, np.array([True, False]))
    drawn = draw(image, found(*boxes, points=np.full((2, 5, 2), [width / 2, height / 2])), truth=truth)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 90).all()
    assert (drawn != 90).any()


def test_box_is_drawn_inside_its_edges_only() -> None:
    drawn = draw(grey(100, 120), found((30, 40, 70, 80)))
    on = has(drawn, FOUND)
    for line in (on[40, 30:70], on[79, 30:70], on[40:80, 30], on[40:80, 69]):
        assert line.all()
    assert not on[41:79, 31:69].any()
    assert not on[80:, :].any()
    assert not on[:, 70:].any()
    assert not on[:, :30].any()


def test_order_of_detections_does_not_matter() -> None:
    detections = found((10, 10, 60, 60), (20, 15, 70, 65), (12, 40, 50, 90))
    np.testing.assert_array_equal(draw(grey(100, 100), detections), draw(grey(100, 100), detections[::-1]))


def test_numbers_that_are_not_finite_or_huge_do_no_harm() -> None:
    boxes = [(np.nan, 0, 5, 5), (0, 0, np.inf, 5), (-1e30, -1e30, 1e30, 1e30), (1e9, 1e9, 2e9, 2e9)]
    points = np.full((4, 5, 2), 1e30)
    points[2] = np.nan
    with np.errstate(all="raise"):
        drawn = draw(grey(50, 50), found(*boxes, points=points), truth=Annotations.of(np.array(boxes)))
    assert drawn.shape == (50, 50, 3)


@pytest.mark.parametrize(
    "box", [(0, 0, 20, 20), (-30, 20, 10, 60), (180, 10, 230, 60), (10, 120, 60, 160), (190, 140, 199, 149)]
)
def test_label_stays_whole_in_the_picture(box: tuple[float, float, float, float]) -> None:
    image_hw = (150, 200)
    drawn = draw(grey(*image_hw), found(box))
    height, width = text_hw("1.00", Pen.for_picture(image_hw).font_scale)
    without = grey(*image_hw)
    frame(without, np.array(box), FOUND, 1)
    rows, columns = np.nonzero((drawn != without).any(axis=2))
    inside = (np.array([height, width]) - [np.ptp(rows) + 1, np.ptp(columns) + 1]) <= [1, 1]
    assert inside.all()  # a side that fell on the box's own line is one shorter


def test_points_are_dots_of_their_own_colours() -> None:
    points = [[(70, 80), (130, 80), (100, 110), (80, 140), (120, 140)]]
    drawn = draw(grey(208, 208), found((50, 40, 150, 170), points=points))
    colours = [tuple(drawn[y, x]) for x, y in points[0]]
    assert colours == [*POINT_COLOURS[:5]]
    assert len(set(POINT_COLOURS)) == len(POINT_COLOURS)


def test_dots_leave_a_small_object_visible() -> None:
    box = (100, 100, 114, 114)
    points = [[(104, 105), (110, 105), (107, 107), (104, 110), (110, 110)]]
    drawn = draw(grey(640, 640), found(box, points=points))
    assert (drawn[101:113, 101:113] == 90).all(axis=2).mean() > 0.8


def test_truth_is_dashed_and_ignored_truth_grey() -> None:
    truth = Annotations.of(np.array([[20, 20, 120, 120], [30, 130, 130, 190]]), 0, np.array([False, True]))
    drawn = draw(grey(208, 208), Detections.empty(), truth=truth)
    for row, colour in ((20, TRUTH), (130, IGNORED)):
        line = has(drawn, colour)[row]
        assert 0.3 < line[30:120].mean() < 0.7


def test_only_known_points_of_truth_are_shown() -> None:
    truth = Annotations(
        np.array([[20, 20, 120, 120]]), np.zeros(1, bool), np.array([[[50, 60], [90, 60]]]), np.array([[True, False]])
    )
    drawn = draw(grey(208, 208), Detections.empty(), truth=truth)
    assert has(drawn, TRUTH)[60, 50]
    assert not has(drawn, TRUTH)[55:65, 85:95].any()


def test_strokes_grow_with_the_picture() -> None:
    pens = [Pen.for_picture((side, side // 2)) for side in (64, 208, 640, 1200, 4000)]
    for small, large in pairwise(pens):
        assert small.line_px <= large.line_px
        assert small.font_scale <= large.font_scale
        assert small.dot_px <= large.dot_px
    assert pens[0].line_px == 1
    assert pens[-1].line_px == 8


@pytest.mark.parametrize("bad", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3))])
def test_other_kinds_of_pictures_are_refused(bad: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"image must be uint8 \(H, W, 3\) RGB, got"):
        draw(bad, Detections.empty())


def test_text_fits_its_measure() -> None:
    for scale in (0.32, 0.5, 1.3):
        height, width = text_hw("0.98", scale)
        canvas = grey(height + 40, width + 40)
        write(canvas, "0.98", (20, 20), scale, (255, 255, 255))
        rows, columns = np.nonzero((canvas != 90).any(axis=2))
        assert rows.min() >= 20
        assert rows.max() < 20 + height
        assert columns.min() >= 20
        assert columns.max() < 20 + width


@pytest.mark.parametrize("width", [0, 20, 60, 1000])
def test_shortened_text_fits(width: int) -> None:
    short = shorten("images/net7876/105_0_0.jpg", 0.36, width)
    assert short == "" or text_hw(short, 0.36)[1] <= width


@pytest.mark.parametrize(("objects", "labelled"), [(20, True), (21, False)])
def test_small_objects_of_a_crowd_go_without_labels(objects: int, labelled: bool) -> None:
    corner = np.stack([np.arange(objects) * 30.0 + 10, np.full(objects, 100.0)], axis=1)
    small = Detections(np.concatenate([corner, corner + 12], axis=1), np.full(objects, 0.9))
    canvas = draw(np.zeros((200, 800, 3), np.uint8), small)
    outside = np.ones(canvas.shape[:2], bool)
    for x, y in corner.astype(int):
        outside[y - 3 : y + 16, x - 3 : x + 16] = False
    assert bool(canvas[outside].any()) == labelled
