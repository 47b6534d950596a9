"""Sources whose pictures are files below one folder, annotated apart: what all such formats have in common.

The annotation is parsed at first use, so a recipe can be checked where the data are not, and again in each worker
process that a source is sent to.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.imaging import picture_size, read_image
from cascade_det.core.types import PICTURE_SUFFIXES, Annotations
from cascade_det.data.formats.categories import Categories
from cascade_det.data.formats.objects import Objects, by_picture, without_faults
from cascade_det.data.formats.selection import Where, selected, value_lists
from cascade_det.data.sources import Picture, Source
from cascade_det.errors import DataError


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an annotation holds.

    Attributes:
        folder: that the pictures' names start from.
        pictures: the selected ones in the order of the annotation.
        truth: the objects of all of them.
        first: those of picture i are the rows first[i] to first[i + 1] of `truth`.
        left_out: counts by reason.
        file_hash: of the annotation.
        params: what else decides the truth, ready for JSON.
        unreadable: why pictures that are on disk were left out.
        asked: names of all selected pictures, also of those that are not on disk; none: those of `pictures`.
    """

    folder: Path
    pictures: list[Picture]
    truth: Annotations
    first: NDArray[np.intp]
    left_out: Mapping[str, int]
    file_hash: str
    params: Sequence[Any]
    unreadable: Sequence[str] = ()
    asked: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """P pictures with their objects as an annotation lists them, before any of their files is looked at.

    Attributes:
        folder: that the names start from.
        names: of the P files.
        fields: what else is said about each.
        objects: of all of them.
        sizes_hw: height and width of each in pixels, None where they are not stated.
        relative: boxes and points are shares of width and height.
        file_hash: of the annotation.
        params: what else of the source's parameters decides the truth, ready for JSON.
        left_out: counts by reason.
        layout: where the files are expected, for the error that there is none.
        categories: all that there can be, where the annotation says so.
    """

    folder: Path
    names: Sequence[str]
    fields: Sequence[Mapping[str, Any]]
    objects: Objects
    file_hash: str
    layout: str
    params: Sequence[Any] = ()
    sizes_hw: Sequence[tuple[int, int] | None] | None = None
    relative: bool = False
    left_out: Mapping[str, int] | None = None
    categories: Sequence[str] = ()


