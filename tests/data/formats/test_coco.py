"""The COCO source: what it delivers, what it selects, and what it says about files that are wrong."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cascade_det.data.formats.coco import Coco
from cascade_det.errors import DataError

Data = dict[str, Any]
POINTS = [10, 11, 2, 14, 11, 1, 0, 0, 0]  # two of three known


def small_file() -> Data:
    """Return three pictures of 40 x 30 px with 2, 0 and 1 faces and one cat."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30, "source": "web", "night": True, "tags": ["x"]},
            {"id": 3, "file_name": "sub/b.png", "width": 40, "height": 30, "source": "film", "scale": 0.5},
            {"id": 5, "file_name": "c.png", "width": 40, "height": 30, "source": "web"},
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 1, "bbox": [1.5, 2.25, 10, 12], "area": 120, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [-5, 2, 20, 40], "area": 800, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [8, 8, 9, 9], "area": 81, "mask": "on", "blur": 2},
            {"id": 4, "image_id": 7, "category_id": 4, "bbox": [0, 0, 5, 5], "area": 25},
        ],
        "categories": [{"id": 1, "name": "face"}, {"id": 4, "name": "cat"}],
    }


def source(folder: Path, data: object, **params: Any) -> Coco:
    """Write `data` as the annotation file of `folder` and return its source."""
    (folder / "truth.json").write_text(data if isinstance(data, str) else json.dumps(data))
    params = {"object_category": "face", **params}
    return Coco(images="pictures", annotations="truth.json", base_dir=str(folder), **params)


def write_pictures(folder: Path) -> None:
    for number, name in enumerate(("a.png", "sub/b.png", "c.png")):
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((30, 40, 3), (0, number, 200), np.uint8))


def test_file_without_annotations_gives_pictures_without_objects(tmp_path: Path) -> None:
    data = {**small_file(), "annotations": [], "categories": []}
    coco = source(tmp_path, data, num_points=3)
    truth = coco.annotations(1)
    assert [p.image_id for p in coco.pictures] == [7, 3, 5]
    assert truth.boxes.shape == (0, 4)
    assert truth.points.shape == (0, 3, 2)
    assert truth.points_known.shape == (0, 3)
    assert truth.extras == {}
    assert coco.report() == {}


def test_file_without_pictures_is_empty(tmp_path: Path) -> None:
    coco = source(tmp_path, {"images": [], "annotations": [], "categories": []}, where={"source": ["web"]})
    assert coco.pictures == []
    assert coco.missing_files() == []
    assert len(coco.digest()) == 64


def test_picture_without_objects_among_others(tmp_path: Path) -> None:
    truth = source(tmp_path, small_file()).annotations(1)
    assert len(truth) == 0
    assert truth.extras["mask"].shape == (0,)


def test_constructing_reads_nothing(tmp_path: Path) -> None:
    coco = Coco(images="nowhere", annotations="nothing.json", base_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"nothing\.json.*No such file.*Correct `annotations`"):
        _ = coco.pictures


def test_boxes_stand_as_written_and_keep_to_their_picture(tmp_path: Path) -> None:
    coco = source(tmp_path, small_file())
    np.testing.assert_array_equal(coco.annotations(0).boxes, [[-5, 2, 15, 42], [8, 8, 17, 17]])
    np.testing.assert_array_equal(coco.annotations(2).boxes, [[1.5, 2.25, 11.5, 14.25]])
    np.testing.assert_array_equal(coco.annotations(-1).boxes, coco.annotations(2).boxes)
    assert coco.annotations(0).ignore.tolist() == [True, False]
    assert coco.report() == {"objects of other categories": 1}


@pytest.mark.parametrize("flags", [{"iscrowd": 1}, {"ignore": 1}, {"iscrowd": 0, "ignore": True}])
def test_either_flag_means_ignore(tmp_path: Path, flags: Data) -> None:
    data = small_file()
    data["annotations"][0].update(flags)
    assert source(tmp_path, data).annotations(2).ignore.tolist() == [True]


def test_scalar_fields_become_fields_and_columns(tmp_path: Path) -> None:
    coco = source(tmp_path, small_file())
    assert coco.pictures[0].fields == {"source": "web", "night": True}
    assert coco.pictures[1].fields == {"source": "film", "scale": 0.5}
    extras = coco.annotations(0).extras
    assert {name: column.tolist() for name, column in extras.items()} == {
        "area": [800, 81],
        "mask": ["", "on"],
        "blur": [pytest.approx(math.nan, nan_ok=True), 2],  # a number stays one where some objects lack it
    }
    assert extras["blur"].dtype == np.float64
    assert extras["mask"].dtype == coco.annotations(2).extras["mask"].dtype


