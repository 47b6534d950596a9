"""Writes the report of an evaluation or a run: one HTML page with all its pictures, styles and figures inside."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_det.cascade import Cascade
from cascade_det.core.recipe import recipe_to_yaml
from cascade_det.data.atomic import write_text_atomic
from cascade_det.data.sources import Source
from cascade_det.errors import DataError
from cascade_det.evaluation.base import SIZE_BANDS_PX, in_size_band
from cascade_det.evaluation.curve_file import CURVES, read_curves
from cascade_det.evaluation.curves import box_curves, point_curves
from cascade_det.evaluation.given import Given, corners_of, read_given
from cascade_det.evaluation.points import Normaliser
from cascade_det.report.drawing import (
    Figure,
    funnel_figure,
    score_figures,
    sheet_figure,
    tiles,
    training_figures,
)
from cascade_det.report.examples import Examples, find_examples, losing_stages
from cascade_det.report.figures import (
    GROUP_COLUMNS,
    FunnelTables,
    figure_rows,
    funnel_tables,
    group_rows,
    headline,
    published_rows,
    shown,
)
from cascade_det.report.training import Training

REPORT = "report.html"
_TEMPLATE = "page.html"
_PACKAGES = ("numpy", "torch", "opencv-python-headless", "pycocotools", "pytorch-lightning", "matplotlib")


@dataclass(frozen=True)
class Sheet:
    """Tiles of one kind, and what they are."""

    title: str
    text: str
    tiles: list[Figure]


@dataclass(frozen=True)
class SourceSection:
    """What the page says of one source.

    Attributes:
        name: of the source.
        headline: name and value of its main figures.
        plots: of its curves; `no_plots` says why there are none.
        protocol_plots: name of each protocol that draws curves of its own, and these.
        funnel, funnel_plot: the stages.
        groups: rows of `GROUP_COLUMNS`.
        operating: what the threshold of detection gives, None where nothing could be read.
        sheets: correct, missed and false detections.
    """

    name: str
    headline: list[tuple[str, str]]
    plots: list[Figure]
    no_plots: str
    protocol_plots: list[tuple[str, list[Figure]]]
    funnel: FunnelTables
    funnel_plot: Figure | None
    groups: list[list[str]]
    operating: Examples | None
    sheets: list[Sheet]


def write_report(
    path: Path,
    cascade: Cascade,
    sources: Mapping[str, Source],
    metrics: Mapping[str, Any],
    *,
    score: float | None = None,
    command: str = "",
    training: Training | None = None,
    evaluation: Path | None = None,
) -> None:
    """Write the report of an evaluation, with that of its training where there was one.

    Args:
        path: the page to write.
        cascade: what was evaluated.
        sources: by name, as they were evaluated: the first one's files lie in the evaluation's folder itself.
        metrics: of `metrics.json`.
        score: threshold that the user gave; the sheets are sorted by it instead of the calibrated one.
        command: what made the report, "" where it was no command.
        training: of the run.
        evaluation: folder of the evaluation; that of `path` where absent.
    """
    folder = path.parent if evaluation is None else evaluation
    figures: Mapping[str, Mapping[str, Any]] = metrics.get("sources", {})
    sections = [
        _section(name, folder if place == 0 else folder / name, cascade, sources[name], own, score)
        for place, (name, own) in enumerate(figures.items())
    ]
    several = len(figures) > 1
    page = {
        "title": cascade.recipe.name,
        "kind": "Evaluation" if training is None else "Training and evaluation",
        "category": cascade.recipe.object.category,
        "stages": [stage.name for stage in cascade.stages],
        "written": datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "sections": sections,
        "source_names": list(figures),
        "rows": figure_rows(figures),
        "published": [row for name, own in figures.items() for row in published_rows(name if several else "", own)],
        "group_columns": GROUP_COLUMNS,
        "training": training,
        "fits": _fits(training),
        "mined": _mined(training),
        "facts": provenance(cascade, command),
        "recipe": recipe_to_yaml(cascade.recipe),
    }
    write_text_atomic(path, _render(page))


def _render(page: Mapping[str, Any]) -> str:
    """Fill the template; every text is escaped, since names of files and values of recipes are anybody's."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = shown
    return environment.get_template(_TEMPLATE).render(page)


