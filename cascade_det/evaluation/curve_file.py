"""The curves of an evaluation's protocols as a CSV file: written beside its other files, and drawn by its report."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cascade_det.data.atomic import write_text_atomic
from cascade_det.evaluation.curves import thinned
from cascade_det.evaluation.protocol import Curve

CURVES = "curves.csv"
_COLUMNS = ["protocol", "kind", "name", "figure", "x", "y"]


def write_curves(path: Path, curves: Mapping[str, Sequence[Curve]]) -> None:
    """Write a row for each point of the curves by protocol, thinned; without a curve a file of an earlier run goes."""
    if not any(curves.values()):
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for protocol, own in curves.items():
        for curve in map(thinned, own):
            points = zip(curve.x.tolist(), curve.y.tolist(), strict=True)
            rows.writerows([protocol, curve.kind, curve.name, curve.figure, x, y] for x, y in points)
    write_text_atomic(path, text.getvalue())


def read_curves(path: Path) -> dict[str, list[Curve]]:
    """Return what `write_curves` wrote, nothing where there is no file."""
    if not path.is_file():
        return {}
    points: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            line = tuple(row[name] for name in _COLUMNS[:4])
            points.setdefault(line, []).append((float(row["x"]), float(row["y"])))
    curves: dict[str, list[Curve]] = {}
    for (protocol, kind, name, figure), pairs in points.items():
        x, y = np.array(pairs, np.float64).T
        curves.setdefault(protocol, []).append(Curve(kind, name, x, y, figure))
    return curves
