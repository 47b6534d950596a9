"""The pixels of the synthetic source: figures, look-alikes, soft grounds and light, drawn into arrays.

A figure is drawn in its own *unit frame*: x to the right, y down, its height 1 and its middle at 0. An affine
map ``(2, 3)`` takes unit points to picture pixels in edge coordinates. Colours are RGB, float64 ``(3,)``; what is
beyond 0..255 is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

_SKIN = np.array(
    [(255, 224, 196), (247, 206, 174), (236, 188, 150), (224, 172, 128), (198, 140, 96), (161, 106, 70), (120, 76, 50),
     (88, 56, 40)], np.float64
)  # fmt: skip
_HAIR = np.array(
    [(24, 20, 22), (52, 34, 26), (90, 56, 34), (134, 84, 44), (196, 150, 84), (226, 194, 130), (150, 60, 34),
     (170, 168, 166), (226, 224, 220)], np.float64
)  # fmt: skip
_IRIS = np.array([(70, 44, 26), (40, 30, 26), (74, 110, 150), (84, 116, 74)], np.float64)
_WHITE, _BLACK = np.full(3, 246.0), np.full(3, 24.0)
_SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """What to draw of one figure; decided before a pixel is touched.

    Attributes:
        name: key of `PAINTERS`.
        to_px: ``(2, 3)`` unit frame to picture pixels.
        outlines: polygons ``(N, 2)`` in the unit frame; a face has its head, an upright its limbs in a fixed order.
        points: ``(K, 2)`` facial points in the unit frame, (0, 2) where the figure has none.
        cover: what hides a part of it, a key of `COVERS`, or "".
        body: whether shoulders are drawn under the head.
    """

    name: str
    to_px: Array
    outlines: tuple[Array, ...] = ()
    points: Array = field(default_factory=lambda: np.zeros((0, 2)))
    cover: str = ""
    body: bool = False


class Pen:
    """Draws shapes of a unit frame onto a canvas ``(h, w, 3)`` uint8; `smooth` edges cost twice the time."""

    def __init__(self, canvas: Image, to_px: Array, smooth: bool = True) -> None:
        self._canvas, self._line = canvas, cv2.LINE_AA if smooth else cv2.LINE_8
        self._turn = np.ascontiguousarray(to_px[:, :2].T) * (1 << _SUBPIXEL_BITS)
        self._shift = (to_px[:, 2] - 0.5) * (1 << _SUBPIXEL_BITS) + 0.5  # cv2 counts from the centre of a pixel
        self._unit_px = math.hypot(to_px[0, 1], to_px[1, 1])

    def _fixed(self, points: Array) -> list[NDArray[np.int32]]:
        fixed = (points.dot(self._turn) + self._shift).astype(np.int32)
        return [fixed] if fixed.ndim == 2 else list(fixed)

    def polygon(self, points: Array, colour: Array) -> None:
        """Fill the polygon `points` ``(N, 2)``, or polygons ``(M, N, 2)`` that do not overlap."""
        cv2.fillPoly(self._canvas, self._fixed(points), colour.tolist(), self._line, _SUBPIXEL_BITS)

    def stroke(self, points: Array, width: float, colour: Array) -> None:
        """Draw a line through `points` ``(N, 2)``, or lines ``(M, N, 2)``; `width` is rounded to canvas pixels."""
        lines, thick = self._fixed(points), max(1, round(width * self._unit_px))
        cv2.polylines(self._canvas, lines, False, colour.tolist(), thick, self._line, _SUBPIXEL_BITS)

    def ellipse(self, centre: Array | tuple[float, float], radius_x: float, radius_y: float, colour: Array) -> None:
        """Fill an ellipse around `centre` ``(2,)``, or around each of ``(M, 2)`` where they do not overlap."""
        round_ = arc(40 if radius_x > 0.09 else 16) * (radius_x, radius_y)
        self.polygon(round_ + np.asarray(centre)[..., None, :], colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Array) -> None:
        """Fill a rectangle."""
        self.polygon(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), colour)


@cache
def arc(count: int, start_deg: float = 0, stop_deg: float = 360) -> Array:
    """Return points ``(count, 2)`` of the unit circle, from the left over the top to the right and on; read-only."""
    angle = np.deg2rad(np.linspace(start_deg, stop_deg, count, endpoint=stop_deg - start_deg < 360))
    points = np.stack([-np.cos(angle), -np.sin(angle)], axis=1)
    points.setflags(write=False)
    return points


def capsule(start: Array, end: Array, radius_start: float, radius_end: float) -> Array:
    """Return the polygon ``(N, 2)`` of a limb with round ends between two points ``(2,)``."""
    x, y = (end - start) / max(math.dist(start, end), 1e-9)
    turn = np.array([(y, -x), (x, y)])  # rows: the normal, and the way from start to end
    far, near = arc(7, 180, 360) @ turn, arc(7, 0, 180) @ turn
    return np.concatenate([end + radius_end * far, start + radius_start * near])


def blend(a: Array, b: Array, share: float) -> Array:
    """Return the colour `share` of the way from `a` to `b`."""
    return a * (1 - share) + b * share


def colour(rng: Generator, calm: float = 0.0) -> Array:
    """Return a random colour ``(3,)``; `calm` in [0, 1] takes it towards its own grey."""
    rgb = rng.uniform(20, 240, 3)
    return blend(rgb, np.full(3, rgb.mean()), calm)


def _tone(rng: Generator, table: Array) -> Array:
    tone: Array = table[rng.integers(len(table))] * rng.uniform(0.92, 1.06) + rng.uniform(-7, 7, 3)
    return tone


def draw_figure(image: Image, figure: Figure, rng: Generator) -> None:
    """Draw `figure` into `image` ``(H, W, 3)`` in place; `rng` decides its colours and its style."""
    x, y = (0.95, 0.95) if figure.name == "face" else (0.62, 0.56)
    _on_patch(image, figure.to_px, (-x, -y, x, y), lambda pen: PAINTERS[figure.name](pen, figure, rng))


def draw_body(image: Image, figure: Figure, rng: Generator) -> None:
    """Draw neck and shoulders of a face in place; with a fresh `rng` of the same seed the skin is the head's."""
    _on_patch(image, figure.to_px, (-1, 0.2, 1, 2), lambda pen: _shoulders(pen, rng))


