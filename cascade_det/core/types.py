"""The data that parts exchange: detections, truth, crop plans and the truth of a batch of crops.

Boxes are float32 ``(N, 4)`` x0 y0 x1 y1 in *edge* coordinates (width = x1 - x0) of the original picture; points are
float32 ``(N, K, 2)`` x y in the same frame. All types are immutable and check their shapes when they are made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = Any  # a boolean mask, an index array or a slice

MAX_PIXELS = 200_000_000  # of a picture file, where a recipe does not say otherwise
PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class SampleRole(IntEnum):
    """Why a window was cut; decides which heads it teaches (never a label number in a loss)."""

    negative = 0
    part = 1
    positive = 2
    points = 3


def _column(name: str, value: object, dtype: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
    array = np.ascontiguousarray(np.asarray(value, dtype=dtype))
    ok = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=False))
    if not ok:
        wanted = "(" + ", ".join("*" if n is None else str(n) for n in shape) + ")"
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    return array


def _extras(extras: Mapping[str, object], rows: int) -> dict[str, NDArray[Any]]:
    columns = {name: np.asarray(column) for name, column in extras.items()}
    for name, column in columns.items():
        if column.ndim < 1 or len(column) != rows:
            raise ValueError(f"extras[{name!r}] must have {rows} rows, got shape {column.shape}")
    return columns


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """N objects found in one picture.

    Attributes:
        boxes: ``(N, 4)`` float32, x0 y0 x1 y1, pixels of the original picture, edge coordinates.
        scores: ``(N,)`` float32, probability in [0, 1].
        points: ``(N, K, 2)`` float32 x y in the same frame, or None where the cascade has no points.
        extras: further columns of length N by name.

    Raises:
        ValueError: a column has another shape; the message gives both.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    points: NDArray[np.float32] | None = None
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        boxes = _column("boxes", self.boxes, np.float32, (None, 4))
        rows = len(boxes)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", _column("scores", self.scores, np.float32, (rows,)))
        if self.points is not None:
            object.__setattr__(self, "points", _column("points", self.points, np.float32, (rows, None, 2)))
        object.__setattr__(self, "extras", _extras(self.extras, rows))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Index) -> Detections:
        """Select rows by a boolean mask, an index array or a slice."""
        points = None if self.points is None else self.points[index]
        return Detections(self.boxes[index], self.scores[index], points, {k: v[index] for k, v in self.extras.items()})

    @staticmethod
    def empty(num_points: int | None = None) -> Detections:
        """Return N = 0 detections, with a ``(0, num_points, 2)`` points column where `num_points` is given."""
        points = None if not num_points else np.zeros((0, num_points, 2), np.float32)
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), points)

    @staticmethod
    def concat(parts: Sequence[Detections]) -> Detections:
        """Stack the rows of `parts` in order; all must have the same columns. No parts give no rows."""
        if not parts:
            return Detections.empty()
        first = parts[0]
        known = [p.points for p in parts if p.points is not None]
        if known and len(known) != len(parts):
            raise ValueError("cannot concatenate detections with and without points")
        if any(p.extras.keys() != first.extras.keys() for p in parts):
            raise ValueError(f"cannot concatenate detections with extras {[sorted(p.extras) for p in parts]}")
        return Detections(
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate(known) if known else None,
            {k: np.concatenate([p.extras[k] for p in parts]) for k in first.extras},
        )

    def replace(self, **columns: Any) -> Detections:
        """Return a copy with some columns replaced."""
        return dataclasses.replace(self, **columns)

    def clip(self, image_hw: tuple[int, int]) -> Detections:
        """Return the detections with boxes clipped to a picture of `image_hw`; points are left as they are."""
        height, width = image_hw
        limit = np.array([width, height, width, height], np.float32)
        return self.replace(boxes=np.clip(self.boxes, 0, limit))

    def scaled(self, factor: float) -> Detections:
        """Return the detections in a frame that is `factor` times as large."""
        points = None if self.points is None else self.points * np.float32(factor)
        return self.replace(boxes=self.boxes * np.float32(factor), points=points)

    def sorted(self) -> Detections:
        """Return the rows by falling score; equal scores keep their order."""
        return self[np.argsort(-self.scores, kind="stable")]


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """The truth of one picture with G objects.

    Attributes:
        boxes: ``(G, 4)`` float32, x0 y0 x1 y1, pixels, edge coordinates.
        ignore: ``(G,)`` bool; an ignored object is neither rewarded nor punished anywhere.
        points: ``(G, K, 2)`` float32; unknown points hold 0.
        points_known: ``(G, K)`` bool; an object with 3 of 5 known points teaches those 3.
        extras: further columns of length G (attributes of the objects).
    """

    boxes: NDArray[np.float32]
    ignore: NDArray[np.bool_]
    points: NDArray[np.float32]
    points_known: NDArray[np.bool_]
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        boxes = _column("boxes", self.boxes, np.float32, (None, 4))
        rows = len(boxes)
        points = _column("points", self.points, np.float32, (rows, None, 2))
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "ignore", _column("ignore", self.ignore, np.bool_, (rows,)))
        object.__setattr__(self, "points", points)
        known = _column("points_known", self.points_known, np.bool_, (rows, points.shape[1]))
        object.__setattr__(self, "points_known", known)
        object.__setattr__(self, "extras", _extras(self.extras, rows))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Index) -> Annotations:
        """Select rows by a boolean mask, an index array or a slice."""
        extras = {k: v[index] for k, v in self.extras.items()}
        return Annotations(self.boxes[index], self.ignore[index], self.points[index], self.points_known[index], extras)

    @staticmethod
    def empty(num_points: int = 0) -> Annotations:
        """Return the truth of a picture without objects."""
        return Annotations.of(np.zeros((0, 4), np.float32), num_points=num_points)

    @staticmethod
    def of(boxes: NDArray[Any], num_points: int = 0, ignore: NDArray[np.bool_] | None = None) -> Annotations:
        """Return truth with boxes alone: no point is known, nothing is ignored unless `ignore` says so."""
        rows = len(boxes)
        return Annotations(
            np.asarray(boxes, np.float32).reshape(rows, 4),
            np.zeros(rows, bool) if ignore is None else ignore,
            np.zeros((rows, num_points, 2), np.float32),
            np.zeros((rows, num_points), bool),
        )

    def replace(self, **columns: Any) -> Annotations:
        """Return a copy with some columns replaced."""
        return dataclasses.replace(self, **columns)


