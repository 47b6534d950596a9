"""What a stage is, and the settings that a cascade hands to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.imaging import Resampler
from cascade_det.core.nms import NmsMode, nms
from cascade_det.core.types import Detections


@dataclass(frozen=True)
class StageSettings:
    """All that decides what a stage lets through, besides its weights.

    Attributes:
        score: threshold on the probability, in [0, 1].
        nms: overlap above which the lower score goes (a proposer: within one level); None: no suppression.
        nms_mode: what the overlap is divided by.
        nms_across_levels: a proposer's second suppression, over all levels; None: none.
        max_per_image: cap of what one picture passes on, by score.
        min_object_px: height of the smallest object that the pyramid looks for.
        max_object_px: height of the largest, or None.
        factor: ratio of one pyramid level to the next.
        mean, scale: network input is ``(pixel - mean) * scale``.
        chunk: crops of one forward pass; bounds memory.
    """

    score: float
    nms: float | None
    nms_mode: NmsMode
    nms_across_levels: float | None
    max_per_image: int
    min_object_px: float
    max_object_px: float | None
    factor: float
    mean: float
    scale: float
    chunk: int = 256


class Stage(Protocol):
    """One stage of a cascade.

    Attributes:
        name: its key in the recipe.
        window_hw: its window, (height, width) in pixels.
        trainable: False for a stage without weights to fit: mine and fit are skipped.
        num_points: K where it fills points, else None: the shape of its empty results.
    """

    name: str
    window_hw: tuple[int, int]
    trainable: bool
    num_points: int | None

    def __call__(
        self, images: Sequence[Resampler], candidates: Sequence[Detections] | None, settings: StageSettings
    ) -> list[Detections]:
        """Return what the stage lets through of each picture, sorted by (score, index)."""

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return its state as named arrays."""

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take a state that `arrays` returned; a missing or misshapen array raises `ModelError`."""

    def to(self, device: str) -> None:
        """Move its computation to a torch device; a stage without one ignores it."""


class WeightlessStage(ABC):
    """Base of a stage that has nothing to fit: what `Stage` asks for, but for the answer.

    Args:
        name: its key in the recipe.
        window_hw: its window, (height, width) in pixels.
    """

    trainable = False
    num_points: int | None = None

    def __init__(self, name: str, window_hw: tuple[int, int]) -> None:
        self.name, self.window_hw = name, window_hw

    @abstractmethod
    def __call__(
        self, images: Sequence[Resampler], candidates: Sequence[Detections] | None, settings: StageSettings
    ) -> list[Detections]:
        """Return what the stage lets through of each picture, at most ``settings.max_per_image``, sorted by score."""

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Return no arrays."""
        return {}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027 - nothing is what it does
        """Take no arrays."""

    def to(self, device: str) -> None:  # noqa: B027 - nothing is what it does
        """Stay on the CPU."""


def suppress(
    detections: Detections,
    threshold: float | None,
    mode: NmsMode,
    on_boxes: NDArray[Any] | None = None,
    limit: int | None = None,
) -> NDArray[np.intp]:
    """Return the rows that survive suppression, by falling score, at most `limit` of them.

    `on_boxes` replaces the boxes to compare.
    """
    if threshold is None:
        return np.argsort(-detections.scores, kind="stable")[:limit]
    boxes = detections.boxes if on_boxes is None else on_boxes
    return nms(boxes, detections.scores, threshold, mode, limit)
