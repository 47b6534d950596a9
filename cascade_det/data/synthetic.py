"""A source of drawn pictures with exact truth: faces with five points, or upright figures, among look-alikes.

It needs no download, so it serves the quick start, the tests and the documentation. A picture is planned first (what
stands where: the truth) and drawn second, from two streams of random numbers, so truth costs no drawing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cascade_det.core.geometry import box_area, clip_boxes, intersection_matrix
from cascade_det.core.registry import register_source
from cascade_det.core.types import Annotations
from cascade_det.data.sources import Picture, Source
from cascade_det.data.synthetic_drawing import (
    COVERS,
    Array,
    Figure,
    Image,
    Pen,
    arc,
    capsule,
    colour,
    draw_body,
    draw_figure,
    expose,
    smooth,
)
from cascade_det.errors import choices

_NUM_POINTS = {"face": (0, 5), "upright": (0,)}
_LOOK_ALIKES = {
    "face": ("blank", "scrambled", "upside_down", "dots", "clock", "bottle", "window"),
    "upright": ("upside_down", "post", "post", "tree", "tree", "bottle", "window", "clock"),
}
_TRIES = 32
_MIN_INSIDE = 0.86  # share of an object's area inside the picture; a little over the promised 0.85 for float32
_MAX_SHARED = 0.15  # share of a box that may lie in the room of another figure; it keeps objects below IoU 0.1
_SMALLEST_PX = 5.0

# Wrong places for left eye, right eye, nose and the corners of the mouth, in the unit frame of a head.
_SCRAMBLED = np.array(
    [
        [(-0.17, 0.24), (0.17, 0.24), (0, 0.08), (-0.12, -0.16), (0.12, -0.16)],
        [(0.14, -0.15), (0.16, 0.2), (-0.12, -0.1), (-0.26, 0.15), (-0.06, 0.27)],
        [(-0.22, 0.02), (0.04, 0.34), (0.2, -0.12), (-0.14, -0.17), (0.1, -0.15)],
        [(-0.02, -0.14), (0.0, 0.36), (0.2, 0.1), (-0.28, 0.0), (-0.08, 0.14)],
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """A planned figure: its `box` ``(4,)`` and the larger `room` ``(4,)`` that others keep out of, in pixels."""

    figure: Figure
    box: Array
    room: Array
    tilt_deg: float
    role: str  # "object", "ignored" or "look-alike"


@register_source("synthetic")
class Synthetic(Source):
    """Drawn pictures; picture i depends on the seed, on i and on the other parameters, but not on `images`.

    Boxes are not clipped: an object may stand out of the picture with up to 15 % of its area. Extras of the truth are
    ``tilt_deg`` (G,) float32, clockwise on the screen, and ``occluded`` (G,) bool. About one picture in ten holds one
    more object, smaller than 0.7 times the smallest size and marked `ignore` (none where `objects` allows no object).

    Args:
        images: number of pictures.
        size_hw: height and width of each, in pixels.
        seed: another seed gives other pictures, so training and validation take different ones.
        kind: "face" (the box is the head from forehead to chin, w/h about 0.77) or "upright" (a person, h/w about 2).
        objects: fewest and most objects a picture, inclusive; it gets fewer where no more find room.
        object_px: smallest and largest height of an object in pixels, log-uniform between them.
        num_points: points of each object: 0, or 5 for faces: left_eye, right_eye, nose, mouth_left, mouth_right, where
            left is the smaller x of an upright face. Points that something hides are known.

    Raises:
        ValueError: a parameter is out of range; the message names it, its value and the choices.
    """

    version = 1

    def __init__(
        self,
        *,
        images: int = 200,
        size_hw: Sequence[int] = (240, 320),
        seed: int = 0,
        kind: str = "face",
        objects: Sequence[int] = (0, 4),
        object_px: Sequence[float] = (24, 140),
        num_points: int = 5,
    ) -> None:
        if kind not in _NUM_POINTS:
            raise ValueError(f"kind={kind!r}: there is no such kind of picture; {choices(kind, _NUM_POINTS)}")
        if num_points not in _NUM_POINTS[kind]:
            known = " or ".join(str(n) for n in _NUM_POINTS[kind])
            raise ValueError(f"num_points={num_points!r}: a picture of kind {kind!r} has {known} points an object")
        for name, value in {"images": images, "seed": seed}.items():
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name}={value!r}: choose a whole number from 0 on")
        height, width = _pair("size_hw", size_hw, 32, 8192)
        low, high = _pair("objects", objects, 0, 1000, rising=True)
        for name, numbers in {"size_hw": size_hw, "objects": objects}.items():
            if any(number != int(number) for number in numbers):
                raise ValueError(f"{name}={list(numbers)}: choose whole numbers")
        self._seed, self._kind, self._num_points = seed, kind, num_points
        self._size_hw, self._objects = (int(height), int(width)), (int(low), int(high))
        self._object_px = _pair("object_px", object_px, 8, min(height, width), rising=True)
        fields = {"source": "synthetic"}
        self._pictures = [Picture(i + 1, f"synthetic-{seed}-{i:05d}", self._size_hw, fields) for i in range(images)]

    @property
    def pictures(self) -> list[Picture]:
        """All pictures in a fixed order."""
        return self._pictures

    def annotations(self, index: int) -> Annotations:
        """Return the truth of picture `index`; the ignored object, if there is one, comes last."""
        truth = [p for p in self._plan(index) if p.role != "look-alike"]
        rows, num_points = len(truth), self._num_points
        if not rows:
            points = np.zeros((0, num_points, 2), np.float32)
        else:
            points = np.array([_to_px(p.figure.to_px, p.figure.points)[:num_points] for p in truth], np.float32)
        return Annotations(
            boxes=np.array([p.box for p in truth], np.float32).reshape(rows, 4),
            ignore=np.array([p.role == "ignored" for p in truth], bool),
            points=points,
            points_known=np.ones((rows, num_points), bool),
            extras={
                "tilt_deg": np.array([p.tilt_deg for p in truth], np.float32),
                "occluded": np.array([bool(p.figure.cover) for p in truth], bool),
            },
        )

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return picture `index` as ``(H, W, 3)`` uint8 RGB."""
        plan = sorted(self._plan(index), key=lambda placed: placed.box[3] - placed.box[1])
        image = _background(self._rng(index, 1), self._size_hw)
        for number, placed in enumerate(plan):
            if placed.figure.body:
                draw_body(image, placed.figure, self._rng(index, 2, number))
        for number, placed in enumerate(plan):
            draw_figure(image, placed.figure, self._rng(index, 2, number))
        return expose(image, self._rng(index, 3))

    def content_hash(self, index: int) -> str:
        """Return a short hash of what picture `index` is drawn from."""
        return _hash({**self._drawn_from(), "index": self._checked(index)})

    def digest(self) -> str:
        """Return a hash of all parameters and of `version`."""
        return _hash({**self._drawn_from(), "images": len(self._pictures), "num_points": self._num_points})

    def _drawn_from(self) -> dict[str, Any]:
        """Return all that the pixels of every picture depend on."""
        return {
            "source": "synthetic",
            "version": self.version,
            "seed": self._seed,
            "kind": self._kind,
            "size_hw": self._size_hw,
            "objects": self._objects,
            "object_px": self._object_px,
        }

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self._pictures):
            raise IndexError(f"index={index}: this source has {len(self._pictures)} pictures, counted from 0")
        return int(index)

    def _rng(self, index: int, *stream: int) -> Generator:
        return np.random.default_rng([self._seed, self._checked(index), list(_NUM_POINTS).index(self._kind), *stream])

    def _plan(self, index: int) -> list[_Placed]:
        """Decide what stands where in picture `index`: objects, then a small ignored one, then look-alikes."""
        rng, sizes = self._rng(index, 0), self._object_px
        roles = ["object"] * int(rng.integers(self._objects[0], self._objects[1] + 1))
        if rng.random() < 0.1 and self._objects[1] > 0:
            roles.append("ignored")
        roles += ["look-alike"] * int(rng.integers(2, 6))
        small = (max(_SMALLEST_PX, 0.35 * sizes[0]), 0.69 * sizes[0])
        plan: list[_Placed] = []
        for role in roles:
            looks = _LOOK_ALIKES[self._kind]
            look = looks[rng.integers(len(looks))] if role == "look-alike" else self._kind
            figure, tilt_deg = _make(self._kind, look, rng)
            range_px = small if role == "ignored" else sizes
            placed = _place(_Placed(figure, _NOWHERE, _NOWHERE, tilt_deg, role), range_px, plan, self._size_hw, rng)
            plan += [placed] if placed else []
        return plan


