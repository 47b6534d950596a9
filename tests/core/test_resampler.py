"""Levels and crops: they agree with plain references, with each other, and with the truth that is cut with them."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from cascade_det.core.geometry import crop_truth
from cascade_det.core.imaging import Border, Resample, Resampler
from cascade_det.core.types import Annotations, CropPlan, SampleRole

quick = settings(deadline=None, max_examples=40)
MODES, BORDERS = [Resample.linear, Resample.area], list(Border)


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture whose pixels change slowly, so that a fraction of a pixel is a few levels at most."""
    noise = np.random.default_rng(0).integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def as_grey(values: Any) -> NDArray[np.uint8]:
    return np.repeat(np.asarray(values, np.uint8)[:, :, None], 3, axis=2)


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
    resampler = Resampler(smooth(6, 9), mode, border)
    assert resampler.crops(np.zeros((0, 4), np.float32), (12, 24)).shape == (0, 12, 24, 3)
    assert resampler.cut(CropPlan.concat([]), (5, 7)).dtype == np.uint8


def test_a_level_of_the_same_size_is_the_picture() -> None:
    image = smooth(6, 9)
    for mode in MODES:
        np.testing.assert_array_equal(Resampler(image, mode).level((6, 9)), image)


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


class TestPooled:
    """Adaptive average pooling of whole pixels, as ports of MTCNN resample; torch's own is the reference."""

    @staticmethod
    def pooled(image: NDArray[np.uint8], hw: tuple[int, int]) -> NDArray[np.float32]:
        mean = functional.adaptive_avg_pool2d(torch.from_numpy(image).permute(2, 0, 1).double(), hw)
        return np.asarray(mean.permute(1, 2, 0), np.float32)

    @pytest.mark.parametrize("hw", [(40, 60), (13, 7), (1, 1), (41, 61), (95, 130)])
    def test_level(self, hw: tuple[int, int]) -> None:
        image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
        np.testing.assert_allclose(Resampler(image, Resample.pooled).level(hw), self.pooled(image, hw), atol=1e-4)

    @pytest.mark.parametrize(
        ("window", "pixels"),
        [
            ((3, 5, 30, 25), (3, 5, 30, 25)),
            ((3.7, 5.2, 30.9, 25.4), (3, 5, 30, 25)),
            ((-0.5, -3, 20.9, 12), (0, 0, 20, 12)),
            ((50, 30, 75.5, 90), (50, 30, 60, 40)),
            ((58.5, 38.5, 58.9, 38.9), (58, 38, 59, 39)),
            ((70, 50, 90, 70), (59, 39, 60, 40)),
            ((-30, -30, -5, -5), (0, 0, 1, 1)),
        ],
    )
    def test_windows_at_whole_pixels_within_the_picture(
        self, window: tuple[float, ...], pixels: tuple[int, int, int, int]
    ) -> None:
        image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
        x0, y0, x1, y1 = pixels
        crop = Resampler(image, Resample.pooled).crops(np.array([window], np.float32), (24, 12))
        np.testing.assert_allclose(crop[0], self.pooled(image[y0:y1, x0:x1], (24, 12)), atol=1e-4)

    def test_no_windows(self) -> None:
        empty = Resampler(np.zeros((8, 8, 3), np.uint8), Resample.pooled).crops(np.zeros((0, 4)), (12, 12))
        assert empty.shape == (0, 12, 12, 3)

    @pytest.mark.parametrize("change", [{"angle_deg": [5.0]}, {"mirror": [True]}])
    def test_turned_windows_are_refused(self, change: dict[str, Any]) -> None:
        plan = CropPlan.upright(np.array([[0, 0, 8, 8]]), SampleRole.negative)
        plan = dataclasses.replace(plan, **{name: np.array(value) for name, value in change.items()})
        with pytest.raises(ValueError, match="upright windows only"):
            Resampler(np.zeros((8, 8, 3), np.uint8), Resample.pooled).cut(plan, (12, 12))
