"""The WIDER FACE source: its text file, the levels of its toolbox, partial copies, and files that are wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from cascade_det.data.formats.text_lines import Line, read_lines
from cascade_det.data.formats.wider import Wider, parse_faces, read_wider
from cascade_det.errors import DataError
from cascade_det.testing import check_source

A, B, EMPTY = "0--Parade/0_Parade_a_1.jpg", "9--Press/9_Press_b_2.jpg", "9--Press/9_Press_none_3.jpg"
TEXT = f"""{A}
3
1 2 10 12 0 0 0 0 0 0
20 5 8 9 2 1 0 1 2 1
5 5 0 7 0 0 0 0 0 0
{EMPTY}
0
0 0 0 0 0 0 0 0 0 0
{B}
1
3 4 10 10 1 0 1 0 0 0
"""


@pytest.fixture
def folder(tmp_path: Path, write_pictures: Callable[..., None]) -> Path:
    """Return a folder with a small WIDER_val and its annotation."""
    write_pictures(tmp_path / "WIDER_val" / "images", A, B, EMPTY)
    (tmp_path / "gt.txt").write_text(TEXT)
    return tmp_path


def source(folder: Path, **params: Any) -> Wider:
    return Wider(**{"images": "WIDER_val", "annotations": "gt.txt", "base_dir": str(folder), **params})


def lines(text: str) -> list[Line]:
    return [Line(Path("gt.txt"), n, t.strip()) for n, t in enumerate(text.split("\n"), start=1) if t.strip()]


def test_a_file_without_pictures_is_empty(tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text("\n")
    wider = source(tmp_path)
    assert wider.pictures == []
    assert wider.missing_files() == []
    assert len(wider.digest()) == 64


def test_faces(folder: Path, delivered: Callable[..., Any]) -> None:
    wider = source(folder, num_points=2)
    assert [(p.image_id, p.image_hw, p.fields) for p in wider.pictures] == [
        (1, (30, 40), {"event": "0--Parade"}),
        (2, (30, 40), {"event": "9--Press"}),
        (3, (30, 40), {"event": "9--Press"}),
    ]
    assert delivered(wider) == {A: [[1, 2, 11, 14], [20, 5, 28, 14]], EMPTY: [], B: [[3, 4, 13, 14]]}
    assert wider.report() == {"boxes without area": 1}
    truth = wider.annotations(0)
    assert truth.ignore.tolist() == [False, True]
    assert {name: column.tolist() for name, column in truth.extras.items()} == {
        "blur": [0, 2], "expression": [0, 1], "illumination": [0, 0], "occlusion": [0, 2], "pose": [0, 1]
    }  # fmt: skip
    assert truth.points.shape == (2, 2, 2)
    assert not truth.points_known.any()
    check_source(wider, others=[source(folder, where={"event": ["9--Press"]})])


@pytest.mark.parametrize("images", ["WIDER_val", "WIDER_val/images"])
def test_either_folder(folder: Path, images: str) -> None:
    assert [p.name for p in source(folder, images=images).pictures] == [A, EMPTY, B]


@pytest.mark.parametrize(
    "change", [lambda t: t.replace("\n", "\r\n"), lambda t: t.replace("\n", " \n\n"), lambda t: "\ufeff" + t]
)
def test_line_ends_blank_lines_and_a_mark_change_nothing(
    folder: Path, change: Callable[[str], str], delivered: Callable[..., Any]
) -> None:
    before = delivered(source(folder))
    (folder / "gt.txt").write_bytes(change(TEXT).encode())
    assert delivered(source(folder)) == before


def test_a_partial_copy_leaves_pictures_out_and_ids_as_they_were(folder: Path, delivered: Callable[..., Any]) -> None:
    (folder / "WIDER_val" / "images" / A).unlink()
    wider = source(folder)
    assert [(p.image_id, p.name) for p in wider.pictures] == [(2, EMPTY), (3, B)]
    assert delivered(wider)[B] == [[3, 4, 13, 14]]
    assert wider.report() == {"pictures that are not on disk": 1}
    assert wider.missing_files() == []


def test_a_damaged_picture_is_left_out_and_named(folder: Path) -> None:
    (folder / "WIDER_val" / "images" / A).write_bytes(b"no picture")
    wider = source(folder)
    assert wider.report() == {"pictures that cannot be read": 1}
    assert "0_Parade_a_1.jpg: not a readable picture" in wider.unreadable_files()[0]


def test_without_any_picture_the_error_names_folder_and_layout(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of its pictures is in .*elsewhere, such as .*0_Parade_a_1\.jpg\. .*EVENT/"
    ):
        _ = source(folder, images="elsewhere").pictures


BAD_LINES: list[tuple[str, str]] = [
    (TEXT.replace("12 0 0 0 0 0 0", "12 0 0 0 0 0"), "line 3: '1 2 10 12 0 0 0 0 0' has 9 fields, not 10"),
    (TEXT.replace("1 2 10 12", "1 2 nan 12"), "line 3: 'nan' is no finite number"),
    (TEXT.replace("1 2 10 12", "1 2 1e300 12"), "line 3: '1e300' is no finite number"),
    (TEXT.replace("1 2 10 12", "1 2 ten 12"), "line 3: 'ten' is no finite number"),
    (TEXT.replace("20 5 8 9 2", "20 5 8 9 3"), "blur is 3, it must be a whole number to 2"),
    (TEXT.replace("20 5 8 9 2", "20 5 8 9 1.5"), "line 4: '20 5 8 9 1.5 1 0 1 2 1' is not a face: blur is 1.5"),
    (TEXT.replace("3\n1", "2\n1"), "line 5: '5 5 0 7 0 0 0 0 0 0' is not the name of a picture: the picture before"),
    (TEXT.replace("3\n1", "4\n1"), "line 6: '9--Press/9_Press_none_3.jpg' has 1 fields, not 10 numbers"),
    (TEXT.replace("3\n1", "-1\n1"), "line 2: '-1' is not a number of faces"),
    (TEXT.replace("1\n3", "9\n3"), f"line 9: '{B}' counts 9 faces, but the file ends after 1"),
    (A, f"line 1: the file ends after '{A}', where a number of faces is due"),
    (TEXT + TEXT, f"line 12: '{A}' is named before, in gt.txt, line 1"),
    (TEXT.replace("0--Parade/", "0--Parade\\"), "a path of Windows. Write / between folders"),
    (TEXT.replace("0--Parade/", "C:/data/"), "a path of Windows"),
    (TEXT.replace("0--Parade/", "../"), "leaves the folder of the pictures"),
    (TEXT.replace("0--Parade/", "/data/"), "leaves the folder of the pictures"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD_LINES)
def test_wrong_lines_are_named(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_faces(lines(text))
    assert message in str(caught.value)
    assert "gt.txt" in str(caught.value)


def test_a_byte_that_is_no_text_is_named_with_its_line(folder: Path) -> None:
    (folder / "gt.txt").write_bytes(TEXT.encode() + b"\xff\n")
    with pytest.raises(DataError, match=r"gt\.txt, line 12: the byte b'\\xff' is no text in UTF-8"):
        _ = source(folder).pictures


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"annotations": "none.txt"}, r"none\.txt: cannot be read \(No such file .*\)\. `annotations` must name"),
        ({"annotations": "WIDER_val"}, r"wider_face_val\.mat is missing\. Give .*ground_truth"),
        ({"level": "easy"}, r"gt\.txt knows no levels, but level is 'easy'"),
        ({"annotations": "x.mat"}, "must name the folder of the toolbox's .mat files"),
        ({"where": {"event": ["9--Pres"]}}, "There event is '0--Parade', '9--Press'"),
    ],
)  # fmt: skip
def test_wrong_parameters(folder: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _ = source(folder, **params).pictures


def test_an_unknown_level() -> None:
    with pytest.raises(ValueError, match="level='heard'; did you mean 'hard'"):
        Wider(images="a", annotations="b", level="heard")


def cells(*values: Any) -> np.ndarray[Any, Any]:
    """Return values as a column of MATLAB's cells."""
    column = np.empty((len(values), 1), object)
    for row, value in enumerate(values):
        column[row, 0] = value
    return column


