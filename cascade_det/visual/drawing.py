"""Detections and truth drawn onto a picture, and the strokes that this and the contact sheets are made of.

All pictures are uint8 ``(H, W, 3)`` RGB. The strokes change the array that they are given; `draw` returns a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import intersection_matrix
from cascade_det.core.types import Annotations, Detections

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

FOUND: Colour = (60, 255, 90)
TRUTH: Colour = (255, 235, 60)
IGNORED: Colour = (165, 165, 165)
INK: Colour = (0, 0, 0)
POINT_COLOURS: tuple[Colour, ...] = (  # two eyes, nose, two mouth corners: left and right differ at a glance
    (255, 70, 70),
    (70, 150, 255),
    (255, 225, 50),
    (255, 100, 230),
    (60, 235, 235),
    (255, 160, 40),
    (180, 120, 255),
)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SMALLEST_FONT = 0.32  # below, digits of this font run together
_CROWD = 20  # detections in a picture from which small objects go without a label


@dataclass(frozen=True, slots=True)
class Pen:
    """Sizes that suit one picture.

    Attributes:
        line_px: width of a box's line.
        font_scale: OpenCV's scale of the labels.
        dot_px: largest radius of a point.
    """

    line_px: int
    font_scale: float
    dot_px: int

    @staticmethod
    def for_picture(image_hw: tuple[int, int]) -> Pen:
        """Return sizes for a picture of `image_hw`: thin enough for a thumbnail, visible on a poster."""
        side = max(image_hw)
        return Pen(
            line_px=max(1, round(side / 500)),
            font_scale=max(_SMALLEST_FONT, side / 2200),
            dot_px=max(2, round(side / 350)),
        )

    def dot_in(self, box_xyxy: NDArray[Any]) -> int:
        """Return a radius that leaves most of a box ``(4,)`` visible between five points; 0 is a single pixel."""
        side = float(min(box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1]))
        return int(np.clip(side / 20, 0, self.dot_px))


def draw(image: Pixels, detections: Detections, *, truth: Annotations | None = None) -> Pixels:
    """Return a copy of a picture with what was found and, where given, what is true.

    Detections are solid green boxes with their scores and one coloured dot a point; the best lie on top. Truth is
    dashed: yellow with small crosses as points, grey where it is ignored.

    Args:
        image: ``(H, W, 3)`` uint8 RGB; it is not changed.
        detections: N objects in the picture's pixels; parts outside the picture are cut off.
        truth: G objects in the same frame.

    Raises:
        ValueError: `image` is of another kind; the message says of which.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 (H, W, 3) RGB, got {image.dtype} {image.shape}")
    canvas = np.array(image, np.uint8, order="C")
    if canvas.size == 0:
        return canvas
    pen = Pen.for_picture((canvas.shape[0], canvas.shape[1]))
    detections = detections[np.isfinite(detections.boxes).all(axis=1)].sorted()
    for box in detections.boxes[::-1]:
        frame(canvas, box, FOUND, pen.line_px)
    if truth is not None:
        _draw_truth(canvas, truth, pen)
    if detections.points is not None:
        for box, points in zip(detections.boxes[::-1], detections.points[::-1], strict=True):
            dots(canvas, points, np.isfinite(points).all(axis=1), pen.dot_in(box))
    _draw_scores(canvas, detections, pen)
    return canvas


def _draw_truth(canvas: Pixels, truth: Annotations, pen: Pen) -> None:
    dash_px = 4 * pen.line_px
    for row in np.argsort(~truth.ignore, kind="stable"):  # what counts lies on top
        if np.isfinite(truth.boxes[row]).all():
            frame(canvas, truth.boxes[row], IGNORED if truth.ignore[row] else TRUTH, pen.line_px, dash_px)
            arm_px = 1 + round(1.5 * pen.dot_in(truth.boxes[row]))  # longer than a dot on top of it
            crosses(canvas, truth.points[row], truth.points_known[row], arm_px)


def frame(canvas: Pixels, box_xyxy: NDArray[Any], colour: Colour, line_px: int, dash_px: int = 0) -> None:
    """Draw a box along the inside of its edges with sharp lines; what lies outside the canvas is cut off.

    Args:
        canvas: ``(H, W, 3)``, changed.
        box_xyxy: ``(4,)`` finite edges in pixels; a box of no area is drawn as one pixel's width.
        colour: RGB.
        line_px: width of the line.
        dash_px: length of the dashes and of the gaps between them; 0 draws a solid line.
    """
    height, width = canvas.shape[:2]
    limit = np.array([width, height, width, height], np.float64)
    x0, y0, x1, y1 = (int(v) for v in np.clip(np.rint(box_xyxy), -line_px - 1, limit + line_px + 1))
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    for low in (y0, max(y1 - line_px, y0)):
        _strip(canvas, (x0, x1), (low, min(low + line_px, y1)), colour, dash_px)
    upright = canvas.transpose(1, 0, 2)
    for low in (x0, max(x1 - line_px, x0)):
        _strip(upright, (y0, y1), (low, min(low + line_px, x1)), colour, dash_px)


