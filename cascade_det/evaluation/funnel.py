"""The funnel: how many candidates each stage lets through, which objects it still holds, and which it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.geometry import coverage_matrix, iou_matrix
from cascade_det.core.types import Annotations, Detections
from cascade_det.evaluation.base import SIZE_BANDS_PX, in_size_band

_ON_IGNORED = 0.5  # share of a candidate inside an ignored object from which it counts as lying on it


class Funnel:
    """Counts over pictures, one row a stage. Ignored objects, and candidates that lie on them, are left out.

    Args:
        stage_names: the stages in the order in which they run.
        iou: from which overlap on a candidate holds an object.
    """

    def __init__(self, stage_names: Sequence[str], iou: float = 0.5) -> None:
        self._names = list(stage_names)
        self._iou = iou
        self._images = 0
        self._objects = 0
        self._objects_by_size = dict.fromkeys(SIZE_BANDS_PX, 0)
        self._stages = [_Counts() for _ in self._names]

    def add(self, truth: Annotations, outputs: Sequence[Detections]) -> None:
        """Count one picture.

        Args:
            truth: its objects.
            outputs: what each stage let through, in the order of the stages.

        Raises:
            ValueError: there is not one output for each stage.
        """
        self._check_length("outputs", outputs)
        counted = np.flatnonzero(~truth.ignore)
        boxes = truth.boxes[counted].astype(np.float64)
        ignored = truth.boxes[truth.ignore].astype(np.float64)
        bands = {name: in_size_band(boxes, band) for name, band in SIZE_BANDS_PX.items()}
        before = np.ones(len(counted), bool)  # so what the first stage lacks was never proposed
        for stage, found in zip(self._stages, outputs, strict=True):
            held = stage.add(found.boxes.astype(np.float64), boxes, ignored, bands, self._iou)
            gone = before & ~held
            stage.lost += int(gone.sum())
            for band, inside in bands.items():
                stage.lost_by_size[band] += int((gone & inside).sum())
            before = held
        self._objects += len(counted)
        for band, inside in bands.items():
            self._objects_by_size[band] += int(inside.sum())
        self._images += 1

    def add_time(self, stage_index: int, seconds: float) -> None:
        """Add computing time of a stage; a stage without any has no `ms_per_image`."""
        stage = self._stages[stage_index]
        stage.seconds = (stage.seconds or 0.0) + seconds

    def counts(self) -> dict[str, Any]:
        """Return all that was counted, ready for JSON, as `add_counts` takes it."""
        return {
            "images": self._images,
            "objects": self._objects,
            "objects_by_size": dict(self._objects_by_size),
            "stages": [dict(vars(stage)) for stage in self._stages],
        }

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Add what another funnel of the same stages counted of further pictures.

        Raises:
            ValueError: the counts are of another number of stages.
        """
        self._check_length("counts", counts["stages"])
        self._images += counts["images"]
        self._objects += counts["objects"]
        _add_by_size(self._objects_by_size, counts["objects_by_size"])
        for stage, other in zip(self._stages, counts["stages"], strict=True):
            stage.add_counts(other)

    def result(self, thresholds: Sequence[float]) -> list[dict[str, Any]]:
        """Return one row a stage, ready for JSON; a share or mean of nothing is None.

        Args:
            thresholds: the score in force at each stage, reported as `score`.

        Returns:
            `stage`, `score`; `candidates_in` and `candidates_out`, mean an image (nothing comes into the first stage);
            `recall`, share of objects that a candidate holds, and `recall_by_size`, by height in px; `precision`, share
            of candidates that hold an object; `lost`, objects that the stage before held and this one does not, and
            `lost_by_size`, those of each height; `ms_per_image`.

        Raises:
            ValueError: there is not one threshold for each stage.
        """
        self._check_length("thresholds", thresholds)
        rows: list[dict[str, Any]] = []
        for name, score, stage in zip(self._names, thresholds, self._stages, strict=True):
            seconds = None if stage.seconds is None else _share(stage.seconds, self._images)
            rows.append(
                {
                    "stage": name,
                    "score": float(score),
                    "candidates_in": rows[-1]["candidates_out"] if rows else None,
                    "candidates_out": _share(stage.candidates, self._images),
                    "recall": _share(stage.held, self._objects),
                    "precision": _share(stage.hits, stage.judged),
                    "lost": stage.lost,
                    "recall_by_size": {
                        band: _share(stage.held_by_size[band], total) for band, total in self._objects_by_size.items()
                    },
                    "lost_by_size": dict(stage.lost_by_size),
                    "ms_per_image": None if seconds is None else 1000 * seconds,
                }
            )
        return rows

    def _check_length(self, what: str, values: Sequence[object]) -> None:
        if len(values) != len(self._names):
            raise ValueError(f"{what} must have one entry for each of {self._names}, got {len(values)}")


class _Counts:
    """What one stage did, summed over pictures."""

    def __init__(self) -> None:
        self.candidates = 0
        self.judged = 0  # candidates that precision is a share of: all but those on ignored objects
        self.hits = 0
        self.held = 0
        self.held_by_size = dict.fromkeys(SIZE_BANDS_PX, 0)
        self.lost = 0
        self.lost_by_size = dict.fromkeys(SIZE_BANDS_PX, 0)
        self.seconds: float | None = None

    def add(
        self,
        candidates: NDArray[np.float64],
        counted: NDArray[np.float64],
        ignored: NDArray[np.float64],
        bands: Mapping[str, NDArray[np.bool_]],
        iou: float,
    ) -> NDArray[np.bool_]:
        """Count the candidates ``(N, 4)`` of a picture; return which counted objects ``(G, 4)`` they hold, ``(G,)``."""
        holds = iou_matrix(counted, candidates) >= iou  # (G, N)
        hit, held = holds.any(axis=0), holds.any(axis=1)
        on_ignored = (coverage_matrix(ignored, candidates) >= _ON_IGNORED).any(axis=0)
        self.candidates += len(candidates)
        self.judged += int((hit | ~on_ignored).sum())
        self.hits += int(hit.sum())
        self.held += int(held.sum())
        for band, inside in bands.items():
            self.held_by_size[band] += int((held & inside).sum())
        return np.asarray(held, bool)

    def add_counts(self, other: Mapping[str, Any]) -> None:
        """Add the counts of the same stage on further pictures."""
        for name in ("candidates", "judged", "hits", "held", "lost"):
            setattr(self, name, getattr(self, name) + other[name])
        _add_by_size(self.held_by_size, other["held_by_size"])
        _add_by_size(self.lost_by_size, other["lost_by_size"])
        if other["seconds"] is not None:
            self.seconds = (self.seconds or 0.0) + other["seconds"]


def _add_by_size(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for band in counts:
        counts[band] += more[band]


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
