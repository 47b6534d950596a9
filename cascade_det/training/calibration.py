"""Thresholds of a stage, measured on pictures that it was not mined from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.cascade import Cascade
from cascade_det.core.geometry import box_sides, coverage_matrix, iou_matrix
from cascade_det.core.imaging import Resampler
from cascade_det.core.schema import PyramidSection
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.picture_set import PictureSet
from cascade_det.errors import DataError

_FLOOR = 0.03  # lowest threshold that is looked at: below it candidates flood
_MATCH_IOU = 0.5
_BATCH = 8


@dataclass(frozen=True)
class Thresholds:
    """What calibration found for one stage.

    Attributes:
        detect, mine: probabilities.
        kept, kept_mining: share of the objects held so far that the stage keeps at `detect` and at `mine`.
        reach: share of the counted objects that the stages before still hold.
        objects: how many those are.
        candidates: what the stage lets through of a picture at `detect`.
        unreadable: pictures that could not be read and are left out.
    """

    detect: float
    mine: float
    kept: float
    kept_mining: float
    reach: float
    objects: int
    candidates: float
    unreadable: int = 0


def calibrate(
    cascade: Cascade, pictures: PictureSet, numbers: Sequence[int], progress: Callable[[int], None]
) -> Thresholds:
    """Measure the thresholds of the cascade's last stage.

    `detect_recall` is relative: of the counted objects (not ignored, of a size that the pyramid looks for) that the
    stages before still hold at IoU 0.5, the share that this stage still holds. `mine_recall` is the same with the
    stages before at their mining thresholds. The recipe's last stage takes its detection threshold from `max_fppi`
    instead.

    Args:
        cascade: the stages up to the one to calibrate; those before have thresholds.
        pictures: the training pictures.
        numbers: which of them to run.
        progress: called with the number of pictures done.

    Raises:
        DataError: there are pictures and none can be read.
    """
    section = cascade.recipe.stages[cascade.stages[-1].name]
    is_last = cascade.stages[-1].name == list(cascade.recipe.stages)[-1]
    purposes = ["detect"] if is_last and section.rounds == 1 else ["detect", "mine"]
    purposes = ["mine"] if len(cascade.stages) == 1 and not is_last else purposes  # no stage before: both runs are one
    records = _records(cascade, pictures, numbers, purposes, progress)
    unreadable = len(numbers) - len(records[purposes[0]])
    if unreadable and unreadable == len(numbers):
        raise DataError(
            f"calibration: none of the {unreadable:,} pictures kept for it can be read, such as "
            f"{pictures.picture(numbers[0]).name}; check the `images` of data.train, and that its disk is there."
        )
    detected, mined = records[purposes[0]], records[purposes[-1]]
    mine = recall_threshold(_best(mined), section.calibrate.mine_recall)
    detect = (
        fppi_threshold([r.false_scores for r in detected], section.calibrate.max_fppi)
        if is_last
        else recall_threshold(_best(detected), section.calibrate.detect_recall)
    )
    mine = min(mine, detect)
    held, counted = len(_best(detected)), sum(r.counted for r in detected)
    passed = sum(int((r.scores >= detect).sum()) for r in detected)
    kept, kept_mining = _share_from(_best(detected), detect), _share_from(_best(mined), mine)
    return Thresholds(
        detect, mine, kept, kept_mining, held / max(counted, 1), held, passed / max(len(detected), 1), unreadable
    )


def _share_from(scores: NDArray[Any], threshold: float) -> float:
    return float((scores >= threshold).mean()) if len(scores) else 1.0


@dataclass(frozen=True)
class _Record:
    best: NDArray[Any]  # best score of each counted object that the stages before hold
    false_scores: NDArray[Any]  # scores of detections without an object
    scores: NDArray[Any]
    counted: int


def _best(records: Sequence[_Record]) -> NDArray[Any]:
    return np.concatenate([record.best for record in records]) if records else np.zeros(0)


def _records(
    cascade: Cascade,
    pictures: PictureSet,
    numbers: Sequence[int],
    purposes: Sequence[str],
    progress: Callable[[int], None],
) -> dict[str, list[_Record]]:
    """Run the cascade with its last stage wide open, once for each purpose; unreadable pictures are left out."""
    settings = {purpose: cascade.settings(purpose=purpose, score=_FLOOR) for purpose in purposes}
    records: dict[str, list[_Record]] = {purpose: [] for purpose in purposes}
    for start in range(0, len(numbers), _BATCH):
        batch = numbers[start : start + _BATCH]
        images, truths = _readable(cascade, pictures, batch)
        for purpose in purposes if images else ():
            outputs = [found for _, found, _ in cascade.run_stages(images, settings[purpose])]
            for row, truth in enumerate(truths):
                found_by_stage = [found[row] for found in outputs]
                records[purpose].append(_record(truth, found_by_stage, cascade.recipe.pyramid))
        progress(len(batch))
    return records


def _readable(
    cascade: Cascade, pictures: PictureSet, numbers: Sequence[int]
) -> tuple[list[Resampler], list[Annotations]]:
    images, truths = [], []
    for number in numbers:
        try:
            images.append(cascade.resampler(pictures.read(number)))
        except DataError:
            continue
        truths.append(pictures.annotations(number))
    return images, truths


def _record(truth: Annotations, outputs: Sequence[Detections], pyramid: PyramidSection) -> _Record:
    found = outputs[-1]
    height = box_sides(truth.boxes)[1]
    sought = (height >= pyramid.min_object_px) & (height <= (pyramid.max_object_px or np.inf))
    counted = ~truth.ignore & sought
    held = counted.copy()
    if len(outputs) > 1:
        held &= (iou_matrix(outputs[-2].boxes, truth.boxes) >= _MATCH_IOU).any(axis=0)
    overlap = iou_matrix(found.boxes, truth.boxes)
    best = np.where(overlap >= _MATCH_IOU, found.scores[:, None], 0).max(axis=0, initial=0)
    on_object = (overlap[:, ~truth.ignore] >= _MATCH_IOU).any(axis=1)
    ignored = truth.boxes[truth.ignore]
    on_ignored = (coverage_matrix(ignored, found.boxes) >= _MATCH_IOU).any(axis=0)
    false_scores = found.scores[~on_object & ~on_ignored]
    return _Record(best[held], false_scores, found.scores, int(counted.sum()))


def recall_threshold(best_scores: NDArray[Any], recall: float) -> float:
    """Return the highest threshold at which at least the share `recall` of objects is kept.

    Args:
        best_scores: ``(G,)`` best score on each object, 0 where it was not found.
        recall: share in [0, 1].
    """
    if len(best_scores) == 0:
        return _FLOOR
    ranked = np.sort(best_scores)[::-1]
    needed = int(np.ceil(recall * len(ranked) - 1e-9))
    return float(max(ranked[max(needed, 1) - 1], _FLOOR))


def fppi_threshold(false_scores: Sequence[NDArray[Any]], max_fppi: float) -> float:
    """Return the lowest threshold with at most `max_fppi` false positives a picture.

    Args:
        false_scores: scores of the false positives of each picture.
        max_fppi: false positives per picture.
    """
    scores = np.sort(np.concatenate(false_scores))[::-1] if false_scores else np.zeros(0)
    allowed = int(max_fppi * len(false_scores) + 1e-9)
    if len(scores) <= allowed:
        return _FLOOR
    return float(min(np.nextafter(scores[allowed], np.float32(1)), 0.999))
