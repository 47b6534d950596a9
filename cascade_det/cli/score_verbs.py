"""The verb that scores given detections by a protocol: score."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import typer

from cascade_det.cli.common import PLOT_SUFFIXES, own_folder, print_table, say, write_json
from cascade_det.errors import DataError, RecipeError, choices

if TYPE_CHECKING:
    from cascade_det.evaluation.protocol import Curve, ProtocolResult

Choice = TypeVar("Choice", bound=Enum)
# the options of each protocol that no other has
_OPTIONS: Mapping[str, set[str]] = {
    "coco": {"--backend"},
    "wider": set(),
    "fddb": {"--image-sizes", "--images"},
    "miss-rate": {"--variant"},
    "points": {"--normaliser"},
}
_FIGURES, _CURVES = "figures.json", "curves.csv"
_FILES = {_FIGURES, _CURVES, "DiscROC.txt", "ContROC.txt"}


def score(
    protocol: Annotated[str, typer.Argument(metavar="|".join(_OPTIONS), help="How the detections are scored.")],
    predictions: Annotated[
        list[str],
        typer.Option(
            "--predictions", metavar="[NAME=]PATH", help="COCO results, or the protocol's own form; may be repeated."
        ),
    ],
    annotations: Annotated[Path, typer.Option("--annotations", metavar="PATH", help="The truth.")],
    image_sizes: Annotated[
        Optional[Path], typer.Option("--image-sizes", metavar="FILE.csv", help="fddb: sizes of the pictures.")
    ] = None,
    images: Annotated[
        Optional[Path], typer.Option("--images", metavar="DIR", help="fddb: the pictures, for their sizes.")
    ] = None,
    variant: Annotated[
        Optional[str], typer.Option("--variant", help="miss-rate: citypersons (default) or caltech.")
    ] = None,
    normaliser: Annotated[
        Optional[str], typer.Option("--normaliser", help="points: eyes (default), box or diagonal.")
    ] = None,
    backend: Annotated[
        Optional[str], typer.Option("--backend", help="coco: pycocotools (default) or faster-coco-eval.")
    ] = None,
    json_file: Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Write the figures.")] = None,
    plot: Annotated[Optional[Path], typer.Option("--plot", metavar="FILE.png", help="Draw the curves.")] = None,
    out: Annotated[
        Optional[Path], typer.Option("--out", metavar="DIR", help="Folder for the figures, curves and result files.")
    ] = None,
) -> None:
    """Score given detections by a protocol; no model is run.

    Several predictions stand side by side in the table and in one plot; JSON then holds the figures of each by its
    name, and DIR a folder for each.

    Examples:

    `cascade-det score coco --predictions found/detections.json --annotations truth.json`

    `cascade-det score miss-rate --predictions a=new.json --predictions b=old.json --annotations gt.json --plot mr.png`

    `cascade-det score points --predictions found/detections.json --annotations truth.json --normaliser box`

    `cascade-det score fddb --predictions dets.txt --annotations FDDB-folds --image-sizes sizes.csv --out scored`
    """
    options = {
        "--image-sizes": image_sizes,
        "--images": images,
        "--variant": variant,
        "--normaliser": normaliser,
        "--backend": backend,
    }
    title, scorer = _scorer(protocol, annotations, options)
    named = _named(predictions)
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise RecipeError(
            f"--plot {plot}: {choices(plot.suffix, PLOT_SUFFIXES)}; the ending chooses the form of the picture."
        )
    folders = _folders(out, list(named))
    results = {name: scorer(path) for name, path in named.items()}
    _print_table(title, {name: result.figures for name, result in results.items()})
    for name, result in results.items():
        for warning in result.warnings:
            say(f"warning: {warning}" if len(results) == 1 else f"warning: {name}: {warning}")
    figures = _by_name({name: result.figures for name, result in results.items()})
    write_json(json_file, figures)
    if out is not None:
        for folder, result in zip(folders, results.values(), strict=True):
            _write_files(folder, result)
        write_json(out / _FIGURES, figures)
    if plot is not None:
        from cascade_det.visual.plots import plot_scores

        plot_scores(_labelled(results), plot, title)


def _scorer(
    protocol: str, annotations: Path, options: Mapping[str, Any]
) -> tuple[str, Callable[[Path], ProtocolResult]]:
    """Return what the protocol's table is called, and the function that scores a path; refuse what does not fit."""
    if protocol not in _OPTIONS:
        raise RecipeError(f"score {protocol!r}: there is no protocol of this name; {choices(protocol, _OPTIONS)}.")
    for flag, value in options.items():
        if value is not None and flag not in _OPTIONS[protocol]:
            owner = next(name for name, flags in _OPTIONS.items() if flag in flags)
            raise RecipeError(f"{flag} {value}: belongs to `score {owner}`, not to `score {protocol}`; leave it out.")
    if protocol == "coco":
        from cascade_det.evaluation.coco import score_coco
        from cascade_det.evaluation.coco_matching import Backend

        library = _choice("--backend", options["--backend"], Backend.pycocotools)
        title = f"coco: at most 1, 10 and 100 detections a picture; {library.value}"
        return title, partial(score_coco, annotations=annotations, backend=library)
    if protocol == "miss-rate":
        from cascade_det.evaluation.miss_rate import Variant, score_miss_rate

        tool = _choice("--variant", options["--variant"], Variant.citypersons)
        return f"miss-rate: {tool.value}", partial(score_miss_rate, annotations=annotations, variant=tool)
    if protocol == "points":
        from cascade_det.evaluation.points import Normaliser, score_points

        length = _choice("--normaliser", options["--normaliser"], Normaliser.eyes)
        return f"points: error over {length.value}", partial(score_points, annotations=annotations, normaliser=length)
    if protocol == "wider":
        from cascade_det.evaluation.wider import score_wider

        return "wider", partial(score_wider, annotations=annotations)
    from cascade_det.evaluation.fddb import score_fddb

    sizes, pictures = options["--image-sizes"], options["--images"]
    if sizes is not None and pictures is not None:
        raise RecipeError(f"--image-sizes {sizes}, --images {pictures}: both tell the sizes of pictures; give one.")
    return "fddb", partial(score_fddb, annotations=annotations, image_sizes=sizes, images=pictures)


