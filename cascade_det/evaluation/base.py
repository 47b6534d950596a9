"""What an evaluator is, what it scores, and the bands of object size that figures are split by."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import box_sides
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.sources import Picture, Source
from cascade_det.evaluation.protocol import ProtocolResult

# Box heights in pixels of the original picture: the lower bound belongs to a band, the upper does not.
SIZE_BANDS_PX: Mapping[str, tuple[float, float]] = {
    "12-24": (12, 24),
    "24-48": (24, 48),
    "48-96": (48, 96),
    "96+": (96, math.inf),
}


@dataclass(frozen=True)
class ScoredSet:
    """The pictures of one source with their truth and what was detected in them; entry i of each list is picture i.

    Attributes:
        pictures: P pictures.
        truth: the truth of each, boxes ``(G, 4)`` in pixels of the original picture.
        detections: what was found in each, all of it: evaluators cut by rank and score themselves.
        point_names: names of the K points of an object, none where the set has no points.
        category: what the object is called.
        source: what the pictures are from, where known; a protocol whose truth is more than boxes reads it there.

    Raises:
        ValueError: the lists differ in length, or two pictures share an id.
    """

    pictures: list[Picture]
    truth: list[Annotations]
    detections: list[Detections]
    point_names: list[str]
    category: str
    source: Source | None = None

    def __post_init__(self) -> None:
        lengths = len(self.pictures), len(self.truth), len(self.detections)
        if len(set(lengths)) != 1:
            raise ValueError(f"pictures, truth and detections must have one length, got {lengths}")
        if len({picture.image_id for picture in self.pictures}) != lengths[0]:
            raise ValueError("pictures must have different ids: scores of pictures with one id would be mixed")


class Evaluator(ABC):
    """Figures of a scored set. A plain object: explicit keyword parameters, no state from one set to the next."""

    version = 1  # part of the fingerprint of evaluation: raise it when the same input gives other figures

    @abstractmethod
    def evaluate(self, scored: ScoredSet) -> dict[str, Any]:
        """Return figures ready for JSON: no NaN; what is absent is None, or -1 where COCO says -1.

        A list of sentences under "warnings" is what a user should know of them; it is written and printed too.

        Raises:
            RecipeError: a parameter does not fit this set; the message lists the choices.
        """

    def result(self, scored: ScoredSet) -> ProtocolResult:
        """Return the figures of `evaluate` and the curves that belong to them, for the report: none by default."""
        return ProtocolResult(self.evaluate(scored))


def in_size_band(boxes_xyxy: NDArray[Any], band_px: tuple[float, float]) -> NDArray[np.bool_]:
    """Return which boxes ``(N, 4)`` have a height in ``[low, high)`` pixels.

    >>> in_size_band(np.array([[0, 0, 9, 24], [0, 0, 9, 47], [0, 0, 9, 48]]), SIZE_BANDS_PX["24-48"])
    array([ True,  True, False])
    """
    height = box_sides(boxes_xyxy.astype(np.float64))[1]
    inside: NDArray[np.bool_] = (height >= band_px[0]) & (height < band_px[1])
    return inside
