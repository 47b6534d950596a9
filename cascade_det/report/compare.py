"""Several runs or evaluations side by side: their figures, the recipe keys in which they differ, and their curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cascade_det.core.recipe import read_yaml
from cascade_det.errors import DataError, RunError
from cascade_det.evaluation.curves import box_curves, point_curves
from cascade_det.evaluation.given import read_given
from cascade_det.evaluation.protocol import Curve
from cascade_det.report.figures import MAIN_FIGURES, value_at

_METRICS, _RECIPE, _DETECTIONS, _TRUTH = "metrics.json", "recipe.yaml", "detections.json", "truth.json"
_PLOTTED = ("precision-recall", "recall-fppi", "ced")
_OF_THE_PLACE = {"run_dir", "base_dir"}  # keys that say where a run lies, not what it is
_MARKS = {"settings", "sources", "funnel", *(path[0] for path in MAIN_FIGURES)}
ABSENT_KEY = "(absent)"


@dataclass(frozen=True)
class Subject:
    """What is compared.

    Attributes:
        name: as tables and legends call it.
        path: as it was given.
        metrics: of its `metrics.json`.
        evaluation: folder of its detections and truth, None where there is none.
        recipe: of a run directory by dotted key, None for anything else.
        training_s: seconds that the steps of its stages took, None where that is not known.
    """

    name: str
    path: Path
    metrics: Mapping[str, Any]
    evaluation: Path | None
    recipe: Mapping[str, Any] | None
    training_s: float | None


@dataclass(frozen=True)
class Comparison:
    """Rows of values, one a subject in their order; None where a subject has none.

    Attributes:
        names: of the subjects.
        figures: name of each row and its values.
        recipe: each dotted key in which recipes differ, and its values; subjects without a recipe are left out.
        recipe_names: the subjects with a recipe.
        warnings: what makes figures hard to compare, one sentence each.
    """

    names: list[str]
    figures: dict[str, list[Any]]
    recipe: dict[str, list[Any]]
    recipe_names: list[str]
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison ready for JSON, the values of each row by the name of their subject."""
        figures = {row: dict(zip(self.names, values, strict=True)) for row, values in self.figures.items()}
        keys = {key: dict(zip(self.recipe_names, values, strict=True)) for key, values in self.recipe.items()}
        return {"figures": figures, "recipe": keys}


def read_subjects(paths: Sequence[Path]) -> list[Subject]:
    """Read what is to be compared, each under the last part of its path or, where two agree there, the whole of it.

    Args:
        paths: run directories, folders of evaluations, or files with the content of a `metrics.json`.

    Raises:
        RunError, DataError: one is none of these, or was given twice; the message names the file and what to do.
    """
    short = [path.resolve().name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    for place, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:place]]:
            raise RunError(f"{path}: is given twice; name each run once.")
    return [_subject(name, path) for name, path in zip(names, paths, strict=True)]


def _subject(name: str, path: Path) -> Subject:
    if not path.exists():
        raise RunError(f"{path}: no such file or folder; name a run directory, an evaluation's folder or a {_METRICS}.")
    file = path / _METRICS if path.is_dir() else path
    if not file.is_file():
        raise RunError(
            f"{path}: a folder without {_METRICS}. Name a run directory or the folder of `evaluate --out`; of a "
            f"run that has not ended, `cascade-det status {path}` tells what is missing."
        )
    metrics, folder = _metrics(file), file.parent
    recipe = path / _RECIPE if path.is_dir() else None
    if recipe is None or not recipe.is_file():
        return Subject(name, path, metrics, folder if (folder / _DETECTIONS).is_file() else None, None, None)
    values = read_yaml(recipe)
    evaluation = folder / "evaluation"
    return Subject(name, path, metrics, evaluation, dotted(values), _training_seconds(folder, values))


def _metrics(file: Path) -> Mapping[str, Any]:
    wanted = f"Name a {_METRICS} as `train` and `evaluate --out` write it."
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error}). {wanted}") from error
    if not isinstance(metrics, dict) or not _MARKS & set(metrics):
        raise DataError(f"{file}: holds no figures of an evaluation. {wanted}")
    return metrics


