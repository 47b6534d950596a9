"""The Pascal VOC source: pixels to edges, categories, how a picture is found, and XML that is wrong or does harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cascade_det.data.formats.voc import Voc, parse_voc
from cascade_det.errors import DataError
from cascade_det.testing import check_source


def item(name: str, box: tuple[float, ...], more: str = "") -> str:
    edges = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{edges}</bndbox></object>"


def xml(*items: str, filename: str = "", size: str = "<size><width>40</width><height>30</height></size>") -> str:
    return f"<annotation><filename>{filename}</filename>{size}{''.join(items)}</annotation>"


HEAD = "<part><name>head</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
FILES = {
    "a": xml(
        item("car", (1, 1, 40, 30)),
        item("truck", (5, 5, 9, 9), "<difficult>1</difficult><pose>Left</pose>"),
        filename="a.png",
    ),
    "b": xml(
        item("car", (3, 4, 3, 4), HEAD + "<difficult>0</difficult>"),
        item("bus", (2, 2, 8, 8)),
        filename="old.png",
    ),
    "sub/c": '<?xml version="1.0" encoding="utf-8"?>\r\n' + xml(size="", filename="c.png"),
}


@pytest.fixture
def folder(tmp_path: Path, write_pictures: Callable[..., None]) -> Path:
    """Return a folder with three pictures and their XML files; the `filename` in one is out of date."""
    write_pictures(tmp_path / "JPEGImages", "a.png", "b.jpg", "sub/c.png")
    for name, text in FILES.items():
        (tmp_path / "Annotations" / f"{name}.xml").parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text)
    (tmp_path / "train.txt").write_text("sub/c 1\na -1\n")
    return tmp_path


def source(folder: Path, **params: Any) -> Voc:
    given = {"images": "JPEGImages", "annotations": "Annotations", "object_category": "car", "base_dir": str(folder)}
    return Voc(**{**given, **params})


def test_pixels_counted_from_one_become_edges(folder: Path, delivered: Callable[..., Any]) -> None:
    voc = source(folder)
    assert delivered(voc) == {"a.png": [[0, 0, 40, 30]], "b.jpg": [[2, 3, 3, 4]], "sub/c.png": []}
    assert voc.report() == {"objects of other categories": 2}
    assert delivered(source(folder, one_based=False))["a.png"] == [[1, 1, 40, 30]]
    assert source(folder, one_based=False).report()["boxes without area"] == 1
    others = [source(folder, category="bus"), source(folder, one_based=False), source(folder, others="ignore")]
    check_source(voc, others=others)


def test_several_categories_and_difficult_ones(folder: Path) -> None:
    voc = source(folder, category=["car", "truck"], others="ignore")
    assert voc.annotations(0).ignore.tolist() == [False, True]
    assert voc.annotations(1).ignore.tolist() == [False, True]
    assert voc.annotations(1).extras["category"].tolist() == ["car", "bus"]
    assert voc.annotations(0).extras["pose"].tolist() == ["", "Left"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"category": "cat"},
            "Annotations: it has no category 'cat'. Set `category`; did you mean 'car'?",
        ),
        ({"object_category": "face"}, "several categories, but not the object 'face'"),
        ({"others": "refuse"}, "others is 'refuse', but 2 of its objects are others than car: bus, truck"),
        ({"annotations": "none"}, "none: no such folder. `annotations` must name the folder of the XML files"),
        ({"annotations": "JPEGImages"}, "JPEGImages: holds no XML file"),
        ({"images": "none"}, "none of its pictures is in"),
        ({"listed": "none.txt"}, "none.txt: cannot be read"),
        ({"listed": "wrong.txt"}, "gone.xml: cannot be read"),
    ],
)
def test_wrong_parameters(folder: Path, params: dict[str, Any], message: str) -> None:
    (folder / "wrong.txt").write_text("a\ngone\n")
    with pytest.raises(DataError) as caught:
        _ = source(folder, **params).pictures
    assert message in str(caught.value)


def test_the_files_of_a_list_alone(folder: Path) -> None:
    assert [p.name for p in source(folder, listed="train.txt").pictures] == ["sub/c.png", "a.png"]


def test_a_picture_is_sought_by_its_own_name_then_by_the_one_in_the_file(
    folder: Path, write_pictures: Callable[..., None]
) -> None:
    write_pictures(folder / "JPEGImages", "old.png")
    assert [p.name for p in source(folder).pictures] == ["a.png", "b.jpg", "sub/c.png"]
    (folder / "JPEGImages" / "b.jpg").unlink()
    assert [p.name for p in source(folder).pictures] == ["a.png", "old.png", "sub/c.png"]
    (folder / "JPEGImages" / "old.png").unlink()
    assert source(folder).report()["pictures that are not on disk"] == 1


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
CAR = item("car", (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no XML (no element found"),
        ("no XML", "is no XML (syntax error: line 1"),
        (xml(CAR)[:-9], "is no XML (unclosed token: line 1"),
        (BOMB + xml(item("&b;", (1, 2, 3, 4))), "has a DOCTYPE, which no annotation needs"),
        (xml(item("&b;", (1, 2, 3, 4))), "is no XML (undefined entity"),
        ("<kml/>", "its top is <kml>, not <annotation>"),
        (xml(CAR, item("", (1, 2, 3, 4))), "a.xml: object 2 has no <name>"),
        (xml(item("car", (1, 2, 3, float("nan")))), "object 1 has <bndbox/ymax> 'nan', which is no finite number"),
        (xml(CAR.replace("<ymax>4</ymax>", "")), "object 1 has <bndbox/ymax> ''"),
        (xml(item("car", (1, 2, 3, 4), "<difficult>yes</difficult>")), "object 1 has <difficult> 'yes'. Choices: 0, 1"),
        (xml(size="<size><width>40</width><height>-3</height></size>"), "has <size> of height '-3' and width '40'"),
        (xml(size="<size><width>40</width></size>"), "has <size> of height '' and width '40'"),
    ],
)
def test_wrong_files_are_named(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_voc(text, "a.xml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("a.xml: ")


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_known_is_read_from_the_picture(folder: Path, size: str) -> None:
    (folder / "Annotations" / "a.xml").write_text(xml(CAR, size=size))
    assert source(folder).pictures[0].image_hw == (30, 40)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (xml(CAR, filename="C:\\data\\a.png").encode(), r"a\.xml: the picture is named .*, a path of Windows"),
        (xml(CAR, filename="../a.png").encode(), r"a\.xml: .*which leaves the folder of the pictures"),
        (xml(CAR).encode("utf-16"), r"a\.xml, line 1: the byte .* is no text in UTF-8"),
        ((BOMB + xml(CAR)).encode("utf-16"), r"a\.xml, line 1: the byte .* is no text in UTF-8"),
    ],
)
def test_wrong_names_and_encodings(folder: Path, content: bytes, message: str) -> None:
    (folder / "Annotations" / "a.xml").write_bytes(content)
    (folder / "JPEGImages" / "a.png").unlink()  # else the name in the file is not looked at
    with pytest.raises(DataError, match=message):
        _ = source(folder).pictures
