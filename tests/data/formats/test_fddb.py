"""The FDDB source: boxes around ellipses, folds, partial copies, and lists that are wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cascade_det.data.formats.fddb import Fddb, ellipse_boxes, parse_ellipses
from cascade_det.data.formats.text_lines import Line, read_lines
from cascade_det.errors import DataError
from cascade_det.testing import check_source

A, B, C = "2002/08/11/big/img_591", "2002/08/26/big/img_265", "2003/01/01/big/img_1"
FOLD_1 = f"""{A}
1
10 6 1.570796326794897 20 15  1
{B}
2
8 4 0 20 10  1
3 2 0.3 5 6 1
"""
FOLD_2 = f"{C}\n1\n5 5 0.7 20 20 1\n"


@pytest.fixture
def folder(tmp_path: Path, write_pictures: Callable[..., None]) -> Path:
    """Return a folder with the pictures and two folds; the lists of names alone are not read."""
    write_pictures(tmp_path / "originalPics", *(f"{name}.jpg" for name in (A, B, C)))
    (tmp_path / "FDDB-folds").mkdir()
    (tmp_path / "FDDB-folds" / "FDDB-fold-01.txt").write_text(f"{A}\n{B}\n")
    (tmp_path / "FDDB-folds" / "FDDB-fold-01-ellipseList.txt").write_text(FOLD_1)
    (tmp_path / "FDDB-folds" / "FDDB-fold-10-ellipseList.txt").write_text(FOLD_2)
    return tmp_path


def source(folder: Path, **params: Any) -> Fddb:
    return Fddb(**{"images": ".", "annotations": "FDDB-folds", "base_dir": str(folder), **params})


def lines(text: str) -> list[Line]:
    return [Line(Path("list.txt"), n, t.strip()) for n, t in enumerate(text.split("\n"), start=1) if t.strip()]


def test_no_ellipse_gives_no_box() -> None:
    assert ellipse_boxes(np.zeros((0, 5))).shape == (0, 4)


def test_a_list_without_pictures_is_empty(folder: Path) -> None:
    (folder / "empty.txt").write_text("")
    assert source(folder, annotations="empty.txt").pictures == []


def test_folds(folder: Path) -> None:
    fddb = source(folder)
    assert [(p.image_id, p.name, p.fields) for p in fddb.pictures] == [
        (1, f"{A}.jpg", {"fold": 1}), (2, f"{B}.jpg", {"fold": 1}), (3, f"{C}.jpg", {"fold": 10})
    ]  # fmt: skip
    np.testing.assert_allclose(fddb.annotations(0).boxes, [[14, 5, 26, 25]], atol=1e-5)
    np.testing.assert_allclose(fddb.annotations(1).boxes[0], [12, 6, 28, 14], atol=1e-5)
    np.testing.assert_allclose(fddb.annotations(2).boxes, [[15, 15, 25, 25]], atol=1e-5)
    second = source(folder, where={"fold": [10]})
    assert [p.image_id for p in second.pictures] == [3]
    check_source(fddb, others=[second, source(folder, annotations="FDDB-folds/FDDB-fold-01-ellipseList.txt")])


@pytest.mark.parametrize("images", [".", "originalPics"])
def test_either_folder(folder: Path, images: str) -> None:
    assert len(source(folder, images=images).pictures) == 3


def test_one_list_and_a_partial_copy(folder: Path) -> None:
    (folder / "originalPics" / f"{A}.jpg").unlink()
    (folder / "faces.txt").write_text(FOLD_1)
    fddb = source(folder, annotations="faces.txt")
    assert [(p.image_id, p.fields) for p in fddb.pictures] == [(2, {})]
    assert fddb.report() == {"pictures that are not on disk": 1}
    with pytest.raises(DataError, match=r"none of its pictures is in .*none, such as .*img_591\.jpg\..*originalPics"):
        _ = source(folder, images="none").pictures


@pytest.mark.parametrize("angle", np.linspace(-np.pi, np.pi, 13))
def test_the_box_touches_the_ellipse_on_all_four_sides(angle: float) -> None:
    ellipse = np.array([[70.0, 30, angle, 100, 90]])
    parameter = np.linspace(0, 2 * np.pi, 100_000)
    x = 100 + 70 * np.cos(angle) * np.cos(parameter) - 30 * np.sin(angle) * np.sin(parameter)
    y = 90 + 70 * np.sin(angle) * np.cos(parameter) + 30 * np.cos(angle) * np.sin(parameter)
    np.testing.assert_allclose(ellipse_boxes(ellipse)[0], [x.min(), y.min(), x.max(), y.max()], atol=1e-6)


def test_the_angle_turns_as_the_masks_of_the_protocol_do() -> None:
    """OpenCV draws the masks that FDDB compares; a box that turned the other way would be 40 px off."""
    mask = np.zeros((200, 200), np.uint8)
    cv2.ellipse(mask, (100, 90), (70, 30), np.rad2deg(0.6), 0, 360, 1, -1)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(ellipse_boxes(np.array([[70, 30, 0.6, 100, 90]]))[0], drawn, atol=2)
    left, right = mask[:, :100], mask[:, 101:]
    assert np.argwhere(left)[:, 0].mean() < 90 < np.argwhere(right)[:, 0].mean()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FOLD_1.replace("20 15  1", "20 15"), "line 3: '10 6 1.570796326794897 20 15' has 5 fields, not 6 numbers"),
        (FOLD_1.replace("20 15", "nan 15"), "line 3: 'nan' is no finite number"),
        (FOLD_1.replace("2\n8", "two\n8"), "line 5: 'two' is not a number of faces"),
        (FOLD_1.replace("2\n8", "3\n8"), f"line 4: '{B}' counts 3 faces, but the file ends after 2"),
        (FOLD_1.replace("2\n8", "1\n8"), "line 7: '3 2 0.3 5 6 1' is not the name of a picture"),
        (FOLD_1 + FOLD_1, f"line 8: '{A}' is named before, in list.txt, line 1"),
    ],
)
def test_wrong_lines_are_named(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_ellipses(lines(text))
    assert message in str(caught.value)


def test_wrong_folders_and_names(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"originalPics: holds no list\. `annotations` must name the folder of FDDB-fold"
    ):
        _ = source(folder, annotations="originalPics").pictures
    (folder / "FDDB-folds" / "FDDB-fold-10-ellipseList.txt").write_text(FOLD_1)
    with pytest.raises(
        DataError, match=r"fold-10-ellipseList\.txt, line 1: .*named before, in .*fold-01-ellipse.*line 1"
    ):
        _ = source(folder).pictures
    (folder / "FDDB-folds" / "FDDB-fold-10-ellipseList.txt").write_text(FOLD_2.replace("/", "\\"))
    with pytest.raises(DataError, match=r"fold-10-ellipseList\.txt, line 1: .*a path of Windows"):
        _ = source(folder).pictures


@pytest.mark.skipif("CASCADE_DET_DATA" not in os.environ, reason="CASCADE_DET_DATA names no folder with data/fddb")
def test_the_published_folds() -> None:
    files = sorted((Path(os.environ["CASCADE_DET_DATA"]) / "data" / "fddb" / "FDDB-folds").glob("*ellipseList.txt"))
    parsed = [parse_ellipses(read_lines(file, "a list")[0]) for file in files]
    assert len(files) == 10
    assert sum(len(names) for names, _, _ in parsed) == 2845
    assert sum(len(ellipses) for _, _, ellipses in parsed) == 5171
