"""The entries of a COCO file, checked: what cannot be used is refused with its id, or left out and counted."""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from cascade_det.data.sources import Picture
from cascade_det.errors import DataError

Record = Mapping[str, Any]
_PICTURE_KEYS = frozenset({"id", "file_name", "width", "height"})
_OBJECT_KEYS = frozenset({"id", "image_id", "category_id", "iscrowd", "ignore", "num_keypoints"})
_LONGEST_PX = 1_000_000  # of a picture's side
FARTHEST_PX = 1e7  # of a box or point from the corner: float32 resolves whole pixels up to here


def load_json(file: Path, called: str, wanted: str) -> tuple[Any, bytes]:
    """Return the content of a JSON file, and its bytes.

    Args:
        file: its path.
        called, wanted: what an error calls the file, and what it tells to do.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    try:
        raw = file.read_bytes()
        return json.loads(raw), raw
    except OSError as error:
        raise DataError(f"{file}: {called} cannot be read ({error.strerror}). {wanted}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON file ({error}). {wanted}") from error


def load_file(file: Path) -> tuple[dict[str, Any], str]:
    """Return the content of a COCO file with lists of objects under its three keys, and a hash of its bytes.

    Raises:
        DataError: it cannot be read, is no JSON, or JSON of another shape.
    """
    wanted = "Correct `annotations`, or the variable that it is built from, to name a COCO JSON file."
    data, raw = load_json(file, "the annotation file", wanted)
    if not isinstance(data, dict):
        raise DataError(
            f"{file} holds a {type(data).__name__} at its top, not an object with `images`, `annotations` and "
            "`categories`. A list is a file of results; `annotations` must name the truth."
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list) or not all(isinstance(entry, dict) for entry in data[key]):
            what = f"its `{key}` is no list of objects" if key in data else f"it has no `{key}`"
            raise DataError(f"{file} is no COCO file: {what}. A COCO file has `images`, `annotations`, `categories`.")
    return data, hashlib.sha256(raw).hexdigest()


def picture_of(file: Path, record: Record) -> Picture:
    """Return one entry of `images`; raises a `DataError` with its id and the value that is wrong."""
    image_id, name = record.get("id"), record.get("file_name")
    if type(image_id) is not int or abs(image_id) >= 2**63:
        raise DataError(f"{file}: the picture {shown(name)} has the id {shown(image_id)}. Give it a whole number.")
    check_name(f"{file}: picture {image_id} has the file_name {shown(name)}", name)
    for key in ("height", "width"):
        side = record.get(key)
        if side is None or type(side) not in (int, float) or not 1 <= side <= _LONGEST_PX or side != side // 1:
            raise DataError(f"{file}: picture {image_id} has {key} {shown(side)}. Give it its size in pixels.")
    fields = {key: value for key, value in record.items() if key not in _PICTURE_KEYS and _is_scalar(value)}
    return Picture(image_id, str(name), (int(record["height"]), int(record["width"])), fields)


def check_name(where: str, name: object) -> None:
    """Raise a `DataError` that begins with `where` if a picture's name is none or leaves the folder of the pictures."""
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}. Give it the name of its file.")
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise DataError(f"{where}, which no file can have. Correct it.")
    if posixpath.isabs(name) or posixpath.normpath(name).split("/")[0] == "..":
        raise DataError(
            f"{where}, which leaves the folder of the pictures. Name pictures relative to that folder, and set "
            "`images` (--images) to one that holds them all."
        )


def wanted_objects(
    file: Path, records: Sequence[Record], pictures: Mapping[int, Any], wanted: Mapping[Any, bool]
) -> list[Record]:
    """Return the annotations of the wanted category; check all: ids are unique and refer to something, flags are flags.

    Raises:
        DataError: the message names the annotation and the value.
    """
    seen: set[int | str] = set()
    for record in records:
        key = record.get("id")
        if not is_id(key):
            owner = shown(record.get("image_id"))
            raise DataError(f"{file}: an annotation of picture {owner} has the id {shown(key)}. Give it a number.")
        if key in seen:
            raise DataError(f"{file}: two annotations have the id {shown(key)}. Give each its own id.")
        seen.add(key)
        for name, known, what in (("image_id", pictures, "picture"), ("category_id", wanted, "category")):
            value = record.get(name)
            if not is_id(value) or value not in known:
                ids = f" Its ids are {some(known)}." if what == "category" else ""
                raise DataError(
                    f"{file}: annotation {shown(key)} has {name} {shown(value)}, but there is no {what} of this id."
                    f"{ids} Add the {what} to the file, or correct or remove the annotation."
                )
        for name in ("iscrowd", "ignore"):
            value = record.get(name)
            if value is not None and not (isinstance(value, (int, float)) and value in (0, 1)):
                raise DataError(
                    f"{file}: annotation {shown(key)} has {name} {shown(value)}. Choices: 0 (counts), 1 (ignored)."
                )
    return [record for record in records if wanted[record["category_id"]]]


