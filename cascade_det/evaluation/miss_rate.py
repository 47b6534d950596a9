"""Log-average miss rate of pedestrians over false positives per image (FPPI): CityPersons and Caltech.

Sources: Dollar et al. 2012, "Pedestrian Detection: An Evaluation of the State of the Art" (the measure, MR-2), and
Zhang et al. 2017, "CityPersons" (the set-ups by height and visibility).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import intersection_matrix
from cascade_det.evaluation.given import Given, corners_of, number_column, read_given
from cascade_det.evaluation.protocol import Curve, ProtocolResult

MIN_OVERLAP = 0.5
FALSE_POSITIVES_PER_IMAGE = ("0.01", "0.1", "1")
_ASPECT = 0.41  # width over height of every box in the Caltech set
_MARGIN = 1.25  # detections are kept this much beyond the range of heights
_CITYPERSONS_LIMIT = 1000  # detections of a picture
_CITYPERSONS_POINTS = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)
_CALTECH_POINTS = tuple(10 ** (quarter / 4) for quarter in range(-8, 1))  # numpy's powers differ between releases
_CALTECH_FLOOR = 1e-10
_TRUE, _FALSE, _DROPPED = 1, 0, -1
NO_OBJECT, ON_IGNORED = -1, -2  # what a detection takes that takes no counted object
_INF = math.inf


class Variant(str, Enum):
    """Whose tool is followed; see `log_average` and `curve_of_setup` for where they differ."""

    citypersons = "citypersons"
    caltech = "caltech"


@dataclass(frozen=True)
class Setup:
    """Which objects count: those with height and visibility in these closed ranges; all others are ignored."""

    height_px: tuple[float, float]
    visibility: tuple[float, float]


SETUPS: Mapping[str, Setup] = {
    "Reasonable": Setup((50, _INF), (0.65, _INF)),
    "Reasonable_small": Setup((50, 75), (0.65, _INF)),
    "Reasonable_occ=heavy": Setup((50, _INF), (0.2, 0.65)),
    "All": Setup((20, _INF), (0.2, _INF)),
}


@dataclass(frozen=True, slots=True, eq=False)
class MissRateCurve:
    """Where each detection by falling score leads to; those that fell on ignored objects are no part of it.

    Attributes:
        scores: ``(N,)`` float64, falling.
        hits: ``(N,)`` int64, how many objects are found down to each detection.
        fppi: ``(N,)`` float64, false positives down to each detection over the number of pictures.
        counted: how many objects count.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.int64]
    fppi: NDArray[np.float64]
    counted: int

    @property
    def miss_rate(self) -> NDArray[np.float64]:
        """Return the share of counted objects that is missed, ``(N,)``."""
        return 1 - self.hits / self.counted

    def last_within(self, fppi: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the last point with at most so many false positives per image, -1 where even the first has more."""
        return np.searchsorted(self.fppi, fppi, side="right") - 1


def match_picture(
    found_xywh: NDArray[np.float64], truth_xywh: NDArray[np.float64], ignored: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """Return what each detection of a picture is: 1 true, 0 false, -1 dropped for lying on an ignored object.

    Args:
        found_xywh: ``(N, 4)`` by falling score.
        truth_xywh, ignored: ``(G, 4)`` and ``(G,)``.

    A detection takes the free counted object with the highest IoU, the later one on a tie, where that is at least 0.5;
    otherwise an ignored object of which it overlaps as much by the share of its own area. Those take any number.

    >>> box = np.array([[0.0, 0, 10, 20]])
    >>> match_picture(np.repeat(box, 2, axis=0), box, np.array([False]))
    array([1, 0], dtype=int8)
    """
    rows = match_objects(found_xywh, truth_xywh, ignored)
    return np.where(rows >= 0, _TRUE, np.where(rows == NO_OBJECT, _FALSE, _DROPPED)).astype(np.int8)


def match_objects(
    found_xywh: NDArray[np.float64], truth_xywh: NDArray[np.float64], ignored: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Return which object each detection takes, ``(N,)`` rows of the truth; by the rule of `match_picture`.

    `NO_OBJECT` stands for a false one and `ON_IGNORED` for one that is dropped.
    """
    common = intersection_matrix(corners_of(found_xywh), corners_of(truth_xywh))  # (N, G)
    own, theirs = (boxes[:, 2] * boxes[:, 3] for boxes in (found_xywh, truth_xywh))
    base = np.where(ignored[None], own[:, None], own[:, None] + theirs[None] - common)
    overlap = np.divide(common, base, out=np.zeros_like(common), where=base > 0)
    taken = np.where((overlap[:, ignored] >= MIN_OVERLAP).any(axis=1), ON_IGNORED, NO_OBJECT).astype(np.intp)
    counted, free = np.flatnonzero(~ignored), overlap[:, ~ignored]
    for row in np.flatnonzero((free >= MIN_OVERLAP).any(axis=1)):
        best = free.shape[1] - 1 - free[row, ::-1].argmax()
        if free[row, best] >= MIN_OVERLAP:
            taken[row] = counted[best]
            free[:, best] = 0
    return taken


def curve_of_setup(given: Given, visibility: NDArray[np.float64], setup: Setup, variant: Variant) -> MissRateCurve:
    """Match every picture and return the curve of one set-up; of equal scores the earlier picture's comes first.

    The CityPersons tool keeps 1000 detections of a picture; the Caltech tool first gives every box the width 0.41 times
    its height, about the same centre. Both then leave out detections that are more than 1.25 times lower or higher than
    the set-up's range.

    Args:
        given: the detections and the truth.
        visibility: ``(G,)`` which share of each object can be seen.
        setup, variant: what counts, and whose tool is followed.
    """
    truth_xywh, found_xywh = given.truth.boxes_xywh, given.found.boxes_xywh
    ignored = given.ignore | _outside(truth_xywh[:, 3], setup.height_px) | _outside(visibility, setup.visibility)
    low, high = setup.height_px[0] / _MARGIN, setup.height_px[1] * _MARGIN
    fits = (found_xywh[:, 3] >= low) & (found_xywh[:, 3] < high)
    if variant is Variant.caltech:
        truth_xywh, found_xywh = _of_one_aspect(truth_xywh), _of_one_aspect(found_xywh)
    rows, outcomes = [np.zeros(0, np.intp)], [np.zeros(0, np.int8)]
    for objects, found in given.groups():
        ranked = found[np.argsort(-given.scores[found], kind="stable")]
        ranked = ranked[:_CITYPERSONS_LIMIT] if variant is Variant.citypersons else ranked
        rows.append(ranked[fits[ranked]])
        outcomes.append(match_picture(found_xywh[rows[-1]], truth_xywh[objects], ignored[objects]))
    row, outcome = np.concatenate(rows), np.concatenate(outcomes)
    row, outcome = row[outcome != _DROPPED], outcome[outcome != _DROPPED]
    order = np.argsort(-given.scores[row], kind="stable")
    hits = np.cumsum(outcome[order] == _TRUE)
    false = np.cumsum(outcome[order] == _FALSE)
    return MissRateCurve(given.scores[row][order], hits, false / given.pictures, int((~ignored).sum()))


def log_average(curve: MissRateCurve, variant: Variant) -> float:
    """Return MR-2 in [0, 1]: the geometric mean of the miss rates at nine FPPI from 0.01 to 1; -1 without an object.

    Each is taken at the last point of the curve with at most that FPPI. Where there is none, the CityPersons tool takes
    the curve's *last* point, by a Python index of -1, and the Caltech tool a miss rate of 1. A miss rate of 0 makes the
    mean 0 in the CityPersons tool; the Caltech tool takes 1e-10 for it.
    """
    if curve.counted == 0:
        return -1.0
    if len(curve.scores) == 0:
        return 1.0
    if variant is Variant.citypersons:
        with np.errstate(divide="ignore"):
            logs = np.log(curve.miss_rate[curve.last_within(np.asarray(_CITYPERSONS_POINTS))])
    else:
        point = curve.last_within(np.asarray(_CALTECH_POINTS))
        logs = np.log(np.maximum(np.where(point < 0, 1, curve.miss_rate[point]), _CALTECH_FLOOR))
    return float(np.exp(logs.mean()))


def score_miss_rate(predictions: Path, annotations: Path, *, variant: Variant = Variant.citypersons) -> ProtocolResult:
    """Return MR-2 of each set-up, recall at 0.01, 0.1 and 1 false positives an image, and the scores that give them.

    An object's height is its box's. Where no point of the curve has so few false positives the recall is 0 and the
    score None; without an object that counts MR-2 and recall are -1. Detections of equal score are points of their own.
    With several categories a detection takes objects of its own category alone; counts run over all.

    Args:
        predictions: a COCO results list.
        annotations: the COCO truth; `vis_ratio` is an object's visibility, 1 where it has none.
        variant: whose tool is followed.

    Raises:
        DataError: a file cannot be used; the message names the entry and the value.
    """
    return miss_rate_result(read_given(predictions, annotations), variant)


def miss_rate_result(given: Given, variant: Variant) -> ProtocolResult:
    """Return what `score_miss_rate` does, of detections and truth in memory."""
    visibility = number_column(given, "vis_ratio")
    warnings = list(given.warnings)
    without = int(np.isnan(visibility).sum())
    if without:
        warnings.append(
            f"{given.truth_file}: {without:,} of {len(visibility):,} objects have no vis_ratio, which counts as 1."
        )
    visibility = np.nan_to_num(visibility, nan=1.0)
    figures: dict[str, Any] = {"mr2": {}, "recall_at_fppi": {}, "score_at_fppi": {}}
    curves: list[Curve] = []
    for name, setup in SETUPS.items():
        curve = curve_of_setup(given, visibility, setup, variant)
        figures["mr2"][name] = log_average(curve, variant)
        figures["recall_at_fppi"][name], figures["score_at_fppi"][name] = _at_fppi(curve)
        if curve.counted and len(curve.scores):
            curves += _lines(name, curve, figures["mr2"][name])
    return ProtocolResult(figures, curves, warnings=warnings)


def _at_fppi(curve: MissRateCurve) -> tuple[dict[str, float], dict[str, float | None]]:
    """Return recall and score of the last point within each FPPI."""
    recall: dict[str, float] = {}
    score: dict[str, float | None] = {}
    for text in FALSE_POSITIVES_PER_IMAGE:
        point = int(curve.last_within(np.asarray(float(text))))
        if curve.counted == 0:
            recall[text], score[text] = -1.0, None
        elif point < 0:
            recall[text], score[text] = 0.0, None
        else:
            recall[text], score[text] = float(curve.hits[point] / curve.counted), float(curve.scores[point])
    return recall, score


def _lines(name: str, curve: MissRateCurve, mr2: float) -> list[Curve]:
    """Return the miss rate over FPPI and the precision over recall."""
    precision = curve.hits / np.arange(1, len(curve.hits) + 1)
    recall = curve.hits / curve.counted
    return [
        Curve("miss-rate", name, curve.fppi, curve.miss_rate, f"MR-2 {mr2:.3f}".replace(" 0.", " .")),
        Curve("precision-recall", name, recall, precision, f"recall {recall[-1]:.3f}".replace(" 0.", " .")),
    ]


def _of_one_aspect(boxes_xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return boxes ``(N, 4)`` of the same centres and heights, 0.41 times as wide as high."""
    x, y, width, height = boxes_xywh.T
    return np.stack([x + (width - _ASPECT * height) / 2, y, _ASPECT * height, height], axis=1)


def _outside(values: NDArray[np.float64], closed_range: tuple[float, float]) -> NDArray[np.bool_]:
    return (values < closed_range[0]) | (values > closed_range[1])
