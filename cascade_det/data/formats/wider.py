"""WIDER FACE (Yang, Luo, Loy, Tang, CVPR 2016): its text annotation, and the levels of its evaluation toolbox."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.registry import register_source
from cascade_det.core.types import MAX_PIXELS
from cascade_det.data.formats.objects import Objects
from cascade_det.data.formats.picture_files import Listed, Parsed, PictureFiles
from cascade_det.data.formats.selection import Where
from cascade_det.data.formats.text_lines import Line, read_blocks, read_lines
from cascade_det.data.formats.wider_toolbox import (
    FACES_MAT,
    LEVELS,
    counted_rows,
    level_mat,
    not_of_the_toolbox,
    read_lists,
)
from cascade_det.errors import DataError, choices

_ATTRIBUTES = {"blur": 2, "expression": 1, "illumination": 1, "invalid": 1, "occlusion": 2, "pose": 1}  # largest value
_COLUMNS = f"x y w h {' '.join(_ATTRIBUTES)}"
_TEXT = "the text annotation of WIDER FACE, such as wider_face_val_bbx_gt.txt"
_LAYOUT = "WIDER_val, or WIDER_val/images, with EVENT/IMAGE.jpg in it as the archive unpacks"


@dataclass(frozen=True, slots=True, eq=False)
class WiderFaces:
    """The faces of P pictures.

    Attributes:
        names: ``EVENT/IMAGE.jpg`` of each picture.
        picture: ``(G,)`` row of each face's picture.
        boxes_xywh: ``(G, 4)`` x y width height in pixels, as they stand.
        attributes: by name ``(G,)`` int64.
        counted: ``(G,)`` which faces count at the level, or None where no level is chosen.
        file_hash: of all that was read.
    """

    names: list[str]
    picture: NDArray[np.intp]
    boxes_xywh: NDArray[np.float64]
    attributes: Mapping[str, NDArray[np.int64]]
    counted: NDArray[np.bool_] | None
    file_hash: str


@register_source("wider")
class Wider(PictureFiles):
    """WIDER FACE as it unpacks.

    Args:
        images: the folder ``WIDER_train`` or ``WIDER_val``, or ``images`` in it. Pictures that are not there are left
            out.
        annotations: ``wider_face_*_bbx_gt.txt``, or the folder of the evaluation toolbox that holds
            ``wider_face_val.mat`` and the three files of the levels.
        level: easy, medium or hard, of the toolbox's files alone: other faces than the level counts are ignored.
        where: keep only pictures whose field `event` has one of these values.
        where_not: leave out pictures whose field has one of these values.
        num_points: how many points an object has; none is known here.
        base_dir: folder that relative paths are resolved against.
        max_pixels: a picture of more pixels is refused before it is decoded.

    Without a level, faces marked `invalid` are ignored. A face without width or height is left out and counted.
    `extras` are blur, expression, illumination, occlusion and pose, whole numbers from 0 as the data set has them.

    Raises:
        TypeError, ValueError: a parameter has another form than these, or a value that there is not.
    """

    version = 1
    object_name = "face"

    def __init__(
        self,
        *,
        images: str,
        annotations: str,
        level: str | None = None,
        where: Where | None = None,
        where_not: Where | None = None,
        num_points: int = 0,
        base_dir: str = ".",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if level is not None and level not in LEVELS:
            raise ValueError(f"level={level!r}; {choices(level, LEVELS)}")
        super().__init__(
            Path(base_dir) / images,
            Path(base_dir) / annotations,
            where=where,
            where_not=where_not,
            num_points=num_points,
            max_pixels=max_pixels,
        )
        self._level = level

    def _parse(self) -> Parsed:
        faces = read_wider(self._file, self._level)
        x, y, width, height = faces.boxes_xywh.T
        ignored = faces.attributes["invalid"] == 1 if faces.counted is None else ~faces.counted
        objects = Objects.of(
            faces.picture,
            np.stack([x, y, x + width, y + height], axis=1),
            self._num_points,
            ignore=ignored,
            extras={name: column for name, column in faces.attributes.items() if name != "invalid"},
        )
        inner = self._folder / "images"
        return self._on_disk(
            Listed(
                inner if inner.is_dir() else self._folder,
                faces.names,
                [{"event": posixpath.dirname(name)} for name in faces.names],
                objects,
                faces.file_hash,
                _LAYOUT,
                params=[self._level],
            )
        )


def read_wider(annotations: Path, level: str | None = None) -> WiderFaces:
    """Return the faces of a text file, or of the toolbox's folder, with what counts at `level`; see `Wider`.

    Raises:
        DataError: the annotation is missing or wrong; the message names file, line or picture, and value.
    """
    if annotations.is_dir():
        return _read_mat(annotations / (level_mat(level) if level else FACES_MAT), level)
    if annotations.suffix == ".mat":
        raise DataError(f"{annotations}: `annotations` must name the folder of the toolbox's .mat files, or {_TEXT}.")
    if level is not None:
        raise DataError(
            f"{annotations} knows no levels, but level is {level!r}. `annotations` must name the folder of the "
            "evaluation toolbox's .mat files (ground_truth)."
        )
    lines, file_hash = read_lines(annotations, _TEXT)
    names, picture, values = parse_faces(lines)
    return WiderFaces(names, picture, values[:, :4], _attributes(values), None, file_hash)


def parse_faces(lines: Sequence[Line]) -> tuple[list[str], NDArray[np.intp], NDArray[np.float64]]:
    """Return names of pictures, the row ``(G,)`` of each face's picture, and its ten numbers ``(G, 10)``.

    The numbers are x y width height blur expression illumination invalid occlusion pose.

    Raises:
        DataError: a line is not what is due there.
    """
    blocks = read_blocks(lines, _COLUMNS, "faces")
    given, largest = blocks.values[:, 4:], np.array(list(_ATTRIBUTES.values()))
    for row, column in np.argwhere((given < 0) | (given > largest) | (given % 1 != 0))[:1]:
        name, most = list(_ATTRIBUTES.items())[column]
        raise blocks.rows[row].fault(f"a face: {name} is {given[row, column]:g}, it must be a whole number to {most}")
    return [line.name() for line in blocks.names], blocks.picture, blocks.values


def _attributes(values: NDArray[np.float64]) -> dict[str, NDArray[np.int64]]:
    return {name: values[:, 4 + column].astype(np.int64) for column, name in enumerate(_ATTRIBUTES)}


def _read_mat(file: Path, level: str | None) -> WiderFaces:
    wanted = {"face_bbx_list": 4, **{f"{name}_label_list": 1 for name in _ATTRIBUTES}}
    names, lists = read_lists(file, wanted | ({"gt_list": 1} if level else {}))
    try:
        rows = [np.concatenate(own, axis=1) for own in zip(*(lists[key] for key in wanted), strict=True)]
    except ValueError as error:  # fewer or more labels than faces
        raise not_of_the_toolbox(file, error) from error
    values = np.concatenate(rows)
    first = np.cumsum([0, *map(len, rows)])
    counted = None
    if level is not None:
        counted = np.zeros(len(values), bool)
        for start, own in zip(first, counted_rows(file, names, lists["gt_list"], list(map(len, rows))), strict=False):
            counted[start + own] = True
    return WiderFaces(
        [f"{name}.jpg" for name in names],
        np.repeat(np.arange(len(names)), np.diff(first)),
        values[:, :4],
        _attributes(values),
        counted,
        hashlib.sha256(file.read_bytes()).hexdigest(),
    )
