"""The verb detect, and what the verbs that run a model share: their flags, loading, the list of failures."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from cascade_det.cli.common import say, write_json
from cascade_det.cli.crops import CropWriter, crops_folder
from cascade_det.cli.detect_files import DRAWN, detect_folder, write_results
from cascade_det.cli.detect_loop import detect_all, detect_journal
from cascade_det.cli.heap import keep_memory_flat
from cascade_det.errors import DataError, RecipeError

if TYPE_CHECKING:
    from cascade_det.cascade import Cascade
    from cascade_det.cli.detect_files import Named, Result

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
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run into DIR that was cut off.")]
JsonFile = Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Write the result for machines.")]

_BARE_PIXELS = {".bgr", ".bgra", ".npy", ".npz", ".raw", ".yuv"}
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
    keep_memory_flat()
    from cascade_det.cascade import Cascade, named_plugins

    if plugin_dir is not None and not allow_plugins:
        raise RecipeError(f"--plugin-dir {plugin_dir}: no plug-in is imported without --allow-plugins; add it.")
    plugins = named_plugins(model) if allow_plugins else ()
    return Cascade.load(model, plugins=plugins, device=device, preset=preset, threads=threads, plugin_dir=plugin_dir)


def model_header(model: str, preset: str | None, device: str) -> dict[str, Any]:
    """Return what a journal says of the model: its content, so that it may have moved, and how it is run."""
    from cascade_det.cascade import find_model

    content = hashlib.sha256(find_model(model).read_bytes()).hexdigest()
    return {"MODEL (a hash of its file)": content[:16], "--preset": preset, "--device": device}


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
    resume: Resume = False,
    json_file: JsonFile = None,
) -> None:
    """Detect objects in pictures.

    Without `--out` a table is printed for each picture; a picture that cannot be read is listed and the rest goes on.

    `--save-as wider` adds `DIR/wider/EVENT/IMAGE.txt`, EVENT being the folder that a picture is in; `--save-as fddb`
    adds `DIR/fddb.txt` with all pictures in the order given, each named by its path from the folder given, without
    suffix. Both hold a picture's name, the number of detections, and `x y width height score` of each, numbers in full.
    The protocols want low scores too (`--score 0.01`).

    `--out DIR --resume` goes on with a run that was cut off: its pictures are taken over, drawings and crops too.

    Examples:

    `cascade-det detect mtcnn_face photo.jpg`

    `cascade-det detect runs/quickstart pictures/ --out found --draw --score 0.8`

    `cascade-det detect mtcnn_face pictures/ --crops faces --align`

    `cascade-det detect mtcnn_face WIDER_val/images --out found --save-as wider --score 0.01`
    """
    from cascade_det.evaluation.summary import timing_line

    if resume and out is None:
        raise RecipeError("--resume goes on with what stands in a folder and needs --out DIR.")
    cut_to = crops_folder(crops, align, out)
    pictures = list(_pictures(paths))
    folder, files = detect_folder(out, draw, save_as, pictures), [path for path, _ in pictures]
    cascade = load(model, preset, device, threads, allow_plugins, plugin_dir)
    options = checked_options(cascade, None, min_object, score)
    journal = None
    if folder is not None:
        header = {**model_header(model, preset, device), "--align": align}
        flags: dict[str, Any] = {"draw": draw, "crops": cut_to, "resume": resume}
        journal = detect_journal(folder, files, cascade, header, options, **flags)
    before = journal.entries if journal is not None else []
    writer = CropWriter(cut_to, files, align, cascade, before) if cut_to else None
    begin = time.perf_counter()
    results, errors = detect_all(cascade, files, folder / DRAWN if folder and draw else None, writer, options, journal)
    seconds = time.perf_counter() - begin
    if writer is not None:
        writer.close()
    if folder is None:
        _print_tables(results)
    else:
        names = cascade.recipe.object.points
        write_results(folder, results, errors, names, pictures, save_as=save_as, drawn=draw)
    if journal is not None:
        journal.remove()
    found, place = sum(len(d) for _, _, d in results), f"; {folder}" if folder else ""
    say(f"{found} objects in {len(results)} pictures; {_count_of(results, errors)}{place}")
    say(timing_line(len(files) - len(before), seconds))
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


def _print_tables(results: Sequence[Result]) -> None:
    for path, image_hw, found in results:
        print(f"{path} ({image_hw[1]} x {image_hw[0]} px): {len(found)} found")
        if len(found):
            print(f"  {'score':>6} {'x0':>8} {'y0':>8} {'x1':>8} {'y1':>8}")
        for box, score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True):
            print(f"  {score:6.3f} " + " ".join(f"{value:8.1f}" for value in box))
