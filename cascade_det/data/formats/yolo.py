"""YOLO: a text file of normalised boxes for each picture, and a data.yaml that says where all are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade_det.core.registry import register_source
from cascade_det.core.types import MAX_PIXELS
from cascade_det.data.formats.categories import Categories
from cascade_det.data.formats.objects import Objects
from cascade_det.data.formats.picture_files import Listed, Parsed, PictureFiles, file_size
from cascade_det.data.formats.text_lines import Line, read_lines
from cascade_det.data.formats.yolo_dataset import SPLITS, YoloDataset, read_dataset
from cascade_det.errors import DataError, choices

_BOX = "class x_center y_center width height"
_LABELS = "a label file of YOLO"
_LARGEST = 1.01  # of a share of the picture: more than rounding makes is a coordinate in pixels


@register_source("yolo")
class Yolo(PictureFiles):
    """Pictures with YOLO's labels, with keypoints where there are some.

    Args:
        annotations: ``data.yaml``, or the folder of the label files (``labels``). In ``classes.txt`` in it, or in the
            folder around it, may stand the names of the classes; without them a class is named by its number ("0").
        images: folder of the pictures; with a ``data.yaml`` it stands instead of what that says.
        split: which of train, val and test of ``data.yaml`` is taken.
        category: name of the category to find, or names; by default the only one or, of several, the object of the
            recipe.
        others: what objects of other categories are: background, ignore, or refuse where there must be none.
        num_points: how many points an object has; 0 leaves keypoints unread.
        base_dir: folder that relative paths are resolved against.
        object_category: what the recipe calls its object.
        max_pixels: a picture of more pixels is refused before it is decoded.

    A picture without a label file has no object. A keypoint is not known where its visibility is 0 or, if it has none,
    where it is negative or 0 0. Coordinates are those of the picture as viewers show it, EXIF orientation applied.

    Raises:
        TypeError, ValueError: a parameter has another form than these, or a value that there is not.
    """

    version = 1
    turned_by_exif = True

    def __init__(
        self,
        *,
        annotations: str,
        images: str | None = None,
        split: str = "val",
        category: str | Sequence[str] | None = None,
        others: str = "background",
        num_points: int = 0,
        base_dir: str = ".",
        object_category: str = "",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r}; {choices(split, SPLITS)}")
        base = Path(base_dir)
        folder = base / (annotations if images is None else images)
        super().__init__(folder, base / annotations, num_points=num_points, max_pixels=max_pixels)
        self._images = None if images is None else base / images
        self._split = split
        self._categories = Categories(category, others, object_category)

    def _parse(self) -> Parsed:
        dataset = read_dataset(self._file, self._images, self._split)
        digest = hashlib.sha256(repr(sorted(dataset.classes.items())).encode())
        lines: list[Line] = []
        picture: list[int] = []
        there = [row for row, label in enumerate(dataset.labels) if file_size(label) >= 0]
        if not there:
            raise DataError(
                f"{self._file}: none of its {len(dataset.names):,} pictures has a label file, such as "
                f"{dataset.labels[0]}. Expected are folders images and labels side by side, with files of equal names."
            )
        for row in there:
            own, file_hash = read_lines(dataset.labels[row], _LABELS)
            digest.update(f"{dataset.names[row]}:{file_hash}".encode())
            lines += own
            picture += [row] * len(own)
        numbers, boxes, points, known = parse_labels(lines, self._num_points, dataset.keypoints)
        unused = _unused_labels(dataset, there)
        return self._on_disk(
            Listed(
                dataset.folder,
                dataset.names,
                [{}] * len(dataset.names),
                Objects.of(
                    picture,
                    boxes,
                    self._num_points,
                    points=points,
                    points_known=known,
                    category=_class_names(dataset, lines, numbers),
                ),
                digest.hexdigest(),
                "the folder of the pictures",
                relative=True,
                left_out={"label files without a picture": unused} if unused else {},
                categories=list(dataset.classes.values()),
            ),
            self._categories,
        )


def parse_labels(
    lines: Sequence[Line], num_points: int, keypoints: tuple[int, int] | None
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the objects of G lines, in shares of the picture's width and height.

    Args:
        lines: of label files: the number of a class, centre x y, width, height, and keypoints where there are some.
        num_points: K; 0 leaves keypoints unread.
        keypoints: how many an object has and of how many numbers each, 2 or 3, where that is known.

    Returns:
        Class numbers ``(G,)``, edges x0 y0 x1 y1 ``(G, 4)``, points ``(G, K, 2)`` and which are known ``(G, K)``.

    Raises:
        DataError: a line has another number of numbers, one is none, or the box is not in shares of the picture.
    """
    if keypoints is not None and num_points not in (0, keypoints[0]) and lines:
        raise DataError(
            f"{lines[0].place}: objects have {keypoints[0]} keypoints (kpt_shape), but the recipe's object has "
            f"{num_points}. Name the points of this data set under `object.points`, or none."
        )
    rows: list[list[float]] = []
    triples = np.zeros((len(lines), num_points, 3))  # x y, and above 0 where it is known
    for row, line in enumerate(lines):
        words = line.text.split()
        count, numbers = _shape(len(words) - len(_BOX.split()), num_points, keypoints)
        values = line.values(_BOX + " x y v"[: 2 * numbers] * count, words)
        if values[0] < 0 or values[0] % 1 or min(values[1:5]) < 1 - _LARGEST or max(values[1:5]) > _LARGEST:
            raise line.fault(f"{_BOX} as a whole number and shares of the picture from 0 to 1")
        rows.append(values[:5])
        if count and num_points:
            given = np.reshape(values[5:], (count, numbers))
            triples[row, :, :numbers] = given
            if numbers == 2:
                triples[row, :, 2] = (given >= 0).all(axis=1) & given.any(axis=1)
    table = np.array(rows).reshape(-1, 5)
    centre, half = table[:, 1:3], table[:, 3:] / 2
    known = triples[..., 2] > 0
    points = np.where(known[..., None], triples[..., :2], 0)
    return table[:, 0].astype(np.intp), np.concatenate([centre - half, centre + half], axis=1), points, known


def _shape(more: int, num_points: int, keypoints: tuple[int, int] | None) -> tuple[int, int]:
    """Return how many keypoints, of how many numbers each, a line with so many `more` numbers than a box must have."""
    if more == 0:
        return 0, 0
    return keypoints or (num_points, 3 if more == 3 * num_points else 2)


def _class_names(dataset: YoloDataset, lines: Sequence[Line], numbers: NDArray[np.intp]) -> list[str]:
    """Return the names of classes ``(G,)``, which are their numbers where they have none."""
    if not dataset.classes:
        return list(map(str, numbers.tolist()))
    for line, number in zip(lines, numbers.tolist(), strict=True):
        if number not in dataset.classes:
            known = ", ".join(map(str, sorted(dataset.classes)))
            raise DataError(
                f"{line.place}: there is no class {number}; choices: {known}. Name it, or correct the line."
            )
    return [dataset.classes[number] for number in numbers.tolist()]


def _unused_labels(dataset: YoloDataset, there: Sequence[int]) -> int:
    """Return how many label files no picture has; lists among the pictures are none."""
    used = {dataset.labels[row] for row in there} | {dataset.labels[0].parent / "classes.txt"}
    folders = {label.parent for label in dataset.labels} - {(dataset.folder / name).parent for name in dataset.names}
    return sum(file not in used for folder in folders for file in folder.glob("*.txt"))