def _on_patch(image: Image, to_px: Array, bounds: tuple[float, ...], paint: Callable[[Pen], None]) -> None:
    """Run `paint` on an enlarged copy of the region `bounds` (x0 y0 x1 y1, unit frame) and put it back reduced.

    Enlarging repeats pixels and reducing averages them, so what is not painted on comes back unchanged.
    """
    corners = np.array(bounds)[[[0, 1], [2, 1], [2, 3], [0, 3]]] @ to_px[:, :2].T + to_px[:, 2]
    low = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0)), (image.shape[1], image.shape[0])).astype(int)
    if (high <= low).any():
        return
    region = image[low[1] : high[1], low[0] : high[0]]
    unit_px = math.hypot(to_px[0, 1], to_px[1, 1])
    times = 4 if unit_px < 40 else 2 if unit_px < 80 else 1
    size = (region.shape[1], region.shape[0])
    large = cv2.resize(region, (size[0] * times, size[1] * times), interpolation=cv2.INTER_NEAREST)
    canvas = large.astype(np.uint8, copy=False)
    paint(Pen(canvas, np.column_stack([to_px[:, :2], to_px[:, 2] - low]) * times, smooth=times < 4))
    region[:] = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)


def _shoulders(pen: Pen, rng: Generator) -> None:
    skin, shirt = _tone(rng, _SKIN), colour(rng, 0.3)
    side = arc(13, 0, 180) * (0.74, 0.34) + (0, 0.92)
    pen.polygon(np.concatenate([side, np.array([(0.7, 1.9), (-0.7, 1.9)])]), shirt)
    pen.stroke(np.array([[(-0.5, 1.15), (-0.53, 1.9)], [(0.5, 1.15), (0.53, 1.9)]]), 0.014, shirt * 0.75)
    pen.polygon(arc(13, 180, 360) * (0.27, 0.2) + (0, 0.6), shirt * 0.8)
    pen.polygon(np.array([(-0.18, 0.2), (0.18, 0.2), (0.21, 0.64), (0, 0.76), (-0.21, 0.64)]), skin * 0.82)


def _face(pen: Pen, figure: Figure, rng: Generator) -> None:
    skin, hair, head = _tone(rng, _SKIN), _tone(rng, _HAIR), figure.outlines[0]
    _head(pen, head, skin, hair, rng)
    if len(figure.points):
        _features(pen, figure.points, head, skin, hair, rng)
    if figure.cover:
        COVERS[figure.cover](pen, figure, rng)


