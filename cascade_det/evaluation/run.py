"""Runs a cascade over a source and scores it: detections, funnel and every evaluator's figures."""

from __future__ import annotations

import dataclasses
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
from cascade_det.evaluation.files import write_evaluation
from cascade_det.evaluation.funnel import Funnel
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
        cascade: the detector.
        source: annotated pictures.
        evaluators: figures by name; those of the first stand at the top level, others under their name.
        upto: score what this stage lets through instead of the last.
        min_object_px: instead of the recipe's.
        score: threshold of the last stage that runs; 0.05 by default, so that AP is not cut short.
        progress: called with the number of pictures done.

    Returns:
        The figures as `metrics.json` holds them, with the funnel and the settings in force. The funnel runs at the
        same thresholds as the detections.
    """
    threshold = EVALUATION_SCORE if score is None else score
    names = [stage.name for stage in cascade.stages]
    names = names if upto is None else names[: names.index(upto) + 1]
    settings = cascade.settings(min_object_px=min_object_px)[: len(names)]
    settings[-1] = dataclasses.replace(settings[-1], score=threshold)
    funnel = Funnel(names)
    pictures, truths, detections, errors = (
        list[Picture](),
        list[Annotations](),
        list[Detections](),
        list[tuple[str, str]](),
    )
    for start in range(0, len(source.pictures), _BATCH):
        numbers = range(start, min(start + _BATCH, len(source.pictures)))
        readable, images = [], []
        for number in numbers:
            try:
                images.append(cascade.resampler(source.read(number)))
                readable.append(number)
            except DataError as error:
                errors.append((source.pictures[number].name, str(error)))
        outputs = []
        for index, (_, found, seconds) in enumerate(cascade.run_stages(images, settings) if images else ()):
            outputs.append(found)
            funnel.add_time(index, seconds)
        for row, number in enumerate(readable):
            truth = source.annotations(number)
            funnel.add(truth, [found[row] for found in outputs])
            pictures.append(source.pictures[number])
            truths.append(truth)
            detections.append(cascade.finish(outputs[-1][row], images[row].image_hw))
        progress(len(numbers))
    recipe = cascade.recipe
    scored = ScoredSet(pictures, truths, detections, list(recipe.object.points), recipe.object.category)
    metrics: dict[str, Any] = {}
    for position, (name, evaluator) in enumerate(evaluators.items()):
        figures = evaluator.evaluate(scored)
        metrics |= figures if position == 0 else {name: figures}
    metrics["funnel"] = funnel.result([float(values.score) for values in settings])
    metrics["settings"] = {
        "max_dets": 300,
        "score": threshold,
        "min_object_px": settings[0].min_object_px,
        "upto": names[-1],
        "images": len(pictures),
        "unreadable": len(errors),
    }
    return Evaluation(scored, metrics, errors)


def evaluate_sources(
    cascade: Cascade, sources: Mapping[str, Source], evaluators: Mapping[str, Evaluator], out_dir: Path, **options: Any
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Evaluate several sources and write all files of an evaluation.

    Args:
        cascade, evaluators: see `evaluate_source`, also for `options`.
        sources: by name; the first source's figures form the top level, each stands under "sources".
        out_dir: `detections.json`, `truth.json`, `images.json`, `metrics.json`, pictures; further sources in
            ``out_dir/NAME``.

    Returns:
        The metrics as written, and (file, reason) of pictures that could not be read.
    """
    results: dict[str, dict[str, Any]] = {}
    errors: list[tuple[str, str]] = []
    for position, (name, source) in enumerate(sources.items()):
        folder = out_dir if position == 0 else out_dir / name
        done = evaluate_source(cascade, source, evaluators, **options)
        write_evaluation(folder, done.scored)
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
    chosen = np.unique(np.linspace(0, total - 1, min(_SHEET_PICTURES, total)).astype(int)) if total else []
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
    recall = metrics.get("recall_at_fppi", {})
    nme = metrics.get("nme")
    parts = [f"{key} {metrics[key]:.3f}" for key in ("AP", "AP50", "AP75") if key in metrics]
    parts += [f"recall {_figure(recall.get(f))} at {f} FPPI" for f in ("0.1", "1") if f in recall]
    if nme is not None:
        parts.append(f"NME {nme:.2f} % ({metrics['nme_matched']} of {metrics['nme_total']})")
    return f"{name}: " + ", ".join(parts)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def scored_pictures(sources: Sequence[Source]) -> int:
    """Return how many pictures an evaluation of these sources runs."""
    return sum(len(source.pictures) for source in sources)
