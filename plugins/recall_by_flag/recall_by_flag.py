"""Recall at the score that a detector is used with, split by what is known of objects or of their pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det import register_evaluator
from cascade_det.core.geometry import iou_matrix
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.sources import Picture
from cascade_det.errors import RecipeError, choices
from cascade_det.evaluation.base import Evaluator, ScoredSet


@register_evaluator("recall_by_flag")
class RecallByFlag(Evaluator):
    """Which share of the objects is found at one score, for each value of a flag (occluded, mask, weather, ...).

    Args:
        flags: columns of objects, or fields of pictures: one is sought among the object's columns first.
        score: detections below it do not count.
        iou: overlap from which a detection finds an object; each finds one, by falling score.
    """

    def __init__(self, *, flags: Sequence[str], score: float = 0.5, iou: float = 0.5) -> None:
        if isinstance(flags, str) or not flags:
            raise ValueError(f"flags={flags!r} must be a list of fields")
        if not (0 <= score <= 1 and 0 < iou <= 1):
            raise ValueError(f"score={score}, iou={iou} must lie in [0, 1], iou above 0")
        self._flags, self._score, self._iou = tuple(flags), score, iou

    def evaluate(self, scored: ScoredSet) -> dict[str, Any]:
        """Return ``{"all": figures, FLAG: {VALUE: figures}}`` with `objects`, `found` and `recall` (None of no object).

        Ignored objects are left out; an object without a value of a flag is in `all` alone.

        Raises:
            RecipeError: neither objects nor pictures have a flag; the message lists what they have.
        """
        self._check_flags(scored)
        counts: dict[tuple[str, str], list[NDArray[np.bool_]]] = defaultdict(list)
        for picture, truth, detections in zip(scored.pictures, scored.truth, scored.detections, strict=True):
            counted = truth[~truth.ignore]
            found = found_objects(counted.boxes, detections[detections.scores >= self._score], self._iou)
            counts["all", ""].append(found)
            for flag in self._flags:
                values = _values(flag, picture, counted)
                for value in set(values) - {""}:
                    counts[flag, value].append(found[np.array(values) == value])
        figures: dict[str, Any] = {"all": _figures(counts["all", ""])}
        for flag in self._flags:
            groups = sorted(value for name, value in counts if name == flag)
            figures[flag] = {value: _figures(counts[flag, value]) for value in groups}
        return figures

    def _check_flags(self, scored: ScoredSet) -> None:
        known = {name for picture in scored.pictures for name in picture.fields}
        known |= {name for truth in scored.truth for name in truth.extras}
        for flag in self._flags:
            if scored.pictures and flag not in known:
                raise RecipeError(f"flags={flag!r}: no picture or object has this field; {choices(flag, known)}.")


def _values(flag: str, picture: Picture, truth: Annotations) -> list[str]:
    """Return the value of each object as a text, "" where there is none; a source may keep whole numbers as floats."""
    column = truth.extras.get(flag)
    values = [picture.fields.get(flag)] * len(truth) if column is None else column.tolist()
    values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    return ["" if v is None or v != v else str(v) for v in values]


def _figures(found: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    every = np.concatenate([np.zeros(0, bool), *found])
    return {
        "objects": len(every),
        "found": int(every.sum()),
        "recall": float(every.mean()) if len(every) else None,
    }


def found_objects(boxes_xyxy: NDArray[Any], detections: Detections, iou: float) -> NDArray[np.bool_]:
    """Return which true boxes ``(G, 4)`` are found, ``(G,)``.

    By falling score each detection takes the free object with which it overlaps most, by `iou` at least.
    """
    overlap = iou_matrix(detections.boxes.astype(np.float64), boxes_xyxy.astype(np.float64))
    overlap = overlap[np.argsort(-detections.scores, kind="stable")]
    free = np.ones(len(boxes_xyxy), bool)
    for row in overlap[(overlap >= iou).any(axis=1)]:
        best = int(np.where(free, row, 0).argmax())
        free[best] &= row[best] < iou
    return ~free
