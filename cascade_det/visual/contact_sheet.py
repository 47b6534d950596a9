"""Contact sheets: many pictures on one, and the windows that mining cut, by role, with their truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from cascade_det.core.types import CropTruth
from cascade_det.visual.drawing import FOUND, Colour, Pixels, dots, frame, shorten, text_hw, write

PAPER: Colour = (28, 30, 34)
INK: Colour = (235, 235, 235)
FAINT: Colour = (150, 155, 165)
_GAP_PX = 4
_MARGIN_PX = 10
_CAPTION = 0.36
_HEADING = 0.6
_SMALLEST_SHEET_PX = 320  # so that headings fit above a few small tiles


def contact_sheet(
    tiles: Sequence[Pixels],
    *,
    columns: int,
    tile_hw: tuple[int, int],
    titles: Sequence[str] | None = None,
    heading: str | None = None,
) -> Pixels:
    """Return one picture with `tiles` in rows, each fitted into an area of equal size with its title below.

    Args:
        tiles: uint8 ``(h, w, 3)`` RGB of any sizes; none give a sheet that says so.
        columns: tiles in a row.
        tile_hw: height and width in pixels that each is fitted into, its aspect kept.
        titles: one line a tile, shortened where it is wider than the tile.
        heading: one line above all.

    Returns:
        uint8 ``(H, W, 3)`` RGB.

    Raises:
        ValueError: `titles` are not as many as `tiles`, or a size is not positive.
    """
    if titles is not None and len(titles) != len(tiles):
        raise ValueError(f"titles must be one a tile: got {len(titles)} titles for {len(tiles)} tiles")
    if columns < 1 or min(tile_hw) < 1:
        raise ValueError(f"columns and tile_hw must be positive, got columns={columns}, tile_hw={tile_hw}")
    cells = [_letterbox(tile, tile_hw) for tile in tiles]
    if titles is not None:
        caption_px = text_hw("Ag", _CAPTION)[0] + 2
        cells = [_captioned(cell, title, caption_px) for cell, title in zip(cells, titles, strict=True)]
    return _page([(None, cells)], columns=max(1, min(columns, len(cells))), heading=heading)


def window_sheet(
    crops_by_role: Mapping[str, tuple[Pixels, CropTruth]], *, tile_px: int = 64, columns: int = 16, heading: str
) -> Pixels:
    """Return a contact sheet of training windows: a band a role, each window with the box and points that it teaches.

    Args:
        crops_by_role: for each role's name uint8 crops ``(M, h, w, 3)`` RGB and their truth of M rows.
        tile_px: height in pixels that a crop is enlarged to, pixel by pixel.
        columns: windows in a row.
        heading: one line above all.

    Returns:
        uint8 ``(H, W, 3)`` RGB. An edge of a truth box that lies outside its crop is not shown in full green but as
        dashes along the crop's border. A role without crops says "none".

    Raises:
        ValueError: crops and truth differ in number, or a size is not positive.
    """
    if columns < 1 or tile_px < 1:
        raise ValueError(f"columns and tile_px must be positive, got columns={columns}, tile_px={tile_px}")
    bands: list[tuple[str | None, list[Pixels]]] = []
    for role, (crops, truth) in crops_by_role.items():
        if len(crops) != len(truth):
            raise ValueError(f"{role}: {len(crops)} crops have truth of {len(truth)} rows")
        tiles = [_window_tile(crop, truth, row, tile_px) for row, crop in enumerate(crops)]
        bands.append((f"{role}: {len(tiles)}", tiles))
    widest = max((len(tiles) for _, tiles in bands), default=1)
    return _page(bands, columns=max(1, min(columns, widest)), heading=heading)


def _window_tile(crop: Pixels, truth: CropTruth, row: int, tile_px: int) -> Pixels:
    """Return a crop ``(h, w, 3)`` at `tile_px` height with the truth of `row` drawn on it."""
    height, width = crop.shape[:2]
    tile_w = max(1, round(width * tile_px / max(height, 1)))
    tile = _resized(crop, (tile_px, tile_w), cv2.INTER_NEAREST if tile_px >= height else cv2.INTER_AREA)
    size = np.array([tile_w, tile_px])
    if truth.has_box[row]:
        box = truth.box[row].reshape(2, 2) * size
        visible = np.clip(box, 0, size)
        frame(tile, visible.ravel(), FOUND, 1, dash_px=2)
        frame(tile, box.ravel(), FOUND, 1)
    dots(tile, truth.points[row] * size, truth.points_known[row], max(1, tile_px // 32))
    return tile


def _resized(image: Pixels, size_hw: tuple[int, int], interpolation: int) -> Pixels:
    return np.array(cv2.resize(image, (size_hw[1], size_hw[0]), interpolation=interpolation), np.uint8)


def _letterbox(image: Pixels, tile_hw: tuple[int, int]) -> Pixels:
    """Return `image` in the middle of a tile, as large as fits."""
    tile = _sheet(tile_hw)
    height, width = image.shape[:2]
    if height == 0 or width == 0:
        return tile
    scale = min(tile_hw[0] / height, tile_hw[1] / width)
    fitted_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
    fitted = _resized(image, fitted_hw, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (tile_hw[0] - fitted_hw[0]) // 2, (tile_hw[1] - fitted_hw[1]) // 2
    tile[top : top + fitted_hw[0], left : left + fitted_hw[1]] = fitted
    return tile


def _captioned(cell: Pixels, title: str, caption_px: int) -> Pixels:
    height, width = cell.shape[:2]
    framed = _sheet((height + caption_px, width))
    framed[:height] = cell
    write(framed, shorten(title, _CAPTION, width), (0, height), _CAPTION, FAINT)
    return framed


def _page(bands: Sequence[tuple[str | None, Sequence[Pixels]]], *, columns: int, heading: str | None) -> Pixels:
    """Return the bands below each other, each with its title where it has one, in as many columns."""
    rows = [grid_row for _, cells in bands for grid_row in _rows(cells, columns)]
    widest = max((sum(cell.shape[1] + _GAP_PX for cell in row) - _GAP_PX for row in rows), default=0)
    width = max(widest, _SMALLEST_SHEET_PX)
    parts = [] if heading is None else [_line(heading, _HEADING, INK, width)]
    for title, cells in bands:
        if title is not None:
            parts.append(_line(title, (_HEADING + _CAPTION) / 2, INK, width))
        if not cells:
            parts.append(_line("none", _CAPTION, FAINT, width))
        parts += [_grid_row(row, width) for row in _rows(cells, columns)]
    if not bands:
        parts.append(_line("none", _CAPTION, FAINT, width))
    content = np.concatenate(parts)
    page = _sheet((content.shape[0] + 2 * _MARGIN_PX, width + 2 * _MARGIN_PX))
    page[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX] = content
    return page


def _rows(cells: Sequence[Pixels], columns: int) -> Iterator[Sequence[Pixels]]:
    return (cells[start : start + columns] for start in range(0, len(cells), columns))


def _grid_row(cells: Sequence[Pixels], width: int) -> Pixels:
    strip, left = _sheet((max(cell.shape[0] for cell in cells) + _GAP_PX, width)), 0
    for cell in cells:
        strip[: cell.shape[0], left : left + cell.shape[1]] = cell
        left += cell.shape[1] + _GAP_PX
    return strip


def _line(text: str, font_scale: float, ink: Colour, width: int) -> Pixels:
    strip = _sheet((text_hw(text, font_scale)[0] + 2 * _GAP_PX, width))
    write(strip, shorten(text, font_scale, width), (0, _GAP_PX), font_scale, ink)
    return strip


def _sheet(size_hw: tuple[int, int]) -> Pixels:
    return np.full((*size_hw, 3), PAPER, np.uint8)