@pytest.fixture
def toolbox(folder: Path) -> Path:
    """Return the folder with the toolbox's files for `TEXT`; of the first picture's faces, easy counts the second."""
    names, picture, values = parse_faces(lines(TEXT))
    own = [values[picture == row] for row in range(3)]
    events = [[0], [1, 2]]
    mat: dict[str, Any] = {"event_list": cells("0--Parade", "9--Press")}
    mat["file_list"] = cells(*(cells(*(names[r].split("/")[1].removesuffix(".jpg") for r in rows)) for rows in events))
    attributes = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
    columns = {"face_bbx_list": slice(0, 4)}
    columns |= {f"{name}_label_list": slice(4 + n, 5 + n) for n, name in enumerate(attributes)}
    for key, part in columns.items():
        mat[key] = cells(*(cells(*(own[r][:, part].astype(np.int32) for r in rows)) for rows in events))
    (folder / "ground_truth").mkdir()
    savemat(folder / "ground_truth" / "wider_face_val.mat", mat)
    counted = [[np.array([[2]], np.uint8)], [np.zeros((0, 1), np.uint8), np.array([[1]], np.uint8)]]
    mat["gt_list"] = cells(*(cells(*rows) for rows in counted))
    savemat(folder / "ground_truth" / "wider_easy_val.mat", mat)
    return folder