_NOWHERE = np.zeros(4)


def _pair(name: str, value: Sequence[float], low: float, high: float, rising: bool = False) -> tuple[float, float]:
    if len(value) != 2 or not all(low <= v <= high for v in value):
        raise ValueError(f"{name}={list(value)}: choose two numbers from {low:g} to {high:g}")
    if rising and value[0] > value[1]:
        raise ValueError(f"{name}={list(value)}: the first number must not be larger than the second")
    return float(value[0]), float(value[1])


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _to_px(to_px: Array, points: Array) -> Array:
    """Return unit points ``(N, 2)`` in pixels."""
    return points @ to_px[:, :2].T + to_px[:, 2]


def _place(
    planned: _Placed, range_px: tuple[float, float], others: Sequence[_Placed], size_hw: tuple[int, int], rng: Generator
) -> _Placed | None:
    """Return `planned` with a size and a place where it collides with no other, or None where none is found."""
    figure = planned.figure
    angle = np.deg2rad(planned.tilt_deg)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    around = np.concatenate(figure.outlines) @ turn.T
    low, high = around.min(axis=0), around.max(axis=0)
    limit = np.array(size_hw[::-1])
    height_px = np.exp(rng.uniform(np.log(range_px[0]), np.log(range_px[1]), (_TRIES, 1)))
    scale = height_px / (high[1] - low[1])
    sides = (high - low) * scale
    outside = 0.1 * sides * (rng.random((_TRIES, 1)) < 0.15)
    corner = rng.uniform(0, 1, (_TRIES, 2)) * (limit - sides + 2 * outside) - outside
    boxes = np.concatenate([corner, corner + sides], axis=1)
    rooms = boxes + height_px * _room(figure)
    fits = box_area(clip_boxes(boxes, size_hw)) >= _MIN_INSIDE * box_area(boxes)
    if others:
        taken, kept = np.array([p.box for p in others]), np.array([p.room for p in others])
        fits &= (intersection_matrix(boxes, kept) <= _MAX_SHARED * box_area(boxes)[:, None]).all(axis=1)
        fits &= (intersection_matrix(rooms, taken) <= _MAX_SHARED * box_area(taken)).all(axis=1)
    if not fits.any():
        return None
    row = int(fits.argmax())
    to_px = np.column_stack([turn * scale[row], corner[row] - low * scale[row]])
    return replace(planned, figure=replace(figure, to_px=to_px), box=boxes[row], room=rooms[row])


