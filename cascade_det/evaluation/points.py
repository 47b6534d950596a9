"""Normalised mean error (NME) of points: how far detected points lie from known ones, in percent of the object's size.

Source: the evaluation convention of 5-point face sets (distance of the annotated eyes); box size and diagonal for sets
with many profiles. The mean runs over points of an object first, then over objects. Failure rate and AUC as in 300-W:
failures are beyond 10 %, and the area under the cumulative error distribution (CED) is taken up to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import box_sides, iou_matrix
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.formats.coco_records import FARTHEST_PX, Record, numbers, shown
from cascade_det.errors import DataError
from cascade_det.evaluation.given import Given, corners_of, place_of_object, place_of_result, read_given
from cascade_det.evaluation.protocol import Curve, ProtocolResult

FAILURE_PERCENT = 10.0
MIN_KNOWN_POINTS = 3
MIN_SCORE = 0.5
MIN_IOU = 0.5
_INVISIBLE, _VISIBLE = 1, 2  # COCO's flags of points; 0 is not labelled


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

    @property
    def failure_rate(self) -> float | None:
        """Share of matched objects with an error above 10 %; None where none was matched."""
        return float((self.percent > FAILURE_PERCENT).mean()) if len(self.percent) else None

    @property
    def auc(self) -> float | None:
        """Area in [0, 1] under the share of matched objects with at most each error, up to 10 %; None without a match.

        An object of error e adds to the share from e on, so it adds 1 - e / 10 % to the area.
        """
        return float(np.maximum(1 - self.percent / FAILURE_PERCENT, 0).mean()) if len(self.percent) else None


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


def score_points(predictions: Path, annotations: Path, *, normaliser: Normaliser = Normaliser.eyes) -> ProtocolResult:
    """Return the error of given points: `nme` in percent, `failure_rate` and `auc` in [0, 1], None without a match.

    Objects without a detection (of score >= 0.5, at IoU >= 0.5) are left out of all three; `nme_matched` and
    `nme_total` count those that were measured and those that could be. A point of the truth is known where its flag is
    2, so points that are labelled but marked invisible (1) are left out.

    Args:
        predictions: a COCO results list with `keypoints`, x y and a flag that is not read.
        annotations: the COCO truth with as many `keypoints`.
        normaliser: what distances are divided by.

    Raises:
        DataError: a file cannot be used; the message names the entry and the value.
    """
    return points_result(read_given(predictions, annotations), normaliser)


def points_result(given: Given, normaliser: Normaliser) -> ProtocolResult:
    """Return what `score_points` does, of detections and truth in memory."""
    truth, found, invisible = _with_points(given)
    errors = point_errors(truth, found, normaliser)
    figures = {"nme": errors.nme, "failure_rate": errors.failure_rate, "auc": errors.auc}
    figures |= {"nme_matched": len(errors.percent), "nme_total": errors.total}
    warnings = list(given.warnings)
    if invisible:
        warnings.append(f"{given.truth_file}: {invisible:,} points are marked invisible (flag 1) and left out.")
    if len(errors.percent) < errors.total:
        missed = errors.total - len(errors.percent)
        warnings.append(f"{missed:,} of {errors.total:,} objects have no detection and are left out of all figures.")
    return ProtocolResult(figures, _distribution(errors, normaliser), warnings=warnings)


def _distribution(errors: PointErrors, normaliser: Normaliser) -> list[Curve]:
    """Return the cumulative share of matched objects over the error in percent, none without a match."""
    if errors.nme is None:
        return []
    x = np.concatenate([[0.0], np.sort(errors.percent)])
    figure = f"NME {errors.nme:.2f} %, AUC {errors.auc:.3f}".replace("AUC 0.", "AUC .")
    return [Curve("ced", normaliser.value, x, np.linspace(0, 1, len(x)), figure)]


def _with_points(given: Given) -> tuple[list[Annotations], list[Detections], int]:
    """Return truth and detections of each picture and category, and how many points are marked invisible."""
    num_points = _number_of_points(given)
    objects = [(place_of_object(given.truth_file, record), record) for record in given.truth.records]
    results = [(place_of_result(given.found_file, number), record) for number, record in enumerate(given.found.records)]
    of_truth, of_found = _triples(objects, num_points, optional=True), _triples(results, num_points, optional=False)
    boxes, found_boxes = (corners_of(part.boxes_xywh).astype(np.float32) for part in (given.truth, given.found))
    truth = Annotations(boxes, given.ignore, of_truth[..., :2], of_truth[..., 2] == _VISIBLE)
    found = Detections(found_boxes, given.scores.astype(np.float32), of_found[..., :2])
    groups = list(given.groups())
    invisible = int((of_truth[..., 2] == _INVISIBLE).sum())
    return [truth[rows] for rows, _ in groups], [found[rows] for _, rows in groups], invisible


def _number_of_points(given: Given) -> int:
    """Return how many points the first object that has some has; without an object, the first detection."""
    records = given.truth.records or given.found.records
    lengths = (len(record["keypoints"]) for record in records if isinstance(record.get("keypoints"), list))
    longest = next((length for length in lengths if length), 0)
    if given.truth.records and longest < 3:
        raise DataError(
            f"{given.truth_file}: no annotation has `keypoints`, so there are no points to score. Name a truth with "
            "x y and a flag for each point of an object."
        )
    return longest // 3


def _triples(placed: Sequence[tuple[str, Record]], num_points: int, optional: bool) -> NDArray[np.float32]:
    """Return ``(N, K, 3)`` x y flag of each point; where optional, an entry may have no `keypoints`: all are 0.

    Args:
        placed: how an error names each entry, and the entry.
        num_points, optional: how many points an entry must have, and whether it may have none.
    """
    triples = np.zeros((len(placed), num_points, 3), np.float32)
    for row, (place, record) in enumerate(placed):
        if num_points == 0 or (optional and not record.get("keypoints")):
            continue
        values = np.asarray(numbers(place, record, "keypoints", 3 * num_points))
        if not (np.abs(values) <= FARTHEST_PX).all():
            raise DataError(f"{place} has keypoints {shown(record['keypoints'])}. Give finite numbers of pixels.")
        triples[row] = values.reshape(num_points, 3)
    return triples
