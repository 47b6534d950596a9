"""The verbs that run a model: detect and evaluate."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cascade_det.cli.common import own_folder, progress_bar, say, write_json
from cascade_det.errors import DataError, RecipeError, choices

if TYPE_CHECKING:
    from cascade_det.cascade import Cascade
    from cascade_det.core.types import Detections

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model file, a run directory or a shipped name.")]
MinObject = Annotated[
    Optional[float], typer.Option("--min-object", metavar="PX", help="Height of the smallest object.")
]
Score = Annotated[Optional[float], typer.Option("--score", metavar="S", help="Threshold of the last stage.")]
Preset = Annotated[Optional[str], typer.Option("--preset", help="A named set of overrides of the model's recipe.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[Optional[int], typer.Option("--threads", help="Compute threads.")]
AllowPlugins = Annotated[bool, typer.Option("--allow-plugins", help="Import the plug-ins that the model names.")]
JsonFile = Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Write the result for machines.")]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
_DETECT_FILES = {"detections.json", "images.json", "errors.csv", "detections.csv", "drawn"}
_SAVE_AS = ("coco", "csv")


def load(model: str, preset: str | None, device: str, threads: int | None, allow_plugins: bool) -> Cascade:
    """Load a model as the shared flags say."""
    from cascade_det.cascade import Cascade, find_model
    from cascade_det.model_file import load_model

    plugins = load_model(find_model(model)).recipe.get("plugins", []) if allow_plugins else ()
    return Cascade.load(model, plugins=plugins, device=device, preset=preset, threads=threads)


def detect(
    model: ModelArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders of pictures.")],
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Folder for all files.")] = None,
    save_as: Annotated[Optional[str], typer.Option("--save-as", help="A further format: coco or csv.")] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Write pictures with detections to DIR/drawn.")] = False,
    min_object: MinObject = None,
    score: Score = None,
    preset: Preset = None,
    device: Device = "auto",
    threads: Threads = None,
    allow_plugins: AllowPlugins = False,
    json_file: JsonFile = None,
) -> None:
    """Detect objects in pictures.

    Without `--out` a table is printed for each picture; a picture that cannot be read is listed and the rest goes on.

    Examples:

    `cascade-det detect mtcnn_face photo.jpg`

    `cascade-det detect runs/quickstart pictures/ --out found --draw --score 0.8`
    """
    if out is None and (draw or save_as):
        raise RecipeError("--draw and --save-as write files and need --out DIR.")
    if save_as is not None and save_as not in _SAVE_AS:
        raise RecipeError(f"--save-as {save_as!r}: {choices(save_as, _SAVE_AS)}.")
    files = list(_pictures(paths))
    folder = own_folder(out, _DETECT_FILES) if out is not None else None
    cascade = load(model, preset, device, threads, allow_plugins)
    results: list[tuple[Path, tuple[int, int], Detections]] = []
    errors: list[tuple[Path, str]] = []
    with progress_bar("detect", len(files)) as tick:
        for path in files:
            _detect_one(cascade, path, folder if draw else None, (min_object, score), results, errors)
            tick(1)
    if folder is None:
        _print_tables(results)
    else:
        _write_results(folder, results, errors, save_as, cascade.recipe.object.points)
    found = sum(len(d) for _, _, d in results)
    say(
        f"{found} objects in {len(results)} pictures; {len(errors)} could not be read"
        + (f"; {folder}" if folder else "")
    )
    for path, reason in errors:
        say(f"failed: {path}: {reason}")
    write_json(json_file, {"pictures": len(results), "objects": found, "errors": [[str(p), r] for p, r in errors]})
    if errors:
        raise typer.Exit(1)


def _pictures(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the pictures that paths name; a folder stands for all pictures in it."""
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
            if not inside:
                raise DataError(f"{path}: a folder without pictures ({', '.join(sorted(_SUFFIXES))}).")
            yield from inside
        elif path.exists():
            yield path
        else:
            raise DataError(f"{path}: no such file or folder.")


def _detect_one(
    cascade: Cascade,
    path: Path,
    drawn_in: Path | None,
    options: tuple[float | None, float | None],
    results: list[tuple[Path, tuple[int, int], Detections]],
    errors: list[tuple[Path, str]],
) -> None:
    from cascade_det.core.imaging import read_image, write_image
    from cascade_det.visual.drawing import draw as draw_detections

    try:
        image = read_image(path)
    except DataError as error:
        errors.append((path, str(error)))
        return
    try:
        found = cascade(image, min_object_px=options[0], score=options[1])
    except ValueError as error:
        raise RecipeError(str(error)) from error
    results.append((path, (image.shape[0], image.shape[1]), found))
    if drawn_in is not None:
        name = f"{len(results):05d}_{path.stem}.jpg"
        write_image(drawn_in / "drawn" / name, draw_detections(image, found))


def _print_tables(results: Sequence[tuple[Path, tuple[int, int], Detections]]) -> None:
    for path, image_hw, found in results:
        print(f"{path} ({image_hw[1]} x {image_hw[0]} px): {len(found)} found")
        if len(found):
            print(f"  {'score':>6} {'x0':>8} {'y0':>8} {'x1':>8} {'y1':>8}")
        for box, score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True):
            print(f"  {score:6.3f} " + " ".join(f"{value:8.1f}" for value in box))


