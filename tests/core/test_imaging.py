"""Pixels: every kind of file reads as RGB or is refused by name."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cascade_det.core.imaging import lift_exposure, mirror_crops, picture_size, read_image, to_image, write_image
from cascade_det.errors import DataError

quick = settings(deadline=None, max_examples=40)
RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
GREY = RGB[:, :, 0]


def saved(tmp_path: Path, picture: Image.Image, suffix: str = ".png", **options: Any) -> Path:
    path = tmp_path / f"picture{suffix}"
    picture.save(path, **options)
    return path


def as_grey(values: Any) -> NDArray[np.uint8]:
    return np.repeat(np.asarray(values, np.uint8)[:, :, None], 3, axis=2)


def over_black(rgb: Any, alpha: Any) -> NDArray[np.uint8]:
    return np.round(rgb * (alpha[:, :, None] / 255)).astype(np.uint8)


def palette(transparency: Any = None) -> Image.Image:
    picture = Image.fromarray((np.arange(54).reshape(6, 9) % 3).astype(np.uint8), "L")
    picture = Image.frombytes("P", (9, 6), picture.tobytes())
    picture.putpalette([255, 0, 0, 0, 200, 0, 10, 20, 30])
    if transparency is not None:
        picture.info["transparency"] = transparency
    return picture


COLOURS = np.array([[255, 0, 0], [0, 200, 0], [10, 20, 30]])[np.arange(54).reshape(6, 9) % 3]
ALPHA = np.arange(54).reshape(6, 9).astype(np.uint8) * 4
KINDS: dict[str, tuple[Image.Image, str, Any]] = {
    "rgb": (Image.fromarray(RGB), ".png", RGB),
    "rgb bmp": (Image.fromarray(RGB), ".bmp", RGB),
    "rgb tiff": (Image.fromarray(RGB), ".tiff", RGB),
    "grey": (Image.fromarray(GREY), ".png", as_grey(GREY)),
    "grey tiff": (Image.fromarray(GREY), ".tiff", as_grey(GREY)),
    "black and white": (Image.fromarray(GREY > 99), ".png", as_grey((GREY > 99) * 255)),
    "rgba": (Image.fromarray(np.dstack([RGB, ALPHA])), ".png", over_black(RGB, ALPHA)),
    "grey and alpha": (Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), ".png", over_black(as_grey(GREY), ALPHA)),
    "palette": (palette(), ".png", COLOURS),
    "palette gif": (palette(), ".gif", COLOURS),
    "palette, one clear": (palette(1), ".png", COLOURS * (COLOURS[:, :, 1:2] != 200)),
    "palette, part clear": (palette(bytes([51, 255, 255])), ".png", np.where(COLOURS == 255, 51, COLOURS)),
    "16 bit": (Image.fromarray(GREY.astype(np.uint16) * 257), ".png", as_grey(GREY)),
    "16 bit, dark": (Image.fromarray(GREY.astype(np.uint16)), ".png", as_grey(np.round(GREY / 257))),
    "16 bit tiff": (Image.fromarray(GREY.astype(np.uint16) * 257), ".tiff", as_grey(GREY)),
    "float tiff": (Image.fromarray(GREY.astype(np.float32)), ".tiff", as_grey(GREY)),
    "cmyk tiff": (Image.fromarray(RGB).convert("CMYK"), ".tiff", RGB),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", list(KINDS))
def test_reads_every_kind_as_rgb(tmp_path: Path, kind: str) -> None:
    picture, suffix, expected = KINDS[kind]
    got = read_image(saved(tmp_path, picture, suffix))
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(to_image(picture), expected)


def test_reads_a_colour_declared_transparent_as_black(tmp_path: Path) -> None:
    rgb = RGB.copy()
    rgb[2:4, 3:5] = (1, 2, 3)
    got = read_image(saved(tmp_path, Image.fromarray(rgb), transparency=(1, 2, 3)))
    assert not got[2:4, 3:5].any()
    np.testing.assert_array_equal(got[:2], rgb[:2])


def test_reads_16_bit_colour(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    assert cv2.imwrite(str(path), RGB[:, :, ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(path), RGB)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_reads_jpeg(tmp_path: Path, mode: str) -> None:
    flat = np.full((16, 24, 3), (200, 200, 200) if mode == "L" else (220, 60, 20), np.uint8)
    flat[:, 12:] = 90
    got = read_image(saved(tmp_path, Image.fromarray(flat).convert(mode), ".jpg", quality=95, subsampling=0))
    np.testing.assert_allclose(got[:, [2, 20]], flat[:, [2, 20]], atol=6)


ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", list(ORIENTATIONS))
@pytest.mark.parametrize(("annotated_hw", "turned"), [(None, True), ((9, 6), True), ((6, 9), False), ((5, 5), True)])
def test_applies_exif_unless_the_truth_was_drawn_without(
    tmp_path: Path, orientation: int, annotated_hw: tuple[int, int] | None, turned: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = read_image(saved(tmp_path, Image.fromarray(RGB), exif=exif), annotated_hw)
    np.testing.assert_array_equal(got, ORIENTATIONS[orientation](RGB) if turned else RGB)


@pytest.mark.parametrize("orientation", list(ORIENTATIONS))
def test_size_from_the_header(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(RGB), exif=exif)
    assert picture_size(path, turned=True) == read_image(path).shape[:2]
    assert picture_size(path, turned=False) == RGB.shape[:2]


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\xff\xd8\xff"])
def test_size_of_what_is_no_picture(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg: not a readable picture"):
        picture_size(tmp_path / "a.jpg", turned=True)


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0no TIFF header in here", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on the damage
def test_a_damaged_exif_block_leaves_the_picture_as_it_is_stored(tmp_path: Path, block: bytes) -> None:
    for suffix in (".jpg", ".png"):
        expected = read_image(saved(tmp_path, Image.fromarray(RGB), suffix))
        np.testing.assert_array_equal(read_image(saved(tmp_path, Image.fromarray(RGB), suffix, exif=block)), expected)


def test_reads_a_picture_of_more_than_a_million_columns(tmp_path: Path) -> None:
    line = np.arange(3 * 1_200_000).astype(np.uint8).reshape(1, -1, 3)  # OpenCV refuses such a side
    np.testing.assert_array_equal(read_image(saved(tmp_path, Image.fromarray(line))), line)


def test_what_is_no_number_is_black(tmp_path: Path) -> None:
    values = np.array([[np.nan, -np.inf, -3, 0], [7.4, 200, 255, 254.6]], np.float32)
    got = read_image(saved(tmp_path, Image.fromarray(values), ".tiff"))
    np.testing.assert_array_equal(got, as_grey([[0, 0, 0, 0], [7, 200, 255, 255]]))


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_refuses_a_truncated_file(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(kind)
    path = tmp_path / "cut"
    path.write_bytes(data)
    assert read_image(path).shape == (32, 48, 3)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut: not a readable picture \(.+\)"):
        read_image(path)


@quick
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP"]), st.integers(1, 200))
def test_a_file_that_lacks_its_end_is_read_whole_or_refused(tmp_path_factory: Any, kind: str, lacks: int) -> None:
    path = tmp_path_factory.getbasetemp() / "short"
    path.write_bytes(encoded(kind))
    whole = read_image(path)
    path.write_bytes(encoded(kind)[:-lacks])
    with contextlib.suppress(DataError):
        np.testing.assert_array_equal(read_image(path), whole)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", "empty.jpg: the file is empty"),
        ("text.png", b"no picture at all", "text.png: not a readable picture"),
        ("start.jpg", b"\xff\xd8\xff", "start.jpg: not a readable picture"),
        ("absent.png", None, "absent.png: cannot be read .*check the path"),
        ("", None, "cannot be read"),  # the folder itself
    ],
)
def test_refuses_what_is_no_picture(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_image(path)


def test_refuses_too_many_pixels_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encoded("PNG"))
    assert read_image(path, max_pixels=32 * 48).shape == (32, 48, 3)
    path.write_bytes(encoded("PNG")[:60])  # the pixels are not even there
    with pytest.raises(DataError, match="48 x 32 px is above the cap of 1,535 pixels"):
        read_image(path, max_pixels=32 * 48 - 1)


def test_a_pil_image_is_held_to_the_cap_too_and_an_array_is_not() -> None:
    assert to_image(Image.fromarray(RGB), max_pixels=6 * 9).shape == (6, 9, 3)
    with pytest.raises(DataError, match=r"PIL image: 9 x 6 px is above the cap of 53 pixels; .*image\.max_pixels"):
        to_image(Image.fromarray(RGB), max_pixels=6 * 9 - 1)
    assert to_image(RGB, max_pixels=1) is RGB


@quick
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP"]), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255))))
def test_damaged_bytes_read_or_are_refused(tmp_path_factory: Any, kind: str, damage: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(kind))
    for place, value in damage:
        data[int(place * len(data))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(data))
    try:
        picture = read_image(path, max_pixels=1_000_000)
    except DataError as error:
        assert "damaged" in str(error)
    else:
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3


def test_to_image_takes_an_array_as_it_is_and_a_path(tmp_path: Path) -> None:
    assert to_image(RGB) is RGB
    path = saved(tmp_path, Image.fromarray(RGB))
    np.testing.assert_array_equal(to_image(path), RGB)
    np.testing.assert_array_equal(to_image(str(path)), RGB)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(saved(tmp_path, Image.fromarray(RGB), ".tiff", exif=exif)) as picture:
        np.testing.assert_array_equal(to_image(picture), ORIENTATIONS[6](RGB))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (np.zeros((5, 0, 3), np.uint8), r"shape \(5, 0, 3\)"),
        (Image.new("RGB", (0, 5)), r"shape \(5, 0, 3\)"),
        (np.zeros((4, 5), np.uint8), r"shape \(4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"shape \(4, 5, 4\)"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\)"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"shape \(1, 4, 5, 3\)"),
        (np.zeros((4, 5, 3), np.float32), r"dtype float32"),
        ([[1, 2, 3]], "list"),
        (None, "NoneType"),
    ],
)
def test_to_image_refuses(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"\(H, W, 3\) uint8 RGB.*{message}"):
        to_image(value)


def test_write_reads_back(tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "picture.png", RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "picture.png"), RGB)
    with pytest.raises(DataError, match=r"suffix '\.xyz'; use \.png"):
        write_image(tmp_path / "picture.xyz", RGB)


@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (1, 1, 1, 3), (3, 4, 5, 3), (2, 40_000, 2, 3)])
def test_mirror_crops(shape: tuple[int, ...]) -> None:
    crops = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = crops.copy()
    assert np.array_equal(mirror_crops(crops), before[:, :, ::-1])
    assert np.array_equal(crops, before)


class TestExposure:
    @pytest.mark.parametrize("shape", [(0, 0, 3), (0, 9, 3), (1, 1, 3)])
    def test_nothing_to_lift(self, shape: tuple[int, ...]) -> None:
        assert lift_exposure(np.zeros(shape, np.uint8), 150).shape == shape

    @pytest.mark.parametrize(
        ("brightest", "level", "expected"),
        [(50, 150, 150), (50, 0, 50), (150, 150, 150), (200, 150, 200), (10, 150, 80), (0, 150, 0), (100, 255, 255)],
    )
    def test_the_brightest_reach_the_level_at_most_eightfold(self, brightest: int, level: float, expected: int) -> None:
        image = np.zeros((64, 48, 3), np.uint8)
        image[:, :24, 1] = brightest
        lifted = lift_exposure(image, level)
        assert lifted.dtype == np.uint8
        assert lifted.max() == expected
        assert (lifted[:, 24:] == 0).all()
        assert image.max() == brightest, "the picture given stays as it is"

    def test_a_few_lamps_do_not_count(self) -> None:
        image = np.full((640, 480, 3), 30, np.uint8)
        image[8:12, 8:12] = 255
        assert lift_exposure(image, 150)[300, 300].tolist() == [150] * 3
