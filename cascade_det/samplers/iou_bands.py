"""Random windows by IoU bands: what the first stage is trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from cascade_det.core.geometry import box_sides, iou_matrix
from cascade_det.core.registry import register_sampler
from cascade_det.core.types import Annotations, CropPlan, Detections, SampleRole
from cascade_det.samplers.base import Bands, Boxes, Sampler, aspect_windows, jittered_windows, names_bands, pick

_OVERSAMPLING = 4  # windows drawn for each negative wanted; a picture full of objects yields fewer, never a loop


@register_sampler("iou_bands")
@names_bands
class IouBands(Sampler):
    """Negatives anywhere and near objects, positives and parts around each object.

    Args:
        negatives_per_image: windows anywhere, side from `min_train_px` to half the picture.
        negatives_per_box: windows near each object, shifted by less than their own side.
        near_share: instead of `negatives_per_box`: which share of `negatives_per_image` lies near objects.
        tries_per_box: windows drawn around each object; each becomes a positive, a part or nothing.
        **bands: see `Bands` (positive, part, negative, min_train_px, fit_truth, max_coverage, ...).

    Source: consensus of the public MTCNN training codes.
    """

    bands: Bands

    def __init__(
        self,
        *,
        negatives_per_image: int = 50,
        negatives_per_box: int = 5,
        near_share: float | None = None,
        tries_per_box: int = 20,
        **bands: Any,
    ) -> None:
        if min(negatives_per_image, negatives_per_box, tries_per_box) < 0:
            raise ValueError("negatives_per_image, negatives_per_box and tries_per_box must be >= 0")
        if near_share is not None and not 0 <= near_share <= 1:
            raise ValueError(f"near_share={near_share} must lie in [0, 1]")
        self.negatives_per_image = negatives_per_image
        self.negatives_per_box = negatives_per_box
        self.near_share = near_share
        self.tries_per_box = tries_per_box
        self.bands = Bands(**bands)

    def sample(
        self,
        image_hw: tuple[int, int],
        window_hw: tuple[int, int],
        truth: Annotations,
        candidates: Detections | None,
        rng: np.random.Generator,
    ) -> CropPlan:
        trainable = np.flatnonzero(self.bands.trainable(truth))
        boxes = truth.boxes[trainable]
        anywhere, near = self.negatives_per_image, self.negatives_per_box * len(boxes)
        if self.near_share is not None:
            near = round(self.near_share * self.negatives_per_image) if len(boxes) else 0
            anywhere = self.negatives_per_image - near
        heights = self._height_range(image_hw, window_hw)
        drawn = [
            (_windows_anywhere(anywhere * _OVERSAMPLING, heights, image_hw, window_hw, rng), anywhere),
            (_windows_near(boxes, near * _OVERSAMPLING, heights, window_hw, rng), near),
        ]
        plans = [self._around(truth, trainable, window_hw, rng)]
        for windows, wanted in drawn:
            valid = np.flatnonzero(self.bands.is_negative(windows, truth, window_hw))
            plans.append(CropPlan.upright(windows[pick(valid, wanted, rng)], SampleRole.negative))
        return CropPlan.concat(plans)

    def _height_range(self, image_hw: tuple[int, int], window_hw: tuple[int, int]) -> tuple[float, float]:
        """Return the smallest and largest height of a random window; a small picture narrows both."""
        whole = min(image_hw[0], image_hw[1] * window_hw[0] / window_hw[1])
        smallest = min(self.bands.min_train_px, whole)
        return smallest, max(whole / 2, smallest)

    def _around(
        self, truth: Annotations, trainable: Any, window_hw: tuple[int, int], rng: np.random.Generator
    ) -> CropPlan:
        windows, rows = jittered_windows(truth.boxes[trainable], self.tries_per_box, window_hw, rng)
        reference = self.bands.reference_boxes(truth, window_hw)[trainable]
        overlap = iou_matrix(windows, reference)[np.arange(len(windows)), rows] if len(rows) else np.zeros(0)
        positive = overlap >= self.bands.positive
        part = (overlap >= self.bands.part) & ~positive
        return CropPlan.concat(
            [
                CropPlan.upright(windows[positive], SampleRole.positive, trainable[rows[positive]]),
                CropPlan.upright(windows[part], SampleRole.part, trainable[rows[part]]),
            ]
        )


def _windows_anywhere(
    count: int,
    height_range: tuple[float, float],
    image_hw: tuple[int, int],
    window_hw: tuple[int, int],
    rng: np.random.Generator,
) -> Boxes:
    height = rng.uniform(*height_range, count)
    width = height * (window_hw[1] / window_hw[0])
    room = np.stack([image_hw[1] - width, image_hw[0] - height], axis=1)
    corner = np.maximum(room, 0) * rng.random((count, 2))
    return aspect_windows(corner + np.stack([width, height], axis=1) / 2, height, window_hw)


def _windows_near(
    boxes: Boxes, count: int, height_range: tuple[float, float], window_hw: tuple[int, int], rng: np.random.Generator
) -> Boxes:
    """Return windows that touch an object: the corner lies less than the window's own side before the object's."""
    if len(boxes) == 0:
        return np.zeros((0, 4), np.float32)
    rows = np.arange(count) % len(boxes)
    height = rng.uniform(*height_range, count)
    side = np.stack([height * (window_hw[1] / window_hw[0]), height], axis=1)
    sides_of_object = np.stack(box_sides(boxes[rows]), axis=1)
    corner = boxes[rows, :2] - side + rng.random((count, 2)) * (side + np.minimum(side, sides_of_object))
    return aspect_windows(corner + side / 2, height, window_hw)