def test_partly_known_points(tmp_path: Path) -> None:
    data = small_file()
    data["annotations"][2]["keypoints"] = POINTS
    truth = source(tmp_path, data, num_points=3).annotations(0)
    assert truth.points_known.tolist() == [[False] * 3, [True, True, False]]
    np.testing.assert_array_equal(truth.points[1], [[10, 11], [14, 11], [0, 0]])


def test_points_that_are_not_finite_are_unknown(tmp_path: Path) -> None:
    data = small_file()
    data["annotations"][2]["keypoints"] = [float("nan"), *POINTS[1:]]
    coco = source(tmp_path, data, num_points=3)
    assert coco.annotations(0).points_known[1].tolist() == [False, True, False]
    assert coco.annotations(0).points[1, 0].tolist() == [0, 0]
    assert coco.report()["points that are not finite"] == 1


def test_keypoints_stay_unread_without_points(tmp_path: Path) -> None:
    data = small_file()
    data["annotations"][2]["keypoints"] = POINTS
    assert source(tmp_path, data, num_points=0).annotations(0).points.shape == (2, 0, 2)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([3, 3, 0, 5], "boxes without area"),
        ([3, 3, 5, -1], "boxes without area"),
        ([39, 3, 1e-9, 5], "boxes without area"),
        ([float("nan"), 3, 5, 5], "boxes that are not finite"),
        ([3, 3, float("inf"), 5], "boxes that are not finite"),
        ([40, 3, 5, 5], "boxes outside their picture"),
        ([3, -9, 5, 9], "boxes outside their picture"),
    ],
)
def test_bad_boxes_are_left_out_and_counted(tmp_path: Path, box: list[float], reason: str) -> None:
    data = small_file()
    data["annotations"][0]["bbox"] = box
    coco = source(tmp_path, data)
    assert len(coco.annotations(2)) == 0
    assert len(coco.annotations(0)) == 2
    assert coco.report()[reason] == 1


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({}, ["a.png", "sub/b.png", "c.png"]),
        ({"where": {"source": ["web"]}}, ["a.png", "c.png"]),
        ({"where": {"source": ["film", "radio"]}}, ["sub/b.png"]),
        ({"where": {"source": ["web"], "night": [True]}}, ["a.png"]),
        ({"where_not": {"source": ["web"]}}, ["sub/b.png"]),
        ({"where_not": {"night": [True]}}, ["sub/b.png", "c.png"]),
        ({"where": {"source": ["web"]}, "where_not": {"night": [True]}}, ["c.png"]),
    ],
)
def test_where_selects_pictures_with_their_objects(tmp_path: Path, params: Data, names: list[str]) -> None:
    coco, everything = source(tmp_path, small_file(), **params), source(tmp_path, small_file())
    assert [p.name for p in coco.pictures] == names
    rows = {p.name: row for row, p in enumerate(everything.pictures)}
    for row, name in enumerate(names):
        np.testing.assert_array_equal(coco.annotations(row).boxes, everything.annotations(rows[name]).boxes)


@pytest.mark.parametrize("key", ["where", "where_not"])
def test_where_refuses_an_unknown_field_and_a_bare_value(tmp_path: Path, key: str) -> None:
    coco = source(tmp_path, small_file(), **{key: {"sorce": ["web"]}})
    with pytest.raises(DataError, match=rf"{key}: no picture has a field 'sorce'; did you mean 'source'.*night, scale"):
        _ = coco.pictures
    with pytest.raises(TypeError, match=rf"{key}\.source must be a list of values, it is 'web'"):
        source(tmp_path, small_file(), **{key: {"source": "web"}})


def test_where_that_leaves_nothing_names_the_values(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"leave none of its 3 pictures. There source is 'film', 'web'"):
        _ = source(tmp_path, small_file(), where={"source": ["wbe"]}).pictures


def test_category_by_name_by_object_and_alone(tmp_path: Path) -> None:
    assert len(source(tmp_path, small_file(), category="cat").annotations(0)) == 1
    assert len(source(tmp_path, small_file(), object_category="cat").annotations(0)) == 1
    data = small_file()
    data["categories"], data["annotations"] = data["categories"][:1], data["annotations"][:3]
    assert len(source(tmp_path, data, object_category="head").annotations(0)) == 2


def edit(key: str, row: int, **values: Any) -> Callable[[Data], object]:
    """Return a change of one entry of a file; the value None removes a key."""

    def change(data: Data) -> None:
        for name, value in values.items():
            data[key][row][name] = value
            if value is None:
                del data[key][row][name]

    return change