def test_levels_of_the_toolbox(toolbox: Path, delivered: Callable[..., Any]) -> None:
    whole, easy = (source(toolbox, annotations="ground_truth", level=level) for level in (None, "easy"))
    assert delivered(whole) == delivered(easy) == delivered(source(toolbox))
    assert whole.annotations(0).ignore.tolist() == [False, True]  # the invalid one
    assert easy.annotations(0).ignore.tolist() == [True, False]  # all but the level's
    assert easy.annotations(2).ignore.tolist() == [False]
    check_source(easy, others=[whole, source(toolbox)])


def test_damaged_files_of_the_toolbox(toolbox: Path) -> None:
    file = toolbox / "ground_truth" / "wider_easy_val.mat"
    for content in (b"", b"no MATLAB", file.read_bytes()[:300]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"wider_easy_val\.mat is no readable MATLAB file"):
            read_wider(toolbox / "ground_truth", "easy")
    savemat(file, {"other": 1})
    with pytest.raises(DataError, match="has no event_list, file_list, face_bbx_list, blur_label_list"):
        read_wider(toolbox / "ground_truth", "easy")


@pytest.mark.parametrize(
    ("key", "first", "message"),
    [
        ("gt_list", [[0]], "names box 0 .* has 3"),  # would count from the end
        ("gt_list", [[4]], "names box 4 .* has 3"),
        ("pose_label_list", [[0], [0]], "lists are not those of the toolbox"),
        ("face_bbx_list", [[1, 2, 3]], "lists are not those of the toolbox"),
    ],
)
def test_lists_that_do_not_fit_are_refused(toolbox: Path, key: str, first: list[Any], message: str) -> None:
    file = toolbox / "ground_truth" / "wider_easy_val.mat"
    mat = {name: value for name, value in loadmat(file).items() if not name.startswith("__")}
    mat[key][0, 0][0, 0] = np.array(first)
    savemat(file, mat)
    with pytest.raises(DataError, match=message):
        read_wider(toolbox / "ground_truth", "easy")


@pytest.mark.skipif("CASCADE_DET_DATA" not in os.environ, reason="CASCADE_DET_DATA names no folder with data/wider")
def test_the_published_validation_set() -> None:
    """Counts as the data set states them; the faces counted at each level are the toolbox's."""
    folder = Path(os.environ["CASCADE_DET_DATA"]) / "data" / "wider"
    names, picture, values = parse_faces(
        read_lines(folder / "wider_face_split" / "wider_face_val_bbx_gt.txt", "text")[0]
    )
    assert (len(names), len(picture), values.shape) == (3226, 39708, (39708, 10))
    whole = read_wider(folder / "ground_truth")
    assert whole.names == names
    np.testing.assert_array_equal(whole.picture, picture)
    np.testing.assert_array_equal(whole.boxes_xywh, values[:, :4])
    np.testing.assert_array_equal(np.stack(list(whole.attributes.values()), axis=1), values[:, 4:])
    for level, count in (("easy", 7211), ("medium", 13319), ("hard", 31958)):
        counted = read_wider(folder / "ground_truth", level).counted
        assert counted is not None
        assert int(counted.sum()) == count
