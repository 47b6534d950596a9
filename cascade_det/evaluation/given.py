"""Detections and truth that are given as COCO files, checked and in columns: what protocols on boxes and points score.

The files are taken as they stand, as the official tools take them: no box is clipped, left out or rounded to float32,
which could decide an overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.data.formats.coco_records import (
    FARTHEST_PX,
    Record,
    is_id,
    load_file,
    load_json,
    numbers,
    real,
    shown,
    some,
    wanted_objects,
)
from cascade_det.errors import DataError
from cascade_det.evaluation.files import CATEGORY_ID

Rows = NDArray[np.intp]
_BOX = "needs four finite numbers x y width height, no side below 0"


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """N entries of one file, in its order.

    Attributes:
        picture: ``(N,)`` row of each entry's picture.
        category: ``(N,)`` row of its category.
        boxes_xywh: ``(N, 4)`` float64 x y width height in pixels.
        records: the entries as the file has them.
    """

    picture: Rows
    category: Rows
    boxes_xywh: NDArray[np.float64]
    records: Sequence[Record]


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A truth and the detections in its pictures.

    Attributes:
        truth_file, found_file: named in errors.
        pictures: how many there are. Their rows follow their ids, as the official tools order them.
        categories: how many there are.
        truth: G objects.
        ignore: ``(G,)`` bool, which of them are ignored: those with `iscrowd` or `ignore`.
        found: N detections.
        scores: ``(N,)`` float64, finite.
        warnings: what a user should know, one sentence each.
    """

    truth_file: Path
    found_file: Path
    pictures: int
    categories: int
    truth: Entries
    ignore: NDArray[np.bool_]
    found: Entries
    scores: NDArray[np.float64]
    warnings: Sequence[str]

    def groups(self) -> Iterator[tuple[Rows, Rows]]:
        """Yield, for each picture and category that has any, the rows of its objects and of its detections.

        Groups come in order of picture and category, rows in that of their file.
        """
        keys, orders = [], []
        for part in (self.truth, self.found):
            key = part.picture * self.categories + part.category
            orders.append(np.argsort(key, kind="stable"))
            keys.append(key[orders[-1]])
        present = np.union1d(*keys)
        bounds = [[np.searchsorted(key, present, side) for side in ("left", "right")] for key in keys]
        for of_truth, of_found in zip(zip(*bounds[0], strict=True), zip(*bounds[1], strict=True), strict=True):
            yield orders[0][slice(*of_truth)], orders[1][slice(*of_found)]


def read_given(predictions: Path, annotations: Path) -> Given:
    """Read and check a COCO results list and the COCO truth that it belongs to.

    A truth with one category takes detections of any one category; with several, ids must agree.

    Raises:
        DataError: a file cannot be read or is of another kind, or an entry cannot be scored; the message names the
            file, the entry and the value.
    """
    data, _ = load_file(annotations)
    wanted = "Name a COCO results list, such as the detections.json of `detect --out`."
    return given_of(load_json(predictions, "the list of detections", wanted)[0], data, predictions, annotations)


def given_of(found: Any, data: Mapping[str, Any], predictions: Path, annotations: Path) -> Given:
    """Check the content of both files; see `read_given`.

    Args:
        found: the results list.
        data: the truth, with lists of objects under its three keys.
        predictions, annotations: how errors and warnings call them.
    """
    pictures = _rows_of_pictures(annotations, data["images"])
    categories = _rows_of_categories(annotations, data["categories"])
    objects = wanted_objects(annotations, data["annotations"], pictures, dict.fromkeys(categories, True))
    for record in objects:
        place = place_of_object(annotations, record)
        if not _is_box(numbers(place, record, "bbox", 4)):
            raise DataError(f"{place} {_BOX}, it has {shown(record['bbox'])}.")
    results = _results(predictions, found, pictures)
    of_results, warnings = _categories_of(predictions, results, categories)
    return Given(
        annotations,
        predictions,
        len(pictures),
        len(categories),
        _entries(objects, pictures, [categories[record["category_id"]] for record in objects]),
        np.asarray([bool(record.get("iscrowd") or record.get("ignore")) for record in objects], bool),
        _entries(results, pictures, of_results),
        np.asarray([real(record["score"]) for record in results], np.float64),
        warnings,
    )


def number_column(given: Given, field: str) -> NDArray[np.float64]:
    """Return a field of the objects as ``(G,)`` float64, NaN where an object has none.

    Raises:
        DataError: a value is no finite number.
    """
    values = []
    for record in given.truth.records:
        value = record.get(field)
        if value is not None and not _is_finite(value):
            place = place_of_object(given.truth_file, record)
            raise DataError(f"{place} has {field} {shown(value)}. Give it a finite number, or leave the field out.")
        values.append(math.nan if value is None else real(value))
    return np.asarray(values, np.float64)


