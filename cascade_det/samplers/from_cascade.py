"""Windows that the stages before let through: what refinement stages are trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from cascade_det.core.geometry import fit_to_aspect, iou_matrix
from cascade_det.core.registry import register_sampler
from cascade_det.core.types import Annotations, CropPlan, Detections, SampleRole
from cascade_det.samplers.base import Bands, Sampler, jittered_windows, names_bands, pick, pick_per_group


@register_sampler("from_cascade")
@names_bands
class FromCascade(Sampler):
    """Candidates of the stages before, fitted to the window's aspect and banded by their best object.

    Args:
        negatives_per_image: cap of negatives of one picture, drawn at random from all of them.
        positives_per_box: cap of positives of one object.
        parts_per_box: cap of parts of one object.
        tries_per_box: windows drawn around each object beside the candidates, so that an object which the stages
            before find once or never still teaches; 0 takes candidates alone.
        nms: threshold that replaces the NMS of every stage before while mining; null switches it off there.
            Without the key the stages keep their own.
        **bands: see `Bands`.
    """

    needs_candidates = True
    bands: Bands

    def __init__(
        self,
        *,
        negatives_per_image: int = 60,
        positives_per_box: int = 20,
        parts_per_box: int = 20,
        tries_per_box: int = 0,
        nms: float | str | None = "keep",
        **bands: Any,
    ) -> None:
        if min(negatives_per_image, positives_per_box, parts_per_box, tries_per_box) < 0:
            raise ValueError("negatives_per_image, positives_per_box, parts_per_box and tries_per_box must be >= 0")
        if nms not in ("keep", None) and (isinstance(nms, str) or not 0 <= nms <= 1):
            raise ValueError(f"nms={nms!r} must be a threshold in [0, 1], null (off) or 'keep'")
        self.negatives_per_image = negatives_per_image
        self.positives_per_box = positives_per_box
        self.parts_per_box = parts_per_box
        self.tries_per_box = tries_per_box
        self.nms = nms
        self.bands = Bands(**bands)

    def sample(
        self,
        image_hw: tuple[int, int],
        window_hw: tuple[int, int],
        truth: Annotations,
        candidates: Detections | None,
        rng: np.random.Generator,
    ) -> CropPlan:
        found = candidates.boxes if candidates is not None else np.zeros((0, 4), np.float32)
        windows = fit_to_aspect(found, window_hw)
        negative = pick(
            np.flatnonzero(self.bands.is_negative(windows, truth, window_hw)), self.negatives_per_image, rng
        )
        plans = [CropPlan.upright(windows[negative], SampleRole.negative)]
        trainable = np.flatnonzero(self.bands.trainable(truth))
        if len(trainable):
            extra, _ = jittered_windows(truth.boxes[trainable], self.tries_per_box, window_hw, rng)
            around = np.concatenate([windows, extra])
            overlap = iou_matrix(around, self.bands.reference_boxes(truth, window_hw)[trainable])
            best, value = overlap.argmax(axis=1), overlap.max(axis=1)
            positive = pick_per_group(best, value >= self.bands.positive, self.positives_per_box, rng)
            in_part = (value >= self.bands.part) & (value < self.bands.positive)
            part = pick_per_group(best, in_part, self.parts_per_box, rng)
            plans.append(CropPlan.upright(around[positive], SampleRole.positive, trainable[best[positive]]))
            plans.append(CropPlan.upright(around[part], SampleRole.part, trainable[best[part]]))
        return CropPlan.concat(plans)
