"""Runs a cascade over a source and scores it: detections, funnel and every evaluator's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade_det.cascade import Cascade
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.atomic import write_json_atomic
from cascade_det.data.sources import Picture, Source
from cascade_det.errors import DataError
from cascade_det.evaluation.base import Evaluator, ScoredSet
from cascade_det.evaluation.files import write_errors, write_evaluation
from cascade_det.evaluation.funnel import Funnel
from cascade_det.stages.base import StageSettings
from cascade_det.visual.contact_sheet import contact_sheet
from cascade_det.visual.drawing import draw
from cascade_det.visual.plots import plot_funnel

EVALUATION_SCORE = 0.05  # detections are kept down to here so that AP is not cut short
_BATCH = 8
_SHEET_PICTURES = 30
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Evaluation:
    """What one source gave: the scored set, its figures and the pictures that could not be read."""

    scored: ScoredSet
    metrics: dict[str, Any]
    errors: list[tuple[str, str]]


def evaluate_source(
    cascade: Cascade,
    source: Source,
    evaluators: Mapping[str, Evaluator],
    *,
    upto: str | None = None,
    min_object_px: float | None = None,
    score: float | None = None,
    progress: Progress = lambda done: None,
) -> Evaluation:
    """Detect in every picture of a source and score the detections.

    Args:
        cascade, source: the detector and the annotated pictures.
        evaluators: figures by name; those of the first stand at the top level, others under their name.
        upto: score what this stage lets through instead of the last.
        min_object_px: instead of the recipe's.
        score: threshold of the last stage that runs; 0.05 by default, so that AP is not cut short.
        progress: called with the number of pictures done.

    Raises:
        ValueError: there is no stage `upto`, or a value is out of range.
        DataError: there are pictures and none of them can be read, which no figure could say.

    Returns:
        The figures as `metrics.json` holds them, with the settings in force and the funnel at the same thresholds.
    """
    settings = cascade.settings(upto, min_object_px=min_object_px, score=EVALUATION_SCORE if score is None else score)
    funnel = Funnel([stage.name for stage in cascade.stages[: len(settings)]])
    scored, errors = _detect(cascade, source, settings, funnel, progress)
    if errors and not scored.pictures:
        raise DataError(f"none of {len(errors):,} pictures could be read; the first: {errors[0][1]}")
    metrics = _figures(scored, evaluators)
    metrics["funnel"] = funnel.result([values.score for values in settings])
    metrics["settings"] = {
        "max_dets": 300,
        "score": settings[-1].score,
        "min_object_px": settings[0].min_object_px,
        "upto": cascade.stages[len(settings) - 1].name,
        "images": len(scored.pictures),
        "unreadable": len(errors),
    }
    return Evaluation(scored, metrics, errors)


def _figures(scored: ScoredSet, evaluators: Mapping[str, Evaluator]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for position, (name, evaluator) in enumerate(evaluators.items()):
        figures = evaluator.evaluate(scored)
        metrics |= figures if position == 0 else {name: figures}
    return metrics


def _detect(
    cascade: Cascade, source: Source, settings: Sequence[StageSettings], funnel: Funnel, progress: Progress
) -> tuple[ScoredSet, list[tuple[str, str]]]:
    """Run every picture, counting in the funnel; return what is scored, and (file, reason) of unreadable pictures."""
    rows: list[tuple[Picture, Annotations, Detections]] = []
    errors: list[tuple[str, str]] = []
    recipe, total = cascade.recipe, len(source.pictures)
    for start in range(0, total, _BATCH):
        numbers = range(start, min(start + _BATCH, total))
        readable, images = [], []
        for number in numbers:
            try:
                images.append(cascade.resampler(source.read(number)))
                readable.append(number)
            except DataError as error:
                errors.append((source.pictures[number].name, str(error)))
        outputs = []
        for index, (_, kept, seconds) in enumerate(cascade.run_stages(images, settings) if images else ()):
            outputs.append(kept)
            funnel.add_time(index, seconds)
        for row, number in enumerate(readable):
            truth = source.annotations(number)
            funnel.add(truth, [kept[row] for kept in outputs])
            rows.append((source.pictures[number], truth, cascade.finish(outputs[-1][row], images[row].image_hw)))
        progress(len(numbers))
    pictures, truths, found = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    return ScoredSet(pictures, truths, found, list(recipe.object.points), recipe.object.category), errors


def evaluate_sources(
    cascade: Cascade, sources: Mapping[str, Source], evaluators: Mapping[str, Evaluator], out_dir: Path, **options: Any
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Evaluate several sources and write all files of an evaluation.

    Args:
        cascade, evaluators: see `evaluate_source`, also for `options`.
        sources: by name; the first source's figures form the top level, each stands under "sources".
        out_dir: `detections.json`, `truth.json`, `images.json`, `metrics.json`, `errors.csv`, pictures; further
            sources in ``out_dir/NAME``.

    Returns:
        The metrics as written, and (file, reason) of pictures that could not be read.
    """
    results: dict[str, dict[str, Any]] = {}
    errors: list[tuple[str, str]] = []
    for position, (name, source) in enumerate(sources.items()):
        folder = out_dir if position == 0 else out_dir / name
        done = evaluate_source(cascade, source, evaluators, **options)
        write_evaluation(folder, done.scored)
        write_errors(folder / "errors.csv", done.errors)
        _write_pictures(folder, source, done)
        results[name] = done.metrics
        errors += done.errors
    first: dict[str, Any] = dict(next(iter(results.values()))) if results else {}
    metrics = {**first, "sources": results}
    write_json_atomic(out_dir / "metrics.json", metrics, indent=1)
    return metrics, errors


def _write_pictures(folder: Path, source: Source, done: Evaluation) -> None:
    """Write a sheet of evenly chosen pictures with detections and truth, and the funnel as a plot."""
    from cascade_det.core.imaging import write_image

    plot_funnel(done.metrics["funnel"], folder / "funnel.png")
    total = len(done.scored.pictures)
    chosen = np.unique(np.linspace(0, max(total - 1, 0), min(_SHEET_PICTURES, total)).astype(int)).tolist()
    index_of = {picture.image_id: index for index, picture in enumerate(source.pictures)}
    tiles, titles = [], []
    for row in chosen:
        found = done.scored.detections[row]
        shown = found[found.scores >= 0.5]
        image = source.read(index_of[done.scored.pictures[row].image_id])
        tiles.append(draw(image, shown, truth=done.scored.truth[row]))
        titles.append(done.scored.pictures[row].name)
    heading = "detections from .5 (green), truth (dashed)"
    write_image(
        folder / "pictures.png", contact_sheet(tiles, columns=5, tile_hw=(240, 320), titles=titles, heading=heading)
    )


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


def _figure(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"


def scored_pictures(sources: Sequence[Source]) -> int:
    """Return how many pictures an evaluation of these sources runs."""
    return sum(len(source.pictures) for source in sources)