def _head(pen: Pen, head: Array, skin: Array, hair: Array, rng: Generator) -> None:
    """Draw hair, ears and the bare head, lit from one side."""
    half = float(np.ptp(head[:, 0])) / 2
    style = rng.integers(7)  # 0 bald, 1 cap, 2 long, 3 round and full, 4 bun, 5 and 6 short with a side parting
    if style == 2:
        ends = np.array([(half * 1.3, 0.62), (-half * 1.3, 0.62)])
        pen.polygon(np.concatenate([arc(13, 0, 180) * (half * 1.2, 0.58), ends]), hair * 0.8)
    elif style == 3:
        pen.ellipse((0, -0.16), half * 1.45, 0.52, hair * 0.85)
    elif style == 4:
        pen.ellipse((rng.uniform(-0.1, 0.1), -0.55), 0.17, 0.15, hair * 0.85)
    pen.ellipse(np.array([(-half, 0.02), (half, 0.02)]) * 1.02, 0.06, 0.1, skin * 0.88)
    light, depth = rng.uniform(-1, 1, 2) * (0.09, 0.05), rng.uniform(0.05, 0.3)
    for step in (0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1):
        pen.polygon(head * (1 - 0.5 * step) + light * step, skin * (1 - depth * (1 - step) ** 1.5))
    if style:
        _fringe(pen, head, hair, float(rng.uniform(-0.12, 0.12)) if style > 4 else 0.0, rng)


def _fringe(pen: Pen, head: Array, hair: Array, slope: float, rng: Generator) -> None:
    """Draw the hair on top of the head, down to a hairline that leaves the brows free."""
    side_y = rng.uniform(-0.2, -0.08)
    over = head[head[:, 1] < side_y] * (1.06, 1.1)
    half = float(np.ptp(head[:, 0])) / 2
    across = np.linspace(0.86, -0.86, 9)
    low = rng.uniform(-0.36, -0.25)
    line = low + slope * across + 0.05 * across**2 + rng.uniform(-0.012, 0.012, 9)
    front = np.stack([across * half, np.minimum(line, -0.21)], axis=1)
    pen.polygon(np.concatenate([over, front]), hair)
    strands = np.array([[(x, -0.5), (x * 1.25, low - 0.04)] for x in rng.uniform(-0.6, 0.6, 4) * half])
    pen.stroke(strands, 0.015, hair * 1.22 + 6)


def _features(pen: Pen, points: Array, head: Array, skin: Array, hair: Array, rng: Generator) -> None:
    """Draw brows, eyes, nose, mouth and what goes with them at the five points ``(5, 2)``."""
    if rng.random() < 0.35:
        cheeks = points[:2] + np.array([(-0.03, 0.16), (0.03, 0.16)])
        pen.ellipse(cheeks, 0.06, 0.045, blend(skin, np.array([224.0, 96, 92]), 0.22))
    if rng.random() < 0.18 and points[3:, 1].min() > 0.2:
        cheeks = np.array([(-0.17, 0.13), (-0.12, 0.2), (0.12, 0.2), (0.17, 0.13)])
        cheeks[:, 0] += points[3:, 0].mean()
        pen.polygon(np.concatenate([head[head[:, 1] > 0.14] * 1.02, cheeks]), blend(hair, skin, rng.uniform(0.1, 0.5)))
    _eyes(pen, points[:2], skin, hair, rng)
    _nose(pen, points[2], points[:2].mean(axis=0), skin, rng)
    _mouth(pen, points[3], points[4], skin, rng)
    _glasses(pen, points[:2], rng)


def _eyes(pen: Pen, eyes: Array, skin: Array, hair: Array, rng: Generator) -> None:
    iris = _tone(rng, _IRIS)
    openness, frown, brow_width = rng.uniform(0.026, 0.046), rng.uniform(-0.03, 0.03), rng.uniform(0.018, 0.04)
    pen.ellipse(eyes - (0, 0.005), 0.088, openness + 0.026, skin * 0.8)
    pen.ellipse(eyes, 0.07, openness, _WHITE)
    pen.ellipse(eyes, 0.038, min(0.038, openness + 0.004), iris)
    pen.ellipse(eyes, 0.019, 0.019, _BLACK)
    pen.ellipse(eyes + np.array((0.012, -0.012)), 0.008, 0.008, _WHITE)
    pen.stroke(arc(7, 15, 165) * (0.077, openness + 0.004) + eyes[:, None], 0.016, skin * 0.36)
    brow = np.array([(-0.075, frown - 0.095), (0, -0.113), (0.075, -0.095 - frown)])
    pen.stroke(np.stack([eyes[0] + brow, eyes[1] + brow[::-1] * (-1, 1)]), brow_width, hair * 0.7)