BAD_FILES: list[tuple[Callable[[Data], object], Data, str]] = [
    (lambda d: d.pop("images"), {}, "has no `images`. A COCO file has"),
    (lambda d: d["categories"].append("dog"), {}, "its `categories` is no list of objects"),
    (edit("images", 1, file_name=None), {}, "picture 3 has the file_name None"),
    (edit("images", 1, width=0), {}, "picture 3 has width 0"),
    (edit("images", 1, height=None), {}, "picture 3 has height None"),
    (edit("categories", 1, id=1), {}, "needs a `name` and its own `id`"),
    (edit("categories", 1, name=None), {}, "needs a `name` and its own `id`"),
    (edit("annotations", 1, id=None), {}, "an annotation of picture 7 has the id None"),
    (edit("annotations", 1, category_id=[1]), {}, "annotation 2 has category_id [1]"),
    (edit("annotations", 1, bbox=None), {}, "annotation 2 needs 4 numbers as `bbox`, it has None"),
    (edit("annotations", 1, bbox=[1, 2, 3]), {}, "annotation 2 needs 4 numbers as `bbox`, it has [1, 2, 3]"),
    (edit("annotations", 2, keypoints=POINTS[:8]), {"num_points": 3}, "needs 9 numbers as `keypoints`"),
    (lambda d: None, {"category": "fase"}, "it has no category 'fase'. Set `category`; did you mean 'face'?"),
    (lambda d: None, {"object_category": "dog"}, "several categories, but not the object 'dog'. Set `category`"),
]


@pytest.mark.parametrize(("change", "params", "message"), BAD_FILES)
def test_wrong_files_are_named_with_the_entry(
    tmp_path: Path, change: Callable[[Data], object], params: Data, message: str
) -> None:
    data = copy.deepcopy(small_file())
    change(data)
    with pytest.raises(DataError) as caught:
        _ = source(tmp_path, data, **params).pictures
    assert message in str(caught.value)
    assert str(tmp_path / "truth.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON file"),
        ("{'a': 1}", "is no JSON file"),
        ("[]", "holds a list at its top"),
        ("\udcff", "no JSON"),
    ],
)
def test_what_is_no_coco_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "truth.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message):
        _ = Coco(images=".", annotations="truth.json", base_dir=str(tmp_path)).pictures


def test_annotations_that_name_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        _ = Coco(images=".", annotations=".", base_dir=str(tmp_path)).pictures


def test_pictures_are_read_as_rgb_and_hashed_by_content(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    coco = source(tmp_path, small_file())
    image = coco.read(1)
    assert image.shape == (30, 40, 3)
    assert image.dtype == np.uint8
    assert image[0, 0].tolist() == [200, 1, 0]
    assert len({coco.content_hash(row) for row in range(3)}) == 3
    assert len(coco.content_hash(0)) == 16
    (tmp_path / "pictures/c.png").write_bytes((tmp_path / "pictures/a.png").read_bytes())
    assert coco.content_hash(2) == coco.content_hash(0)


def test_missing_pictures_are_listed_and_named(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    coco, path = source(tmp_path, small_file()), tmp_path / "pictures" / "sub" / "b.png"
    assert coco.missing_files() == []
    path.unlink()
    assert coco.missing_files() == [str(path)]
    for act in (coco.read, coco.content_hash):
        with pytest.raises(DataError, match=r"sub/b\.png: there is no such picture.*Correct `images`"):
            act(1)


def test_picture_of_another_size_than_annotated(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    cv2.imwrite(str(tmp_path / "pictures/a.png"), np.zeros((15, 20, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.png is 20 x 15 pixels .*truth\.json says 40 x 30"):
        source(tmp_path, small_file()).read(0)


def test_digest_follows_what_is_delivered(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    digests = [source(tmp_path, small_file()).digest()]
    assert source(tmp_path, small_file()).digest() == digests[0]
    digests += [source(tmp_path, small_file(), **p).digest() for p in ({"num_points": 3}, {"category": "cat"})]
    digests.append(source(tmp_path, small_file(), where={"source": ["web"]}).digest())
    changed = small_file()
    changed["annotations"][0]["bbox"][0] = 2
    digests.append(source(tmp_path, changed).digest())
    (tmp_path / "pictures/a.png").write_bytes(b"longer or shorter")
    digests.append(source(tmp_path, small_file()).digest())
    (tmp_path / "pictures/a.png").unlink()
    digests.append(source(tmp_path, small_file()).digest())
    assert len(set(digests)) == len(digests)


def test_digest_does_not_depend_on_the_place(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        write_pictures(folder)
    assert len({source(folder, small_file()).digest() for folder in folders}) == 1


def test_source_travels_to_a_worker_without_its_cache(tmp_path: Path) -> None:
    coco = source(tmp_path, small_file())
    before = len(pickle.dumps(coco))
    boxes = coco.annotations(0).boxes
    data = pickle.dumps(coco)
    assert len(data) == before
    np.testing.assert_array_equal(pickle.loads(data).annotations(0).boxes, boxes)
