"""What a run leaves for people to read: the curves of each fit, and the summary at its end."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cascade_det.evaluation.summary import funnel_lines, protocol_lines
from cascade_det.visual.plots import Curve, plot_training_curves


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return steps and values of all that a fit and its resumptions logged as CSV, by name; nothing without logs."""
    values: dict[str, dict[float, float]] = {}
    for log in sorted(folder.glob("log-*/metrics.csv"), key=lambda path: (len(path.parent.name), path)):
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                with contextlib.suppress(TypeError, ValueError):  # the last line of a fit that was killed
                    step = float(row["step"])
                    figures = {n: float(v) for n, v in row.items() if n and v and n not in ("epoch", "step")}
                    for name, value in figures.items():
                        values.setdefault(name, {})[step] = value
    return {name: (sorted(at), [at[step] for step in sorted(at)]) for name, at in values.items()}


def write_curves(folder: Path, stage: str) -> None:
    """Draw ``curves.png`` from the CSV logs of a fit and of its resumptions, where there are any."""
    curves = read_curves(folder)
    if curves:
        plot_training_curves(curves, folder / "curves.png", f"fit of {stage}", x_label="optimizer steps")


def run_summary(folder: Path, metrics: Mapping[str, Any], seconds: Mapping[str, float]) -> list[str]:
    """Return the end-of-run summary: figures of each source, the funnel, seconds by step, and where the files are."""
    lines = [line for name, own in metrics.get("sources", {}).items() for line in protocol_lines(name, own)]
    lines += funnel_lines(metrics.get("funnel", []))
    lines.append("seconds: " + ", ".join(f"{step} {spent:.0f}" for step, spent in seconds.items()))
    lines.append(f"model: {folder / 'model.safetensors'}; report: {folder / 'report.html'}")
    return lines