def _strip(canvas: Pixels, along: tuple[int, int], across: tuple[int, int], colour: Colour, dash_px: int) -> None:
    """Fill columns `along` of rows `across`, in dashes that start at the line's first end."""
    columns = np.arange(max(along[0], 0), min(along[1], canvas.shape[1]))
    if dash_px:
        columns = columns[(columns - along[0]) // dash_px % 2 == 0]
    canvas[max(across[0], 0) : max(across[1], 0), columns] = colour


def dots(canvas: Pixels, points_xy: NDArray[Any], known: NDArray[np.bool_], dot_px: int) -> None:
    """Draw points ``(K, 2)`` where `known` ``(K,)`` as discs in colours of their own; from 2 px on with a rim."""
    for row, centre in _centres(canvas, points_xy, known):
        if dot_px > 1:
            cv2.circle(canvas, centre, dot_px + 1, INK, -1, cv2.LINE_AA)
        cv2.circle(canvas, centre, dot_px, POINT_COLOURS[row % len(POINT_COLOURS)], -1, cv2.LINE_AA)


def crosses(canvas: Pixels, points_xy: NDArray[Any], known: NDArray[np.bool_], arm_px: int) -> None:
    """Draw points ``(K, 2)`` where `known` ``(K,)`` as upright crosses in the colour of truth."""
    for _, (x, y) in _centres(canvas, points_xy, known):
        cv2.line(canvas, (x - arm_px, y), (x + arm_px, y), TRUTH, 1)
        cv2.line(canvas, (x, y - arm_px), (x, y + arm_px), TRUTH, 1)


def _centres(canvas: Pixels, points_xy: NDArray[Any], known: NDArray[np.bool_]) -> list[tuple[int, tuple[int, int]]]:
    """Return row and pixel of each known point that lies in the canvas; pixel i spans the edges i to i + 1."""
    inside = (points_xy >= 0) & (points_xy < np.array(canvas.shape[1::-1]))
    rows = np.flatnonzero(known & inside.all(axis=1))
    return [(int(row), (int(points_xy[row, 0]), int(points_xy[row, 1]))) for row in rows]


def text_hw(text: str, font_scale: float) -> tuple[int, int]:
    """Return height and width in pixels of a line of text with the margin that `write` puts around it."""
    (width, height), _ = cv2.getTextSize(_plain(text), _FONT, font_scale, _weight(font_scale))
    margin = _margin(font_scale)
    return height + 2 * margin, width + 2 * margin + 1


def write(
    canvas: Pixels, text: str, corner_xy: tuple[int, int], font_scale: float, ink: Colour, paper: Colour | None = None
) -> None:
    """Write a line of text whose upper left corner, margin included, is `corner_xy`.

    Args:
        canvas: ``(H, W, 3)``, changed.
        text: characters beyond ASCII become question marks, the font has no others.
        corner_xy: pixels.
        font_scale: OpenCV's scale.
        ink: RGB of the text.
        paper: RGB of a rectangle behind it, or None for none.
    """
    height, width = text_hw(text, font_scale)
    x, y = corner_xy
    if paper is not None:
        canvas[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = paper
    margin = _margin(font_scale)
    base = (x + margin, y + height - margin - 1)
    cv2.putText(canvas, _plain(text), base, _FONT, font_scale, ink, _weight(font_scale), cv2.LINE_AA)


def shorten(text: str, font_scale: float, width_px: int) -> str:
    """Return `text`, with its middle replaced by dots where it is wider than `width_px`."""
    if text_hw(text, font_scale)[1] <= width_px:
        return text
    for kept in range(len(text) - 1, 0, -1):
        short = text[: (kept + 1) // 2] + ".." + text[len(text) - kept // 2 :]
        if text_hw(short, font_scale)[1] <= width_px:
            return short
    return ""


def _plain(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")


def _weight(font_scale: float) -> int:
    return max(1, round(font_scale * 1.6))


def _margin(font_scale: float) -> int:
    return max(1, round(font_scale * 5))


def _draw_scores(canvas: Pixels, detections: Detections, pen: Pen) -> None:
    """Write the scores, the best first, each where it hides least of other labels and of what was found.

    In a crowd an object narrower than its label goes without, or labels would be all that one sees.
    """
    taken = np.zeros((0, 4))
    boxes = np.rint(detections.boxes.astype(np.float64))
    narrowest = text_hw("0.00", pen.font_scale)[1] if len(boxes) > _CROWD else 0
    for box, score in zip(boxes, detections.scores, strict=True):
        if box[2] - box[0] < narrowest:
            continue
        text = f"{score:.2f}"
        spots = _label_spots(box, text_hw(text, pen.font_scale), (canvas.shape[0], canvas.shape[1]))
        hidden = intersection_matrix(spots, taken).sum(axis=1) + 0.25 * intersection_matrix(spots, boxes).sum(axis=1)
        chosen = spots[np.argmin(hidden)]
        write(canvas, text, (int(chosen[0]), int(chosen[1])), pen.font_scale, INK, FOUND)
        taken = np.concatenate([taken, chosen[None]])


def _label_spots(box: NDArray[Any], label_hw: tuple[int, int], image_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Return places for a label, ``(4, 4)`` x0 y0 x1 y1: above, below, above to the right, and inside its box."""
    height, width = label_hw
    x0, y0, x1, y1 = box
    corners = np.array([(x0, y0 - height), (x0, y1), (x1 - width, y0 - height), (x0, y0)], np.float64)
    room = np.array([image_hw[1] - width, image_hw[0] - height])
    corners = np.clip(corners, 0, np.maximum(room, 0))
    return np.concatenate([corners, corners + np.array([width, height])], axis=1)
