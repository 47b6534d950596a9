"""What a sampler is, and the rule by which IoU bands turn a window into a role."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import (
    box_area,
    box_sides,
    coverage_matrix,
    fit_to_aspect,
    intersection_matrix,
    iou_matrix,
)
from cascade_det.core.types import Annotations, CropPlan, Detections

Boxes = NDArray[Any]
_Sampler = TypeVar("_Sampler", bound="Sampler")


class Sampler(ABC):
    """Decides which windows of one picture become training crops.

    Attributes:
        needs_candidates: whether it wants what the stages before let through.
        bands: the IoU bands that its roles keep, where it states any.
    """

    version = 1
    needs_candidates: bool = False
    bands: Bands | None = None

    @abstractmethod
    def sample(
        self,
        image_hw: tuple[int, int],
        window_hw: tuple[int, int],
        truth: Annotations,
        candidates: Detections | None,
        rng: np.random.Generator,
    ) -> CropPlan:
        """Return the windows to cut; depends on nothing but its arguments, and every loop is bounded.

        Args:
            image_hw: size of the picture in pixels.
            window_hw: window of the stage; every window returned has its aspect.
            truth: the picture's objects, ignored ones included.
            candidates: what the stages before let through, or None for the first stage.
            rng: the only source of chance.
        """


@dataclass(frozen=True)
class Bands:
    """IoU bands and the rules for negatives.

    Attributes:
        positive: IoU from which a window is a positive.
        part: IoU from which it is a part.
        negative: IoU, against every object, below which it may be a negative.
        min_train_px: an object lower than this is treated as ignored.
        fit_truth: compare with truth boxes fitted to the window's aspect. A square window on an upright face reaches an
            IoU of .755 only; fitted, it reaches 1.
        max_coverage: a window that holds more than this share of an object, and overlaps it by more than
            `coverage_iou`, is no negative: IoU < 0.3 is also true of a window around a whole object.
        coverage_iou: see `max_coverage`; an object that fills less of the window is background at the window's size.
        ignore_overlap: a window that shares more than this part of the smaller of the two areas with an ignored box is
            no negative.
    """

    positive: float = 0.65
    part: float = 0.4
    negative: float = 0.3
    min_train_px: float = 12
    fit_truth: bool = False
    max_coverage: float = 0.9
    coverage_iou: float = 0.1
    ignore_overlap: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.negative <= self.part <= self.positive <= 1:
            raise ValueError(
                f"bands negative={self.negative}, part={self.part}, positive={self.positive} must rise within (0, 1]"
            )

    def trainable(self, truth: Annotations) -> NDArray[np.bool_]:
        """Return which objects ``(G,)`` may be learned from: not ignored and high enough."""
        return ~truth.ignore & (box_sides(truth.boxes)[1] >= self.min_train_px)

    def reference_boxes(self, truth: Annotations, window_hw: tuple[int, int]) -> Boxes:
        """Return the boxes ``(G, 4)`` that windows are compared with."""
        return fit_to_aspect(truth.boxes, window_hw) if self.fit_truth else truth.boxes

    def is_negative(self, windows: Boxes, truth: Annotations, window_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which windows ``(N,)`` may teach that there is no object."""
        if len(truth) == 0 or len(windows) == 0:
            return np.ones(len(windows), bool)
        trainable = self.trainable(truth)
        overlap = iou_matrix(windows, truth.boxes)
        reference = np.maximum(overlap, iou_matrix(windows, self.reference_boxes(truth, window_hw)))
        near = reference >= self.negative
        holds = (coverage_matrix(windows, truth.boxes) > self.max_coverage) & (overlap > self.coverage_iou)
        smaller = np.minimum(box_area(windows)[:, None], box_area(truth.boxes)[None, :])
        shared = intersection_matrix(windows, truth.boxes) / np.maximum(smaller, 1e-12)
        blocked = near | np.where(trainable[None, :], holds, shared > self.ignore_overlap)
        return ~blocked.any(axis=1)


def names_bands(sampler: type[_Sampler]) -> type[_Sampler]:
    """Put the fields of `Bands` in the place of ``**bands`` in a sampler's signature, so that recipes are checked."""
    own = inspect.signature(sampler, eval_str=True)
    named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    bands = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(Bands, eval_str=True).parameters.values()]
    sampler.__signature__ = own.replace(parameters=[*named, *bands])  # type: ignore[attr-defined]
    return sampler


def aspect_windows(centre_xy: NDArray[Any], height: NDArray[Any], window_hw: tuple[int, int]) -> Boxes:
    """Return float32 windows ``(N, 4)`` of the window's aspect from centres ``(N, 2)`` and heights ``(N,)``."""
    half = np.stack([height * (window_hw[1] / window_hw[0]), height], axis=1) / 2
    return np.concatenate([centre_xy - half, centre_xy + half], axis=1).astype(np.float32)


def jittered_windows(
    boxes: Boxes, tries: int, window_hw: tuple[int, int], rng: np.random.Generator
) -> tuple[Boxes, NDArray[np.intp]]:
    """Return windows around each box and the row of its box: side .8 min to 1.25 max, centre shifted by up to 20 %.

    "min" and "max" are the box's sides in units of the window's, so the rule holds for any window shape.

    Source: the training codes of MTCNN agree on these figures.
    """
    rows = np.repeat(np.arange(len(boxes)), tries)
    width, height = box_sides(boxes[rows])
    units = np.stack([width / window_hw[1], height / window_hw[0]], axis=1)
    low, high = 0.8 * units.min(axis=1, initial=np.inf), 1.25 * units.max(axis=1, initial=0)
    side = low + (high - low) * rng.random(len(rows))
    shift = rng.uniform(-0.2, 0.2, (len(rows), 2)) * np.stack([width, height], axis=1)
    centre = (boxes[rows, :2] + boxes[rows, 2:]) / 2 + shift
    return aspect_windows(centre, side * window_hw[0], window_hw), rows


def pick(indices: NDArray[np.intp], limit: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return at most `limit` of `indices`, drawn without replacement, in their first order."""
    if len(indices) <= limit:
        return indices
    return indices[np.sort(rng.choice(len(indices), limit, replace=False))]


def pick_per_group(
    group: NDArray[np.intp], eligible: NDArray[np.bool_], limit: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return at most `limit` random eligible rows of each group, in rising order; `group` is ``(N,)``."""
    shuffled = rng.permutation(np.flatnonzero(eligible))
    order = shuffled[np.argsort(group[shuffled], kind="stable")]
    starts = np.searchsorted(group[order], group[order], side="left")
    return np.sort(order[np.arange(len(order)) - starts < limit])