def _write_results(
    folder: Path,
    results: Sequence[tuple[Path, tuple[int, int], Detections]],
    errors: Sequence[tuple[Path, str]],
    save_as: str | None,
    point_names: Sequence[str],
) -> None:
    from cascade_det.data.atomic import write_json_atomic
    from cascade_det.data.sources import Picture
    from cascade_det.evaluation.files import coco_results, image_list

    pictures = [Picture(number, str(path), hw) for number, (path, hw, _) in enumerate(results, start=1)]
    write_json_atomic(folder / "detections.json", coco_results(pictures, [found for _, _, found in results]))
    write_json_atomic(folder / "images.json", image_list(pictures))
    with (folder / "errors.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "reason"), *((str(path), reason) for path, reason in errors)])
    if save_as == "csv":
        _write_csv(folder / "detections.csv", results, point_names)


def _write_csv(
    path: Path, results: Sequence[tuple[Path, tuple[int, int], Detections]], point_names: Sequence[str]
) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        places = [f"{name}_{axis}" for name in point_names for axis in "xy"]
        writer.writerow(["path", "score", "x0", "y0", "x1", "y1", *places])
        for picture, _, found in results:
            points = found.points.reshape(len(found), -1).tolist() if found.points is not None else [[]] * len(found)
            for row in range(len(found)):
                values = [float(found.scores[row]), *found.boxes[row].tolist(), *points[row]]
                writer.writerow([picture, *(f"{value:.4f}" for value in values)])


def evaluate(
    model: ModelArgument,
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="Folder of the pictures.")],
    annotations: Annotated[Path, typer.Option("--annotations", metavar="PATH", help="The truth.")],
    data_format: Annotated[str, typer.Option("--format", help="Format of the truth: coco.")] = "coco",
    metrics: Annotated[str, typer.Option("--metrics", help="Figures, separated by commas: coco.")] = "coco",
    group_by: Annotated[Optional[str], typer.Option("--group-by", help="Fields of picture or object, or size.")] = None,
    upto: Annotated[Optional[str], typer.Option("--upto", help="Score what this stage lets through.")] = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Folder for all files.")] = None,
    min_object: MinObject = None,
    score: Score = None,
    preset: Preset = None,
    device: Device = "auto",
    threads: Threads = None,
    allow_plugins: AllowPlugins = False,
    json_file: JsonFile = None,
) -> None:
    """Score a model on annotated pictures: AP, recall at false positives per image, NME, and the funnel by stage.

    Detections are kept down to a score of 0.05 unless `--score` says otherwise, so that AP is not cut short.

    Examples:

    `cascade-det evaluate mtcnn_face --format coco --images $FACES --annotations $FACES/annotations/val.json --out scored`

    `cascade-det evaluate runs/mine --images pictures --annotations truth.json --group-by size --min-object 15`
    """
    from cascade_det.core.registry import EVALUATORS, SOURCES
    from cascade_det.evaluation.run import EVALUATION_SCORE, evaluate_source, evaluate_sources, summary_line

    if data_format not in ("coco",):
        raise RecipeError(f"--format {data_format!r}: {choices(data_format, ['coco'])}.")
    folder = own_folder(out, {*_EVALUATION_FILES}) if out is not None else None
    cascade = load(model, preset, device, threads, allow_plugins)
    fields = group_by.split(",") if group_by else []
    evaluators = {
        name: EVALUATORS.build(name, {"group_by": fields} if name == "coco" else {}, "--metrics")
        for name in metrics.split(",")
    }
    params = {"images": str(images.resolve()), "annotations": str(annotations.resolve())}
    given = {"num_points": len(cascade.recipe.object.points), "object_category": cascade.recipe.object.category}
    source = SOURCES.build(data_format, params, "--annotations", base_dir=".", **given)
    if score is None:
        say(f"detections are kept down to a score of {EVALUATION_SCORE} so that AP is not cut short")
    options = {"upto": _known_stage(cascade, upto), "min_object_px": min_object, "score": score}
    with progress_bar("evaluate", len(source.pictures)) as tick:
        if folder is not None:
            figures, errors = evaluate_sources(cascade, {"data": source}, evaluators, folder, progress=tick, **options)
        else:
            done = evaluate_source(cascade, source, evaluators, progress=tick, **options)  # type: ignore[arg-type]
            figures, errors = done.metrics, done.errors
    print(summary_line(annotations.stem, figures))
    for value, group in figures.get("groups", {}).items():
        print(summary_line(f"  {value}", group))
    for row in figures["funnel"]:
        recall = "-" if row["recall"] is None else f"{row['recall']:.3f}"
        print(
            f"  {row['stage']}: {row['candidates_out']:.1f} candidates a picture, recall {recall}, {row['ms_per_image'] or 0:.1f} ms"
        )
    write_json(json_file, figures)
    for name, reason in errors:
        say(f"failed: {name}: {reason}")
    if errors:
        raise typer.Exit(1)


_EVALUATION_FILES = ("detections.json", "truth.json", "images.json", "metrics.json", "pictures.png", "funnel.png")


def _known_stage(cascade: Cascade, upto: str | None) -> str | None:
    names = [stage.name for stage in cascade.stages]
    if upto is not None and upto not in names:
        raise RecipeError(f"--upto {upto!r}: {choices(upto, names)}.")
    return upto
