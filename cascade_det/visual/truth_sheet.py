"""Annotated pictures as tiles of a contact sheet, to look at the truth before anything learns from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade_det.core.imaging import Resample, Resampler
from cascade_det.core.types import Annotations
from cascade_det.visual.drawing import IGNORED, TRUTH, Pen, Pixels, dots, frame

_COLOUR_NAMES = ("red", "blue", "yellow", "pink", "cyan", "orange", "violet")  # of drawing.POINT_COLOURS, in order


def truth_tile(image: Pixels, truth: Annotations, tile_hw: tuple[int, int]) -> Pixels:
    """Return a picture scaled to fit into a tile, with its objects drawn at that size, so that lines stay thin.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        truth: boxes yellow, ignored ones grey; each point in a colour of its own.
        tile_hw: height and width in pixels that it is to fit into; a smaller picture is enlarged.
    """
    scale = min(tile_hw[0] / image.shape[0], tile_hw[1] / image.shape[1])
    level_hw = (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
    tile = np.array(Resampler(image, Resample.area).level(level_hw), np.uint8)
    pen = Pen.for_picture(level_hw)
    for row in np.argsort(~truth.ignore, kind="stable"):  # what counts lies on top
        box = truth.boxes[row] * scale
        frame(tile, box, IGNORED if truth.ignore[row] else TRUTH, pen.line_px)
        dots(tile, truth.points[row] * scale, truth.points_known[row], pen.dot_in(box))
    return tile


def legend(point_names: Sequence[str]) -> str:
    """Return which colour each point has; colours repeat after the seventh."""
    colours = (_COLOUR_NAMES[number % len(_COLOUR_NAMES)] for number in range(len(point_names)))
    return ", ".join(f"{name} {colour}" for name, colour in zip(point_names, colours, strict=True))
