"""Contact sheets: every tile is there, in its place, and empty sheets say so."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cascade_det.core.types import CropTruth
from cascade_det.visual.contact_sheet import PAPER, contact_sheet, window_sheet
from cascade_det.visual.drawing import FOUND, POINT_COLOURS

RED, BLUE = (200, 10, 20), (20, 10, 200)


def plain(height: int, width: int, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, np.uint8)


def area(sheet: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((sheet == np.array(colour)).all(axis=2).sum())


def truth(rows: int, box: tuple[float, ...] | None = None, points: object = ()) -> CropTruth:
    xy = np.broadcast_to(np.array(points, np.float32).reshape(-1, 2), (rows, len(np.array(points).reshape(-1, 2)), 2))
    boxes = np.broadcast_to(np.array(box or (0, 0, 0, 0)), (rows, 4))
    return CropTruth(np.zeros(rows, np.int8), boxes, np.full(rows, box is not None), xy, np.ones(xy.shape[:2], bool))


def test_no_tiles_still_make_a_sheet() -> None:
    sheet = contact_sheet([], columns=4, tile_hw=(32, 32), titles=[], heading="nothing")
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    assert min(sheet.shape[:2]) > 20
    assert area(sheet, PAPER) < sheet.shape[0] * sheet.shape[1]  # something is written on it


def test_no_roles_and_empty_roles_make_a_sheet() -> None:
    empty = window_sheet({}, heading="h")
    none = window_sheet({"part": (np.zeros((0, 12, 12, 3), np.uint8), truth(0))}, heading="h")
    assert none.shape[0] > empty.shape[0]
    assert none.shape[1] == empty.shape[1]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("columns", [1, 3, 10])
def test_every_tile_is_shown_at_its_size(count: int, columns: int) -> None:
    sheet = contact_sheet([plain(20, 20, RED)] * count, columns=columns, tile_hw=(40, 40))
    assert area(sheet, RED) == count * 40 * 40
    rows_of_tiles = -(-count // columns)
    assert sheet.shape[0] > rows_of_tiles * 40
    assert sheet.shape[1] > min(columns, count) * 40


def test_tiles_read_from_left_to_right() -> None:
    sheet = contact_sheet([plain(9, 9, RED), plain(9, 9, BLUE)], columns=2, tile_hw=(30, 30))
    where = [np.nonzero((sheet == np.array(colour)).all(axis=2))[1].mean() for colour in (RED, BLUE)]
    assert where[0] < where[1]


@pytest.mark.parametrize(("size", "shown"), [((10, 20), 30 * 60), ((40, 10), 60 * 15), ((600, 600), 60 * 60)])
def test_aspect_is_kept(size: tuple[int, int], shown: int) -> None:
    assert area(contact_sheet([plain(*size, RED)], columns=1, tile_hw=(60, 60)), RED) == shown


def test_titles_and_heading_take_room_and_hide_no_pixel() -> None:
    tiles = [plain(30, 30, RED)] * 3
    bare = contact_sheet(tiles, columns=3, tile_hw=(60, 60))
    titled = contact_sheet(tiles, columns=3, tile_hw=(60, 60), titles=["a", "", "x" * 99], heading="Gr\u00fc\u00dfe")
    assert area(titled, RED) == area(bare, RED)
    assert titled.shape[0] > bare.shape[0]
    assert titled.shape[1] == bare.shape[1]


def test_tile_without_pixels_is_left_blank() -> None:
    assert area(contact_sheet([plain(0, 5, RED)], columns=1, tile_hw=(20, 20)), RED) == 0


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="got 1 titles for 2 tiles"):
        contact_sheet([plain(5, 5, RED)] * 2, columns=2, tile_hw=(9, 9), titles=["a"])
    with pytest.raises(ValueError, match="columns=0"):
        contact_sheet([], columns=0, tile_hw=(9, 9))
    with pytest.raises(ValueError, match="part: 2 crops have truth of 1 rows"):
        window_sheet({"part": (np.zeros((2, 12, 12, 3), np.uint8), truth(1))}, heading="h")
    with pytest.raises(ValueError, match="tile_px=0"):
        window_sheet({}, tile_px=0, heading="h")


@pytest.mark.parametrize("crop_hw", [(12, 12), (48, 48), (96, 96), (32, 16)])
def test_windows_are_shown_at_one_height(crop_hw: tuple[int, int]) -> None:
    crops = np.stack([plain(*crop_hw, RED)] * 5)
    sheet = window_sheet({"negative": (crops, truth(5))}, tile_px=64, columns=2, heading="h")
    assert area(sheet, RED) == 5 * 64 * round(64 * crop_hw[1] / crop_hw[0])


def test_roles_may_have_crops_of_different_sizes() -> None:
    bands = {"a": (np.stack([plain(12, 12, RED)] * 3), truth(3)), "b": (np.stack([plain(24, 48, BLUE)]), truth(1))}
    sheet = window_sheet(bands, tile_px=48, heading="h")
    assert area(sheet, RED) == 3 * 48 * 48
    assert area(sheet, BLUE) == 48 * 96


def test_crops_are_not_changed() -> None:
    crops = np.stack([plain(64, 64, RED)])
    window_sheet({"a": (crops, truth(1, (0.1, 0.1, 0.9, 0.9)))}, tile_px=64, heading="h")
    assert (crops == np.array(RED)).all()


def test_box_and_known_points_are_drawn() -> None:
    crops = np.stack([plain(12, 12, RED)])
    sheet = window_sheet({"a": (crops, truth(1, (0.25, 0.25, 0.75, 0.75), [(0.4, 0.4), (0.6, 0.4)]))}, heading="h")
    assert area(sheet, FOUND) == 4 * 32 - 4  # the outline of 32 x 32 px, its corners counted once
    assert area(sheet, POINT_COLOURS[0]) > 0
    assert area(sheet, POINT_COLOURS[1]) > 0


def test_edges_outside_the_crop_are_dashed_along_its_border() -> None:
    crops = np.stack([plain(12, 12, RED)])
    around = area(window_sheet({"a": (crops, truth(1, (-0.5, -1, 1.5, 9)))}, heading="h"), FOUND)
    exact = area(window_sheet({"a": (crops, truth(1, (0, 0, 1, 1)))}, heading="h"), FOUND)
    assert exact == 4 * 64 - 4
    assert 0.4 * exact < around < 0.6 * exact
