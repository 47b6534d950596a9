"""Pictures annotated in one COCO JSON file.

Boxes ``x y w h`` and points ``x y v`` are taken as they stand, without half-pixel shifts. The file is parsed at first
use, so a recipe can be checked where the data are not, and again in each worker process that a source is sent to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.imaging import read_image
from cascade_det.core.registry import register_source
from cascade_det.core.types import MAX_PIXELS, Annotations
from cascade_det.data.formats.coco_records import (
    ObjectRows,
    Record,
    columns,
    load_file,
    picture_of,
    some,
    wanted_objects,
)
from cascade_det.data.sources import Picture, Source
from cascade_det.errors import DataError, choices

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
        paths = (self._folder / picture.name for picture in self.pictures)
        return [str(path) for path in paths if _file_size(path) < 0]

    def _existing(self, picture: Picture) -> Path:
        path = self._folder / picture.name
        if _file_size(path) >= 0:
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
        data, file_hash = load_file(self._file)
        every, kept = self._select(data["images"])
        category, ids = self._category_ids(data["categories"])
        objects = wanted_objects(self._file, data["annotations"], every, ids)
        row_of = {picture.image_id: row for row, picture in enumerate(kept)}
        rows = ObjectRows(self._file, kept, self._num_points)
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
            columns(rows.record, objects),
        )[order]
        first = np.searchsorted(picture[order], np.arange(len(kept) + 1))
        return _Parsed(kept, truth, first, rows.left_out, file_hash, category)

    def _select(self, records: Sequence[Record]) -> tuple[dict[int, Picture], list[Picture]]:
        """Return all pictures by id, and those that `where` and `where_not` leave, in the order of the file."""
        pictures: dict[int, Picture] = {}
        for record in records:
            picture = picture_of(self._file, record)
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
            have = "; ".join(f"{name} is {some({p.fields.get(name) for p in pictures.values()})}" for name in names)
            raise DataError(
                f"{self._file}: where={self._where!r}, where_not={self._where_not!r} leave none of its "
                f"{len(pictures)} pictures. There {have}. Choose among these values."
            )
        return pictures, kept

    def _category_ids(self, records: Sequence[Record]) -> tuple[str, dict[Any, bool]]:
        """Return the name of the wanted category and, for each category id of the file, whether it is wanted."""
        names: dict[Any, str] = {}
        for record in records:
            key, name = record.get("id"), record.get("name")
            if not isinstance(key, (int, str)) or isinstance(key, bool) or not isinstance(name, str) or key in names:
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


def _value_lists(key: str, conditions: _Where | None) -> dict[str, list[Any]]:
    if conditions is not None and not isinstance(conditions, Mapping):
        raise TypeError(f"{key} must map fields to lists of values, it is {conditions!r}")
    for name, values in (conditions or {}).items():
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
            raise TypeError(f"{key}.{name} must be a list of values, it is {values!r}")
    return {name: list(values) for name, values in (conditions or {}).items()}


def _file_size(path: Path) -> int:
    """Return the size of a file in bytes, -1 where there is none (a folder is none, nor is a name that is too long)."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1
