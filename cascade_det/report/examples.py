"""Which detections were right, which were wrong, which objects were missed and by which stage, with a few of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import iou_matrix
from cascade_det.core.types import Detections
from cascade_det.errors import DataError
from cascade_det.evaluation.given import Given, corners_of
from cascade_det.evaluation.miss_rate import MIN_OVERLAP, NO_OBJECT, ON_IGNORED, match_objects

if TYPE_CHECKING:
    from cascade_det.cascade import Cascade
    from cascade_det.data.sources import Source

SHOWN = 30  # examples of a kind


@dataclass(frozen=True, slots=True)
class Example:
    """One detection, or one object that was missed.

    Attributes:
        picture: row of its picture.
        box_xyxy: what the example is about, in the picture's pixels.
        score: of the detection; of a missed object the highest of the detections at IoU 0.5 or more, None without one.
        found: row of the detection, None for a missed object.
    """

    picture: int
    box_xyxy: tuple[float, float, float, float]
    score: float | None
    found: int | None = None


@dataclass(frozen=True)
class Examples:
    """What a threshold makes of detections: how many are right and wrong, and examples by falling score.

    Attributes:
        score: the threshold.
        counts: of `correct`, `missed` and `false`; and of `dropped` detections, which lie on ignored objects.
        correct, missed, false: at most `SHOWN` of each: correct ones spread evenly over their scores, false ones the
            most certain first, missed ones those nearest to being found, then by falling height.
    """

    score: float
    counts: dict[str, int]
    correct: list[Example] = field(default_factory=list)
    missed: list[Example] = field(default_factory=list)
    false: list[Example] = field(default_factory=list)

    @property
    def recall(self) -> float | None:
        """Share of the counted objects that are found; None without any."""
        objects = self.counts["correct"] + self.counts["missed"]
        return self.counts["correct"] / objects if objects else None

    @property
    def precision(self) -> float | None:
        """Share of the detections that are right, without those on ignored objects; None without any."""
        judged = self.counts["correct"] + self.counts["false"]
        return self.counts["correct"] / judged if judged else None


def find_examples(given: Given, score: float) -> Examples:
    """Match the detections of at least `score` at IoU 0.5, as `miss_rate` does, and choose examples."""
    truth_xyxy, found_xyxy = corners_of(given.truth.boxes_xywh), corners_of(given.found.boxes_xywh)
    right, wrong, missed, dropped = [], [], [], 0
    for objects, found in given.groups():
        ranked = found[np.argsort(-given.scores[found], kind="stable")]
        ranked = ranked[given.scores[ranked] >= score]
        taken = match_objects(given.found.boxes_xywh[ranked], given.truth.boxes_xywh[objects], given.ignore[objects])
        right += ranked[taken >= 0].tolist()
        wrong += ranked[taken == NO_OBJECT].tolist()
        dropped += int((taken == ON_IGNORED).sum())
        left = np.setdiff1d(np.flatnonzero(~given.ignore[objects]), taken[taken >= 0])
        missed += _missed(given, objects[left], found, truth_xyxy, found_xyxy)
    counts = {"correct": len(right), "missed": len(missed), "false": len(wrong), "dropped": dropped}
    by_score = _falling(given, right)
    spread = np.unique(np.linspace(0, max(len(by_score) - 1, 0), min(SHOWN, len(by_score))).astype(int))
    detections = [[_of(given, row, found_xyxy) for row in rows] for rows in (
        [by_score[place] for place in spread], _falling(given, wrong)[:SHOWN])]  # fmt: skip
    missed.sort(key=lambda example: (-(example.score or 0), example.box_xyxy[1] - example.box_xyxy[3]))
    return Examples(score, counts, detections[0], missed[:SHOWN], detections[1])


def _missed(
    given: Given,
    objects: NDArray[np.intp],
    found: NDArray[np.intp],
    truth_xyxy: NDArray[np.float64],
    found_xyxy: NDArray[np.float64],
) -> list[Example]:
    near = iou_matrix(truth_xyxy[objects], found_xyxy[found]) >= MIN_OVERLAP  # (G, N)
    best = np.where(near, given.scores[found][None], -1).max(axis=1, initial=-1)
    return [
        Example(int(given.truth.picture[row]), _box(truth_xyxy[row]), None if top < 0 else float(top))
        for row, top in zip(objects.tolist(), best.tolist(), strict=True)
    ]


def _falling(given: Given, rows: Sequence[int]) -> list[int]:
    return sorted(rows, key=lambda row: (-given.scores[row], row))


def _of(given: Given, row: int, found_xyxy: NDArray[np.float64]) -> Example:
    return Example(int(given.found.picture[row]), _box(found_xyxy[row]), float(given.scores[row]), row)


def _box(box_xyxy: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box_xyxy.tolist()
    return x0, y0, x1, y1


def losing_stages(
    cascade: Cascade, settings: dict[str, Any], source: Source, missed: Sequence[Example], index_of: Sequence[int]
) -> list[str | None]:
    """Return for each missed object which stage lost it last, None where the last stage still holds it.

    The cascade runs once more on the pictures of these few, with the settings of the evaluation; not where that looked
    at each picture several times (`scales`, `flip`), whose stages are not those of one look.

    Args:
        settings: those of `metrics.json`.
        missed: at most `SHOWN` objects.
        index_of: index in the source of each row of pictures.
    """
    names: list[str | None] = [None] * len(missed)
    if settings.get("scales") or settings.get("flip"):
        return names
    values = cascade.settings(
        settings.get("upto"), min_object_px=settings.get("min_object_px"), score=settings.get("score")
    )
    for picture in sorted({example.picture for example in missed}):
        rows = [row for row, example in enumerate(missed) if example.picture == picture]
        try:
            image = cascade.resampler(source.read(index_of[picture]))
        except DataError:  # gone since the evaluation
            continue
        outputs = [(name, kept[0]) for name, kept, _ in cascade.run_stages([image], values)]
        for row in rows:
            names[row] = stage_that_lost(outputs, missed[row].box_xyxy)
    return names


def stage_that_lost(outputs: Sequence[tuple[str, Detections]], box_xyxy: Sequence[float]) -> str | None:
    """Return the stage from which on no candidate has an IoU of 0.5 with a box; None where one of the last stage has.

    Args:
        outputs: name of each stage and what it lets through of the picture.
        box_xyxy: the object.
    """
    lost: str | None = None
    held = True
    for name, candidates in outputs:
        overlap = iou_matrix(np.asarray([box_xyxy], np.float64), candidates.boxes.astype(np.float64))
        holds = bool((overlap >= MIN_OVERLAP).any())
        if held and not holds:
            lost = name
        held = holds
    return None if held else lost
