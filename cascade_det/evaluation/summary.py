"""Figures as lines of text, for the end of a run and the list of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def summary_line(name: str, metrics: Mapping[str, Any]) -> str:
    """Return the main figures of one source in one line."""
    recall, sure, nme = metrics.get("recall_at_fppi", {}), metrics.get("intervals", {}), metrics.get("nme")
    sure_recall = sure.get("recall_at_fppi", {})
    parts = [f"{key} {metrics[key]:.3f}{_interval(sure.get(key))}" for key in ("AP", "AP50", "AP75") if key in metrics]
    parts += [
        f"recall {_figure(recall[fppi])}{_interval(sure_recall.get(fppi))} at {fppi} FPPI"
        for fppi in ("0.1", "1")
        if fppi in recall
    ]
    if nme is not None:
        parts.append(f"NME {nme:.2f} % ({metrics['nme_matched']} of {metrics['nme_total']})")
    return f"{name}: " + ", ".join(parts)


def protocol_lines(name: str, metrics: Mapping[str, Any]) -> list[str]:
    """Return a line for the figures of each protocol, and one for each group.

    Args:
        name: of the pictures.
        metrics: of one source: the figures of the first evaluator at the top level, others under their names.
    """
    lines = []
    for figures in _by_evaluator(metrics).values():
        if _is_coco(figures):
            lines += [summary_line(name, figures), *group_lines(figures)]
        else:
            lines += [f"{name}: {text(figures)}" for key, text in _PROTOCOLS.items() if key in figures][:1]
    return lines


def warnings_of(metrics: Mapping[str, Any]) -> list[str]:
    """Return what a user should know of the figures of one source, a sentence each."""
    return list(dict.fromkeys(text for own in _by_evaluator(metrics).values() for text in own.get("warnings", [])))


def _by_evaluator(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the figures at the top level under "", and those of further evaluators whose figures are known here."""
    inner = {name: own for name, own in metrics.items() if isinstance(own, Mapping) and name not in _NO_EVALUATORS}
    return {"": metrics, **{name: own for name, own in inner.items() if _is_coco(own) or set(_PROTOCOLS) & set(own)}}


_NO_EVALUATORS = ("sources", "groups", "intervals")


def _is_coco(figures: Mapping[str, Any]) -> bool:
    return "AP50" in figures and "recall_at_fppi" in figures


def group_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return one line a group."""
    return [summary_line(f"  {value}", group) for value, group in metrics.get("groups", {}).items()]


def funnel_lines(funnel: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line a stage."""
    return [
        f"  {row['stage']}: {_figure(row['candidates_out'], 1)} candidates a picture, recall {_figure(row['recall'])} "
        f"at IoU 0.5, threshold {row['score']:.3f}, {_figure(row['ms_per_image'], 1)} ms"
        for row in funnel
    ]


def timing_line(pictures: int, seconds: float) -> str:
    """Return how long a run over pictures took, and how many that is in a second.

    >>> timing_line(1139, 84.25)
    '1,139 pictures in 84.2 s, 13.5 pictures a second'
    """
    rate = f", {pictures / seconds:.1f} pictures a second" if seconds > 0 and pictures else ""
    return f"{pictures:,} pictures in {seconds:.1f} s{rate}"


def _wider(figures: Mapping[str, Any]) -> str:
    levels = (name for name in ("easy", "medium", "hard", "all") if name in figures)
    return "WIDER FACE AP " + ", ".join(f"{name} {_figure(figures[name])}" for name in levels)


def _fddb(figures: Mapping[str, Any]) -> str:
    lowest = figures["lowest_threshold"]
    rates = [f"{_figure(rate)} at {count} FP" for count, rate in figures["discrete_tpr_at"].items()]
    everything = f"{_figure(lowest['discrete'])} (continuous {_figure(lowest['continuous'])})"
    return f"FDDB TPR {', '.join(rates)}; {everything} at all {lowest['false_positives']} FP"


def _miss_rate(figures: Mapping[str, Any]) -> str:
    return "MR-2 " + ", ".join(f"{name} {_figure(value)}" for name, value in figures.get("mr2", {}).items())


def _points(figures: Mapping[str, Any]) -> str:
    if not figures.get("nme_total"):
        return "points: no object that can be measured"
    matched = f"{figures['nme_matched']} of {figures['nme_total']}"
    failed, auc = _figure(figures["failure_rate"]), _figure(figures["auc"])
    return f"points: NME {_figure(figures['nme'], 2)} % ({matched}), failure rate {failed}, AUC {auc}"


_PROTOCOLS = {  # by a figure that no other evaluator has
    "easy": _wider,
    "all": _wider,
    "discrete_tpr_at": _fddb,
    "mr2": _miss_rate,
    "failure_rate": _points,
}


def _figure(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
