"""CelebA (Liu, Luo, Wang, Tang, ICCV 2015): one face with five points in each of its original photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.registry import register_source
from cascade_det.core.types import MAX_PIXELS
from cascade_det.data.formats.coco_records import shown
from cascade_det.data.formats.objects import Objects
from cascade_det.data.formats.picture_files import Listed, Parsed, PictureFiles
from cascade_det.data.formats.text_lines import Line, read_lines, refuse_twice
from cascade_det.errors import DataError, choices

POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # left as one sees it in the picture
_SPLITS = {"train": 0, "val": 1, "test": 2}
_BOX = "x_1 y_1 width height"
_LANDMARKS = " ".join(
    f"{name}_{axis}" for name in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)
_WHAT = "the folder of list_bbox_celeba.txt, list_landmarks_celeba.txt and list_eval_partition.txt"
_LAYOUT = (
    "img_celeba with 000001.jpg in it, or the folder that holds img_celeba; the aligned crops do not fit the boxes"
)


@register_source("celeba")
class Celeba(PictureFiles):
    """CelebA's original photographs, not its aligned crops.

    Args:
        images: the folder ``img_celeba``, or one that holds it, also in ``Img``. Pictures that are not there are left
            out.
        annotations: the folder of ``list_bbox_celeba.txt``, ``list_landmarks_celeba.txt`` (read for points) and
            ``list_eval_partition.txt`` (read for a split), or one that holds them in ``Anno`` and ``Eval``.
        split: train, val or test; by default all.
        num_points: five, as the data set has them, or 0.
        base_dir: folder that relative paths are resolved against.
        max_pixels: a picture of more pixels is refused before it is decoded.

    One face of a picture is annotated and there may be more, so let it teach what needs no negatives, such as
    `teaches: [points]`. A picture whose face has no width or height is left out and counted.

    Raises:
        ValueError: there is no such split, or the object has another number of points.
    """

    version = 1
    object_name = "face"
    point_names = POINTS

    def __init__(
        self,
        *,
        images: str,
        annotations: str,
        split: str | None = None,
        num_points: int = 0,
        base_dir: str = ".",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if split is not None and split not in _SPLITS:
            raise ValueError(f"split={split!r}; {choices(split, _SPLITS)}")
        if num_points not in (0, len(POINTS)):
            raise ValueError(f"its faces have the points {', '.join(POINTS)}, the recipe's object has {num_points}")
        folder = Path(base_dir) / images
        super().__init__(folder, Path(base_dir) / annotations, num_points=num_points, max_pixels=max_pixels)
        self._split = split

    def _parse(self) -> Parsed:
        hashes: list[str] = []
        lines, boxes = self._read("list_bbox_celeba.txt", _BOX, hashes)
        points, chosen = np.zeros((len(lines), 0)), np.ones(len(lines), bool)
        if self._num_points:
            points = self._read("list_landmarks_celeba.txt", _LANDMARKS, hashes, alike=lines)[1]
        if self._split is not None:
            part = self._read("list_eval_partition.txt", "partition", hashes, alike=lines)[1]
            chosen = part[:, 0] == _SPLITS[self._split]
        has_area = boxes[:, 2:].min(axis=1) > 0
        rows = np.flatnonzero(chosen & has_area)
        flat = int((chosen & ~has_area).sum())
        inner = (self._folder / "Img" / "img_celeba", self._folder / "img_celeba")
        return self._on_disk(
            Listed(
                next((folder for folder in inner if folder.is_dir()), self._folder),
                [_name_of(lines[row]) for row in rows],
                [{}] * len(rows),
                Objects.of(
                    np.arange(len(rows)),
                    np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)[rows],
                    self._num_points,
                    points=points[rows],
                    points_known=np.ones((len(rows), self._num_points)),
                ),
                hashlib.sha256("".join(hashes).encode()).hexdigest(),
                _LAYOUT,
                params=[self._split],
                left_out={"pictures whose face has no area": flat} if flat else {},
            )
        )

    def _read(
        self, name: str, columns: str, hashes: list[str], alike: Sequence[Line] | None = None
    ) -> tuple[list[Line], NDArray[np.float64]]:
        """Return the rows of a list with their numbers; its hash is added to `hashes`.

        The pictures must be those of the lines `alike`, in order.
        """
        places = (self._file / name, self._file / "Anno" / name, self._file / "Eval" / name)
        file = next((place for place in places if place.is_file()), places[0])
        lines, file_hash = read_lines(file, _WHAT)
        hashes.append(file_hash)
        rows, values = parse_table(lines, columns, heading=columns != "partition")
        if not rows:
            raise DataError(f"{file}: holds no picture. `annotations` must name {_WHAT}, unpacked whole.")
        if alike is not None and len(rows) != len(alike):
            raise DataError(f"{file}: lists {len(rows):,} pictures, {alike[0].file} {len(alike):,}. Fetch both anew.")
        for row, other in zip(rows, alike or (), strict=False):
            if _name_of(row) != _name_of(other):
                raise DataError(f"{row.place}: names {shown(_name_of(row))}, {other.place} {shown(_name_of(other))}.")
        return rows, values


def parse_table(lines: Sequence[Line], columns: str, *, heading: bool) -> tuple[list[Line], NDArray[np.float64]]:
    """Return the N lines of a list that name a picture each, and its numbers ``(N, C)``.

    Args:
        lines: of the file.
        columns: names of the C numbers that follow a picture's name.
        heading: the first line counts the pictures, the second names the columns.

    Raises:
        DataError: a line is not what is due there, the count is another, or a picture is named twice.
    """
    rows = list(lines[2:] if heading else lines)
    if heading and lines:
        count = lines[0].count("pictures")
        if count != len(rows):
            raise DataError(
                f"{lines[0].place}: counts {count:,} pictures, but {len(rows):,} follow. Fetch the whole file."
            )
    for row in rows:
        row.name(_name_of(row))
    refuse_twice(rows, _name_of)
    values = [row.values(columns, row.text.split()[1:]) for row in rows]
    return rows, np.array(values, np.float64).reshape(-1, len(columns.split()))


def _name_of(line: Line) -> str:
    return line.text.split(maxsplit=1)[0]