class PictureFiles(Source):
    """Annotated pictures that are files below one folder; a format says in `_parse` what its annotation holds.

    Args:
        folder: of the pictures.
        annotations: the file or folder of annotations, named in errors.
        num_points: how many points an object has.
        max_pixels: a picture of more pixels is refused before it is decoded.
        where: keep only pictures whose field has one of these values.
        where_not: leave out pictures whose field has one of these values.

    Raises:
        TypeError: `where` or `where_not` gives no list of values for a field.
    """

    turned_by_exif = False  # whether the objects were annotated on the picture as viewers show it
    object_name = ""  # what the objects are called, and
    point_names: Sequence[str] = ()  # their points, where a format is that of one data set

    def __init__(
        self,
        folder: Path,
        annotations: Path,
        *,
        num_points: int,
        max_pixels: int,
        where: Where | None = None,
        where_not: Where | None = None,
    ) -> None:
        self._folder = folder
        self._file = annotations
        self._where = value_lists("where", where)
        self._where_not = value_lists("where_not", where_not)
        self._num_points = num_points
        self._max_pixels = max_pixels
        self._cache: Parsed | None = None

    @abstractmethod
    def _parse(self) -> Parsed:
        """Read the annotation; raises a `DataError` that names file and entry where it is wrong."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was parsed behind: a worker process parses again when it needs it."""
        return {**self.__dict__, "_cache": None}

    @property
    def pictures(self) -> list[Picture]:
        """The selected pictures in the order of the annotation.

        Raises:
            DataError: the annotation is missing or wrong; the message names it and the entry.
        """
        return self._parsed().pictures

    def annotations(self, index: int) -> Annotations:
        """Return the objects of picture `index` in the order of the annotation; boxes may reach over its border."""
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
        annotated_hw = None if self.turned_by_exif else picture.image_hw
        image: NDArray[np.uint8] = read_image(path, annotated_hw, self._max_pixels)
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
        """Return a hash of the annotation, the parameters, and each picture's name and file size.

        Neither folder is part of it, so data may move; a missing picture counts as one of size -1.
        """
        parsed = self._parsed()
        params = [self.version, *parsed.params, self._where, self._where_not, self._num_points]
        sizes = [[picture.name, file_size(parsed.folder / picture.name)] for picture in parsed.pictures]
        text = json.dumps([parsed.file_hash, params, sizes], sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()

    def report(self) -> Mapping[str, int]:
        """Return counts of what was left out, by reason; reasons without any are absent."""
        return dict(self._parsed().left_out)

    def missing_files(self) -> list[str]:
        """Return the paths of selected pictures that are not on disk, in their order."""
        parsed = self._parsed()
        paths = (parsed.folder / picture.name for picture in parsed.pictures)
        return [str(path) for path in paths if file_size(path) < 0]

    def unreadable_files(self) -> list[str]:
        """Return why pictures that are on disk were left out: their size, which nothing else states, is unreadable."""
        return list(self._parsed().unreadable)

    @property
    def folder(self) -> Path:
        """The folder that the pictures' names start from."""
        return self._parsed().folder

    @property
    def annotation_path(self) -> Path:
        """The file or folder of annotations."""
        return self._file

    @property
    def asked_names(self) -> list[str]:
        """Names of all pictures that `where` selects in their order, also of those that are not on disk."""
        parsed = self._parsed()
        return list(parsed.asked or (picture.name for picture in parsed.pictures))

    def _existing(self, picture: Picture) -> Path:
        path = self._parsed().folder / picture.name
        if file_size(path) >= 0:
            return path
        raise DataError(
            f"{path}: there is no such picture, though {self._file} names {picture.name!r}. Correct `images`, the "
            "folder that its file names are relative to, or fetch the picture."
        )

    def _parsed(self) -> Parsed:
        if self._cache is None:
            self._cache = self._parse()
        return self._cache

    def _on_disk(self, listed: Listed, categories: Categories | None = None) -> Parsed:
        """Return what is on disk of the pictures that are listed; all others are left out and counted.

        A picture's id is its place in the list, from 1, whichever others there are.

        Raises:
            DataError: none of the selected pictures is on disk, or none can be read.
        """
        self._refuse_shared(listed.names)
        left_out = Counter(listed.left_out or {})
        rows = selected(listed.fields, self._where, self._where_not, self._file)
        pictures, unreadable = self._with_sizes(listed, rows, left_out)
        if rows and not pictures:
            raise DataError(unreadable[0] if unreadable else self._none_there(listed, listed.names[rows[0]]))
        place = np.full(len(listed.names), -1)
        place[[picture.image_id - 1 for picture in pictures]] = np.arange(len(pictures))
        objects, params = listed.objects.moved_to(place), list(listed.params)
        if categories is not None:
            choice = categories.choice(self._file, listed.categories or set(listed.objects.category.tolist()))
            objects = choice.marked(objects[choice.taken(objects.category, left_out)])
            params = [choice.key, *params]
        image_hw_of = np.array([picture.image_hw for picture in pictures]).reshape(-1, 2)
        if listed.relative:
            objects = objects.in_pixels(image_hw_of)
        truth, first = by_picture(without_faults(objects, image_hw_of, left_out), len(pictures))
        asked = [listed.names[row] for row in rows]
        return Parsed(listed.folder, pictures, truth, first, left_out, listed.file_hash, params, unreadable, asked)

    def _with_sizes(
        self, listed: Listed, rows: Sequence[int], left_out: Counter[str]
    ) -> tuple[list[Picture], list[str]]:
        """Return the listed pictures `rows` that are on disk and have a size, and why others have none."""
        pictures: list[Picture] = []
        unreadable: list[str] = []
        for row in rows:
            path = listed.folder / listed.names[row]
            if file_size(path) < 0:
                left_out["pictures that are not on disk"] += 1
                continue
            try:
                stated = listed.sizes_hw[row] if listed.sizes_hw else None
                image_hw = stated or picture_size(path, turned=self.turned_by_exif)
            except DataError as error:
                left_out["pictures that cannot be read"] += 1
                unreadable.append(str(error))
                continue
            pictures.append(Picture(row + 1, listed.names[row], image_hw, listed.fields[row]))
        return pictures, unreadable

    def _refuse_shared(self, names: Sequence[str]) -> None:
        shared = [name for name, times in Counter(names).items() if times > 1]
        if shared:
            raise DataError(
                f"{self._file}: {len(shared):,} pictures are annotated more than once, such as {shared[0]!r}. Keep one "
                "annotation of each."
            )

    def _none_there(self, listed: Listed, name: str) -> str:
        return (
            f"{self._file}: none of its pictures is in {listed.folder}, such as {listed.folder / name}. Set `images` "
            f"to where they are: {listed.layout}."
        )


def file_size(path: Path) -> int:
    """Return the size of a file in bytes, -1 where there is none (a folder is none, nor is a name that is too long)."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def list_pictures(folder: Path) -> list[str]:
    """Return the names of all pictures in a folder and in the folders in it, in their order.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Correct `images`, which must name a folder of pictures.")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not names:
        raise DataError(f"{folder}: a folder without pictures ({', '.join(PICTURE_SUFFIXES)}).")
    return names
