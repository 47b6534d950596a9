"""Which categories of an annotation are taken, through the COCO source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cascade_det.data.formats.coco import Coco
from cascade_det.errors import DataError

BOX = {"image_id": 1, "bbox": [1, 1, 5, 5]}
FILE = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
    "annotations": [{**BOX, "id": n, "category_id": c, "hidden": n} for n, c in enumerate((1, 2, 3, 1))],
    "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "truck"}, {"id": 3, "name": "bus"}],
}


def source(folder: Path, **params: Any) -> Coco:
    (folder / "truth.json").write_text(json.dumps(FILE))
    return Coco(images=".", annotations="truth.json", base_dir=str(folder), **params)


@pytest.mark.parametrize(
    ("params", "rows", "ignored", "left_out"),
    [
        ({"category": "car"}, [0, 3], [False] * 2, 2),
        ({"category": ["car", "bus"]}, [0, 2, 3], [False] * 3, 1),
        ({"category": ["car", "truck", "bus", "car"]}, [0, 1, 2, 3], [False] * 4, 0),
        ({"category": "car", "others": "ignore"}, [0, 1, 2, 3], [False, True, True, False], 0),
        ({"object_category": "bus", "others": "background"}, [2], [False], 3),
        ({"category": ["car", "truck", "bus"], "others": "refuse"}, [0, 1, 2, 3], [False] * 4, 0),
    ],
)
def test_what_is_taken(tmp_path: Path, params: Any, rows: list[int], ignored: list[bool], left_out: int) -> None:
    coco = source(tmp_path, **params)
    truth = coco.annotations(0)
    assert truth.extras["hidden"].tolist() == rows
    assert truth.ignore.tolist() == ignored
    assert coco.report() == ({"objects of other categories": left_out} if left_out else {})
    several = isinstance(params.get("category"), list) or params.get("others") == "ignore"
    assert ("category" in truth.extras) == several
    if several:
        assert truth.extras["category"].tolist() == [["car", "truck", "bus", "car"][row] for row in rows]


def test_the_digest_follows_the_choice_and_not_its_order(tmp_path: Path) -> None:
    choices: list[dict[str, Any]] = [
        {"category": "car"},
        {"category": "car", "others": "ignore"},
        {"category": ["car", "bus"]},
        {"category": ["car", "bus"], "others": "ignore"},
    ]
    assert len({source(tmp_path, **params).digest() for params in choices}) == 4
    assert source(tmp_path, category=["bus", "car"]).digest() == source(tmp_path, category=["car", "bus"]).digest()
    assert source(tmp_path, category=["car"]).digest() == source(tmp_path, category="car").digest()


def test_others_that_are_refused_are_counted_and_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"truth\.json: others is 'refuse', but 2 of its objects are others than car: bus,"
    ):
        _ = source(tmp_path, category="car", others="refuse").pictures


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"category": []}, TypeError, r"a name or a list of names, it is \[\]"),
        ({"category": 3}, TypeError, "it is 3"),
        ({"category": ["car", 3]}, TypeError, r"it is \['car', 3\]"),
        ({"others": "ignored"}, ValueError, "others='ignored'; did you mean 'ignore'"),
    ],
)
def test_wrong_parameters(tmp_path: Path, params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        source(tmp_path, **params)
