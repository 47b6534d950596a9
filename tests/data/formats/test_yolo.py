"""The YOLO source: where data.yaml says pictures and labels are, classes, keypoints, and files that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.data.formats.text_lines import Line
from cascade_det.data.formats.yolo import Yolo, parse_labels
from cascade_det.errors import DataError
from cascade_det.testing import check_source

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: {0: car, 1: truck}\n"
LABELS = {"train/a": "0 0.5 0.5 0.5 0.4\n1 0.1 0.1 0.2 0.2\n", "val/b": "1 0.25 0.5 0.1 0.2\r\n\r\n", "val/c": ""}


@pytest.fixture
def folder(tmp_path: Path, write_pictures: Callable[..., None]) -> Path:
    """Return a folder with one picture to train and three to validate, the last of which has no label file."""
    write_pictures(tmp_path / "images", "train/a.png", "val/b.png", "val/c.png", "val/d.jpg")
    for name, text in LABELS.items():
        (tmp_path / "labels" / f"{name}.txt").parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "labels" / f"{name}.txt").write_bytes(text.encode())
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


def source(folder: Path, **params: Any) -> Yolo:
    return Yolo(**{"annotations": "data.yaml", "category": "car", "base_dir": str(folder), **params})


def lines(text: str) -> list[Line]:
    return [Line(Path("a.txt"), n, t.strip()) for n, t in enumerate(text.split("\n"), start=1) if t.strip()]


def test_no_line_gives_no_object() -> None:
    classes, boxes, points, known = parse_labels([], 3, None)
    assert (len(classes), boxes.shape, points.shape, known.shape) == (0, (0, 4), (0, 3, 2), (0, 3))


def test_splits_of_a_yaml(folder: Path, delivered: Callable[..., Any]) -> None:
    train, val = source(folder, split="train"), source(folder, category="truck")
    assert delivered(train) == {"a.png": [[10, 9, 30, 21]]}
    assert train.report() == {"objects of other categories": 1}
    assert list(delivered(val)) == ["b.png", "c.png", "d.jpg"]
    np.testing.assert_allclose(val.annotations(0).boxes, [[8, 12, 12, 18]], rtol=1e-6)
    assert [len(val.annotations(row)) for row in (1, 2)] == [0, 0]
    check_source(train, others=[val, source(folder, split="train", category="truck")])


def test_the_digest_sees_labels_and_names(folder: Path) -> None:
    digests = [source(folder, split="train").digest()]
    (folder / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.3\n")
    digests.append(source(folder, split="train").digest())
    (folder / "data.yaml").write_text(YAML.replace("truck", "lorry"))
    digests.append(source(folder, split="train").digest())
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("place", "yaml"),
    [
        ("data.yaml", YAML.replace("path: .\n", "")),
        ("data.yaml", YAML.replace("path: .", "path: elsewhere")),
        ("data.yaml", "val: ../images/val\nnames: [car, truck]\n"),
        ("conf/data.yaml", YAML.replace("path: .", "path: ..")),
        ("conf/data.yaml", "path: FOLDER\nval: [images/val]\nnames: [car, truck]\n"),
        ("conf/data.yaml", "val: ../val.txt\nnames: [car, truck]\n"),
    ],
)
def test_ways_to_say_where_the_pictures_are(folder: Path, place: str, yaml: str, delivered: Callable[..., Any]) -> None:
    before = delivered(source(folder))
    (folder / "val.txt").write_text("./images/val/b.png\nimages/val/c.png\n\nimages/val/d.jpg\n")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text(yaml.replace("FOLDER", str(folder)))
    assert delivered(source(folder, annotations=place)) == before


def test_a_folder_of_labels(folder: Path) -> None:
    given = {"annotations": "labels/val", "images": "images/val", "category": None}
    assert len(source(folder, **given).annotations(0)) == 1
    assert source(folder, **given, others="refuse").pictures  # one class only, by its number
    (folder / "labels" / "classes.txt").write_text("car\ntruck\n")
    assert len(source(folder, **{**given, "category": "truck"}).annotations(0)) == 1
    assert len(source(folder, **{**given, "category": "car"}).annotations(0)) == 0
    (folder / "labels" / "val" / "gone.txt").write_text("0 .5 .5 .1 .1\n")
    assert source(folder, **{**given, "category": "truck"}).report() == {"label files without a picture": 1}


def test_labels_beside_the_pictures(folder: Path) -> None:
    (folder / "all").mkdir()
    for name in ("images/val/b.png", "labels/val/b.txt"):
        (folder / "all" / Path(name).name).write_bytes((folder / name).read_bytes())
    (folder / "data.yaml").write_text("val: all\nnames: [car, truck]\n")
    yolo = source(folder, category="truck")
    assert len(yolo.annotations(0)) == 1
    assert yolo.report() == {}


POSE = "0 .5 .5 .2 .4 .1 .2 2 .3 .4 0 .5 .6 1\n"


def test_keypoints(folder: Path) -> None:
    (folder / "labels" / "train" / "a.txt").write_text(POSE)
    (folder / "data.yaml").write_text(YAML + "kpt_shape: [3, 3]\n")
    truth = source(folder, split="train", num_points=3).annotations(0)
    assert truth.points_known.tolist() == [[True, False, True]]
    np.testing.assert_allclose(truth.points, [[[4, 6], [0, 0], [20, 18]]], rtol=1e-6)
    assert source(folder, split="train").annotations(0).points.shape == (1, 0, 2)
    with pytest.raises(DataError, match=r"a\.txt, line 1: objects have 3 keypoints \(kpt_shape\), .* object has 5"):
        _ = source(folder, split="train", num_points=5).pictures


@pytest.mark.parametrize(
    ("text", "num_points", "keypoints", "known"),
    [
        ("0 .5 .5 .2 .4", 2, None, [False, False]),
        ("0 .5 .5 .2 .4", 2, (2, 3), [False, False]),
        ("0 .5 .5 .2 .4 .1 .2 .3 .4", 2, None, [True, True]),
        ("0 .5 .5 .2 .4 0 0 .3 .4", 2, (2, 2), [False, True]),
        ("0 .5 .5 .2 .4 -1 -1 .3 .4", 2, (2, 2), [False, True]),
        ("0 .5 .5 .2 .4 .1 .2 0 .3 .4 1", 2, None, [False, True]),
        ("0 .5 .5 .2 .4 .1 .2 0 .3 .4 1", 0, (2, 3), []),
    ],
)
def test_which_keypoints_are_known(text: str, num_points: int, keypoints: Any, known: list[bool]) -> None:
    assert parse_labels(lines(text), num_points, keypoints)[3].tolist() == [known]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 .5 .5 .2", "line 1: '0 .5 .5 .2' has 4 fields, not 5 numbers (class x_center y_center width height)"),
        ("0 .5 .5 .2 .4\n0 .1 .2 .3 .4 .5 .6 .7 .8", "line 2: '0 .1 .2 .3 .4 .5 .6 .7 .8' has 9 fields, not 5"),
        ("0 .5 .5 nan .4", "line 1: 'nan' is no finite number"),
        ("car .5 .5 .2 .4", "line 1: 'car' is no finite number"),
        ("0.5 .5 .5 .2 .4", "as a whole number and shares of the picture"),
        ("-1 .5 .5 .2 .4", "as a whole number and shares of the picture"),
        ("0 320 240 50 60", "shares of the picture from 0 to 1"),
        ("0 .5 -.2 .5 .2", "shares of the picture from 0 to 1"),
    ],
)
def test_wrong_labels_are_named(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_labels(lines(text), 0, None)
    assert message in str(caught.value)
    assert "a.txt, line " in str(caught.value)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("{", "is no YAML"),
        ("- a", "holds a list at its top"),
        (YAML.replace("{0: car, 1: truck}", "car"), "names: 'car' must be a list of names, or names by number"),
        (YAML.replace("{0: car, 1: truck}", "{zero: car}"), "names: {'zero': 'car'} must be a list"),
        (YAML.replace("{0: car, 1: truck}", "[car]"), "a.txt, line 2: there is no class 1; choices: 0."),
        (YAML.replace("train: images/train\n", ""), "train: None names no folder of pictures; Choices: val"),
        (YAML.replace("images/train", "5"), "train: 5 names no folder of pictures"),
        (YAML.replace("images/train", "pictures"), "train: there is no 'pictures', sought as"),
        (YAML.replace("images/train", "data.yaml"), "none of its 4 pictures has a label file"),
        (YAML.replace("path: .", "path: [a]"), "path: ['a'] must name a folder"),
        (YAML + "kpt_shape: 5\n", "kpt_shape: 5 must be [number of keypoints, 2 or 3]"),
        (YAML + "kpt_shape: [5, 4]\n", "kpt_shape: [5, 4] must be"),
    ],
)  # fmt: skip
def test_wrong_yaml_is_named(folder: Path, yaml: str, message: str) -> None:
    (folder / "data.yaml").write_text(yaml)
    with pytest.raises(DataError) as caught:
        _ = source(folder, split="train").pictures
    assert message in str(caught.value)


def test_without_any_label_the_error_names_the_layout(folder: Path) -> None:
    (folder / "labels").rename(folder / "annotations")
    with pytest.raises(DataError, match=r"none of its 3 pictures has a label file, such as .*labels/val/b\.txt\."):
        _ = source(folder).pictures
    with pytest.raises(DataError, match=r"is a folder of labels; name the folder of the pictures as `images` too"):
        _ = source(folder, annotations="annotations").pictures


def test_wrong_parameters(folder: Path) -> None:
    with pytest.raises(ValueError, match="split='valid'; did you mean 'val'"):
        source(folder, split="valid")
    with pytest.raises(DataError, match="no category 'van'"):
        _ = source(folder, category="van").pictures
