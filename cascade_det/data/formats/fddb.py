"""FDDB (Jain and Learned-Miller, UM-CS-2010-009): faces as ellipses, in ten folds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.registry import register_source
from cascade_det.core.types import MAX_PIXELS
from cascade_det.data.formats.objects import Objects
from cascade_det.data.formats.picture_files import Listed, Parsed, PictureFiles
from cascade_det.data.formats.selection import Where
from cascade_det.data.formats.text_lines import Line, read_blocks, read_lines, refuse_twice
from cascade_det.errors import DataError

_COLUMNS = "major_radius minor_radius angle center_x center_y score"
_WHAT = "the folder of FDDB-fold-NN-ellipseList.txt, or one such list"
_LAYOUT = "the folder that holds 2002 and 2003 (2002/08/11/big/img_591.jpg), or holds originalPics with them"
_FOLD = re.compile(r"fold-?(\d+)")


@register_source("fddb")
class Fddb(PictureFiles):
    """FDDB as it unpacks.

    Args:
        images: the folder that holds ``2002`` and ``2003``, or that holds ``originalPics`` with them. Pictures that are
            not there are left out.
        annotations: the folder of ``FDDB-fold-NN-ellipseList.txt``, or one list.
        where: keep only pictures whose field `fold`, a number from 1, has one of these values.
        where_not: leave out pictures whose field has one of these values.
        num_points: how many points an object has; none is known here.
        base_dir: folder that relative paths are resolved against.
        max_pixels: a picture of more pixels is refused before it is decoded.

    A face's box is the smallest upright box around its ellipse (`ellipse_boxes`).

    Raises:
        TypeError: `where` or `where_not` gives no list of values for a field.
    """

    version = 1
    object_name = "face"

    def __init__(
        self,
        *,
        images: str,
        annotations: str,
        where: Where | None = None,
        where_not: Where | None = None,
        num_points: int = 0,
        base_dir: str = ".",
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

    def _parse(self) -> Parsed:
        names: list[Line] = []
        fields: list[Mapping[str, Any]] = []
        parts: list[tuple[NDArray[np.intp], NDArray[np.float64]]] = []
        digest = hashlib.sha256()
        for file in _lists(self._file):
            lines, file_hash = read_lines(file, _WHAT)
            blocks = parse_ellipses(lines)
            parts.append((blocks[1] + len(names), blocks[2]))
            names += blocks[0]
            fold = _FOLD.search(file.stem)
            fields += [{"fold": int(fold[1])} if fold else {}] * len(blocks[0])
            digest.update(f"{file.name}:{file_hash}".encode())
        refuse_twice(names)
        picture, ellipses = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        inner = self._folder / "originalPics"
        return self._on_disk(
            Listed(
                inner if inner.is_dir() else self._folder,
                [f"{line.name()}.jpg" for line in names],
                fields,
                Objects.of(picture, ellipse_boxes(ellipses), self._num_points),
                digest.hexdigest(),
                _LAYOUT,
            )
        )


def parse_ellipses(lines: Sequence[Line]) -> tuple[list[Line], NDArray[np.intp], NDArray[np.float64]]:
    """Return the lines that name pictures, the row ``(G,)`` of each face's picture, and its ellipse ``(G, 5)``.

    An ellipse is major radius, minor radius, angle in radians, centre x and y.

    Raises:
        DataError: a line is not what is due there.
    """
    blocks = read_blocks(lines, _COLUMNS, "faces")
    return blocks.names, blocks.picture, blocks.values[:, :5]


def ellipse_boxes(ellipses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smallest upright boxes ``(G, 4)`` around ellipses ``(G, 5)``: a, b, angle t in radians, centre x y.

    A point of the ellipse at parameter s has x = cx + a cos t cos s - b sin t sin s; such a sum of a cosine and a sine
    reaches at most the root of the squares of its factors. So half the width is sqrt((a cos t)^2 + (b sin t)^2), and
    half the height, by the same step for y, sqrt((a sin t)^2 + (b cos t)^2).

    >>> ellipse_boxes(np.array([[20.0, 10.0, np.pi / 2, 50.0, 60.0]])).round(6)
    array([[40., 40., 60., 80.]])
    """
    major, minor, angle, x, y = ellipses.T
    half_width = np.hypot(major * np.cos(angle), minor * np.sin(angle))
    half_height = np.hypot(major * np.sin(angle), minor * np.cos(angle))
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)


def _lists(annotations: Path) -> list[Path]:
    """Return the lists that are read, in the order of their names, which is that of the folds."""
    if not annotations.is_dir():
        return [annotations]
    lists = sorted(annotations.glob("*ellipseList.txt"))
    if not lists:
        raise DataError(f"{annotations}: holds no list. `annotations` must name {_WHAT}.")
    return lists