def _room(figure: Figure) -> Array:
    """Return how far the room of a figure goes beyond its box ``(4,)``, as shares of the box's height."""
    if figure.name != "face":
        return np.array([-0.04, -0.04, 0.04, 0.04])
    return np.array([-0.3, -0.15, 0.3, 0.75] if figure.body else [-0.15, -0.15, 0.15, 0.15])


def _make(kind: str, look: str, rng: Generator) -> tuple[Figure, float]:
    """Return a figure in its unit frame, and its tilt in degrees. `look` is `kind`, or how a look-alike differs."""
    if look not in (kind, "blank", "scrambled", "upside_down"):
        half = {"dots": 0.5, "clock": 0.5, "bottle": 0.15, "post": 0.2, "tree": 0.26}.get(look, 0.4)
        return Figure(look, np.eye(2, 3), (np.array([(-half, -0.5), (half, 0.5)]),)), float(rng.uniform(-8, 8))
    over = 180.0 if look == "upside_down" else 0.0
    if kind == "upright":
        cover = "fence" if rng.random() < 0.12 else ""
        return Figure("upright", np.eye(2, 3), _limbs(rng), cover=cover), over + float(rng.uniform(-5, 5))
    covers = sorted(COVERS)
    cover = covers[rng.integers(len(covers))] if rng.random() < 0.22 else ""
    head = _head_outline(rng)
    points = _facial_points(head, rng)
    if look == "scrambled":
        points = _SCRAMBLED[rng.integers(len(_SCRAMBLED))] + rng.uniform(-0.02, 0.02, (5, 2))
    elif look == "blank":
        points = points[:0]
    body = not over and rng.random() < 0.6
    tilt_deg = over + float(np.clip(rng.normal(0, 11), -25, 25))
    return Figure("face", np.eye(2, 3), (head,), points, cover if look == kind else "", bool(body)), tilt_deg