def _section(
    name: str, folder: Path, cascade: Cascade, source: Source, figures: Mapping[str, Any], score: float | None
) -> SourceSection:
    given, reason = _given(folder)
    protocols = read_curves(folder / CURVES)
    curves = [] if given is None else box_curves(given, figures)
    if given is not None and not any(curve.kind == "ced" for own in protocols.values() for curve in own):
        curves += point_curves(given, _normaliser(cascade))
    rows: Sequence[Mapping[str, Any]] = figures.get("funnel", [])
    examples = None if given is None else find_examples(given, _operating_score(cascade, figures, score))
    return SourceSection(
        name,
        headline(figures),
        score_figures(curves),
        reason or _why_no_curves(given),
        [(protocol, score_figures(own)) for protocol, own in protocols.items()],
        funnel_tables(rows, _objects_by_size(given)),
        funnel_figure(rows) if rows else None,
        group_rows(figures),
        examples,
        [] if given is None or examples is None else _sheets(cascade, source, figures, given, examples),
    )


def _given(folder: Path) -> tuple[Given | None, str]:
    """Return detections and truth of an evaluation, or None and why there is nothing to draw."""
    try:
        return read_given(folder / "detections.json", folder / "truth.json"), ""
    except DataError as error:  # no picture, or a detection of a network gone astray, such as a box of negative width
        return None, f"There is nothing to draw: {error}"


def _why_no_curves(given: Given | None) -> str:
    if given is not None and given.ignore.all():
        return "The truth holds no object that counts, so there are no curves."
    return "Nothing was detected, so there are no curves."


def _normaliser(cascade: Cascade) -> Normaliser:
    """Return what the recipe's evaluation divides distances of points by."""
    asked = [part.params.get("normaliser") for part in cascade.recipe.evaluate.values() if part.kind == "coco"]
    return Normaliser(next((value for value in asked if value), Normaliser.eyes))


def _operating_score(cascade: Cascade, figures: Mapping[str, Any], score: float | None) -> float:
    """Return the threshold that detection runs with: the user's, else that of the last stage that ran."""
    upto = figures.get("settings", {}).get("upto")
    return cascade.settings(upto)[-1].score if score is None else score


def _objects_by_size(given: Given | None) -> dict[str, int]:
    if given is None:
        return {}
    boxes = corners_of(given.truth.boxes_xywh[~given.ignore])
    return {name: int(in_size_band(boxes, band).sum()) for name, band in SIZE_BANDS_PX.items()}


def _sheets(
    cascade: Cascade, source: Source, figures: Mapping[str, Any], given: Given, examples: Examples
) -> list[Sheet]:
    """Return tiles of each kind; for missed objects with the stage that lost them."""
    ids = {picture.image_id: index for index, picture in enumerate(source.pictures)}
    index_of = [ids[image_id] for image_id in sorted(_image_ids(given))]
    lost = losing_stages(cascade, dict(figures.get("settings", {})), source, examples.missed, index_of)
    told = [_fate(stage, example.score, examples.score) for stage, example in zip(lost, examples.missed, strict=True)]
    kinds = (
        (
            "Correct",
            "from the most to the least certain, evenly chosen",
            examples.correct,
            [""] * len(examples.correct),
        ),
        ("Missed", "those nearest to being found first, then by falling height", examples.missed, told),
        ("False", "the most certain first", examples.false, [""] * len(examples.false)),
    )
    return [
        Sheet(f"{title}: {examples.counts[title.lower()]:,}", text, tiles(own, given, source, index_of, notes))
        for title, text, own, notes in kinds
    ]


def _image_ids(given: Given) -> list[int]:
    """Return the ids of the pictures; `Given` has their rows, in the order of the ids."""
    return [int(image["id"]) for image in json.loads(given.truth_file.read_text(encoding="utf-8"))["images"]]


def _fate(stage: str | None, score: float | None, threshold: float) -> str:
    """Return why an object was missed; `score` is the highest of the detections that fit it."""
    if stage is not None:
        return f"lost by {stage}"
    if score is None:  # not known: views at test time are not run again
        return ""
    return "its detection took a neighbour" if score >= threshold else "below the threshold"


def _fits(training: Training | None) -> list[tuple[str, list[Figure]]]:
    rounds = [] if training is None else training.rounds
    return [(one.name, training_figures(one.name, one.curves)) for one in rounds if one.curves]


def _mined(training: Training | None) -> list[Figure]:
    rounds = [] if training is None else training.rounds
    drawn = [sheet_figure(one.sheet, f"Windows mined for {one.name}") for one in rounds if one.sheet is not None]
    return [figure for figure in drawn if figure is not None]


def provenance(cascade: Cascade, command: str) -> list[tuple[str, str]]:
    """Return name and value of what is needed to make the figures again: command, seed, versions, machine."""
    versions = {name: _version(name) for name in _PACKAGES}
    return [
        ("Command", command or "called from Python"),
        ("Folder", str(Path.cwd())),
        ("Recipe", cascade.recipe.name),
        ("Seed", str(cascade.recipe.seed)),
        ("cascade_det", _version("cascade_det")),
        ("Python", platform.python_version()),
        *((name, version) for name, version in versions.items()),
        ("Machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"),
    ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
