"""The verbs that run a model: detect and evaluate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from cascade_det.cli.common import command_line, numbered_name, own_folder, progress_bar, say, write_json
from cascade_det.cli.crops import CropWriter, crops_folder
from cascade_det.cli.detect_files import DRAWN, detect_folder, write_results
from cascade_det.cli.source_flags import FormatOption, ParamOption, source_of
from cascade_det.errors import DataError, RecipeError

if TYPE_CHECKING:
    from cascade_det.cascade import Cascade
    from cascade_det.cli.detect_files import Named, Result
    from cascade_det.data.sources import Source
    from cascade_det.evaluation.base import Evaluator

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model file, a run directory or a shipped name.")]
MinObject = Annotated[
    Optional[float], typer.Option("--min-object", metavar="PX", help="Height of the smallest object.")
]
Score = Annotated[Optional[float], typer.Option("--score", metavar="S", help="Threshold of the last stage.")]
Preset = Annotated[Optional[str], typer.Option("--preset", help="A named set of overrides of the model's recipe.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[Optional[int], typer.Option("--threads", help="Compute threads.")]
AllowPlugins = Annotated[bool, typer.Option("--allow-plugins", help="Import the plug-ins that the model names.")]
PluginDir = Annotated[
    Optional[Path], typer.Option("--plugin-dir", metavar="DIR", help="Where their .py files are, if not by the model.")
]
JsonFile = Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Write the result for machines.")]

_BARE_PIXELS = {".bgr", ".bgra", ".npy", ".npz", ".raw", ".yuv"}
_EVALUATION_FILES = {
    "detections.json", "truth.json", "images.json", "metrics.json", "errors.csv", "pictures.png", "funnel.png",
    "report.html",
}  # fmt: skip
_SHOWN_FAILURES = 10


def load(
    model: str,
    preset: str | None,
    device: str,
    threads: int | None,
    allow_plugins: bool,
    plugin_dir: Path | None = None,
) -> Cascade:
    """Load a model as the shared flags say."""
    from cascade_det.cascade import Cascade, named_plugins

    if plugin_dir is not None and not allow_plugins:
        raise RecipeError(f"--plugin-dir {plugin_dir}: no plug-in is imported without --allow-plugins; add it.")
    plugins = named_plugins(model) if allow_plugins else ()
    return Cascade.load(model, plugins=plugins, device=device, preset=preset, threads=threads, plugin_dir=plugin_dir)


def checked_options(
    cascade: Cascade, upto: str | None, min_object: float | None, score: float | None
) -> dict[str, Any]:
    """Return the flags as `Cascade.run` and `evaluate_source` take them, checked before any picture is read."""
    options = {"upto": upto, "min_object_px": min_object, "score": score}
    try:
        cascade.settings(**options)  # type: ignore[arg-type]
    except ValueError as error:
        raise RecipeError(f"the flags --min-object, --score and --upto: {error}") from error
    return options


def list_failures(errors: Sequence[tuple[object, str]], folder: Path | None) -> None:
    """Say which pictures failed and end with exit code 1 where any did; `folder` holds the whole list."""
    for name, reason in errors[:_SHOWN_FAILURES]:
        say(f"failed: {name}: {reason}")
    if len(errors) > _SHOWN_FAILURES:
        rest = f"failed: {len(errors) - _SHOWN_FAILURES:,} more"
        say(f"{rest}; all stand in {folder / 'errors.csv'}" if folder else f"{rest}; --out DIR lists all")
    if errors:
        raise typer.Exit(1)


def detect(
    model: ModelArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders of pictures.")],
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Folder for all files.")] = None,
    save_as: Annotated[
        Optional[str], typer.Option("--save-as", help="A further format: coco, csv, fddb or wider.")
    ] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Write pictures with detections to DIR/drawn.")] = False,
    crops: Annotated[Optional[Path], typer.Option("--crops", metavar="DIR", help="Write each object there.")] = None,
    align: Annotated[bool, typer.Option("--align", help="Crops turned upright by the points, 112 x 112.")] = False,
    min_object: MinObject = None,
    score: Score = None,
    preset: Preset = None,
    device: Device = "auto",
    threads: Threads = None,
    allow_plugins: AllowPlugins = False,
    plugin_dir: PluginDir = None,
    json_file: JsonFile = None,
) -> None:
    """Detect objects in pictures.

    Without `--out` a table is printed for each picture; a picture that cannot be read is listed and the rest goes on.

    `--save-as wider` adds `DIR/wider/EVENT/IMAGE.txt`, EVENT being the folder that a picture is in; `--save-as fddb`
    adds `DIR/fddb.txt` with all pictures in the order given, each named by its path from the folder given, without
    suffix. Both hold a picture's name, the number of detections, and `x y width height score` of each, numbers in full.
    The protocols want low scores too (`--score 0.01`).

    Examples:

    `cascade-det detect mtcnn_face photo.jpg`

    `cascade-det detect runs/quickstart pictures/ --out found --draw --score 0.8`

    `cascade-det detect mtcnn_face pictures/ --crops faces --align`

    `cascade-det detect mtcnn_face WIDER_val/images --out found --save-as wider --score 0.01`
    """
    cut_to = crops_folder(crops, align, out)
    pictures = list(_pictures(paths))
    folder, files = detect_folder(out, draw, save_as, pictures), [path for path, _ in pictures]
    cascade = load(model, preset, device, threads, allow_plugins, plugin_dir)
    options = checked_options(cascade, None, min_object, score)
    writer = CropWriter(cut_to, files, align, cascade) if cut_to else None
    results, errors = _detect_all(cascade, files, folder / DRAWN if folder and draw else None, writer, options)
    if writer is not None:
        writer.close()
    if folder is None:
        _print_tables(results)
    else:
        names = cascade.recipe.object.points
        write_results(folder, results, errors, names, pictures, save_as=save_as, drawn=draw)
    found, place = sum(len(d) for _, _, d in results), f"; {folder}" if folder else ""
    say(f"{found} objects in {len(results)} pictures; {_count_of(results, errors)}{place}")
    cut = {"crops": writer.written, "crops_left_out": writer.left_out} if writer else {}
    failed = [[str(path), reason] for path, reason in errors]
    write_json(json_file, {"pictures": len(results), "objects": found, **cut, "errors": failed})
    list_failures(errors, folder)


def _pictures(paths: Sequence[Path]) -> Iterator[Named]:
    """Yield the pictures that paths name, each with its name from there on; a folder stands for all pictures in it."""
    from cascade_det.core.types import PICTURE_SUFFIXES

    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
            if not inside:
                raise DataError(f"{path}: a folder without pictures ({', '.join(PICTURE_SUFFIXES)}).")
            yield from ((picture, str(picture.relative_to(path))) for picture in inside)
        elif path.suffix.lower() in _BARE_PIXELS:
            raise DataError(
                f"{path}: a {path.suffix} file holds bare pixels, without their order of colours; save it as a picture "
                f"({', '.join(PICTURE_SUFFIXES)}), or pass an (H, W, 3) uint8 RGB array in Python."
            )
        elif path.exists():
            yield path, str(path)
        else:
            raise DataError(f"{path}: no such file or folder; name pictures, or folders of pictures.")


def _count_of(results: Sequence[Result], errors: Sequence[tuple[Path, str]]) -> str:
    """Return how many pictures failed, and of how many that were read something could not be written."""
    read = {path for path, _, _ in results}
    unwritten = sum(path in read for path, _ in errors)
    unread = f"{len(errors) - unwritten} could not be read"
    return unread + (f"; {unwritten} crops or drawn pictures could not be written" if unwritten else "")


def _detect_all(
    cascade: Cascade,
    files: Sequence[Path],
    drawn_in: Path | None,
    crops: CropWriter | None,
    options: Mapping[str, Any],
) -> tuple[list[Result], list[tuple[Path, str]]]:
    """Return (file, its size, what was found) of each picture, and (file, reason) of each failure.

    A picture that cannot be read has no result; one whose crops or drawing cannot be written has.
    """
    from cascade_det.core.imaging import read_image, write_image
    from cascade_det.visual.drawing import draw as draw_detections

    results: list[Result] = []
    errors: list[tuple[Path, str]] = []
    with progress_bar("detect", len(files)) as tick:
        for path in files:
            tick(1)
            try:
                image = read_image(path, max_pixels=cascade.recipe.image.max_pixels)
                found = cascade.run([image], **options)[0]
            except DataError as error:
                errors.append((path, str(error)))
                continue
            results.append((path, (image.shape[0], image.shape[1]), found))
            if drawn_in is not None:
                with _listed_if_unwritten(path, errors):
                    drawn = drawn_in / numbered_name(len(results), path, ".jpg")
                    write_image(drawn, draw_detections(image, found))
            if crops is not None:
                with _listed_if_unwritten(path, errors):
                    crops.add(len(results), path, image, found)
    return results, errors


@contextlib.contextmanager
def _listed_if_unwritten(path: Path, errors: list[tuple[Path, str]]) -> Iterator[None]:
    """Add (path, reason) to `errors` where a file cannot be written: that ends no run of a thousand pictures."""
    try:
        yield
    except (DataError, OSError) as error:
        errors.append((path, str(error)))


def _print_tables(results: Sequence[Result]) -> None:
    for path, image_hw, found in results:
        print(f"{path} ({image_hw[1]} x {image_hw[0]} px): {len(found)} found")
        if len(found):
            print(f"  {'score':>6} {'x0':>8} {'y0':>8} {'x1':>8} {'y1':>8}")
        for box, score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True):
            print(f"  {score:6.3f} " + " ".join(f"{value:8.1f}" for value in box))


def evaluate(
    model: ModelArgument,
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="Folder of the pictures.")],
    annotations: Annotated[Path, typer.Option("--annotations", metavar="PATH", help="The truth.")],
    data_format: FormatOption = "coco",
    params: ParamOption = None,
    metrics: Annotated[str, typer.Option("--metrics", help="Figures, separated by commas: coco.")] = "coco",
    group_by: Annotated[Optional[str], typer.Option("--group-by", help="Fields of picture or object, or size.")] = None,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", metavar="N", min=0, help="95 % intervals from N resamples of the pictures.")
    ] = 0,
    upto: Annotated[Optional[str], typer.Option("--upto", help="Score what this stage lets through.")] = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Folder for all files.")] = None,
    min_object: MinObject = None,
    score: Score = None,
    preset: Preset = None,
    device: Device = "auto",
    threads: Threads = None,
    allow_plugins: AllowPlugins = False,
    plugin_dir: PluginDir = None,
    json_file: JsonFile = None,
) -> None:
    """Score a model on annotated pictures: AP, recall at false positives per image, NME, and the funnel by stage.

    Detections are kept down to a score of 0.05 unless `--score` says otherwise, so that AP is not cut short.

    Examples:

    `cascade-det evaluate mtcnn_face --format coco --images faces --annotations faces/val.json --out scored`

    `cascade-det evaluate runs/mine --images pictures --annotations truth.json --group-by size --bootstrap 1000`

    `cascade-det evaluate mtcnn_face --format wider --images WIDER_val --annotations ground_truth --param level=hard`
    """
    from cascade_det.evaluation.run import EVALUATION_SCORE, funnel_lines, group_lines, summary_line

    folder = own_folder(out, _EVALUATION_FILES) if out is not None else None
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
    options = checked_options(cascade, upto, min_object, score)
    _tell_about(source, annotations)
    if score is None:
        say(f"detections are kept down to a score of {EVALUATION_SCORE} so that AP is not cut short")
    figures, errors = _score(cascade, source, evaluators, folder, options)
    if folder is not None:
        from cascade_det.report.render import REPORT, write_report

        write_report(folder / REPORT, cascade, {"data": source}, figures, score=score, command=command_line())
    print("\n".join([summary_line(annotations.stem, figures), *group_lines(figures), *funnel_lines(figures["funnel"])]))
    write_json(json_file, figures)
    list_failures(errors, folder)


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


def _evaluators(metrics: str, group_by: str | None, bootstrap: int = 0) -> dict[str, Evaluator]:
    from cascade_det.core.registry import EVALUATORS

    params = {"coco": {"group_by": group_by.split(",") if group_by else [], "bootstrap": bootstrap}}
    names = metrics.split(",")
    for name in names:
        EVALUATORS.get(name, "--metrics ")
    return {name: EVALUATORS.build(name, params.get(name, {}), "--metrics") for name in names}


def _score(
    cascade: Cascade,
    source: Source,
    evaluators: Mapping[str, Evaluator],
    folder: Path | None,
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    from cascade_det.evaluation.run import evaluate_source, evaluate_sources

    with progress_bar("evaluate", len(source.pictures)) as tick:
        if folder is not None:
            return evaluate_sources(cascade, {"data": source}, evaluators, folder, progress=tick, **options)
        done = evaluate_source(cascade, source, evaluators, progress=tick, **options)
        return done.metrics, done.errors
