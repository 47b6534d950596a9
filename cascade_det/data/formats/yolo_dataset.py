"""Where the pictures and labels of a YOLO data set are, and what its classes and keypoints are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_det.data.formats.coco_records import shown
from cascade_det.data.formats.picture_files import list_pictures
from cascade_det.data.formats.text_lines import read_lines, read_text
from cascade_det.errors import DataError, choices

SPLITS = ("train", "val", "test")
_WHAT = "data.yaml of a YOLO data set, or the folder of its label files"


@dataclass(frozen=True, slots=True)
class YoloDataset:
    """One split of a data set.

    Attributes:
        folder: that the names start from.
        names: of the pictures.
        labels: the label file of each, which need not exist.
        classes: names by number; none where they are not said.
        keypoints: how many an object has and with how many numbers each (2 or 3), where that is said.
    """

    folder: Path
    names: list[str]
    labels: list[Path]
    classes: Mapping[int, str]
    keypoints: tuple[int, int] | None


def read_dataset(annotations: Path, images: Path | None, split: str) -> YoloDataset:
    """Return what ``data.yaml`` or a folder of labels says; `images` names the pictures' folder instead of the former.

    Raises:
        DataError: something is missing or wrong; the message names the file and the key.
    """
    if annotations.is_dir():
        if images is None:
            raise DataError(f"{annotations}: is a folder of labels; name the folder of the pictures as `images` too.")
        names = list_pictures(images)
        labels = [annotations / Path(name).with_suffix(".txt") for name in names]
        return YoloDataset(images, names, labels, _classes_beside(annotations), None)
    data = _read_yaml(annotations)
    classes, keypoints = _classes(annotations, data.get("names")), _keypoints(annotations, data.get("kpt_shape"))
    if images is not None:
        folder, names = images, list_pictures(images)
    else:
        folder, names = _pictures(annotations, data, split)
    return YoloDataset(folder, names, [_label_of(folder / name) for name in names], classes, keypoints)


def _label_of(picture: Path) -> Path:
    """Return where the label file of a picture is: below `labels` beside the last folder `images`, or beside it."""
    parts = list(picture.with_suffix(".txt").parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def _read_yaml(file: Path) -> dict[Any, Any]:
    import yaml

    text, _ = read_text(file, _WHAT)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{file}: is no YAML ({' '.join(str(error).split())}). It must be {_WHAT}.") from error
    if not isinstance(data, dict):
        raise DataError(f"{file}: holds a {type(data).__name__} at its top, not keys. It must be {_WHAT}.")
    return data


def _classes(file: Path, names: Any) -> dict[int, str]:
    if names is None:
        return {}
    pairs = (
        list(enumerate(names)) if isinstance(names, list) else list(names.items()) if isinstance(names, dict) else []
    )
    if not pairs or not all(type(key) is int and isinstance(name, (str, int)) for key, name in pairs):
        raise DataError(f"{file}: names: {shown(names)} must be a list of names, or names by number. Correct it.")
    return {key: str(name) for key, name in pairs}


def _classes_beside(labels: Path) -> dict[int, str]:
    for folder in (labels, labels.parent):
        if (folder / "classes.txt").is_file():
            lines, _ = read_lines(folder / "classes.txt", "classes.txt, a name a line")
            return {number: line.text for number, line in enumerate(lines)}
    return {}


def _keypoints(file: Path, shape: Any) -> tuple[int, int] | None:
    if shape is None:
        return None
    whole = isinstance(shape, list) and len(shape) == 2 and all(type(side) is int for side in shape)
    if not whole or shape[0] < 1 or shape[1] not in (2, 3):
        raise DataError(f"{file}: kpt_shape: {shown(shape)} must be [number of keypoints, 2 or 3]. Correct it.")
    return shape[0], shape[1]


def _pictures(file: Path, data: Mapping[Any, Any], split: str) -> tuple[Path, list[str]]:
    """Return the folder and the names of the pictures of a split, which names folders or text files of pictures."""
    given = data.get(split)
    places: list[Any] = given if isinstance(given, list) else [given]
    if not places or not all(isinstance(place, str) and place for place in places):
        known = [name for name in SPLITS if data.get(name)]
        raise DataError(f"{file}: {split}: {shown(given)} names no folder of pictures; {choices(split, known)}.")
    root = "" if data.get("path") is None else data["path"]
    if not isinstance(root, str):
        raise DataError(f"{file}: path: {shown(root)} must name a folder. Correct it.")
    files = [picture for place in places for picture in _pictures_at(file, split, root, place)]
    folder = Path(os.path.commonpath([picture.parent for picture in files]))
    return folder, [picture.relative_to(folder).as_posix() for picture in files]


def _pictures_at(file: Path, split: str, root: str, place: str) -> list[Path]:
    """Return the pictures of a folder, or those that a text file names relative to its own folder.

    The place is sought below `path` and, as data sets are moved about with their yaml, below the yaml's own folder;
    exports with the yaml at their top say ``../train/images`` for what is ``train/images``.
    """
    own = file.parent.absolute()  # not resolved: where pictures are links, labels lie beside the link
    names = dict.fromkeys((place, place.removeprefix("../")))
    sought = [Path(os.path.normpath(base / name)) for base in dict.fromkeys((own / root, own)) for name in names]
    found = next((path for path in sought if path.exists()), None)
    if found is None:
        where = ", ".join(map(str, dict.fromkeys(sought)))
        raise DataError(f"{file}: {split}: there is no {place!r}, sought as {where}. Correct `path` or `{split}`.")
    if found.is_dir():
        return [found / name for name in list_pictures(found)]
    lines, _ = read_lines(found, f"what `{split}` of {file.name} names: a folder, or a text file of pictures")
    if not lines:
        raise DataError(f"{found}: names no picture. Correct `{split}` of {file}.")
    return [Path(os.path.normpath(found.parent / line.text)) for line in lines]
