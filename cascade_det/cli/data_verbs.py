"""The verbs around annotated pictures: data check, data show, data convert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cascade_det.cli.common import own_folder, progress_bar, say, write_json
from cascade_det.cli.run_verbs import list_failures
from cascade_det.cli.source_flags import FormatOption, ParamOption, source_of
from cascade_det.cli.train_verbs import JsonOption, Overrides, PresetOption, RecipeArgument
from cascade_det.errors import DataError, RecipeError

if TYPE_CHECKING:
    from cascade_det.core.schema import Recipe

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look at annotated pictures and convert them.\n\nExample:\n\n`cascade-det data check mine.yaml --out checked`",
)
_REPORT, _PLOT = "data.json", "objects.png"
_TILE_HW = (240, 320)


@app.command("check")
def check(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[Optional[Path], typer.Option("--out", metavar="DIR", help="Folder for report and plot.")] = None,
    preset: PresetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Read every picture of a recipe: files that are missing or damaged, sizes of objects, reach, equal pictures.

    The objects are counted by height and by width / height. How many of them the windows reach is told for the best
    place of a window on any level of the pyramid. Equal are pictures of the very same content; train and val must share
    none. With `--out` a plot of the objects and the report are written to DIR. Problems end with exit code 1.

    Examples:

    `cascade-det data check mine.yaml --out checked`

    `cascade-det data check mtcnn_face pyramid.min_object_px=12`
    """
    from cascade_det.core.recipe import load_recipe
    from cascade_det.data.picture_set import PictureSet
    from cascade_det.training.data_check import check_data
    from cascade_det.visual.plots import plot_objects

    loaded = load_recipe(recipe, *(overrides or []), preset=preset)
    folder = own_folder(out, {_REPORT, _PLOT}) if out is not None else None
    sets = {split: PictureSet.of(loaded, split) for split in ("train", "val")}
    with progress_bar("check", sum(map(len, sets.values()))) as tick:
        report, boxes = check_data(loaded, sets, tick)
    print("\n".join(report.lines))
    if folder is not None:
        plot_objects(boxes, folder / _PLOT, loaded.pyramid.min_object_px)
        write_json(folder / _REPORT, report.facts)
    write_json(json_file, report.facts)
    for problem in report.problems:
        print(f"problem: {problem}")
    if report.problems:
        raise typer.Exit(1)


@app.command("show")
def show(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the sheets.")] = Path("sheets"),
    pictures: Annotated[int, typer.Option("--pictures", metavar="N", min=1, help="Pictures of each source.")] = 40,
    stage: Annotated[
        Optional[str], typer.Option("--stage", metavar="S", help="The windows of this stage alone.")
    ] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="Windows of each role.")] = 48,
    preset: PresetOption = None,
) -> None:
    """Draw pictures of each source with their truth, and the windows that each stage learns from.

    `DIR/SPLIT_NAME.png` shows evenly chosen pictures of a source. Boxes are yellow, ignored ones grey, and each point
    has a colour of its own, which the heading names: left and right that are swapped show at a glance.

    `DIR/windows_STAGE.png` shows random windows of a stage by role (positive, part, negative, points) with the box and
    the points that each teaches. They are those of the run directory where the stage is mined. Of a first stage that is
    not, some are cut from a few pictures; later stages learn from what the ones before let through and have none yet.

    Examples:

    `cascade-det data show mine.yaml --out sheets`

    `cascade-det data show mtcnn_face --out sheets --stage pnet --count 100`
    """
    from cascade_det.core.recipe import load_recipe
    from cascade_det.training.window_sheets import stages_to_show, write_windows

    loaded = load_recipe(recipe, *(overrides or []), preset=preset)
    reasons = stages_to_show(loaded, stage)
    named = {split: list(getattr(loaded.data, split)) for split in ("train", "val")}
    sheets = {f"{split}_{name}.png" for split, names in named.items() for name in names}
    folder = own_folder(out, sheets | {f"windows_{name}.png" for name in loaded.stages})
    errors = _show_pictures(loaded, folder, pictures) if stage is None else []
    for name, reason in reasons.items():
        if reason:
            say(f"{name}: no sheet of windows: {reason}")
            continue
        path = folder / f"windows_{name}.png"
        say(f"{name}: windows {write_windows(loaded, name, path, count)}")
        print(path)
    list_failures(errors, None)


