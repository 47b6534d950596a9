"""Negatives that overlap an object and still are none: an eye, a head with its shoulders, half a face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cascade_det import register_sampler
from cascade_det.core.geometry import box_sides, fit_to_aspect, iou_matrix
from cascade_det.core.types import Annotations, CropPlan, Detections, SampleRole
from cascade_det.samplers.base import Bands, Sampler, aspect_windows, names_bands, pick_per_group


@register_sampler("near_misses")
@names_bands
class NearMisses(Sampler):
    """Negatives around each object, at a wrong scale or beside it, whose IoU with it is almost that of a part.

    Args:
        per_box: negatives of one object.
        tries: windows drawn for each of them; those that are no near miss go.
        min_iou: IoU with an object from which a negative is a near miss; up to the band `negative`.
        scales: smallest and largest height of a window in units of the object's (fitted to the window's aspect),
            log-uniform between them.
        **bands: see `Bands`.
    """

    bands: Bands

    def __init__(
        self,
        *,
        per_box: int = 4,
        tries: int = 8,
        min_iou: float = 0.1,
        scales: Sequence[float] = (0.35, 2.5),
        **bands: Any,
    ) -> None:
        self.bands = Bands(**bands)
        if min(per_box, tries) < 0 or not 0 <= min_iou < self.bands.negative:
            raise ValueError(
                f"per_box={per_box}, tries={tries}, min_iou={min_iou}: must be >= 0, min_iou below the band "
                f"negative={self.bands.negative}"
            )
        if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
            raise ValueError(f"scales={list(scales)} must be [low, high] with 0 < low <= high")
        self.per_box, self.tries, self.min_iou, self.scales = per_box, tries, min_iou, tuple(scales)

    def sample(
        self,
        image_hw: tuple[int, int],
        window_hw: tuple[int, int],
        truth: Annotations,
        candidates: Detections | None,
        rng: np.random.Generator,
    ) -> CropPlan:
        boxes = truth.boxes[self.bands.trainable(truth)]
        rows = np.repeat(np.arange(len(boxes)), self.per_box * self.tries)
        around = fit_to_aspect(boxes, window_hw)[rows]
        width, height = box_sides(around)
        scale = np.exp(rng.uniform(np.log(self.scales[0]), np.log(self.scales[1]), len(rows)))
        reach = np.stack([width, height], axis=1) * (1 + scale[:, None]) / 2  # where window and object part
        centre = (around[:, :2] + around[:, 2:]) / 2 + rng.uniform(-1, 1, (len(rows), 2)) * reach
        windows = aspect_windows(centre, height * scale, window_hw)
        near = iou_matrix(windows, boxes)[np.arange(len(rows)), rows] >= self.min_iou
        missed = near & self.bands.is_negative(windows, truth, window_hw)
        return CropPlan.upright(windows[pick_per_group(rows, missed, self.per_box, rng)], SampleRole.negative)