def _choice(flag: str, value: str | None, default: Choice) -> Choice:
    known = {str(member.value): member for member in type(default)}
    if value is not None and value not in known:
        raise RecipeError(f"{flag} {value!r}: {choices(value, known)}.")
    return default if value is None else known[value]


def _named(predictions: Sequence[str]) -> dict[str, Path]:
    """Return the paths by name: the one given by NAME=PATH, or the file's."""
    named: dict[str, Path] = {}
    for text in predictions:
        head, sign, tail = text.partition("=")
        whole = not sign or Path(text).exists()
        name, path = (Path(text).stem, Path(text)) if whole else (head, Path(tail))
        if name in named:
            raise RecipeError(f"--predictions {text}: a second one named {name!r}; give each a name, as NAME=PATH.")
        if not path.exists():
            raise DataError(f"--predictions {path}: no such file or folder; name the detections, as PATH or NAME=PATH.")
        named[name] = path
    return named


def _folders(out: Path | None, names: Sequence[str]) -> list[Path]:
    """Return the folder for each result: `out` itself for a single one, otherwise one of its name in it."""
    if out is None:
        return []
    if len(names) == 1:
        return [own_folder(out, _FILES)]
    for name in names:
        if name in {"", ".", "..", *_FILES} or Path(name).name != name:
            raise RecipeError(f"--predictions {name}=...: --out makes a folder of each name; choose one that can be.")
    own_folder(out, {_FIGURES, *names})
    return [own_folder(out / name, _FILES) for name in names]


def _write_files(folder: Path, result: ProtocolResult) -> None:
    """Write a result; a file of an earlier run that this one lacks goes."""
    from cascade_det.data.atomic import write_text_atomic

    files = {_CURVES: _curves_csv(result.curves), **result.files}
    for name in _FILES - set(files):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / _FIGURES, result.figures)
    for name, text in files.items():
        write_text_atomic(folder / name, text)


def _curves_csv(curves: Sequence[Curve]) -> str:
    """Return a row for each point: kind and name of its curve, x and y."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["kind", "name", "x", "y"])
    for curve in curves:
        rows.writerows([curve.kind, curve.name, x, y] for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True))
    return text.getvalue()


def _labelled(results: Mapping[str, ProtocolResult]) -> list[Curve]:
    """Return all curves; those of several predictions are called by them too."""
    several = len(results) > 1
    return [
        replace(curve, name=f"{name} {curve.name}") if several else curve
        for name, result in results.items()
        for curve in result.curves
    ]


def _by_name(figures: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures by name of predictions, or the figures alone where there is one."""
    return dict(figures) if len(figures) > 1 else next(iter(figures.values()))


def _print_table(title: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a row for each figure and a column for each of the predictions."""
    columns = [dict(_flat(values)) for values in figures.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    print(title)
    print_table(["figure", *figures], [[row, *(_shown(column.get(row)) for column in columns)] for row in names])


def _flat(figures: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Return the figures with the names of those that they are nested in."""
    rows: list[tuple[str, Any]] = []
    for key, value in figures.items():
        rows += _flat(value, f"{above}{key} ") if isinstance(value, Mapping) else [(f"{above}{key}", value)]
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6f}" if isinstance(value, float) else str(value)
