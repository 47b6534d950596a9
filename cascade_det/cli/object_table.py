"""Detections as rows of a CSV table: the columns that detect's tables share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade_det.core.types import Detections


def object_columns(point_names: Sequence[str]) -> list[str]:
    """Return the names of what `object_rows` gives: score, box edges, x and y of each point."""
    return ["score", "x0", "y0", "x1", "y1", *(f"{name}_{axis}" for name in point_names for axis in "xy")]


def object_rows(found: Detections) -> Iterator[list[str]]:
    """Yield the values of each object, pixels with four decimals; without points their columns are left out."""
    points = [[]] * len(found) if found.points is None else [xy.ravel().tolist() for xy in found.points]
    for score, box, places in zip(found.scores.tolist(), found.boxes.tolist(), points, strict=True):
        yield [f"{value:.4f}" for value in (score, *box, *places)]
