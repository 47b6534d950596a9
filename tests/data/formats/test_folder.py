"""The source of backgrounds: all pictures of a folder, none with an object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cascade_det.data.formats.folder import Folder
from cascade_det.errors import DataError
from cascade_det.testing import check_source


@pytest.fixture
def folder(tmp_path: Path, write_pictures: Callable[..., None]) -> Path:
    write_pictures(tmp_path, "b.png", "a/2.jpg", "a/1.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_all_pictures_in_order(folder: Path) -> None:
    source = Folder(images=str(folder), num_points=3)
    assert [(p.name, p.image_hw, p.fields) for p in source.pictures] == [
        ("a/1.png", (30, 40), {"folder": "a"}),
        ("a/2.jpg", (30, 40), {"folder": "a"}),
        ("b.png", (30, 40), {"folder": ""}),
    ]
    assert source.annotations(0).points.shape == (0, 3, 2)
    check_source(source, others=[Folder(images=str(folder), where={"folder": ["a"]}, num_points=3)])


def test_no_folder_and_no_picture(folder: Path) -> None:
    (folder / "empty").mkdir()
    for name, message in (("none", "none: no such folder"), ("empty", "empty: a folder without pictures")):
        with pytest.raises(DataError, match=message):
            _ = Folder(images=name, base_dir=str(folder)).pictures


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_viewers_show_them(tmp_path: Path, orientation: int) -> None:
    """Also where turning by 180 degrees leaves the size as it is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = Image.new("RGB", (40, 30))
    plain.paste((255, 0, 0), (0, 0, 20, 15))  # red in the upper left quarter as stored
    plain.save(tmp_path / "a.jpg", exif=exif, quality=95)
    source = Folder(images=str(tmp_path))
    image = source.read(0)
    assert source.pictures[0].image_hw == image.shape[:2] == ((40, 30) if orientation >= 5 else (30, 40))
    red = {1: (5, 5), 2: (5, -5), 3: (-5, -5), 4: (-5, 5), 5: (5, 5), 6: (5, -5), 7: (-5, -5), 8: (-5, 5)}[orientation]
    assert image[red][0] > 200
