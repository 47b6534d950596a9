"""Reads the files of the FDDB protocol: blocks of regions by image, and the sizes of the images.

Source: Jain and Learned-Miller, "FDDB: A Benchmark for Face Detection in Unconstrained Settings", UM-CS-2010-009, and
the README of its evaluation program.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.imaging import picture_size
from cascade_det.core.types import MAX_PIXELS
from cascade_det.errors import DataError
from cascade_det.evaluation.named_results import read_named_results

ELLIPSE, RECTANGLE = 6, 5  # numbers of a line, the last its score
_KINDS = {
    ELLIPSE: "major_radius minor_radius angle center_x center_y score",
    RECTANGLE: "left top width height score",
}
_FARTHEST_PX = 1e6
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_COLUMNS = ("name", "width", "height")


@dataclass(frozen=True, eq=False)
class FddbRegions:
    """Regions of P images; entry i of each list is image i.

    Attributes:
        names: as ``2002/08/11/big/img_591``.
        rows: float64, ``(N, 6)`` ellipses (major radius, minor radius, angle in radians, centre x y, score) or
            ``(N, 5)`` rectangles (x y w h score).
    """

    names: list[str]
    rows: list[NDArray[np.float64]]


def read_truth(path: Path) -> FddbRegions:
    """Return the ellipses of one list, or of all files ``*ellipseList.txt`` of a folder in the order of their numbers.

    Raises:
        DataError: there is no such file, it is not of this form, or an image is named twice.
    """
    truth = _join([_read_blocks(file, {ELLIPSE}) for file in _files(path, "*ellipseList.txt")])
    if not truth.names:
        raise DataError(f"{path} names no image. Give the folder of FDDB-fold-NN-ellipseList.txt, or one such file.")
    if len(set(truth.names)) != len(truth.names):
        twice = next(name for row, name in enumerate(truth.names) if name in truth.names[:row])
        raise DataError(f"{path} names the image {twice} twice. Give each fold once.")
    return truth


def read_detections(path: Path, names: Sequence[str]) -> tuple[list[NDArray[np.float64]], list[str]]:
    """Return the detections of each image of `names`, and warnings.

    Args:
        path: blocks in one file or in all files ``*fold*.txt`` of a folder, or a COCO results file (`.json`).
        names: the images in the order of the blocks.

    Raises:
        DataError: a file is missing or wrong, or its images are not `names` in this order.
    """
    if path.suffix.lower() == ".json":
        return read_named_results(path, names)
    found = _join([_read_blocks(file, _KINDS) for file in _files(path, "*fold*.txt")])
    if found.names != list(names):
        place = next((i for i, (own, name) in enumerate(zip(found.names, names, strict=False)) if own != name), None)
        if place is None:
            what = f"has {len(found.names):,} images, the truth {len(names):,}"
        else:
            what = f"names {found.names[place]!r} as image {place + 1}, the truth {names[place]!r}"
        raise DataError(f"{path} {what}. Give a block for each image of the truth, in its order; a count may be 0.")
    return found.rows, []


def read_sizes(file: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (height, width) in pixels of each image from a CSV file with the columns name, width, height.

    Raises:
        DataError: the file is missing or wrong, or lacks an image; the message names it.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            table = csv.DictReader(opened)
            missing = [column for column in _COLUMNS if column not in (table.fieldnames or ())]
            if missing:
                raise DataError(f"{file} has no column {missing[0]}. Give a CSV file with {', '.join(_COLUMNS)}.")
            sizes = {row["name"]: _size(file, row) for row in table}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read ({error}). Give a CSV file with {', '.join(_COLUMNS)}.") from error
    absent = [name for name in names if name not in sizes]
    if absent:
        raise DataError(f"{file} lacks {len(absent):,} of {len(names):,} images, such as {absent[0]}. Add their sizes.")
    return [sizes[name] for name in names]


def sizes_of_images(folder: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (height, width) in pixels of each image ``NAME.jpg`` (or another kind of picture) below `folder`.

    Raises:
        DataError: an image is missing or unreadable.
    """
    sizes = []
    for name in names:
        file = next((f for f in (folder / f"{name}{extension}" for extension in _EXTENSIONS) if f.is_file()), None)
        if file is None:
            raise DataError(
                f"{folder} has no picture {name}{_EXTENSIONS[0]}. Give the folder that the names of the folds are "
                "relative to, or the sizes of the images as a CSV file."
            )
        sizes.append(picture_size(file, turned=True))
    return sizes


def _files(path: Path, pattern: str) -> list[Path]:
    """Return the file, or the files of a folder, by the numbers in their names: fold 2 comes before fold 10."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob(pattern), key=lambda f: [int(number) for number in re.findall(r"\d+", f.name)])
    if not files:
        raise DataError(f"{path} holds no file {pattern}. Give the folder of the folds, or one file.")
    return files


def _join(parts: Sequence[FddbRegions]) -> FddbRegions:
    return FddbRegions([n for part in parts for n in part.names], [rows for part in parts for rows in part.rows])


def _read_blocks(file: Path, kinds: Collection[int]) -> FddbRegions:
    """Return all blocks of a file: a name, a count, and as many lines; all regions of a file are of one kind."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}). Give blocks of image, count and regions.") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    names, rows, place = [], [], 0
    while place < len(lines):
        number, name = lines[place]
        stated, left = lines[place + 1][1] if place + 1 < len(lines) else "nothing", len(lines) - place - 2
        if not stated.isdecimal() or int(stated) > left:
            raise DataError(
                f"{file}, line {number}: {name!r} should be an image, followed by the count of its regions and as many "
                f"lines; it is followed by {stated!r} and {max(left, 0)} lines. Correct the block."
            )
        block: list[list[float]] = []
        for line in lines[place + 2 : place + 2 + int(stated)]:
            block.append(_region(file, *line, kinds))
            kinds = {len(block[-1])}
        names.append(name)
        rows.append(np.asarray(block, np.float64).reshape(len(block), len(block[0]) if block else RECTANGLE))
        place += 2 + len(block)
    return FddbRegions(names, rows)


def _region(file: Path, number: int, line: str, kinds: Collection[int]) -> list[float]:
    try:
        values = list(map(float, line.split()))
    except ValueError:
        values = []
    *geometry, score = values or [math.nan]
    usable = len(values) in kinds and math.isfinite(score) and all(abs(value) <= _FARTHEST_PX for value in geometry)
    if usable and not (len(values) == ELLIPSE and min(geometry[:2]) < 0):
        return values
    raise DataError(
        f"{file}, line {number}: {line!r} should be {' or '.join(_KINDS[kind] for kind in sorted(kinds))}, as finite "
        "numbers of pixels, and no radius below 0. Correct the line; all regions of a file are of one kind."
    )


def _size(file: Path, row: Mapping[str, str | None]) -> tuple[int, int]:
    try:
        width, height = int(row["width"] or ""), int(row["height"] or "")
        if width < 1 or height < 1 or width * height > MAX_PIXELS:
            raise ValueError
    except ValueError as error:
        size = f"width {row['width']!r} and height {row['height']!r}"
        raise DataError(f"{file}: {row['name']} has {size}. Give the size of the image in pixels.") from error
    return height, width