def dotted(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings under their dotted keys; lists and empty mappings are leaves.

    >>> dotted({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat


def _training_seconds(folder: Path, recipe: Mapping[str, Any]) -> float | None:
    """Return what the finished steps of the stages took, None where none is finished."""
    spent = []
    stages = recipe.get("stages")
    for stage in stages if isinstance(stages, Mapping) else ():
        for record in sorted((folder / str(stage)).glob("*/done.json")):
            try:
                spent.append(float(json.loads(record.read_text(encoding="utf-8"))["seconds"]))
            except (OSError, ValueError, KeyError, TypeError):  # a step that is not done
                continue
    return round(sum(spent), 1) if spent else None


def compare(subjects: Sequence[Subject]) -> Comparison:
    """Return figures and differing recipe keys of at least one subject side by side."""
    figures: dict[str, list[Any]] = {}
    common = _common_sources(subjects)
    for source in common or [""]:
        own = [value_at(subject.metrics, ("sources", source)) if source else subject.metrics for subject in subjects]
        figures |= _source_rows(f"{source}: " if len(common) > 1 else "", own)
    seconds = [subject.training_s for subject in subjects]
    if any(value is not None for value in seconds):
        figures["training seconds"] = seconds
    with_recipe = [subject for subject in subjects if subject.recipe is not None]
    return Comparison(
        [subject.name for subject in subjects],
        figures,
        _differences([subject.recipe or {} for subject in with_recipe]) if len(with_recipe) > 1 else {},
        [subject.name for subject in with_recipe],
        _warnings(subjects, common),
    )


def _common_sources(subjects: Sequence[Subject]) -> list[str]:
    """Return the names of the sources where all subjects have the same ones, else none."""
    of_each = [list(subject.metrics.get("sources") or {}) for subject in subjects]
    return of_each[0] if all(set(names) == set(of_each[0]) for names in of_each) else []


def _source_rows(before: str, columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    paths = {" ".join(path): path for path in MAIN_FIGURES}
    paths |= {"nme matched": ("nme_matched",), "nme total": ("nme_total",)}
    paths |= {name: ("settings", key) for name, key in (
        ("pictures", "images"), ("lowest score", "score"), ("min_object_px", "min_object_px"))}  # fmt: skip
    rows = {name: [value_at(column, path) for column in columns] for name, path in paths.items()}
    candidates = [{row["stage"]: row.get("candidates_out") for row in column.get("funnel", [])} for column in columns]
    for stage in dict.fromkeys(name for column in candidates for name in column):
        rows[f"candidates {stage}"] = [column.get(stage) for column in candidates]
    return {f"{before}{name}": values for name, values in rows.items() if any(value is not None for value in values)}


def _differences(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    keys = [key for key in dict.fromkeys(key for recipe in recipes for key in recipe) if key not in _OF_THE_PLACE]
    rows = {key: [recipe.get(key, ABSENT_KEY) for recipe in recipes] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _warnings(subjects: Sequence[Subject], common: Sequence[str]) -> list[str]:
    told = []
    if not common and any(subject.metrics.get("sources") for subject in subjects):
        told.append(
            "the sources differ in name, so the figures are those of the first of each: "
            + ", ".join(f"{s.name} {next(iter(s.metrics.get('sources') or {}), '(unnamed)')!r}" for s in subjects)
        )
    pictures = {value_at(subject.metrics, ("settings", "images")) for subject in subjects}
    if len(pictures) > 1:
        told.append("the numbers of pictures differ, so the figures are of different pictures")
    return told


def comparison_curves(subjects: Sequence[Subject]) -> list[Curve]:
    """Return precision over recall, recall over false positives and the error of points of the first source of each.

    Raises:
        DataError: a subject has no detections or truth, or they cannot be scored.
    """
    curves: list[Curve] = []
    for subject in subjects:
        for name in (_DETECTIONS, _TRUTH):
            if subject.evaluation is None or not (subject.evaluation / name).is_file():
                raise DataError(
                    f"--plot: {subject.path} has no {name} to draw curves from; name a run directory or the folder of "
                    "`evaluate --out`, or leave --plot out."
                )
        assert subject.evaluation is not None
        given = read_given(subject.evaluation / _DETECTIONS, subject.evaluation / _TRUTH)
        own = [*box_curves(given, subject.metrics), *point_curves(given)]
        curves += [replace(curve, name=subject.name) for curve in own if curve.kind in _PLOTTED]
    return sorted(curves, key=lambda curve: _PLOTTED.index(curve.kind))
