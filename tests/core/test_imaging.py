"""Pixels: every kind of file reads as RGB or is refused by name; levels and crops agree with plain references."""

from __future__ import annotations

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

from cascade_det.core.geometry import crop_truth
from cascade_det.core.imaging import Border, Resample, Resampler, read_image, to_image, to_network_input, write_image
from cascade_det.core.types import Annotations, CropPlan, SampleRole
from cascade_det.errors import DataError

quick = settings(deadline=None, max_examples=40)
MODES, BORDERS = list(Resample), list(Border)
RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
GREY = RGB[:, :, 0]


def smooth(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return a picture whose pixels change slowly, so that a fraction of a pixel is a few levels at most."""
    noise = np.random.default_rng(seed).integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


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


def encoded(kind: str, picture: NDArray[np.uint8] | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth(32, 48) if picture is None else picture).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_refuses_a_truncated_file(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(kind)
    path = tmp_path / "cut"
    path.write_bytes(data)
    assert read_image(path).shape == (32, 48, 3)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut: not a readable picture \(.+\)"):
        read_image(path)


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


def test_network_input() -> None:
    assert to_network_input(np.zeros((0, 4, 6, 3), np.uint8), 127.5, 0.0078125).shape == (0, 3, 4, 6)
    out = to_network_input(RGB[None], 127.5, 0.0078125)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    np.testing.assert_allclose(out[0, 1], (RGB[:, :, 1] - 127.5) / 128)


def test_write_reads_back(tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "picture.png", RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "picture.png"), RGB)
    with pytest.raises(DataError, match=r"suffix '\.xyz'; use \.png"):
        write_image(tmp_path / "picture.xyz", RGB)


def bilinear(image: NDArray[np.uint8], x: Any, y: Any, border: Border, value: int) -> NDArray[np.float64]:
    """Return the picture at pixel positions (x, y) in whole-number centres, in plain floating point."""
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    total = np.zeros((*x.shape, 3))
    for dx in (0, 1):
        for dy in (0, 1):
            col, row = left + dx, top + dy
            weight = np.abs(1 - dx - (x - left)) * np.abs(1 - dy - (y - top))
            inside = (col >= 0) & (col < image.shape[1]) & (row >= 0) & (row < image.shape[0])
            pixel = image[row.clip(0, image.shape[0] - 1), col.clip(0, image.shape[1] - 1)].astype(float)
            total += weight[..., None] * np.where(inside[..., None] | (border == Border.clip), pixel, value)
    return total


def reference(image: NDArray[np.uint8], plan: CropPlan, crop_hw: tuple[int, int], border: Border, value: int) -> Any:
    """Cut each window of a plan by the documented frame, pixel by pixel."""
    crops = []
    for x0, y0, x1, y1 in plan.boxes:
        row = len(crops)
        u, v = np.meshgrid((np.arange(crop_hw[1]) + 0.5) / crop_hw[1], (np.arange(crop_hw[0]) + 0.5) / crop_hw[0])
        if plan.mirror[row]:
            u = 1 - u
        offset_x, offset_y = (u - 0.5) * (x1 - x0), (v - 0.5) * (y1 - y0)
        cos, sin = np.cos(np.deg2rad(plan.angle_deg[row])), np.sin(np.deg2rad(plan.angle_deg[row]))
        x = (x0 + x1) / 2 + cos * offset_x - sin * offset_y
        y = (y0 + y1) / 2 + sin * offset_x + cos * offset_y
        crops.append(bilinear(image, x - 0.5, y - 0.5, border, value))
    return np.array(crops)


def plan_of(boxes: Any, angles: Any = 0, mirror: Any = False) -> CropPlan:
    rows = len(boxes)
    columns = (np.zeros(rows, np.int8), np.zeros(rows, np.int32), np.broadcast_to(angles, rows))
    return CropPlan(np.array(boxes, np.float32), *columns, np.broadcast_to(mirror, rows))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("border", BORDERS)
def test_no_windows(mode: Resample, border: Border) -> None:
    resampler = Resampler(RGB, mode, border)
    assert resampler.crops(np.zeros((0, 4), np.float32), (12, 24)).shape == (0, 12, 24, 3)
    assert resampler.cut(CropPlan.concat([]), (5, 7)).dtype == np.uint8


def test_a_level_of_the_same_size_is_the_picture() -> None:
    for mode in MODES:
        np.testing.assert_array_equal(Resampler(RGB, mode).level((6, 9)), RGB)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("level_hw", [(120, 90), (60, 45), (61, 45), (97, 71), (30, 22), (13, 11), (7, 5), (1, 1)])
def test_the_crop_of_the_whole_picture_is_a_level(mode: Resample, border: Border, level_hw: tuple[int, int]) -> None:
    image = smooth(120, 90)
    resampler = Resampler(image, mode, border)
    crop = resampler.crops(np.array([[0, 0, 90, 120]]), level_hw)[0]
    level = resampler.level(level_hw)
    assert level.shape == (*level_hw, 3)
    np.testing.assert_allclose(crop.astype(int), level.astype(int), atol=6)  # OpenCV rounds to 1/32 pixel


@quick
@given(
    st.tuples(st.floats(-30, 90), st.floats(-30, 70), st.floats(8, 80), st.floats(8, 80)),
    st.floats(-180, 180),
    st.booleans(),
    st.integers(0, 255),
)
def test_a_turned_crop_equals_the_reference(
    window: tuple[float, float, float, float], angle: float, mirror: bool, value: int
) -> None:
    image = smooth(70, 90)
    x, y, width, height = window
    plan = plan_of([[x, y, x + width, y + height]], angle, mirror)
    got = Resampler(image, border_value=value).cut(plan, (24, 20)).astype(int)
    error = np.abs(got - reference(image, plan, (24, 20), Border.pad, value))
    assert error.max() < 10  # at the edge of the picture 1/32 pixel is up to 8 levels
    assert np.median(error) < 1


@pytest.mark.parametrize("window", [[-20, 10, 40, 50], [60, 40, 120, 100], [10, 10, 40, 50], [-20, -20, 110, 90]])
@pytest.mark.parametrize("border", BORDERS)
def test_pad_shows_the_constant_and_clip_stretches_the_inside(window: list[int], border: Border) -> None:
    image = smooth(70, 90)
    seen = np.clip(window, 0, [90, 70, 90, 70]).tolist() if border == Border.clip else window
    got = Resampler(image, border=border, border_value=7).crops(np.array([window]), (20, 20)).astype(int)
    expected = reference(image, plan_of([seen]), (20, 20), border, 7)
    np.testing.assert_allclose(got, expected, atol=9)
    if border == Border.pad and window[0] == -20:
        assert (got[0, :, 0] == 7).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("far", [[-50, 0, -20, 30], [200, 10, 230, 40], [10, 1e6, 40, 1e6 + 30], [1e9, -1e9, 2e9, 1e9]])
def test_windows_wholly_outside(mode: Resample, far: list[float]) -> None:
    image = np.maximum(smooth(70, 90), 20)
    padded = Resampler(image, mode, Border.pad, 7).crops(np.array([far]), (12, 12))
    assert (padded == 7).all()
    clipped = Resampler(image, mode, Border.clip, 7).crops(np.array([far]), (12, 12))
    assert (clipped >= 20).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_thin_pictures(mode: Resample, border: Border, shape: tuple[int, int]) -> None:
    height, width = shape
    image = np.full((height, width, 3), 90, np.uint8)
    resampler = Resampler(image, mode, border, 90)
    windows = [[0, 0, width, height], [-5, -5, 5, 5], [width / 2, 0, width / 2 + 0.5, 0.5], [0, 0, 0, 0]]
    assert (resampler.crops(np.array(windows), (12, 12)) == 90).all()
    for level_hw in ((1, 1), (12, 12), (height, width)):
        level = resampler.level(level_hw)
        assert level.shape == (*level_hw, 3)
        assert (level == 90).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("long_side", [32_768, 40_000, 70_001])
@pytest.mark.parametrize("upright", [False, True])
def test_a_side_beyond_what_opencv_remaps(mode: Resample, long_side: int, upright: bool) -> None:
    ramp = np.round(np.linspace(0, 250, long_side)).astype(np.uint8)
    image = np.repeat(np.repeat(ramp[None, :, None], 16, axis=0), 3, axis=2)
    windows = np.array([[x - 40, 0, x + 40, 16] for x in (100, long_side / 2, long_side - 100)])
    if upright:
        image, windows = np.ascontiguousarray(image.transpose(1, 0, 2)), windows[:, [1, 0, 3, 2]]
    resampler = Resampler(image, mode)
    level_hw = (1000, 4) if upright else (4, 1000)
    expected = [250 * x / long_side for x in (100, long_side / 2, long_side - 100)]
    for _ in range(2):  # what the first call keeps must serve the second
        crops = resampler.crops(windows, (8, 8)).astype(int)
        np.testing.assert_allclose(crops[:, 3:5, 3:5].mean(axis=(1, 2, 3)), expected, atol=2)
        level = resampler.level(level_hw).astype(int)
        line = level[:, 2, 0] if upright else level[2, :, 0]
        np.testing.assert_allclose(line, np.linspace(0, 250, 1000), atol=2)
    assert resampler.level(image.shape[:2]).shape == image.shape


@pytest.mark.parametrize(("mode", "worst"), [(Resample.linear, 128), (Resample.area, 1)])
def test_area_averages_where_linear_aliases(mode: Resample, worst: int) -> None:
    columns = np.where(np.arange(256) % 16 == 7, 240, 0).astype(np.uint8)  # the mean is 15
    image = as_grey(np.tile(columns, (256, 1)))
    resampler = Resampler(image, mode)
    for small in (resampler.level((16, 16)), resampler.crops(np.array([[0, 0, 256, 256]]), (16, 16))[0]):
        error = np.abs(small.astype(int) - 15).max()
        assert error <= 1 if worst == 1 else error > 10


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("border", BORDERS)
def test_many_windows_equal_one_at_a_time(mode: Resample, border: Border) -> None:
    """Scales from an eighth to 16, more rows than one call of OpenCV takes: neighbours must not show."""
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(-40, 80, (400, 2)), np.exp(rng.uniform(0, np.log(150), (400, 1)))
    boxes = np.concatenate([corner, corner + side * [0.1, 1]], axis=1)
    plan = plan_of(boxes, rng.uniform(-30, 30, 400), rng.random(400) < 0.5)
    resampler = Resampler(smooth(70, 90), mode, border, 5)
    together = resampler.cut(plan, (90, 9))
    for row in range(0, 400, 13):
        np.testing.assert_array_equal(together[row], resampler.cut(plan[row : row + 1], (90, 9))[0])


def test_a_mirrored_crop_is_the_crop_flipped() -> None:
    resampler = Resampler(smooth(70, 90))
    window = [[13, 8, 61, 56]]
    plain, mirrored = (resampler.cut(plan_of(window, 20 * sign, sign < 0), (24, 24)) for sign in (1, -1))
    upright, flipped = (resampler.cut(plan_of(window, 0, mirror), (24, 24)).astype(int) for mirror in (False, True))
    np.testing.assert_allclose(flipped, upright[:, :, ::-1], atol=1)
    assert np.abs(plain.astype(int) - mirrored[:, :, ::-1]).max() > 20  # turned apart: the angle is not mirrored


@quick
@given(
    st.tuples(st.floats(25, 75), st.floats(25, 55)),
    st.floats(-180, 180),
    st.booleans(),
    st.sampled_from(MODES),
    st.sampled_from([(48, 48), (48, 24), (24, 24)]),
)
def test_truth_lies_where_the_pixels_are(
    spot: tuple[float, float], angle: float, mirror: bool, mode: Resample, crop_hw: tuple[int, int]
) -> None:
    """A bright spot, cut turned and mirrored, is found where `crop_truth` says that it is."""
    y, x = np.mgrid[:80, :100] + 0.5
    light = 250 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 18)
    plan = plan_of([[-10, -20, 110, 100]], angle, mirror)
    crop = Resampler(as_grey(light), mode).cut(plan, crop_hw)[0, :, :, 0].astype(float)
    row, col = np.mgrid[: crop_hw[0], : crop_hw[1]] + 0.5
    centre = np.array([(col * crop).sum() / crop_hw[1], (row * crop).sum() / crop_hw[0]]) / crop.sum()
    points = np.array([[spot]], np.float32)
    truth = Annotations(np.zeros((1, 4)), np.zeros(1, bool), points, np.ones((1, 1), bool))
    moved = crop_truth(plan, truth, np.arange(1))
    np.testing.assert_allclose(moved.points[0, 0], centre, atol=0.01)


def test_crops_are_upright_and_unmirrored() -> None:
    resampler, boxes = Resampler(smooth(70, 90)), np.array([[3, 5, 40, 42]])
    plan = CropPlan.upright(boxes, SampleRole.part)
    np.testing.assert_array_equal(resampler.crops(boxes, (12, 12)), resampler.cut(plan, (12, 12)))
