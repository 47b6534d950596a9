"""Detections in the form in which protocols take them: WIDER FACE's file of a picture, FDDB's blocks in one file.

A number is written as the shortest text that reads back as the float64 of its float32, so a file scores what the
detections score.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.types import Detections


def xywh_scores(found: Detections) -> NDArray[np.float64]:
    """Return rows ``(N, 5)`` x y width height score: what protocols score, as exact as the files."""
    rows = np.concatenate([found.boxes, found.scores[:, None]], axis=1).astype(np.float64)
    rows[:, 2:4] -= rows[:, :2]
    return rows


def named_block(name: str, found: Detections) -> str:
    """Return a picture's name, the number of detections, and ``x y width height score`` of each, a line each.

    This is WIDER FACE's ``EVENT/IMAGE.txt``, and a block of rectangles in FDDB's file.

    >>> print(named_block("a", Detections([[1, 2, 4.5, 6]], [0.5])), end="")
    a
    1
    1.0 2.0 3.5 4.0 0.5
    """
    rows = xywh_scores(found).tolist()
    lines = [name, str(len(rows)), *(" ".join(map(repr, row)) for row in rows)]
    return "\n".join(lines) + "\n"


def fddb_text(blocks: Iterable[tuple[str, Detections]]) -> str:
    """Return FDDB's file of detections: a block for each (name, detections), in this order."""
    return "".join(named_block(name, found) for name, found in blocks)