def _head_outline(rng: Generator) -> Array:
    """Return an egg ``(64, 2)`` of height 1 in the unit frame, from forehead to chin."""
    outline = arc(64) * (rng.uniform(0.67, 0.8) / 2, 0.5)
    return outline * np.stack([1 - rng.uniform(0, 0.4) * np.maximum(outline[:, 1], 0), np.ones(64)], axis=1)


def _facial_points(head: Array, rng: Generator) -> Array:
    """Return the eyes, the nose and the corners of the mouth ``(5, 2)`` of a head that looks a little aside."""
    half, aside = float(np.ptp(head[:, 0])) / 2, rng.uniform(-0.07, 0.07)
    eye_x, eye_y = half * rng.uniform(0.42, 0.5), rng.uniform(-0.07, -0.01)
    mouth_x, mouth_y = half * rng.uniform(0.3, 0.42), rng.uniform(0.25, 0.3)
    return np.array(
        [
            (0.7 * aside - eye_x, eye_y),
            (0.7 * aside + eye_x, eye_y),
            (1.25 * aside, rng.uniform(0.11, 0.16)),
            (0.8 * aside - mouth_x, mouth_y),
            (0.8 * aside + mouth_x, mouth_y),
        ]
    )


def _limbs(rng: Generator) -> tuple[Array, ...]:
    """Return the outlines of a standing person of height 1: legs, shoes, arms, hands, torso, neck, head and hair."""
    legs, shoes, arms, hands = [], [], [], []
    shoulder, hip = rng.uniform(0.105, 0.125), rng.uniform(0.06, 0.08)
    for side in (-1, 1):
        foot = np.array([side * rng.uniform(0.09, 0.19), 0.475])
        elbow = np.array([side * rng.uniform(0.19, 0.225), rng.uniform(-0.13, -0.06)])
        reach = rng.uniform(0.09, 0.16) * rng.choice((1, 1, 1, -1))  # a quarter of the hands are up
        hand = elbow + np.array((side * rng.uniform(-0.08, 0.02), reach))
        legs.append(capsule(np.array([side * hip * 0.7, 0.06]), foot, 0.055, 0.035))
        shoes.append(capsule(foot + np.array((0, 0.002)), foot + np.array((side * 0.03, 0.004)), 0.024, 0.02))
        arms += [capsule(np.array([side * shoulder, -0.23]), elbow, 0.042, 0.032), capsule(elbow, hand, 0.032, 0.024)]
        hands.append(arc(12) * 0.026 + hand)
    torso = np.array([(-shoulder, -0.27), (shoulder, -0.27), (shoulder + 0.02, -0.2), (hip + 0.02, 0.1)])
    torso = np.concatenate([torso, torso[:0:-1] * (-1, 1)])
    neck = capsule(np.array([0, -0.32]), np.array([0, -0.26]), 0.035, 0.04)
    head, hair = arc(24) * (0.075, 0.095) + (0, -0.4), arc(11, -8, 188) * (0.082, 0.09) + (0, -0.41)
    parts = (*legs, *shoes, *arms, *hands, torso, neck, head, hair)
    low, high = np.concatenate(parts).min(axis=0)[1], np.concatenate(parts).max(axis=0)[1]
    return tuple((part - (0, (low + high) / 2)) / (high - low) for part in parts)