def _show_pictures(recipe: Recipe, folder: Path, most: int) -> list[tuple[object, str]]:
    """Write a sheet of each source; return (picture, reason) of all that could not be read."""
    import numpy as np

    from cascade_det.core.imaging import write_image
    from cascade_det.data.picture_set import PictureSet
    from cascade_det.visual.contact_sheet import contact_sheet
    from cascade_det.visual.truth_sheet import legend, truth_tile

    errors: list[tuple[object, str]] = []
    points = legend(recipe.object.points)
    sets = {split: PictureSet.of(recipe, split) for split in ("train", "val")}
    for split, own in sets.items():
        for source_name, source in zip(own.names, own.sources, strict=True):
            name, total = f"{split}_{source_name}", len(source.pictures)
            tiles, titles = [], []
            for index in np.unique(np.linspace(0, max(total - 1, 0), min(most, total)).astype(int)).tolist():
                try:
                    tiles.append(truth_tile(source.read(index), source.annotations(index), _TILE_HW))
                    titles.append(source.pictures[index].name)
                except DataError as error:
                    errors.append((source.pictures[index].name, str(error)))
            heading = f"{name}: {len(tiles)} of {total:,} pictures; ignored grey" + (f"; {points}" if points else "")
            sheet = contact_sheet(tiles, columns=5, tile_hw=_TILE_HW, titles=titles, heading=heading)
            write_image(folder / f"{name}.png", sheet)
            print(folder / f"{name}.png")
    return errors


@app.command("convert")
def convert(
    data_format: FormatOption,
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="Folder of the pictures.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.json", help="The COCO file to write.")],
    annotations: Annotated[
        Optional[Path], typer.Option("--annotations", metavar="PATH", help="The truth; none for --format folder.")
    ] = None,
    params: ParamOption = None,
    points: Annotated[
        Optional[str], typer.Option("--points", metavar="NAMES", help="Names of an object's points, by commas.")
    ] = None,
    category: Annotated[Optional[str], typer.Option("--category", help="What the objects are called.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Write the truth of any format as one COCO file, which every tool reads.

    Boxes, ignored objects, points, attributes of objects and fields of pictures come through as the source `coco` reads
    them back. Points are taken where `--points` names them (CelebA's are known). `--category` also chooses among
    several categories; `--param category=[car,truck]` takes more than one.

    Examples:

    `cascade-det data convert --format wider --images WIDER_val --annotations wider_face_val_bbx_gt.txt --out val.json`

    `cascade-det data convert --format voc --images JPEGImages --annotations Annotations --category car --out cars.json`
    """
    from cascade_det.core.registry import SOURCES
    from cascade_det.core.types import MAX_PIXELS
    from cascade_det.data.sources import left_out
    from cascade_det.evaluation.files import coco_set

    if out.suffix != ".json" or out.is_dir():
        raise RecipeError(f"--out {out}: name a file that ends in .json.")
    kind = SOURCES.get(data_format) if data_format in SOURCES.names() else None
    point_names = points.split(",") if points else list(getattr(kind, "point_names", ()))
    called = category or str(getattr(kind, "object_name", ""))
    source = source_of(
        data_format,
        images,
        annotations,
        params or [],
        num_points=len(point_names),
        category=called,
        max_pixels=MAX_PIXELS,
    )
    data = coco_set(source, called or "object", point_names)
    write_json(out, data)
    if left_out(source):
        say(f"left out: {left_out(source)}")
    counts = {"pictures": len(data["images"]), "objects": len(data["annotations"]), "left_out": dict(source.report())}
    print(f"{counts['pictures']:,} pictures, {counts['objects']:,} objects: {out}")
    print(f"pictures are named relative to {getattr(source, 'folder', images)}")
    write_json(json_file, counts)
