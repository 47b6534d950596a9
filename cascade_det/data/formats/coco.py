"""Pictures annotated in one COCO JSON file.

Boxes ``x y w h`` and points ``x y v`` are taken as they stand, without half-pixel shifts. The file is parsed at first
use, so a recipe can be checked where the data are not, and again in each worker process that a source is sent to.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.imaging import read_image
from cascade_det.core.registry import register_source
from cascade_det.core.types import MAX_PIXELS, Annotations
from cascade_det.data.sources import Picture, Source
from cascade_det.errors import DataError, choices

_PICTURE_KEYS = frozenset({"id", "file_name", "width", "height"})
_OBJECT_KEYS = frozenset({"id", "image_id", "category_id", "iscrowd", "ignore", "num_keypoints"})
_Record = Mapping[str, Any]
_Where = Mapping[str, Sequence[Any]]


@register_source("coco")
class Coco(Source):
    """Annotated pictures of one COCO JSON file.

    Args:
        images: folder that the file's `file_name` entries are relative to.
        annotations: the JSON file.
        category: name of the category to find; by default the file's only one or, where it has several, the object
            of the recipe. Objects of other categories count as background.
        where: keep only pictures whose field, say `source`, has one of these values.
        where_not: leave out pictures whose field has one of these values.
        num_points: how many points an object has; 0 leaves the file's keypoints unread.
        base_dir: folder that relative paths are resolved against.
        object_category: what the recipe calls its object.
        max_pixels: a picture of more pixels is refused before it is decoded.

    An object with `iscrowd` or `ignore` is ignored. Every other field of an annotation that holds a text, number or
    truth value becomes a column of `extras`: numbers where all annotations have one, otherwise texts with "" where an
    annotation lacks the field. Such fields of a picture become `Picture.fields`.

    Raises:
        TypeError: `where` or `where_not` gives no list of values for a field.
    """

    version = 1

    def __init__(
        self,
        *,
        images: str,
        annotations: str,
        category: str | None = None,
        where: _Where | None = None,
        where_not: _Where | None = None,
        num_points: int = 0,
        base_dir: str = ".",
        object_category: str = "",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._folder = Path(base_dir) / images
        self._file = Path(base_dir) / annotations
        self._category = category
        self._object_category = object_category
        self._where = _value_lists("where", where)
        self._where_not = _value_lists("where_not", where_not)
        self._num_points = num_points
        self._max_pixels = max_pixels
        self._cache: _Parsed | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the parsed file behind: a worker process reads it again when it needs it."""
        return {**self.__dict__, "_cache": None}

    @property
    def pictures(self) -> list[Picture]:
        """The selected pictures in the order of the file.

        Raises:
            DataError: the file is missing or wrong; the message names it and the entry.
        """
        return self._parsed().pictures

    def annotations(self, index: int) -> Annotations:
        """Return the objects of picture `index` in the order of the file; boxes may reach over its border."""
        parsed = self._parsed()
        row = range(len(parsed.pictures))[index]
        return parsed.truth[parsed.first[row] : parsed.first[row + 1]]

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return picture `index` as ``(H, W, 3)`` uint8 RGB, in the orientation that it is annotated in.

        Raises:
            DataError: the file is missing, unreadable or of another size than annotated.
        """
        picture = self.pictures[index]
        path = self._existing(picture)
        image: NDArray[np.uint8] = read_image(path, picture.image_hw, self._max_pixels)
        if image.shape[:2] != picture.image_hw:
            raise DataError(
                f"{path} is {image.shape[1]} x {image.shape[0]} pixels (width x height), but {self._file} says "
                f"{picture.image_hw[1]} x {picture.image_hw[0]}, so its boxes would not fit. Use the pictures that "
                "were annotated, or correct the size and the boxes in the file."
            )
        return image

    def content_hash(self, index: int) -> str:
        """Return 16 hex digits of the SHA-256 of the picture's file.

        Raises:
            DataError: the file is missing.
        """
        return hashlib.sha256(self._existing(self.pictures[index]).read_bytes()).hexdigest()[:16]

    def digest(self) -> str:
        """Return a hash of the annotation file, the parameters, and each picture's name and file size.

        Neither folder is part of it, so data may move; a missing picture counts as one of size -1.
        """
        parsed = self._parsed()
        params = [self.version, parsed.category, self._where, self._where_not, self._num_points]
        sizes = [[picture.name, _file_size(self._folder / picture.name)] for picture in parsed.pictures]
        text = json.dumps([parsed.file_hash, params, sizes], sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()

    def report(self) -> Mapping[str, int]:
        """Return counts of annotations and points that were left out, by reason; reasons without any are absent."""
        return dict(self._parsed().left_out)

    def missing_files(self) -> list[str]:
        """Return the paths of selected pictures that are not on disk, in the order of the file."""
        return [str(path) for path in (self._folder / p.name for p in self.pictures) if not path.is_file()]

    def _existing(self, picture: Picture) -> Path:
        path = self._folder / picture.name
        if path.is_file():
            return path
        raise DataError(
            f"{path}: there is no such picture, though {self._file} names {picture.name!r}. Correct `images`, the "
            "folder that its file names are relative to, or fetch the picture."
        )

    def _parsed(self) -> _Parsed:
        if self._cache is None:
            self._cache = self._parse()
        return self._cache

    def _parse(self) -> _Parsed:
        data, file_hash = _load(self._file)
        every, kept = self._select(data["images"])
        category, ids = self._category_ids(data["categories"])
        objects = _objects(self._file, data, every, ids)
        row_of = {picture.image_id: row for row, picture in enumerate(kept)}
        rows = _Rows(self._file, kept, self._num_points)
        for record in data["annotations"]:
            if record["image_id"] in row_of:
                rows.add(record, row_of[record["image_id"]], ids[record["category_id"]])
        count, picture = len(rows.box), np.asarray(rows.picture, np.intp)
        order = np.argsort(picture, kind="stable")
        truth = Annotations(
            np.asarray(rows.box, np.float32).reshape(count, 4),
            np.asarray([bool(r.get("iscrowd") or r.get("ignore")) for r in rows.record], bool),
            np.asarray(rows.points, np.float32).reshape(count, self._num_points, 2),
            np.asarray(rows.known, bool).reshape(count, self._num_points),
            _columns(rows.record, objects),
        )[order]
        first = np.searchsorted(picture[order], np.arange(len(kept) + 1))
        return _Parsed(kept, truth, first, rows.left_out, file_hash, category)

    def _select(self, records: Sequence[_Record]) -> tuple[dict[int, Picture], list[Picture]]:
        """Return all pictures by id, and those that `where` and `where_not` leave, in the order of the file."""
        pictures: dict[int, Picture] = {}
        for record in records:
            picture = _picture(self._file, record)
            if picture.image_id in pictures:
                raise DataError(f"{self._file}: two pictures have the id {picture.image_id}. Give each its own id.")
            pictures[picture.image_id] = picture
        known = {name for picture in pictures.values() for name in picture.fields}
        kept = list(pictures.values())
        for key, conditions, wanted in (("where", self._where, True), ("where_not", self._where_not, False)):
            for name, values in conditions.items():
                if pictures and name not in known:
                    raise DataError(f"{self._file}: {key}: no picture has a field {name!r}; {choices(name, known)}.")
                kept = [p for p in kept if (p.fields.get(name) in values) == wanted]
        if pictures and not kept:
            names = sorted({*self._where, *self._where_not})
            have = "; ".join(f"{name} is {_some({p.fields.get(name) for p in pictures.values()})}" for name in names)
            raise DataError(
                f"{self._file}: where={self._where!r}, where_not={self._where_not!r} leave none of its "
                f"{len(pictures)} pictures. There {have}. Choose among these values."
            )
        return pictures, kept

    def _category_ids(self, records: Sequence[_Record]) -> tuple[str, dict[Any, bool]]:
        """Return the name of the wanted category and, for each category id of the file, whether it is wanted."""
        names: dict[Any, str] = {}
        for record in records:
            key, name = record.get("id"), record.get("name")
            if not isinstance(key, (int, str)) or not isinstance(name, str) or key in names:
                raise DataError(f"{self._file}: the category {record!r} needs a `name` and its own `id`. Add them.")
            names[key] = name
        known = set(names.values())
        wanted = self._category
        if wanted is None:
            wanted = next(iter(known)) if len(known) == 1 else self._object_category
        if wanted not in known and (known or self._category is not None):
            how = "it has several categories, but not the object" if self._category is None else "it has no category"
            raise DataError(f"{self._file}: {how} {wanted!r}. Set `category`; {choices(wanted, known)}.")
        return wanted, {key: name == wanted for key, name in names.items()}


@dataclass(frozen=True, slots=True)
class _Parsed:
    """What one file holds: the objects of picture i are the rows first[i] to first[i + 1] of `truth`."""

    pictures: list[Picture]
    truth: Annotations
    first: NDArray[np.intp]
    left_out: Mapping[str, int]
    file_hash: str
    category: str


class _Rows:
    """Columns of the objects that are taken from a file, one entry an object, and counts of what is left out.

    Args:
        file: named in errors.
        pictures: the selected pictures; an object refers to one by its place in this list.
        num_points: how many points an object has; 0 leaves keypoints unread.
    """

    def __init__(self, file: Path, pictures: Sequence[Picture], num_points: int) -> None:
        self._file, self._pictures, self._num_points = file, pictures, num_points
        self.picture: list[int] = []
        self.record: list[_Record] = []
        self.box: list[list[float]] = []
        self.points: list[NDArray[np.float64]] = []
        self.known: list[NDArray[np.bool_]] = []
        self.left_out: Counter[str] = Counter()

    def add(self, record: _Record, picture: int, wanted: bool) -> None:
        """Take one annotation of the picture at place `picture`, or count why it is left out."""
        if not wanted:
            self.left_out["objects of other categories"] += 1
            return
        x, y, width, height = _numbers(self._file, record, "bbox", 4)
        image_h, image_w = self._pictures[picture].image_hw
        if not all(map(math.isfinite, (x, y, width, height))):
            self.left_out["boxes that are not finite"] += 1
        elif np.float32(x + width) <= np.float32(x) or np.float32(y + height) <= np.float32(y):
            self.left_out["boxes without area"] += 1
        elif x >= image_w or y >= image_h or x + width <= 0 or y + height <= 0:
            self.left_out["boxes outside their picture"] += 1
        else:
            points, known = self._keypoints(record)
            self.picture.append(picture)
            self.record.append(record)
            self.box.append([x, y, x + width, y + height])
            self.points.append(points)
            self.known.append(known)

    def _keypoints(self, record: _Record) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return points ``(K, 2)``, 0 where unknown, and which are known, ``(K,)``."""
        given = record.get("keypoints")
        if self._num_points == 0 or not given:
            return np.zeros((self._num_points, 2)), np.zeros(self._num_points, bool)
        if isinstance(given, list) and len(given) % 3 == 0 and len(given) != 3 * self._num_points:
            raise DataError(
                f"{self._file}: annotation {record['id']} has {len(given) // 3} keypoints, but the recipe's object has "
                f"{self._num_points}. Name the points of this file under `object.points`, or use a file that fits."
            )
        triples = np.asarray(_numbers(self._file, record, "keypoints", 3 * self._num_points)).reshape(-1, 3)
        finite = np.isfinite(triples[:, :2]).all(axis=1)
        known = (triples[:, 2] > 0) & finite
        broken = int(((triples[:, 2] > 0) & ~finite).sum())
        if broken:
            self.left_out["points that are not finite"] += broken
        return np.where(known[:, None], triples[:, :2], 0), known


