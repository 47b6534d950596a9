"""Non-maximum suppression on arrays: boxes and scores in, kept indices out."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import box_area, intersection_matrix

_BLOCK = 512  # bounds memory: overlaps are computed for this many boxes against the kept ones at a time


class NmsMode(str, Enum):
    """What an intersection is divided by: the union, or the smaller of the two areas."""

    union = "union"
    minimum = "minimum"


def nms(
    boxes_xyxy: NDArray[Any],
    scores: NDArray[Any],
    threshold: float,
    mode: NmsMode = NmsMode.union,
    limit: int | None = None,
) -> NDArray[np.intp]:
    """Greedy suppression: a box goes when it overlaps a kept box of higher score by more than `threshold`.

    Equal scores are decided by the lower index, so the result does not depend on chance.

    Args:
        boxes_xyxy: ``(N, 4)``.
        scores: ``(N,)``.
        threshold: overlap in [0, 1] above which the lower score is dropped.
        mode: `union` (IoU) or `minimum` (intersection over the smaller area; MTCNN uses it after the last stage).
        limit: end once this many are kept: they are the first of all that would be.

    Returns:
        Indices of the kept boxes by falling score, ``(M,)``.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = np.asarray(boxes_xyxy, np.float32)[order]
    kept = np.zeros(0, np.intp)
    for start in range(0, len(ranked), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(ranked)))
        if len(kept):
            block = block[~(_overlap(ranked[block], ranked[kept], mode) > threshold).any(axis=1)]
        kept = np.concatenate([kept, block[_keep_in_block(ranked[block], threshold, mode)]])
        if limit is not None and len(kept) >= limit:
            break
    return order[kept[:limit]]


def _overlap(a_xyxy: NDArray[Any], b_xyxy: NDArray[Any], mode: NmsMode) -> NDArray[Any]:
    common = intersection_matrix(a_xyxy, b_xyxy)
    area_a, area_b = box_area(a_xyxy)[:, None], box_area(b_xyxy)[None, :]
    base = np.minimum(area_a, area_b) if mode == NmsMode.minimum else area_a + area_b - common
    return common / np.maximum(base, 1e-12)


def _keep_in_block(ranked: NDArray[Any], threshold: float, mode: NmsMode) -> NDArray[np.bool_]:
    """Solve keep[i] = no kept j < i overlaps i. Repeating the rule settles rank by rank, mostly in a few rounds."""
    beats = np.tril(_overlap(ranked, ranked, mode) > threshold, k=-1)
    keep = np.ones(len(ranked), bool)
    while True:
        settled = ~np.any(beats & keep, axis=1)
        if np.array_equal(settled, keep):
            return keep
        keep = settled
