"""Plots of training and scores, as a file whose suffix chooses the format (.png, .svg, .pdf), or as SVG in memory.

matplotlib is imported inside the functions, and its figures are plain objects without a window or global state.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.data.atomic import write_bytes_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cascade_det.evaluation.protocol import Curve as ScoreCurve

_PART = ("train", "val")
_LOG_SPAN = 50  # curves of positive values that span more than this ratio get a logarithmic axis
_BAR, _LINE = "#4c78a8", "#e45756"
_HEIGHT_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_ASPECT_TICKS = (0.1, 0.2, 0.35, 0.5, 0.7, 1, 1.4, 2, 3, 5, 10)
Curve = tuple[Sequence[float], Sequence[float]]
Place = str | Path | io.BytesIO  # a file, whose folder is made if missing, or memory, which gets SVG
SCORE_AXES: Mapping[str, Mapping[str, Any]] = {
    "precision-recall": {"xlabel": "recall", "ylabel": "precision", "xlim": (0, 1.005), "ylim": (0, 1.02)},
    "roc": {"xlabel": "false positives", "ylabel": "true positive rate", "xscale": "log", "ylim": (0, 1.02)},
    "miss-rate": {
        "xlabel": "false positives per image", "ylabel": "miss rate",
        "xscale": "log", "yscale": "log", "xlim": (1e-3, 10), "ylim": (0.01, 1.05),
    },
    "recall-fppi": {
        "xlabel": "false positives per image", "ylabel": "recall",
        "xscale": "log", "xlim": (1e-3, 10), "ylim": (0, 1.02),
    },
    "ced": {"xlabel": "error in %", "ylabel": "share of objects", "xlim": (0, 20), "ylim": (0, 1.02)},
}  # fmt: skip


def plot_training_curves(rows: Mapping[str, Curve], path: Place, title: str, *, x_label: str = "samples seen") -> None:
    """Plot what was logged while fitting, one panel a quantity.

    ``train_loss`` and ``val_loss``, or ``train/loss`` and ``val/loss``, are one quantity and share a panel.

    Args:
        rows: for each name the positions (samples or steps) and the values, equally long; values that are not finite
            are left out.
        path: the file to write; its folder is made if missing.
        title: one line above all panels.
        x_label: what the positions count.
    """
    panels = by_quantity(rows)
    columns = max(1, min(3, len(panels)))
    lines = max(1, math.ceil(len(panels) / columns))
    figure = _figure(4.6 * columns + 0.6, 3.0 * lines + 0.6)
    _headline(figure, title)
    for place, (quantity, names) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        for name in names:
            _plot_finite(axes, *rows[name], label=name)
        _scale(axes)
        axes.set_title(quantity, fontsize=10)
        axes.set_xlabel(x_label)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=8)
    if not panels:
        _say_empty(figure.add_subplot(), "nothing was logged")
    _save(figure, path)


def by_quantity(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of each quantity, which share a panel: ``train/loss`` and ``val/loss`` are one.

    >>> by_quantity(["train/loss", "lr", "val/loss"])
    {'loss': ['train/loss', 'val/loss'], 'lr': ['lr']}
    """
    panels: dict[str, list[str]] = {}
    for name in names:
        panels.setdefault(_quantity(name), []).append(name)
    return panels


def plot_scores(
    curves: Sequence[ScoreCurve], path: Place, title: str, *, panel_in: tuple[float, float] = (6.4, 5.2)
) -> None:
    """Plot what scoring by a protocol gave, one panel a kind of curve.

    Args:
        curves: a kind is one of `SCORE_AXES`; the legend shows name and figure of each.
        path: the file to write; its folder is made if missing.
        title: one line above all panels, "" for none.
        panel_in: width and height of a panel in inches.
    """
    kinds = list(dict.fromkeys(curve.kind for curve in curves))
    figure = _figure(panel_in[0] * max(len(kinds), 1), panel_in[1])
    _headline(figure, title)
    for place, kind in enumerate(kinds, start=1):
        axes = figure.add_subplot(1, len(kinds), place)
        axes.set(**SCORE_AXES[kind])
        for curve in curves:
            if curve.kind == kind:
                style = "steps-post" if kind == "ced" else "default"
                _plot_finite(axes, curve.x, curve.y, label=f"{curve.name}: {curve.figure}", drawstyle=style)
        if kind == "ced":
            axes.set_xlim(0, _ced_end([curve.x for curve in curves if curve.kind == kind]))
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    if not kinds:
        _say_empty(figure.add_subplot(), "no curves")
    _save(figure, path)


def plot_funnel(rows: Sequence[Mapping[str, Any]], path: Place) -> None:
    """Plot what each stage of a cascade keeps: recall as bars, candidates as a line over a logarithmic axis.

    Args:
        rows: one a stage, in the order of the cascade, with `stage` (its name), `candidates_out` (how many leave it),
            `recall` (share of the objects still found, in [0, 1]) and `ms_per_image`; a value may be None or missing.
        path: the file to write; its folder is made if missing.
    """
    figure = _figure(max(5.0, 1.7 * len(rows) + 1.8), 4.2)
    axes = figure.add_subplot()
    axes.set_title("What each stage keeps")
    if not rows:
        _say_empty(axes, "no stages")
        _save(figure, path)
        return
    places = np.arange(len(rows))
    recall, candidates = _numbers(rows, "recall"), _numbers(rows, "candidates_out")
    axes.bar(places, np.nan_to_num(recall), width=0.5, color=_BAR, alpha=0.85)
    for place, value in enumerate(recall):
        text = "?" if np.isnan(value) else f"{value:.3f}"
        colour = "white" if value > 0.15 else "black"
        axes.text(place, 0.03, text, ha="center", color=colour, fontsize=10)
    axes.set_xticks(places, [_stage_label(row) for row in rows])
    axes.set(ylabel="recall", ylim=(0, 1.05), xlim=(-0.6, len(rows) - 0.4))
    axes.yaxis.label.set_color(_BAR)
    _plot_candidates(axes, candidates)
    _save(figure, path)