def edges(file: Path, records: Sequence[Record]) -> NDArray[np.float64]:
    """Return the boxes of annotations as edges x0 y0 x1 y1, ``(N, 4)``; they may be infinite or NaN."""
    rows = [numbers(_place(file, record), record, "bbox", 4) for record in records]
    xywh = np.array(rows, np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def keypoints(
    file: Path, records: Sequence[Record], num_points: int, left_out: Counter[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return points ``(N, K, 2)`` of annotations, 0 where unknown, and which are known, ``(N, K)``.

    Args:
        file, records: where they are from.
        num_points: K; 0 leaves them unread.
        left_out: counts by reason, to which points that are not finite are added.
    """
    rows = [_triples(file, record, num_points) for record in records]
    triples = np.array(rows, np.float64).reshape(len(records), num_points, 3)
    absent = triples[..., 2] <= 0  # NaN is not absent but wrong
    usable = np.isfinite(triples[..., 2]) & (np.abs(triples[..., :2]) <= FARTHEST_PX).all(axis=2)
    broken = int((~absent & ~usable).sum())
    if broken:
        left_out["points that are not finite"] += broken
    known = ~absent & usable
    return np.where(known[..., None], triples[..., :2], 0), known


def _triples(file: Path, record: Record, num_points: int) -> list[float]:
    """Return x y v of each point; v = 0 where an annotation has none."""
    given = record.get("keypoints")
    if num_points == 0 or given is None or given == []:
        return [0.0] * (3 * num_points)
    if isinstance(given, list) and len(given) % 3 == 0 and len(given) != 3 * num_points:
        raise DataError(
            f"{_place(file, record)} has {len(given) // 3} keypoints, but the recipe's object has {num_points}. "
            "Name the points of this file under `object.points`, or use a file that fits."
        )
    return numbers(_place(file, record), record, "keypoints", 3 * num_points)


def _place(file: Path, record: Record) -> str:
    return f"{file}: annotation {shown(record['id'])}"


def columns(records: Sequence[Record], all_records: Sequence[Record]) -> dict[str, NDArray[Any]]:
    """Return the scalar fields of `records` as columns; `all_records` decide which there are and of what type."""
    found: dict[str, NDArray[Any]] = {}
    for name in sorted({key for record in all_records for key in record} - _OBJECT_KEYS):
        values = [record.get(name) for record in all_records]
        if not any(map(_is_scalar, values)):
            continue
        own = [record.get(name) for record in records]
        if all(isinstance(value, bool) for value in values):
            found[name] = np.asarray(own, bool)
        elif all(type(value) is int and abs(value) < 2**63 for value in values):
            found[name] = np.asarray(own, np.int64)
        elif all(value is None or type(value) in (int, float) for value in values):
            found[name] = np.asarray([math.nan if value is None else real(value) for value in own], np.float64)
        else:
            texts = [str(value) if _is_scalar(value) else "" for value in own]
            found[name] = np.asarray(texts, f"<U{max(len(str(v)) for v in values if _is_scalar(v)) or 1}")
    return found


def some(values: Iterable[object], most: int = 12) -> str:
    """Return the first of `values` in order, for an error message."""
    texts = sorted(map(shown, values))
    return ", ".join(texts[:most]) + (", ..." if len(texts) > most else "") if texts else "(none)"


def numbers(place: str, record: Record, key: str, count: int) -> list[float]:
    """Return the list of `count` numbers that an entry has under `key`; what is no list of them is refused.

    Args:
        place: file and entry, as the message names them.
        record, key, count: what is read. The numbers may be infinite or NaN.
    """
    values = record.get(key)
    if not isinstance(values, list) or len(values) != count or not all(type(v) in (int, float) for v in values):
        raise DataError(f"{place} needs {count} numbers as `{key}`, it has {shown(values)}.")
    return [real(value) for value in values]


def real(value: Any) -> float:
    """Return a number of JSON as a float; a whole number beyond all floats becomes infinite."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def is_id(value: object) -> TypeGuard[int | str]:
    """Return whether a value can be the id of an annotation or a category."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_scalar(value: object) -> bool:
    return isinstance(value, (str, int, float))  # a bool is an int


def shown(value: object) -> str:
    """Return a value as an error message shows it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
