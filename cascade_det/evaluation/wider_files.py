"""Reads the files of the WIDER FACE protocol: the truth of its toolbox, the published text file, and submissions.

Source: WIDER FACE evaluation toolbox (`ground_truth/*.mat`, `eval_tools/read_pred.m`) and its description of results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade_det.data.formats.text_lines import read_lines
from cascade_det.data.formats.wider import parse_faces
from cascade_det.data.formats.wider_toolbox import FACES_MAT, LEVELS, MATS, counted_rows, level_mat, read_lists
from cascade_det.errors import DataError
from cascade_det.evaluation.named_results import FARTHEST, read_named_results

ALL = "all"
_COLUMNS = 5  # x y w h score


@dataclass(frozen=True, eq=False)
class WiderTruth:
    """The faces of P images; entry i of each list is image i.

    Attributes:
        names: ``EVENT/IMAGE``, without extension.
        boxes_xywh: ``(G, 4)`` float64 each, pixels of the image.
        counted: by level, for each image the rows of its boxes that count; its others are ignored.
    """

    names: list[str]
    boxes_xywh: list[NDArray[np.float64]]
    counted: Mapping[str, list[NDArray[np.intp]]]


def read_truth(path: Path) -> WiderTruth:
    """Return the levels of the four files of the toolbox in folder `path`, or one level of a text file.

    The text file (`wider_face_val_bbx_gt.txt`) knows no levels: all of its faces that have an area are one, "all".

    Raises:
        DataError: a file is missing or not of this form; the message names it.
    """
    if path.is_dir():
        return _read_mats(path)
    if path.suffix == ".mat":
        raise DataError(f"{path} is one of the toolbox's files; give the folder that holds all of them: {MATS}.")
    return _read_text(path)


def read_predictions(path: Path, names: Sequence[str]) -> tuple[list[NDArray[np.float64]], list[str]]:
    """Return the detections of each image of `names`, and a warning for each thing that was forgiven.

    Args:
        path: a folder of ``EVENT/IMAGE.txt``, or a COCO results file.
        names: ``EVENT/IMAGE``.

    Returns:
        For each name rows ``(N, 5)`` float64 x y w h score in the order of the file.

    Raises:
        DataError: there is no such path, the folder has none of the events, or the file is wrong.
    """
    if not path.is_dir():
        return read_named_results(path, names)
    events = sorted({name.split("/", maxsplit=1)[0] for name in names})
    if any(path.iterdir()) and not any((path / event).is_dir() for event in events):
        raise DataError(
            f"{path} holds a folder for none of the {len(events)} events of the truth, such as {events[0]}. Give the "
            "folder in which EVENT/IMAGE.txt lie, or a COCO results file with images.json beside it."
        )
    return _read_folder(path, names)


def _read_folder(folder: Path, names: Sequence[str]) -> tuple[list[NDArray[np.float64]], list[str]]:
    rows: list[NDArray[np.float64]] = []
    missing, broken, longer = [], [], []
    for name in names:
        file = folder / f"{name}.txt"
        rows.append(np.zeros((0, _COLUMNS)))
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            missing.append(file)
            continue
        lines = [line for line in lines if line.strip()]
        try:
            rows[-1] = _parse(lines)
        except ValueError:
            broken.append(file)
            continue
        if not (np.abs(rows[-1]) < FARTHEST).all():
            raise DataError(f"{file}: a detection has a number that is not finite. Correct or remove its line.")
        if len(lines) > 2 + len(rows[-1]):
            longer.append(file)
    forgiven = (
        (missing, "have no file and count as without detections"),
        (broken, "count as without detections, since their file states more than it holds or a line is short"),
        (longer, "have lines beyond the count that their file states, which are unused"),
    )
    total = f"{len(names):,} images"
    return rows, [f"{len(files):,} of {total} {what}; the first is {files[0]}." for files, what in forgiven if files]


def _parse(lines: Sequence[str]) -> NDArray[np.float64]:
    """Return the rows that line 2 counts; raise a `ValueError` where it counts more than there are or one is short."""
    count = int(lines[1]) if len(lines) > 1 else -1
    if not 0 <= count <= len(lines) - 2:
        raise ValueError
    numbers = [line.split(maxsplit=_COLUMNS)[:_COLUMNS] for line in lines[2 : 2 + count]]
    return np.asarray([list(map(float, row)) for row in numbers]).reshape(count, _COLUMNS)


def _read_mats(folder: Path) -> WiderTruth:
    names, lists = read_lists(folder / FACES_MAT, {"face_bbx_list": 4})
    boxes = lists["face_bbx_list"]
    return WiderTruth(names, boxes, {level: _counted(folder / level_mat(level), names, boxes) for level in LEVELS})


def _counted(file: Path, names: Sequence[str], boxes: Sequence[NDArray[np.float64]]) -> list[NDArray[np.intp]]:
    own_names, lists = read_lists(file, {"gt_list": 1})
    if own_names != names:
        raise DataError(f"{file} lists other images than {FACES_MAT} beside it. Use the four files of one toolbox.")
    return counted_rows(file, names, lists["gt_list"], list(map(len, boxes)))


def _read_text(file: Path) -> WiderTruth:
    lines, _ = read_lines(file, f"wider_face_val_bbx_gt.txt, or the folder of {MATS}")
    names, picture, values = parse_faces(lines)
    if not names:
        raise DataError(f"{file} names no image. Give wider_face_val_bbx_gt.txt or the folder of {MATS}.")
    boxes = np.split(values[:, :4], np.searchsorted(picture, np.arange(1, len(names))))
    counted = [np.flatnonzero((own[:, 2:] > 0).all(axis=1)) for own in boxes]
    return WiderTruth([name.rsplit(".", 1)[0] for name in names], boxes, {ALL: counted})
