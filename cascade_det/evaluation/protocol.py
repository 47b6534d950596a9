"""What scoring given detections by a protocol gives: figures, curves, files in the official form, and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Attributes:
        kind: precision-recall, recall-fppi, roc, miss-rate or ced; curves of one kind share their axes.
        name: what of the protocol it shows (``easy``, ``discrete``, ``Reasonable``).
        x, y: ``(N,)`` float64, in the order of the line.
        figure: what the legend says of it, such as ``AP .848``.
    """

    kind: str
    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    figure: str


@dataclass(frozen=True)
class ProtocolResult:
    """What a protocol says of a set of detections.

    Attributes:
        figures: ready for JSON, under the keys of the protocol; what is absent is None, or -1 where COCO says -1.
        curves: for a plot, none where there is nothing to draw.
        files: contents of further files by name, such as the curve in the official program's form.
        warnings: what the protocol forgives and a user should know, one sentence each.
    """

    figures: dict[str, Any]
    curves: Sequence[Curve] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
