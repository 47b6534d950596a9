"""The WIDER FACE protocol (validation): average precision of faces at three levels of difficulty.

Source: Yang, Luo, Loy, Tang, "WIDER FACE: A Face Detection Benchmark", CVPR 2016, and its evaluation toolbox in the
version since 2019, which computes overlaps in double precision. Figures are those of the toolbox to 1e-9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade_det.evaluation.protocol import Curve, ProtocolResult
from cascade_det.evaluation.wider_files import ALL, WiderTruth, read_predictions, read_truth

Floats = NDArray[np.float64]
MIN_OVERLAP = 0.5
THRESHOLDS = 1 - np.arange(1, 1001) / 1000
_PAIRS_AT_ONCE = 1 << 20  # bounds the memory of overlaps: 8 MiB a matrix


@dataclass(frozen=True, eq=False)
class LevelScore:
    """What one level gives.

    Attributes:
        precision, recall: ``(1000,)`` float64 at `THRESHOLDS`; NaN where it is 0/0.
        ap: average precision; None where no face counts.
    """

    precision: Floats
    recall: Floats
    ap: float | None


def score_wider(predictions: Path, annotations: Path) -> ProtocolResult:
    """Score detections of the WIDER FACE validation images.

    Args:
        predictions: a folder of ``EVENT/IMAGE.txt`` (name, count, lines ``x y w h score``), or a COCO results file
            with an `images.json` beside it.
        annotations: the folder of the toolbox's four `.mat` files, or `wider_face_val_bbx_gt.txt`.

    Returns:
        Figures ``easy medium hard``, or ``all`` for the text file, which knows no levels; a curve for each.

    Raises:
        DataError: a file cannot be used; the message names it and what to do.
    """
    truth = read_truth(annotations)
    detections, warnings = read_predictions(predictions, truth.names)
    if ALL in truth.counted:
        warnings.append(
            f"{annotations} has no levels: every face counts, which no published figure means. For easy, medium and "
            "hard give the folder of the toolbox's .mat files."
        )
    return wider_result(truth, detections, warnings)


def wider_result(truth: WiderTruth, detections: Sequence[Floats], warnings: Sequence[str]) -> ProtocolResult:
    """Return figures and curves of detections ``(N, 5)`` x y w h score of each image of `truth`; see `score_wider`."""
    warnings = list(warnings)
    levels = score_levels(truth.boxes_xywh, truth.counted, detections)
    curves = [
        Curve("precision-recall", level, score.recall, score.precision, f"AP {score.ap:.3f}".replace(" 0.", " ."))
        for level, score in levels.items()
        if score.ap is not None
    ]
    scores = np.concatenate([np.zeros(0), *(rows[:, 4] for rows in detections)])
    if np.isnan(normalised_scores(scores)).any():
        warnings.append(
            f"All {len(scores):,} detections have the score {scores[0]:g}; the protocol scales scores by their range, "
            "so none passes a threshold and every AP is 0."
        )
    return ProtocolResult({level: score.ap for level, score in levels.items()}, curves, warnings=warnings)


def score_levels(
    boxes_xywh: Sequence[Floats], counted: Mapping[str, Sequence[NDArray[np.intp]]], detections: Sequence[Floats]
) -> dict[str, LevelScore]:
    """Return the score of each level over P images.

    Args:
        boxes_xywh: true boxes ``(G, 4)`` of each image.
        counted: by level, for each image the rows of its boxes that count. The others are ignored: a detection on one
            is no false positive.
        detections: for each image ``(N, 5)`` x y w h score in any order; of equal scores the first comes first.
    """
    ordered = [rows[np.argsort(-rows[:, 4], kind="stable")] for rows in detections]
    scores = normalised_scores(np.concatenate([np.zeros(0), *(rows[:, 4] for rows in ordered)]))
    *first_box, boxes = np.cumsum([0, *map(len, boxes_xywh)]).tolist()  # the boxes of all images in one row
    hits = [hit_boxes(rows[:, :4], boxes) for rows, boxes in zip(ordered, boxes_xywh, strict=True)]
    hit = _joined([np.where(own >= 0, own + first, -1) for own, first in zip(hits, first_box, strict=True)])
    # the toolbox passes over images without a box, so detections there are no false positives
    seen = np.repeat([len(own) > 0 for own in boxes_xywh], [len(rows) for rows in ordered]).astype(bool)
    levels = {}
    for level, of_images in counted.items():
        counts = np.zeros(boxes, bool)
        counts[_joined([rows + first for rows, first in zip(of_images, first_box, strict=True)])] = True
        levels[level] = _level_score(scores[seen], hit[seen], counts, sum(map(len, of_images)))
    return levels


def _joined(rows: Sequence[NDArray[np.intp]]) -> NDArray[np.intp]:
    return np.concatenate([np.zeros(0, np.intp), *rows])


def normalised_scores(scores: Floats) -> Floats:
    """Return scores ``(N,)`` of a whole set scaled to its range, in float32 as the toolbox does.

    The maximum is at least the smallest normal float32, so of negative scores it is about 0 and not their own; one
    constant positive score gives NaN.

    >>> normalised_scores(np.array([1.0, 3.0, 2.0]))
    array([0. , 1. , 0.5])
    """
    limits = np.finfo(np.float32)
    single = scores.astype(np.float32)
    low, high = single.min(initial=limits.max), single.max(initial=limits.tiny)
    with np.errstate(invalid="ignore"):
        return ((single - low) / (high - low)).astype(np.float64)


def hit_boxes(detections_xywh: Floats, boxes_xywh: Floats) -> NDArray[np.intp]:
    """Return for each detection ``(N, 4)`` the box ``(G, 4)`` that it overlaps most, -1 where that is below 0.5.

    Sides are one pixel longer than their numbers say: both corners belong to a box. The first box wins a tie, and a
    detection has no second choice where others took that box.
    """
    best = np.full(len(detections_xywh), -1, np.intp)
    if len(boxes_xywh) == 0:
        return best
    step = max(1, _PAIRS_AT_ONCE // len(boxes_xywh))
    for start in range(0, len(best), step):
        overlaps = _overlaps(detections_xywh[start : start + step], boxes_xywh)
        highest = overlaps.argmax(axis=1)
        enough = overlaps[np.arange(len(highest)), highest] >= MIN_OVERLAP
        best[start : start + step] = np.where(enough, highest, -1)
    return best


def _overlaps(a_xywh: Floats, b_xywh: Floats) -> Floats:
    a_low, a_high = a_xywh[:, None, :2], a_xywh[:, None, :2] + a_xywh[:, None, 2:]
    b_low, b_high = b_xywh[None, :, :2], b_xywh[None, :, :2] + b_xywh[None, :, 2:]
    shared = np.minimum(a_high, b_high) - np.maximum(a_low, b_low) + 1  # (N, G, 2)
    both = shared.prod(axis=2)
    either = (a_high - a_low + 1).prod(axis=2) + (b_high - b_low + 1).prod(axis=2) - both
    return np.divide(both, either, out=np.zeros_like(both), where=(shared > 0).all(axis=2))


def _level_score(scores: Floats, hit: NDArray[np.intp], counts: NDArray[np.bool_], faces: int) -> LevelScore:
    """Return the curve of detections that are in order within each image.

    Args:
        scores, hit: ``(N,)`` normalised score and box of each, -1 for none.
        counts: ``(G,)`` which boxes count.
        faces: how many that are.
    """
    counted = np.append(counts, False)[hit]  # -1 is the last
    first = np.zeros(len(hit), bool)
    first[np.unique(hit, return_index=True)[1]] = True
    proposals = _at_or_above(scores[counted | (hit < 0)])
    recalled = _at_or_above(scores[counted & first])
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = recalled / proposals, recalled / np.float64(faces)
    return LevelScore(precision, recall, average_precision(precision, recall) if faces else None)


def _at_or_above(scores: Floats) -> Floats:
    """Return how many scores reach each of `THRESHOLDS`, NaN none.

    Scores of an image fall in its order, so the toolbox's "up to the last detection at or above the threshold" is all
    of them, and the sum over images needs no images.
    """
    ascending = np.sort(scores[~np.isnan(scores)])
    return (len(ascending) - np.searchsorted(ascending, THRESHOLDS)).astype(np.float64)


def average_precision(precision: Floats, recall: Floats) -> float:
    """Return the area under a curve of rising recall, precision being the highest at the same or a higher recall.

    >>> average_precision(np.array([np.nan, 1, 0.5]), np.array([0, 0.25, 0.5]))
    0.375
    """
    envelope = np.fmax.accumulate(np.append(precision, 0)[::-1])[::-1]
    return float(np.diff(recall, prepend=0, append=1) @ envelope)