def _nose(pen: Pen, tip: Array, root: Array, skin: Array, rng: Generator) -> None:
    wide, side = rng.uniform(0.045, 0.075), 1 - 2 * rng.integers(2)
    pen.polygon(np.array([blend(root, tip, 0.15), tip + np.array((-0.9 * side * wide, 0.01)), tip]), skin * 0.85)
    pen.ellipse(tip, wide, 0.035, skin * 0.9)
    pen.ellipse(tip + np.array([(-wide * 0.55, 0.02), (wide * 0.55, 0.02)]), 0.02, 0.012, skin * 0.5)
    pen.ellipse(tip + np.array((side * 0.012, -0.018)), 0.018, 0.02, skin * 1.12)


def _mouth(pen: Pen, left: Array, right: Array, skin: Array, rng: Generator) -> None:
    """Draw lips from corner to corner: closed, or open over dark and teeth."""
    lips = blend(skin * 0.72, np.array([196.0, 50, 62]), rng.uniform(0.2, 0.75))
    smile, open_ = rng.uniform(-0.015, 0.06), max(0.0, rng.uniform(-0.07, 0.08))
    across = np.linspace(0, 1, 9)
    down = np.outer(4 * across * (1 - across), (0, 1))
    middle = left + (right - left) * across[:, None] + smile * down
    pen.polygon(np.concatenate([middle - 0.03 * down, (middle + (0.036 + open_) * down)[::-1]]), lips)
    pen.polygon(np.concatenate([middle, (middle + (0.004 + open_) * down)[::-1]]), np.array([70.0, 20, 26]))
    if open_ > 0.025:
        pen.polygon(np.concatenate([middle, (middle + 0.5 * open_ * down)[::-1]])[1:-1], _WHITE)
    pen.stroke(middle, 0.012, lips * 0.45)


def _glasses(pen: Pen, eyes: Array, rng: Generator) -> None:
    draw, frame, round_ = rng.random(), colour(rng, 0.4) * 0.5, rng.uniform(0.085, 0.115)
    if draw > 0.3 or abs(eyes[0, 1] - eyes[1, 1]) > 0.06:
        return
    if draw < 0.12:
        pen.ellipse(eyes + np.array((0, 0.01)), round_ + 0.015, round_, frame * 0.5)
        pen.stroke(np.array([(-0.05, 0.02), (0.01, -0.05)]) + eyes[:, None], 0.022, frame * 0.5 + 70)
    rim = arc(17) * (round_ + 0.015, round_) + (0, 0.01)
    pen.stroke(np.concatenate([rim, rim[:1]]) + eyes[:, None], 0.02, frame)
    out = np.array([(round_, 0), (-round_, 0)])
    pen.stroke(eyes + out, 0.022, frame)
    pen.stroke(np.stack([eyes - out, np.array([(-0.38, -0.06), (0.38, -0.06)])], axis=1), 0.02, frame)


def _bar(pen: Pen, figure: Figure, rng: Generator) -> None:
    angle, shift = rng.uniform(0, np.pi), rng.uniform(0.1, 0.32) * (1 - 2 * rng.integers(2))
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    ends, wood = np.stack([-0.85 * along, 0.85 * along]) + shift * across, colour(rng, 0.5)
    width = rng.uniform(0.1, 0.2)
    pen.stroke(ends, width, wood * 0.7)
    pen.stroke(ends, width * 0.7, wood)


