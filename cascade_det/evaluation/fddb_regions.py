"""Overlaps of regions as the FDDB program measures them: pixel masks of the size of the image."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascade_det.evaluation.fddb_files import ELLIPSE

Floats = NDArray[np.float64]


class _Masks(NamedTuple):
    """Masks of N regions, each cut to a window around it.

    Attributes:
        windows: ``(N, 4)`` x0 y0 x1 y1 in whole pixels within the image; a region outside of it has an empty one.
        pixels: bool ``(y1 - y0, x1 - x0)`` each.
    """

    windows: NDArray[np.intp]
    pixels: list[NDArray[np.bool_]]


def mask_overlaps(a_rows: Floats, b_rows: Floats, image_hw: tuple[int, int]) -> Floats:
    """Return the pixels in both regions over those in either, ``(N, M)``; 0 where neither has a pixel in the image.

    Args:
        a_rows, b_rows: ``(N, 5)`` rectangles ``x y w h score`` or ``(N, 6)`` ellipses ``major_radius minor_radius angle
            center_x center_y score``, angle in radians; what lies outside the image does not exist.
        image_hw: size of the image in pixels.
    """
    a, b = _masks(a_rows, image_hw), _masks(b_rows, image_hw)
    low = np.maximum(a.windows[:, None, :2], b.windows[None, :, :2])
    high = np.minimum(a.windows[:, None, 2:], b.windows[None, :, 2:])
    both = np.zeros((len(a_rows), len(b_rows)))
    for i, j in np.argwhere((high > low).all(axis=2)).tolist():
        window = (*low[i, j], *high[i, j])
        both[i, j] = np.count_nonzero(_part(a, i, window) & _part(b, j, window))
    areas = [np.asarray([np.count_nonzero(pixels) for pixels in masks.pixels], np.float64) for masks in (a, b)]
    either = areas[0][:, None] + areas[1][None] - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def _masks(rows: Floats, image_hw: tuple[int, int]) -> _Masks:
    return _ellipses(rows, image_hw) if rows.shape[1] == ELLIPSE else _rectangles(rows, image_hw)


def _part(masks: _Masks, row: int, window: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = window
    left, top = masks.windows[row, :2]
    return masks.pixels[row][y0 - top : y1 - top, x0 - left : x1 - left]


def _rectangles(rows: Floats, image_hw: tuple[int, int]) -> _Masks:
    """Both corners belong to a rectangle; a negative side swaps them."""
    corners = _rounded(np.stack([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1))
    windows = _clipped(corners.min(axis=1), corners.max(axis=1) + 1, image_hw)
    widths, heights = (windows[:, 2:] - windows[:, :2]).T
    return _Masks(windows, [np.ones((height, width), bool) for width, height in zip(widths, heights, strict=True)])


def _ellipses(rows: Floats, image_hw: tuple[int, int]) -> _Masks:
    """Polygons as OpenCV draws them: the centre rounded, the radii truncated, the angle rounded to degrees there."""
    import cv2

    centres, radii = _rounded(rows[:, 3:5]), np.trunc(rows[:, :2])
    reach = radii.max(axis=1, keepdims=True) + 2  # vertices are rounded, and the border is drawn
    windows = _clipped(centres - reach, centres + reach + 1, image_hw)
    pixels = []
    for centre, axes, angle, (x0, y0, x1, y1) in zip(
        centres.astype(int).tolist(), radii.astype(int).tolist(), rows[:, 2].tolist(), windows.tolist(), strict=True
    ):
        mask = np.zeros(image_hw if x1 > x0 and y1 > y0 else (1, 1), np.uint8)
        degrees = 180 - (math.pi - angle) * 180 / math.pi
        cv2.ellipse(mask, centre, axes, degrees, 0, 360, 1, -1)  # on the whole image: it clips differently on a part
        pixels.append(mask[y0:y1, x0:x1].astype(bool))
    return _Masks(windows, pixels)


def _rounded(values: Floats) -> Floats:
    """Return values rounded as the program does, to float32 and then to whole numbers, halves to even ones."""
    return np.rint(values.astype(np.float32)).astype(np.float64)


def _clipped(low_xy: Floats, high_xy: Floats, image_hw: tuple[int, int]) -> NDArray[np.intp]:
    """Return windows ``(N, 4)`` from `low_xy` up to and without `high_xy`, cut to the image; empty outside of it."""
    size_xy = image_hw[::-1]
    return np.concatenate([np.clip(low_xy, 0, size_xy), np.clip(high_xy, 0, size_xy)], axis=1).astype(np.intp)
