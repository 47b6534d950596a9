"""Detections of a COCO results file for protocols that know images by name, which `images.json` beside it tells.

Both files are as `cascade-det detect --out` and `evaluate --out` write them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.data.formats.coco_records import load_json
from cascade_det.errors import DataError

FARTHEST = 1e30  # greater numbers are no coordinates or scores; their squares are still finite
_IMAGES = "images.json"


def read_named_results(file: Path, names: Sequence[str]) -> tuple[list[NDArray[np.float64]], list[str]]:
    """Return the detections of each image of `names`, and a warning for each thing that a user should know.

    Args:
        file: a COCO results list ``{"image_id", "bbox": [x, y, w, h], "score"}``; categories are not looked at.
        names: names of images without extension, folders between slashes.

    Returns:
        For each name rows ``(N, 5)`` float64 x y w h score in the order of the file.

    Raises:
        DataError: one of the files is missing or wrong, or no path in `images.json` ends in one of the names.
    """
    records = _load_list(file, "a COCO results list, or a folder in the protocol's own form")
    images_file = file.with_name(_IMAGES)
    images = _load_list(images_file, "a list of id and path of each image, as `detect --out` writes it")
    row_of_id = _rows_by_id(images_file, images, names)
    values = _values(file, records)
    rows_of_image = defaultdict(list)
    for row, record in enumerate(records):
        image_id = record.get("image_id")
        if not isinstance(image_id, (int, str)) or image_id not in row_of_id:
            raise DataError(
                f"{file}: entry {row} has image_id {image_id!r}, which {images_file} does not have. Give a results "
                "file with the images.json that was written with it."
            )
        rows_of_image[row_of_id[image_id]].append(row)
    found = [values[rows_of_image.get(row, [])] for row in range(len(names))]
    return found, _warnings(images_file, list(row_of_id.values()), names)


def match_names(paths: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return for each path of an image the row of its name, -1 where it has none.

    A path fits a name if, without its extension, the one ends in the other.

    Raises:
        ValueError: a path fits several names, or two paths the same.

    >>> match_names(["/data/a/1.jpg", "2.png", "a/2.png", "b/1.jpg"], ["a/1", "c/2"])
    [0, 1, -1, -1]
    """
    by_last = defaultdict(list)
    for row, name in enumerate(names):
        by_last[name.rsplit("/", 1)[-1]].append((name.split("/"), row))
    rows: list[int] = []
    for path in paths:
        parts = PurePosixPath(path.replace("\\", "/")).with_suffix("").parts
        fit = [row for name, row in by_last.get(parts[-1], ()) if _one_ends_in_other(parts, name)]
        if len(fit) > 1:
            raise ValueError(f"the path {path!r} fits {names[fit[0]]} and {names[fit[1]]}")
        rows.append(fit[0] if fit else -1)
    taken: dict[int, str] = {}
    for path, row in zip(paths, rows, strict=True):
        if row >= 0 and row in taken:
            raise ValueError(f"the paths {taken[row]!r} and {path!r} are both {names[row]}")
        taken[row] = path
    return rows


def _one_ends_in_other(a: Sequence[str], b: Sequence[str]) -> bool:
    return all(own == other for own, other in zip(reversed(a), reversed(b), strict=False))


def _rows_by_id(file: Path, images: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[Any, int]:
    ids, paths = [image.get("id") for image in images], [image.get("path") for image in images]
    for image, image_id, path in zip(images, ids, paths, strict=True):
        if not isinstance(image_id, (int, str)) or not isinstance(path, str) or not path.strip("./\\"):
            raise DataError(f"{file}: the entry {image!r} needs an `id` and a `path`. Add them.")
    if len(set(ids)) != len(ids):
        raise DataError(f"{file}: two images have one id. Give each its own.")
    try:
        rows = match_names([str(path) for path in paths], names)
    except ValueError as error:
        raise DataError(f"{file}: {error}. Give each image its own path, with the folders of its name.") from error
    if not any(row >= 0 for row in rows):
        seen = f"such as {paths[0]}" if paths else "it lists none"
        raise DataError(
            f"{file}: no path of an image ends in one of the {len(names):,} names of the truth, such as {names[0]} "
            f"({seen}). Detect in the images of this truth, or give the truth of these images."
        )
    return dict(zip(ids, rows, strict=True))


def _warnings(file: Path, rows: Sequence[int], names: Sequence[str]) -> list[str]:
    found, warnings = set(rows), []
    absent = [name for row, name in enumerate(names) if row not in found]
    if absent:
        warnings.append(
            f"{len(absent):,} of {len(names):,} images are not in {file} and count as without detections; the first is "
            f"{absent[0]}."
        )
    if -1 in found:
        unused = list(rows).count(-1)
        warnings.append(f"{unused:,} of {len(rows):,} images in {file} are not in the truth and unused.")
    return warnings


def _load_list(file: Path, what: str) -> list[dict[str, Any]]:
    content, _ = load_json(file, "the list", f"Give {what}.")
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise DataError(f"{file} holds no list of objects. Give {what}.")
    return content


def _values(file: Path, records: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return x y w h score of each record, ``(N, 5)``."""
    values = np.full((len(records), 5), np.nan)
    for row, record in enumerate(records):
        try:
            values[row, :4], values[row, 4] = record["bbox"], record["score"]
        except (KeyError, TypeError, ValueError):
            break
    wrong = np.flatnonzero(~(np.abs(values) < FARTHEST).all(axis=1))
    if len(wrong):
        raise DataError(
            f"{file}: entry {wrong[0]} is {records[wrong[0]]!r:.120}. Give each a `bbox` of four numbers x, y, w, h "
            "and a `score`, all finite."
        )
    return values
