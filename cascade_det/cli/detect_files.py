"""The files of `detect --out DIR`: results in COCO's form and others; what an earlier run left there goes."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cascade_det.cli.common import numbered_name, own_folder
from cascade_det.cli.object_table import object_columns, object_rows
from cascade_det.errors import RecipeError, RunError, choices

if TYPE_CHECKING:
    from cascade_det.core.types import Detections

    Result = tuple[Path, tuple[int, int], Detections]  # a picture, its height and width, what was found
    Named = tuple[Path, str]  # a picture and its name: relative to the folder that was given, or as it was given

DRAWN = "drawn"
JOURNAL = "unfinished.jsonl"  # of a run that was cut off
SAVE_AS = ("coco", "csv", "fddb", "wider")
_IMAGES, _CSV, _FDDB, _WIDER = "images.json", "detections.csv", "fddb.txt", "wider"
_FILES = {"detections.json", _IMAGES, "errors.csv", _CSV, _FDDB, _WIDER, DRAWN, JOURNAL, "crops"}


def detect_folder(out: Path | None, draw: bool, save_as: str | None, pictures: Sequence[Named]) -> Path | None:
    """Return the folder that `--out` names, made if missing, or None; refused before any picture is read.

    Args:
        out, draw, save_as: the flags.
        pictures: that will be read.

    Raises:
        RecipeError: a flag is wrong, or two pictures would be written under one name.
        RunError: the folder holds what an earlier run did not write there.
    """
    if out is None and (draw or save_as):
        raise RecipeError("--draw and --save-as write files and need --out DIR.")
    if save_as is not None and save_as not in SAVE_AS:
        raise RecipeError(f"--save-as {save_as!r}: {choices(save_as, SAVE_AS)}.")
    if save_as in ("fddb", "wider"):
        _refuse_one_name(save_as, pictures)
    if out is None:
        return None
    folder = own_folder(out, _FILES)
    own = {folder / _wider_file(path) for _, path in _earlier_pictures(folder)}
    foreign = sorted(path for path in (folder / _WIDER).rglob("*") if path.is_file() and path not in own)
    if foreign:
        raise RunError(f"--out {out}: {foreign[0]} is not of an earlier run of this verb; name another folder.")
    return folder


def write_results(
    folder: Path,
    results: Sequence[Result],
    errors: Sequence[tuple[Path, str]],
    point_names: Sequence[str],
    pictures: Sequence[Named],
    *,
    save_as: str | None,
    drawn: bool,
) -> None:
    """Write what was found; files and drawings of an earlier run, which would show something else, go.

    Args:
        folder: of `detect_folder`.
        results, errors: what was found in each picture that was read, and (file, reason) of each failure.
        point_names: of the object.
        pictures: all, also those that could not be read.
        save_as: the further format to write, if any.
        drawn: drawings of these results are in ``drawn/``.
    """
    from cascade_det.data.atomic import write_json_atomic
    from cascade_det.data.sources import Picture
    from cascade_det.evaluation.files import coco_results, image_list, write_errors

    listed = [Picture(number, str(path), hw) for number, (path, hw, _) in enumerate(results, start=1)]
    now = {_drawing(number, path) for number, (path, _, _) in enumerate(results, start=1)} if drawn else set()
    earlier = {_drawing(number, path) for number, path in _earlier_pictures(folder)}
    remove_drawings(folder, earlier - now, [path for path, _, _ in results])
    for name in (_CSV, _FDDB):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / _WIDER, ignore_errors=True)
    write_json_atomic(folder / "detections.json", coco_results(listed, [found for _, _, found in results]))
    write_json_atomic(folder / _IMAGES, image_list(listed))
    write_errors(folder / "errors.csv", errors)
    if save_as == "csv":
        _write_csv(folder / _CSV, results, point_names)
    elif save_as == "fddb":
        _write_fddb(folder / _FDDB, results, pictures)
    elif save_as == "wider":
        _write_wider(folder, results)


def _drawing(number: int, picture: Path) -> str:
    return numbered_name(number, picture, ".jpg")


def _wider_file(picture: Path) -> Path:
    return Path(_WIDER, picture.absolute().parent.name, f"{picture.stem}.txt")


def _fddb_name(name: str) -> str:
    return Path(name).with_suffix("").as_posix()


def _refuse_one_name(save_as: str, pictures: Sequence[Named]) -> None:
    """Refuse two pictures that a protocol would know by one name."""
    first: dict[str, Path] = {}
    for path, name in pictures:
        known_as = _fddb_name(name) if save_as == "fddb" else str(_wider_file(path))
        other = first.setdefault(known_as, path)
        if other is not path:
            raise RecipeError(f"--save-as {save_as}: {other} and {path} would both be {known_as}; detect one of them.")


def _earlier_pictures(folder: Path) -> list[tuple[int, Path]]:
    """Return number and path of the pictures of an earlier run, as its list of them tells."""
    try:
        images = json.loads((folder / _IMAGES).read_text(encoding="utf-8"))
        return [(int(image["id"]), Path(image["path"])) for image in images]
    except (OSError, ValueError, KeyError, TypeError):  # no earlier run, or not its list: then nothing is known of it
        return []


def remove_drawings(folder: Path, names: set[str], pictures: Sequence[Path]) -> None:
    """Remove these drawings, none of which is a picture that was read just now, and the folder where it is empty."""
    read = {path.resolve() for path in pictures}
    for path in (folder / DRAWN / name for name in names):
        if path.resolve() not in read:
            path.unlink(missing_ok=True)
    if (folder / DRAWN).is_dir() and not any((folder / DRAWN).iterdir()):
        (folder / DRAWN).rmdir()


def _write_csv(path: Path, results: Sequence[Result], point_names: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *object_columns(point_names)])
        for picture, _, found in results:
            writer.writerows([picture, *values] for values in object_rows(found))


def _write_fddb(path: Path, results: Sequence[Result], pictures: Sequence[Named]) -> None:
    """Write a block for every picture in the order given: FDDB's tool wants each, found in or not."""
    from cascade_det.core.types import Detections
    from cascade_det.data.atomic import write_text_atomic
    from cascade_det.evaluation.submissions import fddb_text

    found = {picture: detections for picture, _, detections in results}
    blocks = ((_fddb_name(name), found.get(picture, Detections.empty())) for picture, name in pictures)
    write_text_atomic(path, fddb_text(blocks))


def _write_wider(folder: Path, results: Sequence[Result]) -> None:
    from cascade_det.data.atomic import atomic_dir
    from cascade_det.evaluation.submissions import named_block

    with atomic_dir(folder / _WIDER) as temporary:
        for picture, _, found in results:
            path = temporary / _wider_file(picture).relative_to(_WIDER)
            path.parent.mkdir(exist_ok=True)
            path.write_text(named_block(picture.stem, found), encoding="utf-8")
