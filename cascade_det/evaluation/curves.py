"""The curves of detections and truth as an evaluation leaves them: all boxes at IoU 0.5, and points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.evaluation.given import Given
from cascade_det.evaluation.miss_rate import MissRateCurve, Setup, Variant, curve_of_setup, log_average
from cascade_det.evaluation.points import MIN_KNOWN_POINTS, Normaliser, score_points
from cascade_det.evaluation.protocol import Curve

_EVERY_OBJECT = Setup((0, math.inf), (0, math.inf))
_MOST_POINTS = 1500  # of a line: more can be told apart on no page
# the ends of the logarithmic axes: what lies beyond them, such as no false positive, stands at the edge
_LOWEST_FPPI, _LOWEST_RATE = 1e-3, 1e-2
_NAME = "IoU 0.5"


def box_curves(given: Given, figures: Mapping[str, Any]) -> list[Curve]:
    """Return precision over recall, ROC, miss rate and recall over false positives per image, as steps of detections.

    Every object that is not ignored counts, whatever its height; the precision is not interpolated.

    Args:
        given: detections and truth.
        figures: of `metrics.json`; the legend quotes its `AP50` where there is one.

    Returns:
        A curve of each kind, none where no object counts or nothing was found.
    """
    curve = curve_of_setup(given, np.ones(len(given.ignore)), _EVERY_OBJECT, Variant.citypersons)
    if curve.counted == 0 or len(curve.scores) == 0:
        return []
    chosen = _kept_points(len(curve.scores))
    recall, fppi = curve.hits / curve.counted, curve.fppi
    false = np.rint(fppi * given.pictures)
    precision = curve.hits / (curve.hits + false)
    rate, fppi = np.maximum(1 - recall, _LOWEST_RATE), np.maximum(fppi, _LOWEST_FPPI)
    lines = [
        ("precision-recall", recall, precision, _ap_legend(figures, recall)),
        ("roc", np.maximum(false, 1), recall, _roc_legend(recall, false)),
        ("miss-rate", fppi, rate, f"MR-2 {log_average(curve, Variant.citypersons):.3f}"),
        ("recall-fppi", fppi, recall, f"recall {_recall_at(curve, 1.0):.3f} at 1"),
    ]
    return [Curve(kind, _NAME, x[chosen], y[chosen], text.replace(" 0.", " .")) for kind, x, y, text in lines]


def point_curves(given: Given, normaliser: Normaliser = Normaliser.eyes) -> list[Curve]:
    """Return the share of the measured objects over the error of their points, none where nothing can be measured.

    Args:
        given: detections and truth, read from the files that it names.
        normaliser: what distances are divided by.
    """
    known = any(record.get("num_keypoints", 0) >= MIN_KNOWN_POINTS for record in given.truth.records)
    found = given.found.records
    if not known or not found or not all(record.get("keypoints") for record in found):
        return []
    curves = score_points(given.found_file, given.truth_file, normaliser=normaliser).curves
    return [thinned(curve) for curve in curves]


def thinned(curve: Curve) -> Curve:
    """Return a curve with both ends and at most so many points as can be told apart on a page."""
    chosen = _kept_points(len(curve.x))
    return replace(curve, x=curve.x[chosen], y=curve.y[chosen])


def _kept_points(length: int) -> NDArray[np.intp]:
    """Return rows of a line that keep its ends, at most so many as can be seen."""
    return np.unique(np.linspace(0, length - 1, min(length, _MOST_POINTS)).astype(np.intp))


def _recall_at(curve: MissRateCurve, fppi: float) -> float:
    point = int(curve.last_within(np.asarray(fppi)))
    return float(curve.hits[point] / curve.counted) if point >= 0 else 0.0


def _ap_legend(figures: Mapping[str, Any], recall: NDArray[np.float64]) -> str:
    ap50 = figures.get("AP50")
    return f"AP50 {ap50:.3f}" if isinstance(ap50, float) and ap50 >= 0 else f"recall {recall[-1]:.3f}"


def _roc_legend(recall: NDArray[np.float64], false: NDArray[np.float64]) -> str:
    return f"{recall[-1]:.3f} at {int(false[-1]):,} false positives"
