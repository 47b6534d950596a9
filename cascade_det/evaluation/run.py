"""Runs a cascade over a source and scores it: detections, funnel and every evaluator's figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade_det.cascade import Cascade
from cascade_det.core.schema import Recipe
from cascade_det.core.types import Detections
from cascade_det.data.atomic import write_json_atomic
from cascade_det.data.sources import Source
from cascade_det.errors import DataError
from cascade_det.evaluation.augmented import PLAIN, Augmentation, detect_stages, refuse_large
from cascade_det.evaluation.base import Evaluator, ScoredSet
from cascade_det.evaluation.coco import Coco
from cascade_det.evaluation.curve_file import CURVES, write_curves
from cascade_det.evaluation.files import write_errors, write_evaluation
from cascade_det.evaluation.funnel import Funnel
from cascade_det.evaluation.journal import Journal, pack, unpack
from cascade_det.evaluation.protocol import Curve
from cascade_det.stages.base import StageSettings
from cascade_det.visual.contact_sheet import contact_sheet
from cascade_det.visual.drawing import draw
from cascade_det.visual.plots import plot_funnel

EVALUATION_SCORE = 0.05  # detections are kept down to here so that AP is not cut short
_BATCH = 8  # pictures that are detected together, of which no more are held at once
_SHEET_PICTURES = 30
Progress = Callable[[int], None]
Failures = list[tuple[str, str]]  # (picture, reason)


@dataclass(frozen=True)
class Evaluation:
    """What one source gave: the scored set, its figures, curves by evaluator, and the pictures that cannot be read."""

    scored: ScoredSet
    metrics: dict[str, Any]
    curves: dict[str, Sequence[Curve]]
    errors: Failures


def evaluation_settings(
    cascade: Cascade, *, upto: str | None = None, min_object_px: float | None = None, score: float | None = None
) -> list[StageSettings]:
    """Return what the stages run with in an evaluation: the last one's threshold is 0.05 unless `score` is given.

    Raises:
        ValueError: there is no stage `upto`, or a value is out of range.
    """
    return cascade.settings(upto, min_object_px=min_object_px, score=EVALUATION_SCORE if score is None else score)


def evaluate_source(
    cascade: Cascade,
    source: Source,
    evaluators: Mapping[str, Evaluator],
    *,
    upto: str | None = None,
    min_object_px: float | None = None,
    score: float | None = None,
    augmentation: Augmentation = PLAIN,
    journal: Journal | None = None,
    progress: Progress = lambda done: None,
) -> Evaluation:
    """Detect in every picture of a source and score the detections.

    Args:
        cascade, source: the detector and the annotated pictures.
        evaluators: figures by name; those of the first stand at the top level, others under their name.
        upto: score what this stage lets through instead of the last.
        min_object_px: instead of the recipe's.
        score: threshold of the last stage that runs; 0.05 by default, so that AP is not cut short.
        augmentation: the views of each picture whose detections are merged.
        journal: what an earlier run finished, and where this one notes what it finishes; the caller removes it.
        progress: called with the number of pictures done.

    Raises:
        ValueError: there is no stage `upto`, or a value is out of range.
        DataError: there are pictures and none of them can be read, which no figure could say.

    Returns:
        The figures as `metrics.json` holds them, with the settings in force and the funnel at the same thresholds.
    """
    settings = evaluation_settings(cascade, upto=upto, min_object_px=min_object_px, score=score)
    funnel = Funnel([stage.name for stage in cascade.stages[: len(settings)]])
    found, errors, seconds = _detect(cascade, source, settings, augmentation, funnel, journal, progress)
    scored = _scored_set(cascade.recipe, source, found)
    if errors and not found:
        if journal is not None:
            journal.remove()
        raise DataError(f"none of {len(errors):,} pictures could be read; the first: {errors[0][1]}")
    metrics, curves = _figures(scored, evaluators)
    metrics["funnel"] = funnel.result([values.score for values in settings])
    metrics["settings"] = {
        "max_dets": next((own.max_dets for own in evaluators.values() if isinstance(own, Coco)), None),
        "score": settings[-1].score,
        "min_object_px": settings[0].min_object_px,
        "upto": cascade.stages[len(settings) - 1].name,
        "images": len(scored.pictures),
        "unreadable": len(errors),
    }
    if augmentation != PLAIN:
        metrics["settings"] |= {"scales": list(augmentation.scales), "flip": augmentation.flip}
    rate = len(scored.pictures) / seconds if seconds > 0 else None
    metrics["timing"] = {"seconds": seconds, "pictures_per_second": rate}
    return Evaluation(scored, metrics, curves, errors)


def rehearse(recipe: Recipe, source: Source, evaluators: Mapping[str, Evaluator]) -> None:
    """Score the truth of a source as if nothing were found; no picture is read.

    Raises:
        CascadeError: an evaluator cannot do what its parameters ask of this truth, such as group by an unknown field.
    """
    nothing = dict.fromkeys(range(len(source.pictures)), Detections.empty(len(recipe.object.points) or None))
    _figures(_scored_set(recipe, source, nothing), evaluators)


def _figures(
    scored: ScoredSet, evaluators: Mapping[str, Evaluator]
) -> tuple[dict[str, Any], dict[str, Sequence[Curve]]]:
    """Return the figures of all evaluators, and the curves of each that has some."""
    metrics: dict[str, Any] = {}
    curves: dict[str, Sequence[Curve]] = {}
    for position, (name, evaluator) in enumerate(evaluators.items()):
        result = evaluator.result(scored)
        metrics |= result.figures if position == 0 else {name: result.figures}
        if result.curves:
            curves[name] = result.curves
    return metrics, curves


def _scored_set(recipe: Recipe, source: Source, found: Mapping[int, Detections]) -> ScoredSet:
    """Return the pictures of a source that have detections, by their number, in its order."""
    numbers, wanted = sorted(found), recipe.object
    return ScoredSet(
        [source.pictures[number] for number in numbers],
        [source.annotations(number) for number in numbers],
        [found[number] for number in numbers],
        list(wanted.points),
        wanted.category,
        source,
    )


def _detect(
    cascade: Cascade,
    source: Source,
    settings: Sequence[StageSettings],
    augmentation: Augmentation,
    funnel: Funnel,
    journal: Journal | None,
    progress: Progress,
) -> tuple[dict[int, Detections], Failures, float]:
    """Run every picture but those of the journal, counting all in the funnel.

    Returns:
        What was found by number of the picture, (file, reason) of unreadable pictures, and the seconds that it took,
        in the runs before this one too.
    """
    found: dict[int, Detections] = {}
    errors: Failures = []
    total, seconds = len(source.pictures), 0.0
    before = iter(journal.entries if journal is not None else ())
    for start in range(0, total, _BATCH):  # equal batches in every run: what is computed together is rounded together
        entry = next(before, None)
        if entry is None:
            numbers = range(start, min(start + _BATCH, total))
            entry = _detect_batch(cascade, source, numbers, settings, augmentation)
            if journal is not None:
                journal.append(entry)
        for number, columns in entry["found"]:
            found[number] = unpack(columns)
        errors += [(name, reason) for name, reason in entry["errors"]]
        funnel.add_counts(entry["funnel"])
        seconds += entry["seconds"]
        progress(min(start + _BATCH, total) - start)
    return found, errors, seconds


def _detect_batch(
    cascade: Cascade,
    source: Source,
    numbers: Sequence[int],
    settings: Sequence[StageSettings],
    augmentation: Augmentation,
) -> dict[str, Any]:
    """Return what a journal holds of the pictures `numbers`: `found`, `errors`, counts of the `funnel`, `seconds`."""
    begin = time.perf_counter()
    readable, images, errors = [], [], []
    for number in numbers:
        try:
            image = source.read(number)
            refuse_large(cascade, image.shape[:2], augmentation, settings[0].min_object_px)
        except DataError as error:
            errors.append([source.pictures[number].name, str(error)])
            continue
        readable.append(number)
        images.append(image)
    stages = detect_stages(cascade, images, settings, augmentation) if images else []
    funnel = Funnel([stage.name for stage in cascade.stages[: len(settings)]])
    for index, (_, seconds) in enumerate(stages):
        funnel.add_time(index, seconds)
    found = []
    for row, (number, image) in enumerate(zip(readable, images, strict=True)):
        outputs = [kept[row] for kept, _ in stages]
        funnel.add(source.annotations(number), outputs)
        found.append([number, pack(cascade.finish(outputs[-1], image.shape[:2]))])
    return {
        "found": found,
        "errors": errors,
        "funnel": funnel.counts(),
        "seconds": time.perf_counter() - begin,
    }


def begin_journal(
    path: Path,
    cascade: Cascade,
    source: Source,
    header: Mapping[str, object],
    *,
    resume: bool,
    augmentation: Augmentation = PLAIN,
    **options: Any,
) -> Journal:
    """Return the journal of an evaluation: that of an earlier run where `resume` says so, else a new one.

    Args:
        path: of the journal.
        cascade, source, augmentation, options: as `evaluate_source` takes them, upto, min_object_px and score.
        header: what else decides the detections, such as which model it is, by the words in which an error names it.
        resume: go on with what is there.

    Raises:
        RunError: what is there is of a run that differs; the message names the difference.
    """
    settings = evaluation_settings(cascade, **options)
    everything = {
        **header,
        "the stages that run (--upto)": [stage.name for stage in cascade.stages[: len(settings)]],
        "the threshold of the last stage (--score)": settings[-1].score,
        "the smallest object in px (--min-object)": settings[0].min_object_px,
        "--scales": list(augmentation.scales),
        "--flip": augmentation.flip,
        "settings of the stages": [asdict(values) for values in settings],
        "pictures and truth (a hash of --annotations, names and sizes of files)": source.digest(),
    }
    return Journal.resume(path, everything) if resume else Journal.begin(path, everything)


def resumed_pictures(entries: Sequence[Mapping[str, Any]]) -> int:
    """Return how many pictures the entries of an evaluation's journal hold, unreadable ones too."""
    return sum(len(entry["found"]) + len(entry["errors"]) for entry in entries)


def evaluate_sources(
    cascade: Cascade, sources: Mapping[str, Source], evaluators: Mapping[str, Evaluator], out_dir: Path, **options: Any
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Evaluate several sources and write all files of an evaluation.

    Args:
        cascade, evaluators: see `evaluate_source`, also for `options`; a journal is of one source.
        sources: by name; the first source's figures form the top level, each stands under "sources".
        out_dir: `detections.json`, `truth.json`, `images.json`, `metrics.json`, `errors.csv`, `curves.csv` where an
            evaluator has some, pictures; further sources in ``out_dir/NAME``.

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
        write_curves(folder / CURVES, done.curves)
        _write_pictures(folder, source, done)
        results[name] = done.metrics
        errors += done.errors
    first = next(iter(results.values()), {})
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


def scored_pictures(sources: Sequence[Source]) -> int:
    """Return how many pictures an evaluation of these sources runs."""
    return sum(len(source.pictures) for source in sources)
