"""Pictures annotated in one COCO JSON file.

Boxes ``x y w h`` and points ``x y v`` are taken as they stand, without half-pixel shifts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade_det.core.registry import register_source
from cascade_det.core.types import MAX_PIXELS
from cascade_det.data.formats.categories import Categories, Choice
from cascade_det.data.formats.coco_records import (
    Record,
    columns,
    edges,
    keypoints,
    load_file,
    picture_of,
    wanted_objects,
)
from cascade_det.data.formats.objects import Objects, box_faults, by_picture
from cascade_det.data.formats.picture_files import Parsed, PictureFiles
from cascade_det.data.formats.selection import Where, selected
from cascade_det.data.sources import Picture
from cascade_det.errors import DataError


@register_source("coco")
class Coco(PictureFiles):
    """Annotated pictures of one COCO JSON file.

    Args:
        images: folder that the file's `file_name` entries are relative to.
        annotations: the JSON file.
        category: name of the category to find, or names; by default the file's only one or, where it has several, the
            object of the recipe.
        others: what objects of other categories are: background, ignore, or refuse where there must be none.
        where: keep only pictures whose field, say `source`, has one of these values.
        where_not: leave out pictures whose field has one of these values.
        num_points: how many points an object has; 0 leaves the file's keypoints unread.
        base_dir: folder that relative paths are resolved against.
        object_category: what the recipe calls its object.
        max_pixels: a picture of more pixels is refused before it is decoded.

    An object with `iscrowd` or `ignore` is ignored. Every other field of an annotation that holds a text, number or
    truth value becomes a column of `extras`: numbers where nothing else stands, NaN where an annotation lacks the
    field; otherwise texts, "" where it is lacking. Such fields of a picture become `Picture.fields`. Where objects of
    several categories are taken, a column `category` tells them apart.

    Raises:
        TypeError, ValueError: a parameter has another form than these, or a value that there is not.
    """

    version = 1

    def __init__(
        self,
        *,
        images: str,
        annotations: str,
        category: str | Sequence[str] | None = None,
        others: str = "background",
        where: Where | None = None,
        where_not: Where | None = None,
        num_points: int = 0,
        base_dir: str = ".",
        object_category: str = "",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(
            Path(base_dir) / images,
            Path(base_dir) / annotations,
            where=where,
            where_not=where_not,
            num_points=num_points,
            max_pixels=max_pixels,
        )
        self._categories = Categories(category, others, object_category)

    def _parse(self) -> Parsed:
        data, file_hash = load_file(self._file)
        every = _pictures(self._file, data["images"])
        fields = [picture.fields for picture in every.values()]
        kept = set(selected(fields, self._where, self._where_not, self._file))
        pictures = [picture for row, picture in enumerate(every.values()) if row in kept]
        names = _category_names(self._file, data["categories"])
        choice = self._categories.choice(self._file, set(names.values()))
        wanted = {key: choice.takes(name) for key, name in names.items()}
        alike = wanted_objects(self._file, data["annotations"], every, wanted)
        left_out: Counter[str] = Counter()
        objects = self._objects(data["annotations"], pictures, names, choice, alike, left_out)
        truth, first = by_picture(choice.marked(objects), len(pictures))
        return Parsed(self._folder, pictures, truth, first, left_out, file_hash, [choice.key])

    def _objects(
        self,
        records: Sequence[Record],
        pictures: Sequence[Picture],
        names: Mapping[Any, str],
        choice: Choice,
        alike: Sequence[Record],
        left_out: Counter[str],
    ) -> Objects:
        """Return the objects of the selected pictures that can be used; what is left out is counted.

        Args:
            records, pictures, names: annotations, selected pictures, categories by id.
            choice: the categories that are taken.
            alike: all annotations of these categories, which decide what columns there are.
            left_out: counts by reason, added to.
        """
        row_of = {picture.image_id: row for row, picture in enumerate(pictures)}
        records = [record for record in records if record["image_id"] in row_of]
        taken = choice.taken(np.array([names[r["category_id"]] for r in records], np.str_), left_out)
        records = [records[row] for row in np.flatnonzero(taken)]
        boxes = edges(self._file, records)
        image_hw = np.array([pictures[row_of[r["image_id"]]].image_hw for r in records]).reshape(-1, 2)
        faults = box_faults(boxes, image_hw)
        left_out.update(fault for fault in faults.tolist() if fault)
        sound = np.flatnonzero(faults == "")
        records = [records[row] for row in sound]
        points, known = keypoints(self._file, records, self._num_points, left_out)
        return Objects.of(
            [row_of[r["image_id"]] for r in records],
            boxes[sound],
            self._num_points,
            ignore=[bool(r.get("iscrowd") or r.get("ignore")) for r in records],
            points=points,
            points_known=known,
            category=[names[r["category_id"]] for r in records],
            extras=columns(records, alike),
        )


def _pictures(file: Path, records: Sequence[Record]) -> dict[int, Picture]:
    """Return all pictures by id in the order of the file."""
    pictures: dict[int, Picture] = {}
    for record in records:
        picture = picture_of(file, record)
        if picture.image_id in pictures:
            raise DataError(f"{file}: two pictures have the id {picture.image_id}. Give each its own id.")
        pictures[picture.image_id] = picture
    return pictures


def _category_names(file: Path, records: Sequence[Record]) -> dict[Any, str]:
    """Return the names of the file's categories by id."""
    names: dict[Any, str] = {}
    for record in records:
        key, name = record.get("id"), record.get("name")
        if not isinstance(key, (int, str)) or isinstance(key, bool) or not isinstance(name, str) or key in names:
            raise DataError(f"{file}: the category {record!r} needs a `name` and its own `id`. Add them.")
        names[key] = name
    return names