def place_of_object(file: Path, record: Record) -> str:
    """Return how an error names an annotation of the truth."""
    return f"{file}: annotation {shown(record['id'])}"


def place_of_result(file: Path, number: int) -> str:
    """Return how an error names a detection, by its place in the list."""
    return f"{file}: entry {number} (the first is 0)"


def corners_of(boxes_xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return boxes x y width height ``(N, 4)`` as x0 y0 x1 y1."""
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def _entries(records: Sequence[Record], pictures: Mapping[int, int], categories: Sequence[int]) -> Entries:
    return Entries(
        np.asarray([pictures[record["image_id"]] for record in records], np.intp),
        np.asarray(categories, np.intp),
        np.asarray([record["bbox"] for record in records], np.float64).reshape(-1, 4),
        records,
    )


def _rows_of_pictures(file: Path, records: Sequence[Record]) -> dict[int, int]:
    """Return the row of each picture by its id."""
    ids: set[int] = set()
    for record in records:
        image_id = record.get("id")
        if type(image_id) is not int:
            raise DataError(f"{file}: a picture has the id {shown(image_id)}. Give it a whole number.")
        if image_id in ids:
            raise DataError(f"{file}: two pictures have the id {image_id}. Give each its own id.")
        ids.add(image_id)
    if not ids:
        raise DataError(f"{file} holds no picture; name a truth with some under `images`.")
    return {image_id: row for row, image_id in enumerate(sorted(ids))}


def _rows_of_categories(file: Path, records: Sequence[Record]) -> dict[int | str, int]:
    """Return the row of each category by its id."""
    rows: dict[int | str, int] = {}
    for record in records:
        key = record.get("id")
        if not is_id(key) or key in rows:
            raise DataError(f"{file}: the category {shown(record)} needs its own `id`. Add it.")
        rows[key] = len(rows)
    if not rows:
        raise DataError(f"{file} has no category; name one under `categories`, and give its id to the annotations.")
    return rows


def _results(file: Path, results: Any, pictures: Mapping[int, int]) -> list[Record]:
    """Return the entries of a COCO results list, each of them checked."""
    if not isinstance(results, list):
        raise DataError(
            f"{file} holds a {type(results).__name__} at its top, not a list. Detections are a list of objects with "
            "`image_id`, `category_id`, `bbox` and `score`; an object with `images` is a truth."
        )
    for number, record in enumerate(results):
        fault = _fault(record, pictures)
        if fault:
            raise DataError(f"{place_of_result(file, number)} {fault}.")
    return results


def _fault(record: Any, pictures: Mapping[int, int]) -> str:
    """Return why an entry of a results list cannot be scored, or ""."""
    if not isinstance(record, dict):
        return f"is {shown(record)}, not an object with `image_id`, `category_id`, `bbox` and `score`"
    image_id, box = record.get("image_id"), record.get("bbox")
    if type(image_id) is not int or image_id not in pictures:
        return f"{_has(record, 'image_id')}. Choose among the truth's, which are {some(pictures)}"
    if not is_id(record.get("category_id")):
        return f"{_has(record, 'category_id')}. Give it the number of its category, {CATEGORY_ID} where there is one"
    if not _is_finite(record.get("score")):
        return f"{_has(record, 'score')}. Give it a finite number"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)) or not _is_box(box):
        return f"{_BOX}; it {_has(record, 'bbox')}"
    return ""


def _categories_of(
    file: Path, results: Sequence[Record], categories: Mapping[int | str, int]
) -> tuple[list[int], list[str]]:
    """Return the row of each entry's category, and warnings."""
    ids = [record["category_id"] for record in results]
    if len(categories) > 1:
        for number, key in enumerate(ids):
            if key not in categories:
                raise DataError(
                    f"{place_of_result(file, number)} has category_id {shown(key)}. Choose among the truth's, which "
                    f"are {some(categories)}."
                )
        return [categories[key] for key in ids], []
    strange = set(ids) - {CATEGORY_ID, *categories}
    if strange and len(set(ids)) > 1:
        raise DataError(
            f"{file}: holds detections with category_id {some(set(ids))}, and the truth has one category, "
            f"{some(categories)}. Leave out the detections of other categories."
        )
    told = f"all detections have category_id {some(strange)}, and are taken for the truth's one, {some(categories)}"
    return [0] * len(ids), [f"{file}: {told}."] if strange else []


def _has(record: Record, key: str) -> str:
    return f"has {key} {shown(record[key])}" if key in record else f"has no `{key}`"


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(real(value))


def _is_box(box_xywh: Sequence[float]) -> bool:
    return all(abs(value) <= FARTHEST_PX for value in box_xywh) and min(box_xywh[2:]) >= 0
