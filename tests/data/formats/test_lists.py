"""The source of plain text lists: several lines a picture, unknown points, names with spaces, lines that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.data.formats.lists import Lists
from cascade_det.errors import DataError
from cascade_det.testing import check_source

TEXT = """a.png 1 2 11 12 3 4 5 6
"my photos/b 1.png" 0 0 9.5 8 -1 -1 4 4
a.png 20 5 30 25
c.png
"""


@pytest.fixture
def folder(tmp_path: Path, write_pictures: Callable[..., None]) -> Path:
    write_pictures(tmp_path / "pictures", "a.png", "my photos/b 1.png", "c.png")
    (tmp_path / "list.txt").write_text(TEXT)
    return tmp_path


def source(folder: Path, **params: Any) -> Lists:
    given = {"images": "pictures", "annotations": "list.txt", "num_points": 2, "base_dir": str(folder)}
    return Lists(**{**given, **params})


def test_an_empty_file(folder: Path) -> None:
    (folder / "list.txt").write_text("")
    assert source(folder).pictures == []


def test_objects_of_a_picture_are_gathered(folder: Path, delivered: Callable[..., Any]) -> None:
    lists = source(folder)
    assert delivered(lists) == {
        "a.png": [[1, 2, 11, 12], [20, 5, 30, 25]],
        "my photos/b 1.png": [[0, 0, 9.5, 8]],
        "c.png": [],
    }
    assert lists.annotations(0).points_known.tolist() == [[True, True], [False, False]]
    assert lists.annotations(1).points_known.tolist() == [[False, True]]
    np.testing.assert_array_equal(lists.annotations(1).points, [[[0, 0], [4, 4]]])
    check_source(lists)


def test_line_ends_and_blank_lines_change_nothing(folder: Path, delivered: Callable[..., Any]) -> None:
    before = delivered(source(folder))
    (folder / "list.txt").write_bytes(("\n\t\n" + TEXT).replace("\n", " \r\n").encode("utf-8-sig"))
    assert delivered(source(folder)) == before


def test_what_cannot_be_used_is_counted(folder: Path) -> None:
    (folder / "list.txt").write_text("a.png 50 2 60 9\nc.png 5 5 5 9\nc.png 5 5 4 9\ngone.png 1 1 2 2\n")
    assert source(folder).report() == {
        "pictures that are not on disk": 1,
        "boxes outside their picture": 1,
        "boxes without area": 2,
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png 1 2 3", "line 2: 'a.png 1 2 3' has 3 fields, not 8 numbers (x0 y0 x1 y1 x0 y0 x1 y1)"),
        ("a.png 1 2 3 4 5", "has 5 fields, not 8 numbers"),
        ("a b.png 1 2 3 4", "has 5 fields, not 8 numbers"),
        ("a.png 1 2 3 nan", "line 2: 'nan' is no finite number"),
        ("a.png 1 2 3 inf", "line 2: 'inf' is no finite number"),
        ("a.png 1 2 3 x", "line 2: 'x' is no finite number"),
        ('"a.png 1 2 3 4', "line 2: '\"a.png 1 2 3 4' is not a line that begins with the name of a picture"),
        ("pictures\\a.png 1 2 3 4", "line 2: the picture is named 'pictures\\\\a.png', a path of Windows"),
        ("../a.png 1 2 3 4", "line 2: the picture is named '../a.png', which leaves the folder"),
        ("/data/a.png 1 2 3 4", "which leaves the folder"),
    ],
)
def test_wrong_lines_are_named(folder: Path, line: str, message: str) -> None:
    (folder / "list.txt").write_text(f"c.png\n{line}\n")
    with pytest.raises(DataError) as caught:
        _ = source(folder).pictures
    assert message in str(caught.value)
    assert str(folder / "list.txt") in str(caught.value)