def _hand(pen: Pen, figure: Figure, rng: Generator) -> None:
    skin, side = _tone(rng, _SKIN), 1 - 2 * rng.integers(2)
    root = np.array([side * rng.uniform(0.2, 0.34), rng.uniform(0.22, 0.42)])
    pen.polygon(capsule(root, root + np.array((side * 0.25, 0.45)), 0.13, 0.12), skin * 0.8)
    for finger in np.linspace(-0.9, 0.5, 4):
        tip = root + 0.3 * np.array([-side * np.cos(finger - 0.6), np.sin(finger - 0.6)])
        for radius, shade in ((0.052, 0.7), (0.04, 0.95)):
            pen.polygon(capsule(root, tip, radius * 1.1, radius), skin * shade)
    pen.ellipse(root, 0.14, 0.14, skin * 0.9)


def _hat(pen: Pen, figure: Figure, rng: Generator) -> None:
    cloth, tall, brim = colour(rng, 0.2), rng.uniform(0.3, 0.46), rng.uniform(0.42, 0.62)
    half = float(np.ptp(figure.outlines[0][:, 0])) / 2 * 1.1
    pen.polygon(arc(15, 0, 180) * (half, tall) + (0, -0.28), cloth)
    pen.box(-half, -0.35, half, -0.26, cloth * 0.6)
    pen.ellipse((0, -0.25), brim, 0.055, cloth * 0.85)


def _mask(pen: Pen, figure: Figure, rng: Generator) -> None:
    head, top = figure.outlines[0], rng.uniform(0.03, 0.1)
    cloth = blend(np.array([190.0, 220, 235]), colour(rng), rng.uniform(0, 0.6))
    lower = head[head[:, 1] > top + 0.06] * 1.02
    pen.polygon(np.concatenate([lower, [(-0.1, top - 0.02), (0.1, top - 0.02)]]), cloth)
    pen.stroke(np.array([[(-0.22, y - 0.02), (0, y), (0.22, y - 0.02)] for y in (0.2, 0.3)]), 0.015, cloth * 0.82)


Painter = Callable[[Pen, Figure, Generator], None]
COVERS: Mapping[str, Painter] = {"bar": _bar, "hand": _hand, "hat": _hat, "mask": _mask}


def _upright(pen: Pen, figure: Figure, rng: Generator) -> None:
    """Draw a standing person; the outlines are two legs, two shoes, arms of two parts, two hands, then one each."""
    skin, hair, shirt, trousers = _tone(rng, _SKIN), _tone(rng, _HAIR), colour(rng, 0.1), colour(rng, 0.5) * 0.8
    sleeves = [shirt * 0.75, shirt * 0.78, shirt * 0.88, shirt * 0.9]
    shades = [trousers, trousers * 0.8, _BLACK, _BLACK, *sleeves, skin, skin, shirt, skin * 0.8, skin, hair]
    for outline, shade in zip(figure.outlines, shades, strict=True):
        pen.polygon(outline, shade)
    pen.box(-0.008, -0.2, 0.008, 0.02, shirt * 0.7)
    if figure.cover:
        y, plank = rng.uniform(0.05, 0.35), colour(rng, 0.5)
        pen.stroke(np.array([[(x, y - 0.06), (x, 0.5)] for x in (-0.5, -0.25, 0, 0.25, 0.5)]), 0.05, plank * 0.7)
        pen.box(-0.6, y - 0.04, 0.6, y + 0.04, plank)


def _dots(pen: Pen, figure: Figure, rng: Generator) -> None:
    disc, dot, size = colour(rng, 0.3), colour(rng, 0.5) * 0.4, rng.uniform(0.05, 0.1)
    pen.ellipse((0, 0), 0.5, 0.5, disc * 0.7)
    pen.ellipse((0, 0), 0.43, 0.43, disc)
    pen.ellipse(np.array([(-0.17, 0), (0.17, 0)]), size, size, dot)


def _clock(pen: Pen, figure: Figure, rng: Generator) -> None:
    rim, face = colour(rng, 0.3) * 0.7, blend(_WHITE, colour(rng), 0.15)
    pen.ellipse((0, 0), 0.5, 0.5, rim)
    pen.ellipse((0, 0), 0.42, 0.42, face)
    pen.stroke(np.stack([arc(12) * 0.34, arc(12) * 0.39], axis=1), 0.03, rim)
    for length, width in ((0.2, 0.045), (0.32, 0.03)):
        turn = rng.uniform(0, 2 * np.pi)
        pen.stroke(np.array([(0, 0), (length * np.cos(turn), length * np.sin(turn))]), width, _BLACK)


