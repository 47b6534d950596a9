"""Normalised mean error (NME) of points: how far detected points lie from known ones, in percent of the object's size.

Source: the evaluation convention of 5-point face sets (distance of the annotated eyes); box size and diagonal for sets
with many profiles. The mean runs over points of an object first, then over objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import box_sides, iou_matrix
from cascade_det.core.types import Annotations, Detections

MIN_KNOWN_POINTS = 3
MIN_SCORE = 0.5
MIN_IOU = 0.5


class Normaliser(str, Enum):
    """The length that distances are divided by: of the first two points, sqrt(w h) or the diagonal of the true box."""

    eyes = "eyes"
    box = "box"
    diagonal = "diagonal"

    @classmethod
    def from_value(cls, value: str) -> Normaliser:
        """Return the normaliser of this name.

        Raises:
            ValueError: there is none; the message lists the choices.
        """
        try:
            return cls(value)
        except ValueError as error:
            names = ", ".join(item.value for item in cls)
            raise ValueError(f"normaliser={value!r} is none of {names}") from error


@dataclass(frozen=True, slots=True, eq=False)
class PointErrors:
    """Errors of the M objects that were matched, out of `total` that could be measured.

    Attributes:
        percent: ``(M,)`` float64, mean distance over an object's known points, in percent of the normaliser.
        picture: ``(M,)`` index of the object's picture.
        row: ``(M,)`` row of the object in its picture's truth.
        total: objects with enough known points, matched or not.
    """

    percent: NDArray[np.float64]
    picture: NDArray[np.intp]
    row: NDArray[np.intp]
    total: int

    @property
    def nme(self) -> float | None:
        """Mean over matched objects in percent; None where none was matched."""
        return float(self.percent.mean()) if len(self.percent) else None


def normaliser_px(truth: Annotations, normaliser: Normaliser) -> NDArray[np.float64]:
    """Return the length ``(G,)`` in pixels that each object's distances are divided by; 0 where it has none."""
    if normaliser is Normaliser.eyes:
        if truth.points.shape[1] < 2:
            return np.zeros(len(truth))
        points = truth.points.astype(np.float64)
        length: NDArray[np.float64] = np.linalg.norm(points[:, 0] - points[:, 1], axis=1)
        return length
    width, height = (np.maximum(side, 0) for side in box_sides(truth.boxes.astype(np.float64)))
    return np.asarray(np.sqrt(width * height) if normaliser is Normaliser.box else np.hypot(width, height))


def measurable(truth: Annotations, normaliser: Normaliser) -> NDArray[np.bool_]:
    """Return which objects ``(G,)`` can be measured.

    Not ignored, at least three known points, the first two (the eyes) among them, and a normaliser above 0.
    """
    known = truth.points_known
    enough: NDArray[np.bool_] = (known.sum(axis=1) >= MIN_KNOWN_POINTS) & known[:, :2].all(axis=1)
    return enough & ~truth.ignore & (normaliser_px(truth, normaliser) > 0)


def match_for_points(truth_xyxy: NDArray[Any], detections: Detections) -> NDArray[np.intp]:
    """Return for each true box ``(G, 4)`` the detection of score >= 0.5 with the highest IoU, -1 where that is < 0.5.

    The first detection wins a tie. Two objects may take the same detection: this measures points, not detection.
    """
    if len(detections) == 0 or len(truth_xyxy) == 0:
        return np.full(len(truth_xyxy), -1, np.intp)
    iou = iou_matrix(truth_xyxy.astype(np.float64), detections.boxes.astype(np.float64))  # (G, N)
    iou = np.where(detections.scores >= MIN_SCORE, iou, 0)
    best = iou.argmax(axis=1)
    return np.where(iou[np.arange(len(best)), best] >= MIN_IOU, best, -1)


def point_errors(
    truth: Sequence[Annotations], detections: Sequence[Detections], normaliser: Normaliser = Normaliser.eyes
) -> PointErrors:
    """Return the errors of all measurable objects of pictures that are given in the same order.

    Objects of a picture whose detections have no points count as unmatched.

    Raises:
        ValueError: truth and detections of a picture have different numbers of points.
    """
    percent, picture, row, total = [], [], [], 0
    for index, (objects, found) in enumerate(zip(truth, detections, strict=True)):
        rows = np.flatnonzero(measurable(objects, normaliser))
        total += len(rows)
        if found.points is None or len(rows) == 0:
            continue
        if found.points.shape[1] != objects.points.shape[1]:
            raise ValueError(f"detections have {found.points.shape[1]} points, the truth has {objects.points.shape[1]}")
        match = match_for_points(objects.boxes[rows], found)
        rows, match = rows[match >= 0], match[match >= 0]
        percent.append(_percent(objects[rows], found.points[match], normaliser))
        picture.append(np.full(len(rows), index, np.intp))
        row.append(rows)
    return PointErrors(
        np.concatenate(percent) if percent else np.zeros(0),
        np.concatenate(picture) if picture else np.zeros(0, np.intp),
        np.concatenate(row) if row else np.zeros(0, np.intp),
        total,
    )


def _percent(truth: Annotations, points: NDArray[np.float32], normaliser: Normaliser) -> NDArray[np.float64]:
    """Return the error ``(M,)`` of points ``(M, K, 2)`` against as many objects, over each one's known points."""
    distance = np.linalg.norm(points.astype(np.float64) - truth.points, axis=2)  # (M, K)
    known = truth.points_known
    mean = np.where(known, distance, 0).sum(axis=1) / known.sum(axis=1)
    return np.asarray(100 * mean / normaliser_px(truth, normaliser))
