"""The ground truth of WIDER FACE's evaluation toolbox: MATLAB files of lists by event and, within, by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.errors import DataError

Table = NDArray[np.float64]
LEVELS = ("easy", "medium", "hard")
FACES_MAT = "wider_face_val.mat"


def level_mat(level: str) -> str:
    """Return the name of the file of a level."""
    return f"wider_{level}_val.mat"


MATS = ", ".join([FACES_MAT, *map(level_mat, LEVELS)])


def read_lists(file: Path, columns: Mapping[str, int]) -> tuple[list[str], dict[str, list[Table]]]:
    """Return ``EVENT/IMAGE`` of each image, without extension, and for each key its table ``(n, columns)``.

    Args:
        file: one of the toolbox's.
        columns: keys of lists that it must have, such as `face_bbx_list`, and how many numbers an entry of each has.

    Raises:
        DataError: the file is missing, unreadable, or not of this form; the message names it.
    """
    content = _load(file, "event_list", "file_list", *columns)
    try:
        events, images = content["event_list"].ravel(), content["file_list"].ravel()
        names = [f"{e.item()}/{image.item()}" for e, own in zip(events, images, strict=True) for image in own.ravel()]
        tables = {
            key: [
                np.asarray(cell, np.float64).reshape(-1, width) for own in content[key].ravel() for cell in own.ravel()
            ]
            for key, width in columns.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise not_of_the_toolbox(file, error) from error
    lengths = {key: len(cells) for key, cells in tables.items()}
    if not names or set(lengths.values()) != {len(names)}:
        raise not_of_the_toolbox(file, f"{len(names)} images, and of {lengths} lists")
    return names, tables


def counted_rows(
    file: Path, names: Sequence[str], numbers: Sequence[Table], faces: Sequence[int]
) -> list[NDArray[np.intp]]:
    """Return for each image the rows of the faces that count at a level.

    Args:
        file: of the level, named in errors.
        names: of the images.
        numbers: their `gt_list`, which counts from 1.
        faces: how many each image has.

    Raises:
        DataError: an image has no face of such a number.
    """
    rows = [own.ravel().astype(np.intp) - 1 for own in numbers]
    for name, own, count in zip(names, rows, faces, strict=True):
        strange = own[(own < 0) | (own >= count)]
        if len(strange):
            raise DataError(
                f"{file}: `gt_list` of {name} names box {strange[0] + 1} (they count from 1), but the image has "
                f"{count}. Use the four files of one toolbox."
            )
    return rows


def not_of_the_toolbox(file: Path, why: object) -> DataError:
    """Return the error that the lists of a file do not fit together."""
    return DataError(f"{file}: its lists are not those of the toolbox ({why}). Fetch the toolbox's own file.")


def _load(file: Path, *keys: str) -> dict[str, Any]:
    from scipy.io import loadmat

    if not file.is_file():
        raise DataError(
            f"{file} is missing. Give the folder of the toolbox's {MATS} (ground_truth), or wider_face_val_bbx_gt.txt."
        )
    try:
        content: dict[str, Any] = loadmat(file, variable_names=keys)
    except Exception as error:  # the reader raises nearly anything for damaged data
        why = error or type(error).__name__
        raise DataError(f"{file} is no readable MATLAB file ({why}). Fetch the toolbox's own.") from error
    missing = [key for key in keys if key not in content]
    if missing:
        raise DataError(f"{file} has no {', '.join(missing)}. Give the folder of the toolbox's own files: {MATS}.")
    return content
