"""Windows for the points head, varied by mirror and rotation."""

from __future__ import annotations

import numpy as np

from cascade_det.core.geometry import crop_truth, fit_to_aspect, iou_matrix
from cascade_det.core.registry import register_sampler
from cascade_det.core.types import Annotations, CropPlan, Detections, SampleRole
from cascade_det.samplers.base import Sampler, jittered_windows


@register_sampler("point_windows")
class PointWindows(Sampler):
    """Windows around objects with known points; all known points lie strictly inside.

    Args:
        per_box: windows tried for each object.
        min_iou: overlap with the object that a window must exceed (before it is turned).
        min_train_px: objects lower than this are left out.
        fit_truth: compare with the truth box fitted to the window's aspect.
        mirror: flip about half of the windows left to right.
        rotate_deg: turn each window by a random angle of at most this many degrees; 0 turns none.

    Source: consensus of the public MTCNN training codes (10 shifts, IoU > .65, mirror, rotation).
    """

    def __init__(
        self,
        *,
        per_box: int = 10,
        min_iou: float = 0.65,
        min_train_px: float = 12,
        fit_truth: bool = False,
        mirror: bool = True,
        rotate_deg: float = 0,
    ) -> None:
        if per_box < 0 or not 0 <= min_iou < 1 or rotate_deg < 0:
            raise ValueError(f"per_box={per_box}, min_iou={min_iou}, rotate_deg={rotate_deg} must be >= 0, min_iou < 1")
        self.per_box = per_box
        self.min_iou = min_iou
        self.min_train_px = min_train_px
        self.fit_truth = fit_truth
        self.mirror = mirror
        self.rotate_deg = rotate_deg

    def sample(
        self,
        image_hw: tuple[int, int],
        window_hw: tuple[int, int],
        truth: Annotations,
        candidates: Detections | None,
        rng: np.random.Generator,
    ) -> CropPlan:
        high_enough = truth.boxes[:, 3] - truth.boxes[:, 1] >= self.min_train_px
        usable = np.flatnonzero(~truth.ignore & high_enough & truth.points_known.any(axis=1))
        windows, rows = jittered_windows(truth.boxes[usable], self.per_box, window_hw, rng)
        angle = rng.uniform(-self.rotate_deg, self.rotate_deg, len(windows))
        mirror = (rng.random(len(windows)) < 0.5) & self.mirror
        role = np.full(len(windows), SampleRole.points, np.int8)
        plan = CropPlan(windows, role, usable[rows].astype(np.int32), angle.astype(np.float32), mirror)
        reference = fit_to_aspect(truth.boxes, window_hw) if self.fit_truth else truth.boxes
        overlap = iou_matrix(windows, reference[usable])[np.arange(len(windows)), rows]
        moved = crop_truth(plan, truth, np.arange(truth.points.shape[1]))
        inside = ((moved.points > 0) & (moved.points < 1)).all(axis=2) | ~moved.points_known
        return plan[(overlap > self.min_iou) & inside.all(axis=1)]
