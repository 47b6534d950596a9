"""How far figures would move on other pictures of the same kind: percentile intervals over resampled pictures.

Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979, the percentile method.

A resample draws as many pictures as there are, with replacement. Matches of a picture do not depend on the others, so
they are made once, and a picture that is drawn k times weighs k in the running counts. At equal scores, detections of a
picture drawn twice stand next to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, slots=True, eq=False)
class MatchTable:
    """What matching said of D detections in P pictures at T IoU thresholds.

    Attributes:
        picture: ``(D,)`` row of each detection's picture; detections by falling score.
        hit: ``(T, D)`` which took an object that counts.
        counted: ``(T, D)`` which are a found object or a false positive, not ignored.
        objects: ``(P,)`` how many objects of a picture count.
        recall_levels: ``(R,)`` where precision is read for the average.
    """

    picture: NDArray[np.intp]
    hit: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: NDArray[np.int64]
    recall_levels: NDArray[np.float64]

    def precision_at_levels(self, threshold: int, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return COCO's precision ``(R,)`` at one threshold if picture p were there ``weights[p]`` times.

        Precision only rises at a found object, so those alone are looked at. At least one object must count.
        """
        weight = weights[self.picture]
        places = np.flatnonzero(self.hit[threshold])
        found = np.cumsum(weight[places])
        seen = np.cumsum(weight * self.counted[threshold])[places]
        precision = found / (seen + np.spacing(1))
        best_from_here_on = np.maximum.accumulate(precision[::-1])[::-1]
        place = np.searchsorted(found / (weights @ self.objects), self.recall_levels, side="left")
        return np.append(best_from_here_on, 0.0)[place]

    def recall_at_fppi(self, fppi: float, weights: NDArray[np.int64]) -> float:
        """Return the recall at the first threshold with at most `fppi` false positives a picture; see above."""
        weight = weights[self.picture] * self.counted[0]
        found, false = np.cumsum(weight * self.hit[0]), np.cumsum(weight * ~self.hit[0])
        return float(found[false <= fppi * weights.sum()].max(initial=0) / (weights @ self.objects))


def resampled_intervals(table: MatchTable, count: int, seed: int, fppi: Sequence[str]) -> dict[str, Any]:
    """Return the 95 % interval ``[low, high]`` of AP and AP50, and of the recall at each FPPI.

    Args:
        table: matches; its first threshold is IoU 0.5.
        count: number of resamples; one without an object that counts is left out.
        seed: of the draws. They depend on the number of pictures and on nothing else, so that two models are measured
            on the very same resamples.
        fppi: false positives per image, as texts, which are the keys of the answer.

    Returns:
        ``{"AP": .., "AP50": .., "recall_at_fppi": {..}}``; -1 for both ends where no resample has an object.
    """
    pictures, rng = len(table.objects), np.random.default_rng(seed)
    rows: list[list[float]] = []
    for _ in range(count if pictures else 0):
        weights = np.bincount(rng.integers(pictures, size=pictures), minlength=pictures)
        if weights @ table.objects:
            rows.append(figures_of(table, weights, fppi))
    values = np.array(rows).reshape(-1, 2 + len(fppi))
    ends = np.percentile(values, _PERCENTILES, axis=0).T if rows else np.full((2 + len(fppi), 2), -1.0)
    ap, ap50, *recalls = ends.tolist()
    return {"AP": ap, "AP50": ap50, "recall_at_fppi": dict(zip(fppi, recalls, strict=True))}


def figures_of(table: MatchTable, weights: NDArray[np.int64], fppi: Sequence[str]) -> list[float]:
    """Return AP, AP50 and the recall at each FPPI of a resample in which an object counts."""
    precision = np.stack([table.precision_at_levels(row, weights) for row in range(len(table.hit))])
    recalls = [table.recall_at_fppi(float(value), weights) for value in fppi]
    return [float(precision.mean()), float(precision[0].mean()), *recalls]