def _background(rng: Generator, size_hw: tuple[int, int]) -> Image:
    """Return a cluttered scene without figures ``(H, W, 3)`` uint8: gradients and two to four layers of shapes."""
    height, width = size_hw
    main = 60 + 0.7 * colour(rng, rng.uniform(0.4, 0.95))
    cells = int(rng.integers(2, 10))
    image = smooth(size_hw, rng.uniform(-44, 44, (2, 2, 1)) + main, rng.uniform(-20, 20, (cells, cells, 3)))
    pen = Pen(image, np.eye(2, 3) * height)  # the scene is 1 high and `wide` wide
    for layer in sorted(rng.permutation(len(_LAYERS))[: rng.integers(2, 5)]):
        _LAYERS[layer](pen, width / height, main, rng)
    return image


def _tint(main: Array, rng: Generator, spread: float = 34) -> Array:
    return main + rng.normal(0, spread) + rng.normal(0, spread / 2, 3)


def _bands(pen: Pen, wide: float, main: Array, rng: Generator) -> None:
    edges, shade, lean = np.arange(0, wide + 0.5, rng.uniform(0.04, 0.3)), _tint(main, rng), rng.uniform(-0.4, 0.4)
    for x in edges:
        pen.polygon(np.array([(x, 0), (x + edges[1] / 2, 0), (x + edges[1] / 2 + lean, 1), (x + lean, 1)]), shade)


def _bricks(pen: Pen, wide: float, main: Array, rng: Generator) -> None:
    tall, shade, top = rng.uniform(0.06, 0.14), _tint(main, rng), rng.uniform(0, 0.6)
    row, column = np.mgrid[0 : int((1 - top) / tall) + 1, 0 : int(wide / tall / 2) + 2]
    corners = np.stack([(2 * column - row % 2) * tall, top + row * tall], axis=-1).reshape(-1, 1, 2)
    bricks = corners + np.array([(0, 0), (1.88, 0), (1.88, 0.88), (0, 0.88)]) * tall
    kind = rng.integers(4, size=len(bricks))
    for number in range(4):
        pen.polygon(bricks[kind == number], _tint(shade, rng, 8))


def _hills(pen: Pen, wide: float, main: Array, rng: Generator) -> None:
    shade = _tint(main, rng, 50)
    for base in np.linspace(rng.uniform(0.3, 0.6), 0.85, int(rng.integers(1, 4))):
        x = np.linspace(-0.1, wide + 0.1, 24)
        y = base + 0.06 * np.sin(x * rng.uniform(2, 9) + rng.uniform(0, 6)) + rng.uniform(-0.012, 0.012, 24)
        pen.polygon(np.concatenate([np.stack([x, y], 1), [(wide + 0.1, 1.1), (-0.1, 1.1)]]), _tint(shade, rng, 16))


def _shards(pen: Pen, wide: float, main: Array, rng: Generator) -> None:
    for _ in range(rng.integers(3, 12)):
        corners = arc(int(rng.integers(3, 7))) * rng.uniform(0.05, 0.3, 2) + rng.uniform((0, 0), (wide, 1))
        pen.polygon(corners + rng.uniform(-0.06, 0.06, corners.shape), _tint(main, rng))


def _discs(pen: Pen, wide: float, main: Array, rng: Generator) -> None:
    for _ in range(rng.integers(4, 16)):
        radius = rng.uniform(0.01, 0.1)
        pen.ellipse(rng.uniform((0, 0), (wide, 1)), radius, radius, _tint(main, rng, 24))


def _lines(pen: Pen, wide: float, main: Array, rng: Generator) -> None:
    for _ in range(rng.integers(2, 9)):
        ends = rng.uniform((-0.1, -0.1), (wide + 0.1, 1.1), (2, 2))
        pen.stroke(ends, rng.uniform(0.005, 0.025), _tint(main, rng, 40))


_LAYERS = (_bands, _bricks, _hills, _shards, _discs, _lines)
