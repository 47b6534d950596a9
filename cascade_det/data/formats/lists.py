"""A text file with a line for each object: picture, box and, where there are any, points."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cascade_det.core.registry import register_source
from cascade_det.core.types import MAX_PIXELS
from cascade_det.data.formats.objects import Objects
from cascade_det.data.formats.picture_files import Listed, Parsed, PictureFiles
from cascade_det.data.formats.text_lines import Line, read_lines

_BOX = "x0 y0 x1 y1"
_WHAT = "a text file with lines of PICTURE x0 y0 x1 y1 and x y of each point"
_LAYOUT = "the folder that the names in the text file are relative to"
_NAME = re.compile(r'"([^"]+)"|([^"\s]\S*)')
_UNKNOWN = -1  # x and y of a point that is not known


@register_source("lists")
class Lists(PictureFiles):
    """Pictures and objects of one text file.

    Args:
        images: folder that the names of the pictures are relative to. Pictures that are not there are left out.
        annotations: the text file. A line is ``PICTURE x0 y0 x1 y1``, edges of a box in pixels, and ``x y`` of each
            point; -1 -1 is a point that is not known, and a line may end after the box. Several lines name one picture
            for several objects, a name alone is a picture without any. A name with spaces stands in double quotes.
        num_points: how many points an object has.
        base_dir: folder that relative paths are resolved against.
        max_pixels: a picture of more pixels is refused before it is decoded.

    Coordinates are those of the picture as viewers show it, EXIF orientation applied.
    """

    version = 1
    turned_by_exif = True

    def __init__(
        self,
        *,
        images: str,
        annotations: str,
        num_points: int = 0,
        base_dir: str = ".",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        folder = Path(base_dir) / images
        super().__init__(folder, Path(base_dir) / annotations, num_points=num_points, max_pixels=max_pixels)

    def _parse(self) -> Parsed:
        lines, file_hash = read_lines(self._file, _WHAT)
        names, objects = parse_lists(lines, self._num_points)
        return self._on_disk(Listed(self._folder, names, [{}] * len(names), objects, file_hash, _LAYOUT))


def parse_lists(lines: Sequence[Line], num_points: int) -> tuple[list[str], Objects]:
    """Return the pictures of a text file in the order in which they come first, and their objects; see `Lists`.

    Raises:
        DataError: a line has another number of fields, a field is no number, or a name is none.
    """
    row_of: dict[str, int] = {}
    picture: list[int] = []
    values: list[list[float]] = []
    with_points = _BOX + "".join(f" x{point} y{point}" for point in range(num_points))
    for line in lines:
        name, rest = _name_of(line)
        row = row_of.setdefault(name, len(row_of))
        if rest:
            box_alone = len(rest) == len(_BOX.split())
            numbers = line.values(_BOX if box_alone else with_points, rest)
            picture.append(row)
            values.append(numbers if not box_alone else [*numbers, *[_UNKNOWN] * (2 * num_points)])
    table = np.array(values, np.float64).reshape(-1, 4 + 2 * num_points)
    points = table[:, 4:].reshape(len(table), num_points, 2)
    known = (points != _UNKNOWN).any(axis=2)
    points = np.where(known[..., None], points, 0)
    return list(row_of), Objects.of(picture, table[:, :4], num_points, points=points, points_known=known)


def _name_of(line: Line) -> tuple[str, list[str]]:
    """Return the picture that a line names and the words after it."""
    match = _NAME.match(line.text)
    if match is None:
        raise line.fault("a line that begins with the name of a picture")
    return line.name(match[1] or match[2]), line.text[match.end() :].split()