def _load(file: Path) -> tuple[dict[str, Any], str]:
    """Return the content of a COCO file with lists of objects under its three keys, and a hash of its bytes."""
    try:
        raw = file.read_bytes()
        data = json.loads(raw)
    except OSError as error:
        raise DataError(
            f"{file}: the annotation file cannot be read ({error.strerror}). Correct `annotations`, or the variable "
            "that it is built from, to name a COCO JSON file."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON file ({error}). `annotations` must name a COCO JSON file.") from error
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


def _picture(file: Path, record: _Record) -> Picture:
    image_id, name = record.get("id"), record.get("file_name")
    if not isinstance(image_id, int) or isinstance(image_id, bool):
        raise DataError(f"{file}: the picture {name!r} has the id {image_id!r}. Give it a whole number as `id`.")
    if not isinstance(name, str) or not name:
        raise DataError(f"{file}: picture {image_id} has the file_name {name!r}. Give it the name of its file.")
    for key in ("height", "width"):
        side = record.get(key)
        if not isinstance(side, (int, float)) or not side >= 1 or side != side // 1:
            raise DataError(f"{file}: picture {image_id} has {key} {side!r}. Give it its size in pixels.")
    fields = {key: value for key, value in record.items() if key not in _PICTURE_KEYS and _is_scalar(value)}
    return Picture(image_id, name, (int(record["height"]), int(record["width"])), fields)


def _objects(file: Path, data: _Record, pictures: Mapping[int, Any], wanted: Mapping[Any, bool]) -> list[_Record]:
    """Return the annotations of the wanted category; check that ids are unique and refer to something."""
    seen: set[int | str] = set()
    for record in data["annotations"]:
        key = record.get("id")
        if not isinstance(key, (int, str)):
            raise DataError(f"{file}: an annotation of picture {record.get('image_id')!r} has the id {key!r}.")
        if key in seen:
            raise DataError(f"{file}: two annotations have the id {key}. Give each its own id.")
        seen.add(key)
        for name, known, what in (("image_id", pictures, "picture"), ("category_id", wanted, "category")):
            value = record.get(name)
            if not isinstance(value, (int, str)) or value not in known:
                ids = f" Its ids are {_some(known)}." if what == "category" else ""
                raise DataError(
                    f"{file}: annotation {key} has {name} {value!r}, but there is no {what} of this id.{ids} Add the "
                    f"{what} to the file, or correct or remove the annotation."
                )
    return [record for record in data["annotations"] if wanted[record["category_id"]]]


def _columns(records: Sequence[_Record], all_records: Sequence[_Record]) -> dict[str, NDArray[Any]]:
    """Return the scalar fields of `records` as columns; `all_records` decide which there are and of what type."""
    columns = {}
    for name in sorted({key for record in all_records for key in record} - _OBJECT_KEYS):
        values = [record.get(name) for record in all_records]
        if not any(map(_is_scalar, values)):
            continue
        own = [record.get(name) for record in records]
        if all(isinstance(value, bool) for value in values):
            columns[name] = np.asarray(own, bool)
        elif all(type(value) is int and abs(value) < 2**63 for value in values):
            columns[name] = np.asarray(own, np.int64)
        elif all(type(value) in (int, float) for value in values):
            columns[name] = np.asarray(own, np.float64)
        else:
            texts = [str(value) if _is_scalar(value) else "" for value in own]
            columns[name] = np.asarray(texts, f"<U{max(len(str(v)) for v in values if _is_scalar(v)) or 1}")
    return columns


def _numbers(file: Path, record: _Record, key: str, count: int) -> list[float]:
    values = record.get(key)
    if not isinstance(values, list) or len(values) != count or not all(isinstance(v, (int, float)) for v in values):
        shown = repr(values) if len(repr(values)) <= 80 else repr(values)[:77] + "..."
        raise DataError(f"{file}: annotation {record['id']} needs {count} numbers as `{key}`, it has {shown}.")
    return [float(value) for value in values]


def _value_lists(key: str, conditions: _Where | None) -> dict[str, list[Any]]:
    for name, values in (conditions or {}).items():
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
            raise TypeError(f"{key}.{name} must be a list of values, it is {values!r}")
    return {name: list(values) for name, values in (conditions or {}).items()}


def _is_scalar(value: object) -> bool:
    return isinstance(value, (str, int, float))  # a bool is an int


def _some(values: Iterable[object], most: int = 12) -> str:
    shown = sorted(map(repr, values))
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "") if shown else "(none)"


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
