"""The files of `detect --out DIR`: results in COCO's form and as CSV; what an earlier run left there goes."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cascade_det.cli.common import numbered_name
from cascade_det.cli.object_table import object_columns, object_rows

if TYPE_CHECKING:
    from cascade_det.core.types import Detections

    Result = tuple[Path, tuple[int, int], Detections]  # a picture, its height and width, what was found

DRAWN = "drawn"
_IMAGES, _CSV = "images.json", "detections.csv"
DETECT_FILES = {"detections.json", _IMAGES, "errors.csv", _CSV, DRAWN, "crops"}


def write_results(
    folder: Path,
    results: Sequence[Result],
    errors: Sequence[tuple[Path, str]],
    point_names: Sequence[str],
    *,
    as_csv: bool,
    drawn: bool,
) -> None:
    """Write what was found; a table or drawings of an earlier run, which would show something else, go.

    Args:
        folder: an own folder of the verb.
        results, errors: what was found in each picture that was read, and (file, reason) of each failure.
        point_names: of the object.
        as_csv: write `detections.csv` too.
        drawn: drawings of these results are in ``drawn/``.
    """
    from cascade_det.data.atomic import write_json_atomic
    from cascade_det.data.sources import Picture
    from cascade_det.evaluation.files import coco_results, image_list, write_errors

    pictures = [Picture(number, str(path), hw) for number, (path, hw, _) in enumerate(results, start=1)]
    now = {_drawing(number, path) for number, (path, _, _) in enumerate(results, start=1)} if drawn else set()
    _remove_drawings(folder, _earlier_drawings(folder) - now, [path for path, _, _ in results])
    write_json_atomic(folder / "detections.json", coco_results(pictures, [found for _, _, found in results]))
    write_json_atomic(folder / _IMAGES, image_list(pictures))
    write_errors(folder / "errors.csv", errors)
    if as_csv:
        _write_csv(folder / _CSV, results, point_names)
    else:
        (folder / _CSV).unlink(missing_ok=True)


def _drawing(number: int, picture: Path) -> str:
    return numbered_name(number, picture, ".jpg")


def _earlier_drawings(folder: Path) -> set[str]:
    """Return the names of the drawings that an earlier run made, as its list of pictures tells."""
    try:
        images = json.loads((folder / _IMAGES).read_text(encoding="utf-8"))
        return {_drawing(int(image["id"]), Path(image["path"])) for image in images}
    except (OSError, ValueError, KeyError, TypeError):  # no earlier run, or not its list: then nothing is known of it
        return set()


def _remove_drawings(folder: Path, names: set[str], pictures: Sequence[Path]) -> None:
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
