"""Given files: what is taken as it stands, and what is refused with file, entry and value."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.errors import DataError
from cascade_det.evaluation.given import number_column, read_given

WriteFiles = Callable[..., tuple[Path, Path]]
NAN, INF = float("nan"), float("inf")
BOX = [1, 2, 3.5, 4]
ONE = ([(1, BOX, 0.5)], [(1, BOX)])


def test_nothing_found_and_nothing_there(write_files: WriteFiles) -> None:
    given = read_given(*write_files([], [], images=2))
    assert (given.pictures, given.categories, list(given.groups()), given.warnings) == (2, 1, [], [])
    for part in (given.truth, given.found):
        assert (part.picture.shape, part.boxes_xywh.shape) == ((0,), (0, 4))
    assert (given.scores.shape, given.ignore.shape) == ((0,), (0,))


def test_columns_keep_what_the_files_say(write_files: WriteFiles) -> None:
    outside = [-5.25, 1e6, 0, 0.1]
    found = [(3, outside, -2, {"keypoints": []}), (1, BOX, 1e9)]
    truth = [(3, BOX, {"iscrowd": 1}), (1, outside, {"ignore": 1}), (3, BOX, {"ignore": 0})]
    given = read_given(*write_files(found, truth, images=3))
    assert given.found.boxes_xywh.tolist() == [outside, BOX]
    assert given.truth.boxes_xywh.tolist() == [BOX, outside, BOX]
    assert (given.found.picture.tolist(), given.truth.picture.tolist()) == ([2, 0], [2, 0, 2])
    assert (given.scores.tolist(), given.ignore.tolist()) == ([-2, 1e9], [True, True, False])
    assert given.found.records[0]["keypoints"] == []


def test_groups_are_pictures_and_categories_in_order(write_files: WriteFiles) -> None:
    found = [(3, BOX, 0.1, {"category_id": 5}), (1, BOX, 0.2), (3, BOX, 0.3), (3, BOX, 0.9)]
    truth = [(3, BOX), (2, BOX), (3, BOX, {"category_id": 5})]
    given = read_given(*write_files(found, truth, images=3, categories=[1, 5]))
    groups = [(objects.tolist(), rows.tolist()) for objects, rows in given.groups()]
    assert groups == [([], [1]), ([1], []), ([0], [2, 3]), ([2], [0])]


def test_pictures_are_in_order_of_their_ids(write_files: WriteFiles) -> None:
    predictions, annotations = write_files(*ONE)
    data = json.loads(annotations.read_text())
    data["images"] = [{"id": number} for number in (7, 1, -4)]
    annotations.write_text(json.dumps(data))
    assert read_given(predictions, annotations).found.picture.tolist() == [1]


@pytest.mark.parametrize(
    ("of_truth", "of_found", "rows", "warned"),
    [
        ([1], [1, 1], [0, 0], ""),
        ([7], [1, 1], [0, 0], ""),  # detection files of this package have the id 1
        ([7], [7, 1], [0, 0], ""),
        ([7], [3, 3], [0, 0], "all detections have category_id 3, and are taken for the truth's one, 7."),
        ([7], [3, 7], "holds detections with category_id 3, 7, and the truth has one category, 7", ""),
        ([1, 4], [4, 1], [1, 0], ""),
        ([1, 4], [1, 7], "entry 1 .the first is 0. has category_id 7. Choose among the truth's, which are 1, 4", ""),
        ([2, 4], [1, 2], "entry 0 .the first is 0. has category_id 1", ""),
    ],
)
def test_categories(
    write_files: WriteFiles, of_truth: list[int], of_found: list[int], rows: list[int] | str, warned: str
) -> None:
    found = [(1, BOX, 0.5, {"category_id": key}) for key in of_found]
    files = write_files(found, [(1, BOX)], categories=of_truth)
    if isinstance(rows, str):
        with pytest.raises(DataError, match=rows):
            read_given(*files)
        return
    given = read_given(*files)
    assert given.found.category.tolist() == rows
    assert [warning.split(": ")[1] for warning in given.warnings] == ([warned] if warned else [])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ((2, BOX, 0.5), "entry 1 .the first is 0. has image_id 2. Choose among the truth's, which are 1"),
        (("1", BOX, 0.5), "has image_id '1'"),
        ((True, BOX, 0.5), "has image_id True"),
        ((1, [1, 2, 3], 0.5), r"needs four finite numbers x y width height.*it has bbox \[1, 2, 3\]"),
        ((1, [1, 2, 3, 4, 5], 0.5), r"has bbox \[1, 2, 3, 4, 5\]"),
        ((1, None, 0.5), "has bbox None"),
        ((1, [1, NAN, 3, 4], 0.5), r"has bbox \[1, nan, 3, 4\]"),
        ((1, [1, 2, INF, 4], 0.5), "has bbox .1, 2, inf, 4"),
        ((1, [1, 2, 3, -4], 0.5), r"no side below 0; it has bbox \[1, 2, 3, -4\]"),
        ((1, [1, 2, 10**400, 4], 0.5), "has bbox"),
        ((1, [1, 2, True, 4], 0.5), "has bbox"),
        ((1, BOX, NAN), "has score nan. Give it a finite number"),
        ((1, BOX, "0.5"), "has score '0.5'"),
        ((1, BOX, None), "has score None"),
        ((1, BOX, 0.5, {"category_id": None}), "has category_id None"),
        ((1, BOX, 0.5, {"category_id": [1]}), r"has category_id \[1\]"),
    ],
)
def test_detections_that_cannot_be_scored(write_files: WriteFiles, row: Any, told: str) -> None:
    predictions, annotations = write_files([(1, BOX, 0.5), row], [(1, BOX)])
    with pytest.raises(DataError, match=told) as error:
        read_given(predictions, annotations)
    assert str(predictions) in str(error.value)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_a_missing_key(write_files: WriteFiles, key: str) -> None:
    predictions, annotations = write_files(*ONE)
    results = json.loads(predictions.read_text())
    del results[0][key]
    predictions.write_text(json.dumps(results))
    with pytest.raises(DataError, match=rf"entry 0 .the first is 0. .*has no `{key}`"):
        read_given(predictions, annotations)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read .No such file"),
        ("", "is no JSON file"),
        ("[1", "is no JSON file"),
        ("\ufffd".encode("utf-16"), "is no JSON file"),
        ("[" * 100_000, "is no JSON file"),
        ('{"images": []}', "holds a dict at its top, not a list.*an object with `images` is a truth"),
        ("3", "holds a int at its top"),
        ("[3]", "entry 0 .the first is 0. is 3, not an object with `image_id`"),
    ],
)
def test_files_that_are_no_detections(write_files: WriteFiles, text: str | bytes | None, told: str) -> None:
    predictions, annotations = write_files(*ONE)
    predictions.unlink()
    if text is not None:
        predictions.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=told) as error:
        read_given(predictions, annotations)
    assert str(predictions) in str(error.value)


def test_detections_for_the_truth_and_the_other_way_round(write_files: WriteFiles) -> None:
    predictions, annotations = write_files(*ONE)
    with pytest.raises(DataError, match="A list is a file of results; `annotations` must name the truth"):
        read_given(predictions, predictions)
    with pytest.raises(DataError, match="an object with `images` is a truth"):
        read_given(annotations, annotations)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"images": []}, "holds no picture"),
        ({"images": [{"id": 1}, {"id": 1}]}, "two pictures have the id 1"),
        ({"images": [{"id": "1"}]}, "a picture has the id '1'. Give it a whole number"),
        ({"images": [{}]}, "a picture has the id None"),
        ({"categories": []}, "has no category"),
        ({"categories": [{"id": 1}, {"id": 1}]}, "the category {'id': 1} needs its own `id`"),
        ({"images": [{"id": 2}]}, "annotation 1 has image_id 1, but there is no picture of this id"),
        ({"categories": [{"id": 2}]}, "annotation 1 has category_id 1, but there is no category of this id"),
        ({"bbox": [1, 2, 3]}, r"annotation 1 needs 4 numbers as `bbox`, it has \[1, 2, 3\]"),
        ({"bbox": [1, 2, NAN, 4]}, r"annotation 1 needs four finite numbers.*it has \[1, 2, nan, 4\]"),
        ({"bbox": [1, 2, -3, 4]}, r"annotation 1 needs four finite numbers.*no side below 0, it has \[1, 2, -3, 4\]"),
        ({"iscrowd": 2}, "annotation 1 has iscrowd 2"),
        ({"id": None}, "an annotation of picture 1 has the id None"),
    ],
)
def test_truth_that_cannot_be_scored_against(write_files: WriteFiles, change: dict[str, Any], told: str) -> None:
    predictions, annotations = write_files(*ONE)
    data = json.loads(annotations.read_text())
    for key, value in change.items():
        (data if key in data else data["annotations"][0])[key] = value
    annotations.write_text(json.dumps(data))
    with pytest.raises(DataError, match=told) as error:
        read_given(predictions, annotations)
    assert str(annotations) in str(error.value)


def test_a_field_of_numbers(write_files: WriteFiles) -> None:
    values = [{"vis_ratio": 0.5}, {"vis_ratio": 1}, {"vis_ratio": None}, {}]
    given = read_given(*write_files([], [(1, BOX, more) for more in values]))
    assert number_column(given, "vis_ratio") == pytest.approx([0.5, 1, np.nan, np.nan], nan_ok=True)
    for value in ("1", NAN, True, [1]):
        given = read_given(*write_files([], [(1, BOX), (1, BOX, {"vis_ratio": value})]))
        with pytest.raises(DataError, match=r"truth.json: annotation 2 has vis_ratio .*Give it a finite number"):
            number_column(given, "vis_ratio")
