"""Reads the files of the WIDER FACE protocol: the truth of its toolbox, the published text file, and submissions.

Source: WIDER FACE evaluation toolbox (`ground_truth/*.mat`, `eval_tools/read_pred.m`) and its description of results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from cascade_det.errors import DataError
from cascade_det.evaluation.named_results import FARTHEST, read_named_results

LEVELS = ("easy", "medium", "hard")
ALL = "all"
_FACES_MAT = "wider_face_val.mat"
_LEVEL_MAT = "wider_{}_val.mat"
_MATS = ", ".join([_FACES_MAT, *map(_LEVEL_MAT.format, LEVELS)])
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


@dataclass(frozen=True, eq=False)
class WiderPredictions:
    """For each of P images rows ``(N, 5)`` float64 x y w h score in the order of the file, and what was forgiven."""

    rows: list[NDArray[np.float64]]
    warnings: list[str]


def read_truth(path: Path) -> WiderTruth:
    """Return the levels of the four files of the toolbox in folder `path`, or one level of a text file.

    The text file (`wider_face_val_bbx_gt.txt`) knows no levels: all of its faces that have an area are one, "all".

    Raises:
        DataError: a file is missing or not of this form; the message names it.
    """
    if path.is_dir():
        return _read_mats(path)
    if path.suffix == ".mat":
        raise DataError(f"{path} is one of the toolbox's files; give the folder that holds all of them: {_MATS}.")
    return _read_text(path)


def read_predictions(path: Path, names: Sequence[str]) -> WiderPredictions:
    """Return the detections of each image of `names`: of ``EVENT/IMAGE.txt`` in a folder, or of a COCO results file.

    Raises:
        DataError: there is no such path, the folder has none of the events, or the file is wrong.
    """
    if not path.is_dir():
        rows, warnings = read_named_results(path, names)
        return WiderPredictions(rows, warnings)
    events = sorted({name.split("/", maxsplit=1)[0] for name in names})
    if not any((path / event).is_dir() for event in events):
        raise DataError(
            f"{path} holds a folder for none of the {len(events)} events of the truth, such as {events[0]}. Give the "
            "folder in which EVENT/IMAGE.txt lie, or a COCO results file with images.json beside it."
        )
    return _read_folder(path, names)


def _read_folder(folder: Path, names: Sequence[str]) -> WiderPredictions:
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
    return WiderPredictions(
        rows,
        [
            f"{len(files):,} of {len(names):,} images {what}; the first is {files[0]}."
            for files, what in (
                (missing, "have no file and count as without detections"),
                (broken, "count as without detections, since their file states more than it holds or a line is short"),
                (longer, "have lines beyond the count that their file states, which are unused"),
            )
            if files
        ],
    )


def _parse(lines: Sequence[str]) -> NDArray[np.float64]:
    """Return the rows that line 2 counts; raise a `ValueError` where it counts more than there are or one is short."""
    count = int(lines[1]) if len(lines) > 1 else -1
    if not 0 <= count <= len(lines) - 2:
        raise ValueError
    numbers = [line.split(maxsplit=_COLUMNS)[:_COLUMNS] for line in lines[2 : 2 + count]]
    return np.asarray([list(map(float, row)) for row in numbers]).reshape(count, _COLUMNS)


def _read_mats(folder: Path) -> WiderTruth:
    content = _load(folder / _FACES_MAT, "event_list", "file_list", "face_bbx_list")
    try:
        names = _names(content)
        boxes = [np.asarray(cell, np.float64).reshape(-1, 4) for cell in _inner(content["face_bbx_list"])]
    except (AttributeError, TypeError, ValueError) as error:
        raise _not_of_the_toolbox(folder / _FACES_MAT, error) from error
    if len(names) != len(boxes) or not names:
        raise _not_of_the_toolbox(folder / _FACES_MAT, f"{len(names)} images and boxes of {len(boxes)}")
    levels = {level: _level(folder / _LEVEL_MAT.format(level), names, boxes) for level in LEVELS}
    return WiderTruth(names, boxes, levels)


def _level(file: Path, names: Sequence[str], boxes: Sequence[NDArray[np.float64]]) -> list[NDArray[np.intp]]:
    """Return the rows of the boxes that count at the level of this file."""
    content = _load(file, "event_list", "file_list", "gt_list")
    try:
        own_names = _names(content)
        rows = [np.asarray(cell, np.intp).ravel() - 1 for cell in _inner(content["gt_list"])]
    except (AttributeError, TypeError, ValueError) as error:
        raise _not_of_the_toolbox(file, error) from error
    if own_names != names or len(rows) != len(names):
        raise DataError(f"{file} lists other images than {_FACES_MAT} beside it. Use the four files of one toolbox.")
    for name, own, all_boxes in zip(names, rows, boxes, strict=True):
        if len(own) and not (own.min() >= 0 and own.max() < len(all_boxes)):
            raise DataError(
                f"{file}: `gt_list` of {name} names box {own.max() + 1} (they count from 1), but the image has "
                f"{len(all_boxes)}. Use the four files of one toolbox."
            )
    return rows


def _load(file: Path, *keys: str) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(f"{file} is missing. Give the folder of the toolbox's {_MATS}, or wider_face_val_bbx_gt.txt.")
    try:
        content: dict[str, Any] = scipy.io.loadmat(file, variable_names=keys)
    except Exception as error:  # the reader raises nearly anything for damaged data
        why = error or type(error).__name__
        raise DataError(f"{file} is no readable MATLAB file ({why}). Fetch the toolbox's own.") from error
    missing = [key for key in keys if key not in content]
    if missing:
        raise DataError(f"{file} has no {', '.join(missing)}. Give the folder of the toolbox's own files: {_MATS}.")
    return content


def _names(content: Mapping[str, Any]) -> list[str]:
    events, images = content["event_list"].ravel(), content["file_list"].ravel()
    return [
        f"{event.item()}/{image.item()}" for event, own in zip(events, images, strict=True) for image in own.ravel()
    ]


def _inner(cells: NDArray[Any]) -> list[NDArray[Any]]:
    """Return what the cells of all cells of a MATLAB cell array hold."""
    return [inner for outer in cells.ravel() for inner in outer.ravel()]


def _not_of_the_toolbox(file: Path, why: object) -> DataError:
    return DataError(f"{file}: its lists are not those of the toolbox ({why}). Fetch the toolbox's own file.")


def _read_text(file: Path) -> WiderTruth:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}). Give the folder of {_MATS}.") from error
    lines = [line.strip() for line in lines]
    names, boxes, place = [], [], 0
    while place < len(lines):
        if not lines[place]:
            place += 1
            continue
        try:
            count = int(lines[place + 1])
            if count < 0 or "/" not in lines[place]:
                raise ValueError
            # an image without faces has one line of zeros all the same, below a count of 0 or of 1
            end = place + 2 + count
            numbers = [list(map(float, line.split()[:4])) for line in lines[place + 2 : end]]
            boxes.append(np.asarray(numbers, np.float64).reshape(count, 4))
        except (IndexError, ValueError) as error:
            raise DataError(
                f"{file}: what follows line {place + 1} is no image of wider_face_val_bbx_gt.txt: EVENT/IMAGE.jpg, "
                "the count of its faces, and a line x y w h ... for each. Correct it, or fetch the file anew."
            ) from error
        names.append(lines[place].rsplit(".", 1)[0])
        place = end + (count == 0 and end < len(lines) and "/" not in lines[end])
    if not names:
        raise DataError(f"{file} names no image. Give wider_face_val_bbx_gt.txt or the folder of {_MATS}.")
    return WiderTruth(names, boxes, {ALL: [np.flatnonzero((own[:, 2:] > 0).all(axis=1)) for own in boxes]})
