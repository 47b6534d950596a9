"""Test-time augmentation: a picture is also seen at other sizes and mirrored, and what is found is merged.

For figures only: what a model gives in use is its plain answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascade_det.cascade import Cascade
from cascade_det.core.geometry import mirror_detections
from cascade_det.core.imaging import Resample, Resampler, mirror_crops
from cascade_det.core.recipe import flip_points_of
from cascade_det.core.types import Detections
from cascade_det.errors import DataError
from cascade_det.stages.base import StageSettings, suppress

Pixels = NDArray[np.uint8]
SCALES = (0.1, 10.0)  # the least and the largest factor


@dataclass(frozen=True)
class View:
    """One way of looking at a picture.

    Attributes:
        scale: by which its sides are multiplied; 1 leaves its pixels as they are.
        mirrored: left and right are exchanged.
    """

    scale: float = 1.0
    mirrored: bool = False


@dataclass(frozen=True)
class Augmentation:
    """All views of a picture: each scale, and with `flip` its mirror image.

    Raises:
        ValueError: there is no scale, one twice, or one out of range.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        low, high = SCALES
        for scale in self.scales:
            if not (math.isfinite(scale) and low <= scale <= high):
                raise ValueError(f"scale {scale:g} must lie in {low:g} to {high:g}")
        if len(set(self.scales)) != len(self.scales) or not self.scales:
            named = ", ".join(f"{scale:g}" for scale in self.scales) or "(none)"
            raise ValueError(f"scales {named}: name each once, and at least one")

    @property
    def views(self) -> list[View]:
        """The views in the order in which they are merged: of equal scores the earlier view's comes first."""
        sides = (False, True) if self.flip else (False,)
        return [View(scale, mirrored) for mirrored in sides for scale in self.scales]


PLAIN = Augmentation()


def detect_stages(
    cascade: Cascade, images: Sequence[Pixels], settings: Sequence[StageSettings], augmentation: Augmentation = PLAIN
) -> list[tuple[list[Detections], float]]:
    """Return for each stage what it lets through of each picture, in the picture's frame, and its seconds.

    With several views, what a stage lets through is that of all views together; the last stage's is merged by its own
    suppression and cap. With a single one nothing is merged.

    Args:
        cascade: the detector.
        images: ``(H, W, 3)`` uint8 RGB each.
        settings: of the stages that run.
        augmentation: the views.
    """
    of_views = [_in_view(cascade, images, settings, view) for view in augmentation.views]
    if len(of_views) == 1:
        return of_views[0]
    together = []
    for index in range(len(settings)):
        of_stage = [stages[index] for stages in of_views]
        found = [Detections.concat(parts) for parts in zip(*(own for own, _ in of_stage), strict=True)]
        together.append((found, sum(seconds for _, seconds in of_stage)))
    begin = time.perf_counter()
    found, seconds = together[-1]
    merged = [merge(own, settings[-1]) for own in found]
    together[-1] = (merged, seconds + time.perf_counter() - begin)
    return together


def merge(found: Detections, settings: StageSettings) -> Detections:
    """Return the detections of all views of a picture less those that a stronger one overlaps, by falling score.

    Suppression, its mode and the cap are the last stage's; without a suppression all stay.
    """
    return found[suppress(found, settings.nms, settings.nms_mode, None, settings.max_per_image)]


def _in_view(
    cascade: Cascade, images: Sequence[Pixels], settings: Sequence[StageSettings], view: View
) -> list[tuple[list[Detections], float]]:
    begin = time.perf_counter()
    pictures = [cascade.resampler(see(cascade, image, view)) for image in images]
    preparing = time.perf_counter() - begin if view != View() else 0.0  # counted where it is work: in the first stage
    outputs: list[tuple[list[Detections], float]] = []
    for _, found, seconds in cascade.run_stages(pictures, settings):
        back = [seen_back(cascade, own, image.shape[:2], view) for own, image in zip(found, images, strict=True)]
        outputs.append((back, seconds + (0 if outputs else preparing)))
    return outputs


def see(cascade: Cascade, image: Pixels, view: View) -> Pixels:
    """Return a picture ``(H, W, 3)`` as the view shows it, resampled as the recipe says; itself in the plain view."""
    if view.scale != 1:
        resampler = Resampler(image, Resample(cascade.recipe.image.resample))  # as it is: the stages lift what is dark
        image = np.clip(np.rint(resampler.level(scaled_hw(image.shape[:2], view.scale))), 0, 255).astype(np.uint8)
    return mirror_crops(image[None])[0] if view.mirrored else image


def refuse_large(cascade: Cascade, image_hw: tuple[int, ...], augmentation: Augmentation, min_object_px: float) -> None:
    """Raise a `DataError` where a picture, or a level of its pyramid, has more than `image.max_pixels` in a view."""
    max_pixels = cascade.recipe.image.max_pixels
    for view in augmentation.views:
        height, width = scaled_hw(image_hw, view.scale) if view.scale != 1 else image_hw
        if view.scale > 1 and height * width > max_pixels:
            raise DataError(
                f"a picture of {image_hw[1]} x {image_hw[0]} px at the scale {view.scale:g} is above the cap of "
                f"{max_pixels:,} pixels; leave that scale out, or raise image.max_pixels."
            )
        cascade.refuse_large_level((height, width), min_object_px)


def scaled_hw(image_hw: tuple[int, ...], scale: float) -> tuple[int, int]:
    """Return height and width of a picture at a scale, in whole pixels, at least 1."""
    return max(1, round(image_hw[0] * scale)), max(1, round(image_hw[1] * scale))


def seen_back(cascade: Cascade, found: Detections, image_hw: tuple[int, ...], view: View) -> Detections:
    """Return what was found in a view in the frame of the picture of `image_hw`; itself in the plain view.

    Sides are whole pixels, so each axis has its own factor. In a mirror, an edge at x comes from ``width - x``, and
    points are relabelled by the recipe's `flip_points`.
    """
    level_hw = scaled_hw(image_hw, view.scale) if view.scale != 1 else image_hw
    if view.mirrored:
        found = mirror_detections(found, level_hw[1], flip_points_of(cascade.recipe))
    if view.scale == 1:
        return found
    factor_xy = np.array([image_hw[1] / level_hw[1], image_hw[0] / level_hw[0]], np.float32)
    points = None if found.points is None else found.points * factor_xy
    return found.replace(boxes=found.boxes * np.tile(factor_xy, 2), points=points)