def plot_objects(boxes: Mapping[str, NDArray[Any]], path: Place, min_object_px: float) -> None:
    """Plot how high objects are and how wide for their height, a line a source.

    Args:
        boxes: for each name boxes ``(N, 4)`` x0 y0 x1 y1 in pixels.
        path: the file to write; its folder is made if missing.
        min_object_px: height of the smallest object that is looked for, marked.
    """
    figure = _figure(10.4, 4.2)
    figure.suptitle("Objects")
    heights = {name: own[:, 3] - own[:, 1] for name, own in boxes.items()}
    aspects = {name: (own[:, 2] - own[:, 0]) / heights[name] for name, own in boxes.items()}
    panels = (("height in pixels", heights, _HEIGHT_TICKS), ("width / height", aspects, _ASPECT_TICKS))
    for place, (label, values, ticks) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, place)
        axes.set_xlabel(label)
        axes.set_ylabel("share of the objects of a source")
        present = {name: own for name, own in values.items() if len(own)}
        if not present:
            _say_empty(axes, "no objects")
            continue
        every = np.concatenate(list(present.values()))
        bins = np.geomspace(every.min(), max(every.max(), every.min() * 1.01), 41).tolist()
        for name, own in present.items():
            axes.hist(own, bins, weights=np.full(len(own), 1 / len(own)), histtype="step", linewidth=1.6, label=name)
        axes.set_xscale("log")
        shown = [tick for tick in ticks if bins[0] <= tick <= bins[-1]]
        axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
        if values is heights:
            axes.axvline(min_object_px, color=_LINE, linestyle="--", label=f"smallest sought: {min_object_px:g} px")
        axes.legend(fontsize=8)
    _save(figure, path)


def _ced_end(errors: Sequence[NDArray[np.float64]]) -> float:
    """Return the end of an axis of errors in percent: 20, and where most of a line lies beyond, nine tenths of it."""
    known = [line[np.isfinite(line)] for line in errors]
    return max([20.0, *(float(np.quantile(line, 0.9)) for line in known if len(line) and np.median(line) > 20)])


def _plot_candidates(axes: Axes, candidates: NDArray[np.float64]) -> None:
    """Add the number of candidates ``(S,)`` of each stage over an axis of its own; 0 is shown at the axis's foot."""
    counts = axes.twinx()
    known = np.flatnonzero(np.isfinite(candidates))
    positive = candidates[known][candidates[known] > 0]
    foot = float(positive.min()) / 3 if positive.size else 0.3
    shown = np.maximum(candidates[known], foot)
    counts.set_yscale("log")
    counts.plot(known, shown, "o-", color=_LINE)
    for place, height in zip(known, shown, strict=True):
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        label, offset = f"{candidates[place]:,.4g}", (0, 9)
        counts.annotate(
            label, (place, height), xytext=offset, textcoords="offset points", ha="center", color=_LINE, bbox=box
        )
    counts.set_ylim(foot / 2, (float(shown.max()) if shown.size else 1.0) * 4)
    counts.set_ylabel("candidates")
    counts.yaxis.label.set_color(_LINE)


def _quantity(name: str) -> str:
    for part in _PART:
        if name.startswith((f"{part}_", f"{part}/")):
            return name[len(part) + 1 :]
    return name


def _stage_label(row: Mapping[str, Any]) -> str:
    spent = row.get("ms_per_image")
    if spent is None:
        return str(row["stage"])
    return f"{row['stage']}\n{spent:,.0f} ms an image" if spent >= 100 else f"{row['stage']}\n{spent:.3g} ms an image"


def _numbers(rows: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    values = (row.get(key) for row in rows)
    return np.array([np.nan if value is None else float(value) for value in values], np.float64)


def _plot_finite(axes: Axes, x: Any, y: Any, label: str, drawstyle: str = "default") -> None:
    """Draw one curve without the points that are not finite; a single point gets a marker."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    kept = np.isfinite(x) & np.isfinite(y)
    label = label.replace("$", r"\$")  # names are no formulas
    label = f" {label}" if label.startswith("_") else label  # a legend leaves out what starts so
    axes.plot(x[kept], y[kept], label=label, linewidth=1.6, marker="o" if kept.sum() < 2 else "", drawstyle=drawstyle)


def _scale(axes: Axes) -> None:
    """Choose a logarithmic axis where the curves span a wide range; say so where they hold nothing."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    if values.size == 0:
        _say_empty(axes, "no finite values")
    elif values.min() > 0 and values.max() > _LOG_SPAN * values.min():
        axes.set_yscale("log")


def _say_empty(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color="grey", transform=axes.transAxes)


def _figure(width_in: float, height_in: float) -> Figure:
    """Return a figure of a size in inches that is drawn without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _headline(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(title)


def _save(figure: Figure, path: Place) -> None:
    if isinstance(path, io.BytesIO):
        # without the metadata: a date, and addresses of the vocabularies that it is written in
        figure.savefig(path, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        return
    path, drawn = Path(path), io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:] or "png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, drawn.getvalue())