def _bottle(pen: Pen, figure: Figure, rng: Generator) -> None:
    glass, paper = colour(rng) * 0.7, colour(rng, 0.4)
    pen.polygon(capsule(np.array([0, -0.05]), np.array([0, 0.35]), 0.15, 0.15), glass)
    pen.box(-0.06, -0.44, 0.06, -0.1, glass)
    pen.box(-0.07, -0.5, 0.07, -0.42, paper * 0.6)
    pen.box(-0.15, 0.02, 0.15, 0.28, paper)
    pen.box(-0.11, -0.08, -0.07, 0.4, glass * 1.5 + 20)


def _window(pen: Pen, figure: Figure, rng: Generator) -> None:
    frame, glass = colour(rng, 0.5), blend(np.array([60.0, 84, 110]), colour(rng), 0.4)
    half, heights = rng.uniform(0.26, 0.42), np.linspace(-0.45, 0.45, rng.integers(2, 5))
    pen.box(-half, -0.5, half, 0.5, frame)
    pen.box(0.05 - half, -0.45, half - 0.05, 0.45, glass)
    pen.polygon(np.array([(0.05 - half, -0.45), (half - 0.1, -0.45), (0.05 - half, 0.3)]), glass * 1.2 + 10)
    across = [[(0.03 - half, y), (half - 0.03, y)] for y in heights[1:-1]]
    pen.stroke(np.array([[(0, -0.48), (0, 0.48)], *across]), 0.045, frame)


def _post(pen: Pen, figure: Figure, rng: Generator) -> None:
    iron, lamp = colour(rng, 0.7) * 0.6, blend(_WHITE, np.array([255.0, 214, 120]), rng.random())
    pen.polygon(np.array([(-0.02, -0.4), (0.02, -0.4), (0.035, 0.46), (-0.035, 0.46)]), iron)
    pen.box(-0.09, 0.44, 0.09, 0.5, iron * 0.8)
    for x in ((0.0,), (-0.16, 0.16))[rng.integers(2)]:
        pen.stroke(np.array([(0, -0.34), (x, -0.36)]), 0.03, iron)
        pen.ellipse((x, -0.42), 0.08, 0.08, lamp)


def _tree(pen: Pen, figure: Figure, rng: Generator) -> None:
    green = np.array([62.0, 112, 52]) * rng.uniform(0.7, 1.3) + rng.uniform(-12, 12, 3)
    pen.box(-0.035, -0.1, 0.035, 0.5, np.array([92.0, 66, 46]))
    for _ in range(7):
        pen.ellipse(rng.uniform((-0.13, -0.36), (0.13, 0.02)), 0.14, 0.13, green * rng.uniform(0.8, 1.15))


PAINTERS: Mapping[str, Painter] = {
    "face": _face, "upright": _upright,
    "dots": _dots, "clock": _clock, "bottle": _bottle, "window": _window, "post": _post, "tree": _tree,
}  # fmt: skip


def smooth(size_hw: tuple[int, int], *grids: Array) -> Image:
    """Return the sum of coarse ``(h, w, 3)`` grids of colours, smoothly enlarged to ``(H, W, 3)``."""
    coarse: Array = np.sum([cv2.resize(grid, (48, 36), interpolation=cv2.INTER_CUBIC) for grid in grids], axis=0)
    return cv2.resize(np.clip(coarse, 0, 255).astype(np.uint8), size_hw[::-1]).astype(np.uint8, copy=False)


def expose(image: Image, rng: Generator) -> Image:
    """Return the picture ``(H, W, 3)`` as a camera gives it: blur, uneven light, contrast and grain."""
    height, width = image.shape[:2]
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.95)).astype(np.uint8, copy=False)
    if rng.random() < 0.08:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)
    contrast, brightness, grain = rng.uniform(0.8, 1.12), rng.uniform(-10, 14), 8 * rng.random() ** 2
    corners = rng.uniform(0.75, 1.2, (2, 2)).astype(np.float32) * np.float32(contrast)
    light = cv2.cvtColor(cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2RGB)
    offset = rng.integers(-128, 128, (height, width), np.int8) * np.float32(grain / 74)  # 74: their deviation
    offset += np.float32(128 * (1 - contrast) + brightness)
    lit = cv2.multiply(image, light, dtype=cv2.CV_32F)
    return cv2.add(lit, cv2.cvtColor(offset, cv2.COLOR_GRAY2RGB), dtype=cv2.CV_8U).astype(np.uint8, copy=False)