@dataclass(frozen=True, slots=True, eq=False)
class CropPlan:
    """What a sampler decided before a pixel is read: M windows of one picture.

    Attributes:
        boxes: ``(M, 4)`` float32 windows x0 y0 x1 y1 in the picture's pixels; they may cross its border.
        role: ``(M,)`` int8, values of `SampleRole`.
        truth: ``(M,)`` int32, row of the picture's truth that the window teaches, or -1.
        angle_deg: ``(M,)`` float32, by how much the window is turned about its centre (clockwise on the screen).
        mirror: ``(M,)`` bool, whether the cut window is flipped left to right.
    """

    boxes: NDArray[np.float32]
    role: NDArray[np.int8]
    truth: NDArray[np.int32]
    angle_deg: NDArray[np.float32]
    mirror: NDArray[np.bool_]

    def __post_init__(self) -> None:
        boxes = _column("boxes", self.boxes, np.float32, (None, 4))
        rows = (len(boxes),)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "role", _column("role", self.role, np.int8, rows))
        object.__setattr__(self, "truth", _column("truth", self.truth, np.int32, rows))
        object.__setattr__(self, "angle_deg", _column("angle_deg", self.angle_deg, np.float32, rows))
        object.__setattr__(self, "mirror", _column("mirror", self.mirror, np.bool_, rows))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Index) -> CropPlan:
        """Select rows by a boolean mask, an index array or a slice."""
        return CropPlan(
            self.boxes[index], self.role[index], self.truth[index], self.angle_deg[index], self.mirror[index]
        )

    @staticmethod
    def upright(boxes: NDArray[Any], role: SampleRole, truth: NDArray[Any] | int = -1) -> CropPlan:
        """Return a plan of unturned, unmirrored windows that share one role."""
        rows = len(boxes)
        return CropPlan(
            np.asarray(boxes, np.float32).reshape(rows, 4),
            np.full(rows, int(role), np.int8),
            np.broadcast_to(np.asarray(truth, np.int32), (rows,)),
            np.zeros(rows, np.float32),
            np.zeros(rows, bool),
        )

    @staticmethod
    def concat(parts: Sequence[CropPlan]) -> CropPlan:
        """Stack plans in order; no parts give an empty plan."""
        if not parts:
            return CropPlan.upright(np.zeros((0, 4)), SampleRole.negative)
        names = [f.name for f in dataclasses.fields(CropPlan)]
        return CropPlan(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


@dataclass(frozen=True, slots=True, eq=False)
class CropTruth:
    """The truth of B crops, in each crop's own frame: origin at its corner, unit = its width and height.

    Attributes:
        role: ``(B,)`` int8, values of `SampleRole`.
        box: ``(B, 4)`` float32 x0 y0 x1 y1; ``0 0 1 1`` is the crop itself. Rows without an object hold 0.
        has_box: ``(B,)`` bool.
        points: ``(B, K, 2)`` float32 x y; unknown points hold 0.
        points_known: ``(B, K)`` bool.
        extras: further columns of length B (attributes of the object).
    """

    role: NDArray[np.int8]
    box: NDArray[np.float32]
    has_box: NDArray[np.bool_]
    points: NDArray[np.float32]
    points_known: NDArray[np.bool_]
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        role = _column("role", self.role, np.int8, (None,))
        rows = len(role)
        points = _column("points", self.points, np.float32, (rows, None, 2))
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "box", _column("box", self.box, np.float32, (rows, 4)))
        object.__setattr__(self, "has_box", _column("has_box", self.has_box, np.bool_, (rows,)))
        object.__setattr__(self, "points", points)
        known = _column("points_known", self.points_known, np.bool_, (rows, points.shape[1]))
        object.__setattr__(self, "points_known", known)
        object.__setattr__(self, "extras", _extras(self.extras, rows))

    def __len__(self) -> int:
        return len(self.role)

    def __getitem__(self, index: Index) -> CropTruth:
        """Select rows by a boolean mask, an index array or a slice."""
        extras = {k: v[index] for k, v in self.extras.items()}
        return CropTruth(
            self.role[index], self.box[index], self.has_box[index], self.points[index], self.points_known[index], extras
        )

    def replace(self, **columns: Any) -> CropTruth:
        """Return a copy with some columns replaced."""
        return dataclasses.replace(self, **columns)
