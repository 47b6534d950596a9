"""The verb evaluate: a model on annotated pictures, scored by one or several protocols."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from cascade_det.cli.common import command_line, own_folder, progress_bar, say, write_json
from cascade_det.cli.run_verbs import (
    AllowPlugins,
    Device,
    JsonFile,
    MinObject,
    ModelArgument,
    PluginDir,
    Preset,
    Resume,
    Score,
    Threads,
    checked_options,
    list_failures,
    load,
    model_header,
)
from cascade_det.cli.source_flags import FormatOption, ParamOption, source_of
from cascade_det.errors import DataError, RecipeError

if TYPE_CHECKING:
    from cascade_det.cascade import Cascade
    from cascade_det.data.sources import Source
    from cascade_det.evaluation.augmented import Augmentation
    from cascade_det.evaluation.base import Evaluator
    from cascade_det.evaluation.journal import Journal

_JOURNAL = "unfinished.jsonl"
_EVALUATION_FILES = {
    "detections.json", "truth.json", "images.json", "metrics.json", "errors.csv", "curves.csv", "pictures.png",
    "funnel.png", "report.html",
}  # fmt: skip


def evaluate(
    model: ModelArgument,
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="Folder of the pictures.")],
    annotations: Annotated[Path, typer.Option("--annotations", metavar="PATH", help="The truth.")],
    data_format: FormatOption = "coco",
    params: ParamOption = None,
    metrics: Annotated[
        str, typer.Option("--metrics", help="Figures, separated by commas: coco, wider, fddb, miss-rate, points.")
    ] = "coco",
    group_by: Annotated[
        Optional[str], typer.Option("--group-by", help="coco: fields of picture or object, or size, by commas.")
    ] = None,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", metavar="N", min=0, help="95 % intervals from N resamples of the pictures.")
    ] = 0,
    upto: Annotated[Optional[str], typer.Option("--upto", help="Score what this stage lets through.")] = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Folder for all files.")] = None,
    min_object: MinObject = None,
    score: Score = None,
    scales: Annotated[
        Optional[str], typer.Option("--scales", metavar="S1,S2", help="Also see pictures at these sizes, such as 1,2.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Also see pictures mirrored.")] = False,
    resume: Resume = False,
    preset: Preset = None,
    device: Device = "auto",
    threads: Threads = None,
    allow_plugins: AllowPlugins = False,
    plugin_dir: PluginDir = None,
    json_file: JsonFile = None,
) -> None:
    """Score a model on annotated pictures: AP, recall at false positives per image, NME, and the funnel by stage.

    Detections are kept down to a score of 0.05 unless `--score` says otherwise, so that AP is not cut short.

    `--metrics` scores what was found by several protocols; `metrics.json` has the first one's figures at its top level
    and the others under their names. `wider` wants `--format wider` with the toolbox's files, `fddb` wants
    `--format fddb`, `points` a truth with points.

    `--scales` and `--flip` merge what is found in the picture at each scale, and in its mirror image, by the last
    stage's suppression: higher figures at several times the cost. `--min-object` holds within each of these pictures.

    `--out DIR --resume` goes on with a run that was cut off, with the same result. `--metrics` and `--group-by` may be
    others than before.

    Examples:

    `cascade-det evaluate mtcnn_face --format coco --images faces --annotations faces/val.json --out scored`

    `cascade-det evaluate runs/mine --images pictures --annotations truth.json --group-by size,source --bootstrap 1000`

    `cascade-det evaluate mtcnn_face --format wider --images WIDER_val --annotations ground_truth --metrics wider,coco`
    """
    from cascade_det.evaluation.run import EVALUATION_SCORE, rehearse
    from cascade_det.evaluation.summary import funnel_lines, protocol_lines, timing_line, warnings_of

    if resume and out is None:
        raise RecipeError("--resume goes on with what stands in a folder and needs --out DIR.")
    folder = own_folder(out, {*_EVALUATION_FILES, _JOURNAL}) if out is not None else None
    views = _augmentation(scales, flip)
    cascade = load(model, preset, device, threads, allow_plugins, plugin_dir)
    recipe = cascade.recipe
    source = source_of(
        data_format,
        images,
        annotations,
        params or [],
        num_points=len(recipe.object.points),
        category=recipe.object.category,
        max_pixels=recipe.image.max_pixels,
    )
    evaluators = _evaluators(metrics, group_by, bootstrap)
    options = {**checked_options(cascade, upto, min_object, score), "augmentation": views}
    _refuse_without_points(cascade, evaluators, upto)
    _tell_about(source, annotations)
    rehearse(recipe, source, evaluators)
    if score is None:
        say(f"detections are kept down to a score of {EVALUATION_SCORE} so that AP is not cut short")
    journal = None
    if folder is not None:
        journal = _journal(folder / _JOURNAL, cascade, source, options, model_header(model, preset, device), resume)
    begin, before = time.perf_counter(), _done_before(journal)
    figures, errors = _score(cascade, source, evaluators, folder, options, journal)
    if folder is not None:
        from cascade_det.report.render import REPORT, write_report

        write_report(folder / REPORT, cascade, {"data": source}, figures, score=score, command=command_line())
    print("\n".join([*protocol_lines(annotations.stem, figures), *funnel_lines(figures["funnel"])]))
    for warning in warnings_of(figures):
        say(f"warning: {warning}")
    say(timing_line(len(source.pictures) - before, time.perf_counter() - begin))
    write_json(json_file, figures)
    list_failures(errors, folder)


def _augmentation(scales: str | None, flip: bool) -> Augmentation:
    from cascade_det.evaluation.augmented import Augmentation

    try:
        factors = tuple(float(text) for text in scales.split(",")) if scales is not None else (1.0,)
    except ValueError as error:
        raise RecipeError(f"--scales {scales}: give numbers between commas, such as 0.5,1,2.") from error
    try:
        return Augmentation(factors, flip)
    except ValueError as error:
        raise RecipeError(f"--scales {scales}: {error}.") from error


def _tell_about(source: Source, annotations: Path) -> None:
    """Say what of the truth cannot be scored; a truth without pictures is refused."""
    from cascade_det.data.sources import left_out

    pictures = len(source.pictures)
    if pictures == 0:
        raise DataError(f"--annotations {annotations}: holds no picture; name a truth with some under `images`.")
    if left_out(source):
        say(f"{annotations}: left out: {left_out(source)}")
    if all(source.annotations(index).ignore.all() for index in range(pictures)):
        say(f"{annotations}: none of its {pictures:,} pictures holds an object that counts, so AP and recall are -1")


def _evaluators(metrics: str, group_by: str | None, bootstrap: int) -> dict[str, Evaluator]:
    from cascade_det.core.registry import EVALUATORS

    names = [name.strip() for name in metrics.split(",")]
    for name in names:
        EVALUATORS.get(name, "--metrics ")
    if len(set(names)) != len(names):
        raise RecipeError(f"--metrics {metrics}: name each once.")
    if group_by is not None and "coco" not in names:
        raise RecipeError(f"--group-by {group_by}: splits the figures of coco; add it, as --metrics {metrics},coco.")
    if bootstrap and "coco" not in names:
        raise RecipeError(f"--bootstrap {bootstrap}: gives intervals of coco; add it, as --metrics {metrics},coco.")
    fields = [field.strip() for field in group_by.split(",")] if group_by else []
    params = {"coco": {"group_by": fields, "bootstrap": bootstrap}}
    return {name: EVALUATORS.build(name, params.get(name, {}), "--metrics") for name in names}


def _refuse_without_points(cascade: Cascade, evaluators: Mapping[str, Evaluator], upto: str | None) -> None:
    stage = next((stage for stage in cascade.stages if stage.name == upto), cascade.stages[-1])
    if "points" in evaluators and not stage.num_points:
        raise RecipeError(
            f"--metrics points: the stage {stage.name!r} of this model finds no points; leave points out, or use a "
            "model with points."
        )


def _journal(
    path: Path, cascade: Cascade, source: Source, options: Mapping[str, Any], header: dict[str, Any], resume: bool
) -> Journal:
    """Return the journal of this run, having said what is taken over, or dropped, of one that was cut off."""
    from cascade_det.evaluation.journal import entries_of
    from cascade_det.evaluation.run import begin_journal, resumed_pictures

    dropped = 0 if resume else resumed_pictures(entries_of(path))
    journal = begin_journal(path, cascade, source, header, resume=resume, **options)
    if resume:
        done, total = resumed_pictures(journal.entries), len(source.pictures)
        say(f"{done:,} of {total:,} pictures are taken over from the run that was cut off")
    elif dropped:
        say(f"{dropped:,} pictures of a run that was cut off are done again; --resume takes them over")
    return journal


def _done_before(journal: Journal | None) -> int:
    from cascade_det.evaluation.run import resumed_pictures

    return resumed_pictures(journal.entries) if journal is not None else 0


def _score(
    cascade: Cascade,
    source: Source,
    evaluators: Mapping[str, Evaluator],
    folder: Path | None,
    options: Mapping[str, Any],
    journal: Journal | None,
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    from cascade_det.evaluation.run import evaluate_source, evaluate_sources

    with progress_bar("evaluate", len(source.pictures)) as tick:
        if folder is None or journal is None:
            done = evaluate_source(cascade, source, evaluators, progress=tick, **options)
            return done.metrics, done.errors
        scored = evaluate_sources(
            cascade, {"data": source}, evaluators, folder, journal=journal, progress=tick, **options
        )
    journal.remove()
    return scored
