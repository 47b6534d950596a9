"""What pycocotools, or faster-coco-eval in its place, makes of a truth and detections: matches, precision, recall."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.errors import DataError
from cascade_det.evaluation.bootstrap import MatchTable

COCO_LIMITS = (1, 10, 100)  # detections of a picture, by falling score
ALL = "all"
COCO_AREAS_PX2 = {ALL: (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


class Backend(str, Enum):
    """The library that matches; both give the same figures, the second in less time."""

    pycocotools = "pycocotools"
    faster_coco_eval = "faster-coco-eval"


class CocoMatching:
    """A match of every picture, and precision and recall from them.

    Args:
        truth: a COCO data set. Ids of annotations start at 1: pycocotools takes a match with 0 for no match.
        results: a COCO results list; without an `area`, a box's own is taken.
        limits: numbers of detections a picture that figures will be asked for.
        ranges: ranges of an object's size by name, the first named "all".
        backend: the library that matches.

    Raises:
        DataError: the backend is not installed.
    """

    def __init__(
        self,
        truth: dict[str, Any],
        results: Sequence[Mapping[str, Any]],
        limits: Sequence[int] = COCO_LIMITS,
        ranges: Mapping[str, tuple[float, float]] = COCO_AREAS_PX2,
        backend: Backend = Backend.pycocotools,
    ) -> None:
        found = [{"area": r["bbox"][2] * r["bbox"][3], **r, "id": n, "iscrowd": 0} for n, r in enumerate(results, 1)]
        self._limits, self._ranges, self._pictures = sorted(set(limits)), list(ranges), len(truth["images"])
        indexed, evaluation = _classes(backend)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            run = evaluation(_indexed(indexed, truth), _indexed(indexed, {**truth, "annotations": found}), "bbox")
            run.params.maxDets = self._limits
            run.params.areaRng = [list(bounds) for bounds in ranges.values()]
            run.params.areaRngLbl = self._ranges
            run.evaluate()
            run.accumulate()
        self._run = run

    def precision(self, limit: int, iou: float | None = None, size: str = ALL) -> float:
        """Return average precision over 101 levels of recall at one IoU threshold or, by default, over all ten."""
        # [threshold, recall, category, size, limit]; `summarize` looks for the limit 100 and prints -1 for others
        values = self._run.eval["precision"][:, :, :, self._ranges.index(size), self._limits.index(limit)]
        return _mean(values if iou is None else values[np.isclose(self._run.params.iouThrs, iou)])

    def precision_curve(self, limit: int, iou: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return COCO's 101 levels of recall and the precision at each, the mean over categories; none where absent."""
        values = self._run.eval["precision"][np.isclose(self._run.params.iouThrs, iou)][0]
        values = values[:, :, self._ranges.index(ALL), self._limits.index(limit)]  # [recall, category]
        values = values[:, values[0] > -1]
        levels = np.asarray(self._run.params.recThrs, np.float64)
        return (levels, values.mean(axis=1)) if values.size else (np.zeros(0), np.zeros(0))

    def recall(self, limit: int, size: str = ALL) -> float:
        """Return the highest recall, averaged over the ten IoU thresholds."""
        return _mean(self._run.eval["recall"][:, :, self._ranges.index(size), self._limits.index(limit)])

    def recall_at_fppi(self, fppi: float, limit: int) -> float:
        """Return the recall at IoU 0.5 with at most `fppi` false positives an image, over all images; -1 if none.

        For a set of one category that pycocotools matched.

        Ignored detections are neither found objects nor false positives.
        """
        table = self.table(limit)
        if table.objects.sum() == 0:
            return -1.0
        return table.recall_at_fppi(fppi, np.ones(self._pictures, np.int64))

    def table(self, limit: int) -> MatchTable:
        """Return the matches of all pictures in order of their ids, for a set of one category that pycocotools matched.

        Of equal scores the earlier picture's detections come first, as in the precision.
        """
        matches = self._run.evalImgs[: self._pictures]  # the range "all"; None for a picture with nothing at all
        thresholds, levels = len(self._run.params.iouThrs), np.asarray(self._run.params.recThrs, np.float64)
        scores, picture, hit, ignored = [np.zeros(0)], [np.zeros(0, np.intp)], [], []
        objects = np.zeros(self._pictures, np.int64)
        for row, match in enumerate(matches):
            if match is None:
                continue
            objects[row] = np.count_nonzero(np.asarray(match["gtIgnore"]) == 0)
            scores.append(np.asarray(match["dtScores"][:limit], np.float64))
            picture.append(np.full(len(scores[-1]), row, np.intp))
            hit.append(match["dtMatches"][:, :limit] > 0)
            ignored.append(np.asarray(match["dtIgnore"][:, :limit], bool))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        nothing = np.zeros((thresholds, 0), bool)
        counted = ~np.concatenate([nothing, *ignored], axis=1)[:, order]
        found = np.concatenate([nothing, *hit], axis=1)[:, order] & counted
        return MatchTable(np.concatenate(picture)[order], found, counted, objects, levels)


def _classes(backend: Backend) -> tuple[Any, Any]:
    """Return the classes of a data set and of its evaluation."""
    if backend is Backend.pycocotools:
        from pycocotools.coco import COCO  # type: ignore[import-untyped]
        from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

        return COCO, COCOeval
    try:
        import faster_coco_eval
    except ImportError as error:
        raise DataError(
            "the backend faster-coco-eval is not installed: pip install 'cascade_det[faster]', or leave it out for "
            "pycocotools, which gives the same figures."
        ) from error
    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _indexed(kind: Any, dataset: dict[str, Any]) -> Any:
    """Return a data set of the library. `loadRes` would be the way for results, but it fails on an empty list."""
    coco = kind()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def coco12(matching: CocoMatching) -> dict[str, float]:
    """Return COCO's twelve figures under their names, at COCO's limits of detections a picture."""
    most = max(COCO_LIMITS)
    sizes = [name for name in COCO_AREAS_PX2 if name != ALL]
    return {
        "AP": matching.precision(most),
        "AP50": matching.precision(most, iou=0.5),
        "AP75": matching.precision(most, iou=0.75),
        **{f"AP_{size}": matching.precision(most, size=size) for size in sizes},
        **{f"AR_{limit}": matching.recall(limit) for limit in COCO_LIMITS},
        **{f"AR_{size}": matching.recall(most, size) for size in sizes},
    }


def _mean(values: NDArray[np.float64]) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0
