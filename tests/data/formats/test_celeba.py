"""The CelebA source: three lists that must agree, splits, points, and lists that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.data.formats.celeba import Celeba
from cascade_det.errors import DataError
from cascade_det.testing import check_source

BOXES = "4\nimage_id x_1 y_1 width height\n1.jpg    5  6 10 12\n2.jpg 1 1 20 20\n3.jpg 3 3 0 0\n4.jpg 2 2 8 9\n"
POINTS = "4\nlefteye_x lefteye_y ...\n" + "".join(f"{n}.jpg 7 9 12 9 10 12 8 15 12 1{n}\n" for n in (1, 2, 3, 4))
SPLIT = "1.jpg 0\n2.jpg 1\n3.jpg 0\n4.jpg 2\n"
FILES = {"list_bbox_celeba.txt": BOXES, "list_landmarks_celeba.txt": POINTS, "list_eval_partition.txt": SPLIT}


@pytest.fixture
def folder(tmp_path: Path, write_pictures: Callable[..., None]) -> Path:
    """Return a folder with four pictures and the lists; the face of the third has no area."""
    write_pictures(tmp_path / "img_celeba", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def source(folder: Path, **params: Any) -> Celeba:
    return Celeba(**{"images": ".", "annotations": ".", "base_dir": str(folder), **params})


def test_faces_with_five_points(folder: Path, delivered: Callable[..., Any]) -> None:
    celeba = source(folder, num_points=5)
    assert delivered(celeba) == {"1.jpg": [[5, 6, 15, 18]], "2.jpg": [[1, 1, 21, 21]], "4.jpg": [[2, 2, 10, 11]]}
    assert celeba.report() == {"pictures whose face has no area": 1}
    np.testing.assert_array_equal(celeba.annotations(2).points, [[[7, 9], [12, 9], [10, 12], [8, 15], [12, 14]]])
    assert celeba.annotations(2).points_known.all()
    check_source(celeba, others=[source(folder), source(folder, num_points=5, split="train")])


def test_without_points_and_split_their_lists_are_not_needed(folder: Path) -> None:
    for name in ("list_landmarks_celeba.txt", "list_eval_partition.txt"):
        (folder / name).unlink()
    celeba = source(folder)
    assert celeba.annotations(0).points.shape == (1, 0, 2)
    for params in ({"num_points": 5}, {"split": "val"}):
        with pytest.raises(DataError, match=r"list_(landmarks_celeba|eval_partition)\.txt: cannot be read"):
            _ = source(folder, **params).pictures


@pytest.mark.parametrize(("split", "names"), [("train", ["1.jpg"]), ("val", ["2.jpg"]), ("test", ["4.jpg"])])
def test_splits(folder: Path, split: str, names: list[str]) -> None:
    celeba = source(folder, split=split)
    assert [p.name for p in celeba.pictures] == names
    assert celeba.report() == ({"pictures whose face has no area": 1} if split == "train" else {})


def test_the_folders_of_the_archive(folder: Path, delivered: Callable[..., Any]) -> None:
    before = delivered(source(folder, num_points=5, split="train"))
    for name, place in {"img_celeba": "Img", **dict.fromkeys(FILES, "Anno"), "list_eval_partition.txt": "Eval"}.items():
        (folder / place).mkdir(exist_ok=True)
        (folder / name).rename(folder / place / name)
    assert delivered(source(folder, num_points=5, split="train")) == before


def test_a_partial_copy(folder: Path) -> None:
    (folder / "img_celeba" / "1.jpg").unlink()
    celeba = source(folder, images="img_celeba")
    assert [p.name for p in celeba.pictures] == ["2.jpg", "4.jpg"]
    assert celeba.report()["pictures that are not on disk"] == 1
    with pytest.raises(
        DataError, match=r"none of its pictures is in .*none, such as .*1\.jpg\. .*aligned crops do not"
    ):
        _ = source(folder, images="none").pictures


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"split": "valid"}, "split='valid'; did you mean 'val'"),
        ({"num_points": 3}, "its faces have the points left_eye, .* the recipe's object has 3"),
    ],
)
def test_wrong_parameters(folder: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(folder, **params)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list_bbox_celeba.txt", BOXES.replace("4\n", "5\n", 1), "line 1: counts 5 pictures, but 4 follow"),
        ("list_bbox_celeba.txt", BOXES.replace("4\n", "four\n", 1), "line 1: 'four' is not a number of pictures"),
        ("list_bbox_celeba.txt", BOXES.replace("20 20", "20"), "line 4: '2.jpg 1 1 20' has 3 fields, not 4 numbers"),
        ("list_bbox_celeba.txt", BOXES.replace("20 20", "20 nan"), "line 4: 'nan' is no finite number"),
        (
            "list_bbox_celeba.txt",
            BOXES.replace("2.jpg", "..\\2.jpg"),
            "line 4: the picture is named '..\\\\2.jpg', a path",
        ),
        ("list_bbox_celeba.txt", BOXES.replace("2.jpg", "1.jpg"), "line 4: '1.jpg' is named before, in"),
        ("list_bbox_celeba.txt", "", "holds no picture"),
        ("list_landmarks_celeba.txt", POINTS.replace("2.jpg", "9.jpg"), "line 4: names '9.jpg', "),
        ("list_landmarks_celeba.txt", POINTS.replace("4\n", "3\n", 1)[:-30], "line 1: counts 3 pictures, but"),
        ("list_eval_partition.txt", SPLIT[:-8], "lists 3 pictures, "),
        ("list_eval_partition.txt", SPLIT.replace("1.jpg 0", "1.jpg"), "line 1: '1.jpg' has 0 fields"),
    ],
)
def test_wrong_lists_are_named(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(DataError) as caught:
        _ = source(folder, num_points=5, split="train").pictures
    assert message in str(caught.value)
    assert name in str(caught.value)
