"""Views of pictures and jitter of crops: the truth goes where the pixels go."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cascade_det.core.schema import JitterSection, Part, View
from cascade_det.core.types import Annotations, CropTruth
from cascade_det.data.augment import PictureView, jitter_batch
from cascade_det.errors import RecipeError

FLIP = np.array([1, 0, 2])
OFF = JitterSection(mirror=0, brightness=0, contrast=0, colour=0, grey=0, blur=0, cover=0, dark=0)
BOXES = np.array([[30, 24, 70, 84], [90, 40, 130, 76]], np.float32)
POINTS = np.array([[[40, 40], [60, 42], [50, 64]], [[100, 50], [120, 48], [110, 66]]], np.float32)
COLOURS = np.eye(3, dtype=np.uint8)[[0, 1, 2]] * 255  # of left, right and middle


def marked(boxes: NDArray[Any] = BOXES, points: NDArray[Any] = POINTS) -> tuple[NDArray[np.uint8], Annotations]:
    """Return a grey picture with a coloured spot on each point and a white one on each corner of each box."""
    image = np.full((120, 160, 3), 96, np.uint8)
    spots = [(xy, (255, 255, 255)) for box in boxes for xy in box.reshape(2, 2)]
    spots += [(xy, tuple(map(int, COLOURS[k]))) for row in points for k, xy in enumerate(row)]
    for (x, y), colour in spots:  # edge coordinates: the spot of 4 x 4 px has its centre at x, y
        image[int(y) - 2 : int(y) + 2, int(x) - 2 : int(x) + 2] = colour
    truth = Annotations.of(boxes, num_points=3).replace(points=points, points_known=np.ones(points.shape[:2], bool))
    return image, truth


def spot_centre(image: NDArray[np.uint8], near_xy: NDArray[Any], colour: NDArray[Any], radius: int = 7) -> NDArray[Any]:
    """Return where a spot of `colour` lies near a place, in edge coordinates, weighted by how coloured a pixel is."""
    x0, y0 = (int(max(0, v - radius)) for v in near_xy)
    part = image[y0 : y0 + 2 * radius + 1, x0 : x0 + 2 * radius + 1].astype(float)
    difference = part - 96
    weight = np.clip((difference * np.sign(colour.astype(float) - 96)).min(axis=2), 0, None)
    assert weight.sum() > 100, f"no spot of {colour} at {near_xy}"
    y, x = np.mgrid[: part.shape[0], : part.shape[1]] + 0.5
    return np.array([x0 + (weight * x).sum() / weight.sum(), y0 + (weight * y).sum() / weight.sum()])


def view(kind: str | None = None, object_px: list[float] | None = None, **params: Any) -> PictureView:
    transform = Part(kind, params) if kind else None
    return PictureView(View(object_px=object_px, transform=transform), "data.views.test", FLIP)


def shown(chosen: PictureView, image: NDArray[np.uint8], truth: Annotations, seed: int = 0) -> Any:
    """Return the picture and truth of a view, having checked that its arguments are as they were."""
    before = image.copy(), truth.boxes.copy(), truth.points.copy()
    result = chosen(image, truth, np.random.default_rng(seed))
    for array, copy in zip((image, truth.boxes, truth.points), before, strict=True):
        assert np.array_equal(array, copy)
    return result


MOVES: list[tuple[str, dict[str, Any]]] = [
    ("HorizontalFlip", {}),
    ("VerticalFlip", {}),
    ("Transpose", {}),
    ("RandomRotate90", {}),
    ("RandomScale", {"scale_limit": [-0.4, -0.2]}),
    ("RandomScale", {"scale_limit": [0.3, 0.5]}),
    ("Resize", {"height": 90, "width": 100}),
    ("Rotate", {"limit": [8, 12]}),
    ("Rotate", {"limit": [-12, -8]}),
    ("Affine", {"translate_px": {"x": 5, "y": -3}, "rotate": 5}),
    ("PadIfNeeded", {"min_height": 150, "min_width": 200}),
    ("MotionBlur", {"blur_limit": [3, 3], "allow_shifted": False}),
    ("RandomBrightnessContrast", {"brightness_limit": 0.1, "contrast_limit": 0.1}),
    ("CoarseDropout", {"num_holes_range": [1, 1], "hole_height_range": [4, 4], "hole_width_range": [4, 4]}),
]


class TestPictureView:
    @pytest.mark.parametrize(("kind", "params"), MOVES)
    def test_no_objects(self, kind: str, params: dict[str, Any]) -> None:
        image, _ = marked()
        moved, truth = shown(view(kind, **params), image, Annotations.empty(3))
        assert len(truth) == 0
        assert truth.points.shape == (0, 3, 2)
        assert moved.ndim == 3
        assert moved.dtype == np.uint8

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("kind", "params"), MOVES)
    def test_points_go_where_their_spots_go(self, kind: str, params: dict[str, Any], seed: int) -> None:
        image, truth = marked()
        moved, now = shown(view(kind, **params), image, truth, seed)
        # a mirror relabels: where the mirrored picture shows its left point there is what was the right one
        mirrored = kind in ("HorizontalFlip", "VerticalFlip", "Transpose")
        for row in range(2):
            for k in range(3):
                colour = COLOURS[FLIP[k] if mirrored else k]
                centre = spot_centre(moved, now.points[row, k], colour)
                assert np.abs(centre - now.points[row, k]).max() <= 0.6, (row, k)
        assert now.points_known.all()
        assert not now.ignore.any()

    @pytest.mark.parametrize(
        ("kind", "params"), [(k, p) for k, p in MOVES if k not in ("Rotate", "Affine", "CoarseDropout")]
    )
    def test_boxes_go_where_their_corners_go(self, kind: str, params: dict[str, Any]) -> None:
        image, truth = marked()
        moved, now = shown(view(kind, **params), image, truth)
        white = np.array([255, 255, 255])
        for x0, y0, x1, y1 in now.boxes:
            found = []
            for pair in ([(x0, y0), (x1, y1)], [(x0, y1), (x1, y0)]):  # a mirror or a turn takes them to the other two
                try:
                    found = [spot_centre(moved, np.array(xy), white) - xy for xy in pair]
                except AssertionError:
                    continue
            assert len(found) == 2
            assert np.abs(found).max() <= 0.6

    @pytest.mark.parametrize("factor", [0.25, 0.5, 2, 4])
    def test_a_cut_that_is_scaled_scales_edges(self, factor: float) -> None:
        """Not the centres of pixels: half a pixel is a lot for an object that becomes small."""
        image, truth = marked()
        height, width = image.shape[:2]
        size = [int(height * factor), int(width * factor)]
        whole = {"scale": [1.0, 1.0], "ratio": [width / height, width / height], "size": size}
        moved, now = shown(view("RandomResizedCrop", **whole), image, truth)
        assert moved.shape[:2] == tuple(size)
        np.testing.assert_allclose(now.points, truth.points * factor, atol=1e-3)
        np.testing.assert_allclose(now.boxes, truth.boxes * factor, atol=1e-3)

    @pytest.mark.parametrize("degrees", [20, -30, 45])
    def test_a_turned_box_is_that_of_the_turned_ellipse(self, degrees: float) -> None:
        image, truth = marked(BOXES[:1], POINTS[:1])
        x0, y0, x1, y1 = map(int, BOXES[0])
        y, x = np.mgrid[:120, :160] + 0.5
        inside = ((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0)) ** 2 < 0.25
        image[inside] = (255, 0, 255)
        moved, now = shown(view("Rotate", limit=[degrees, degrees]), image, truth)
        ys, xs = np.nonzero(np.abs(moved.astype(int) - (255, 0, 255)).max(axis=2) < 90)
        assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == pytest.approx(now.boxes[0].tolist(), abs=1.6)

    def test_what_a_flip_does_not_know_stays_unknown(self) -> None:
        image, truth = marked()
        known = np.array([[True, False, True], [False, False, False]])
        _, now = shown(view("HorizontalFlip"), image, truth.replace(points_known=known))
        assert now.points_known.tolist() == [[False, True, True], [False, False, False]]
        assert now.points[~now.points_known].tolist() == [[0, 0]] * 4
        assert now.points[0, 1].tolist() == [160 - 40, 40]

    def test_ignore_and_extras_stay_with_their_objects(self) -> None:
        image, truth = marked()
        truth = truth.replace(ignore=np.array([False, True]), extras={"age": np.array([3, 4])})
        for kind, params in MOVES:
            _, now = shown(view(kind, **params), image, truth)
            assert now.ignore.tolist() == [False, True], kind
            assert now.extras["age"].tolist() == [3, 4], kind

    def test_an_object_that_left_the_picture_is_ignored(self) -> None:
        image, truth = marked()
        _, now = shown(view("Affine", translate_px={"x": 60, "y": 0}), image, truth)
        assert now.boxes[:, 0] == pytest.approx([90, 150], abs=0.01)  # of 40 px in the second 10 are seen
        assert now.ignore.tolist() == [False, True]

    @pytest.mark.parametrize("kind", ["MotionBlur", "ToGray", "GaussNoise"])
    def test_pixels_alone(self, kind: str) -> None:
        image, truth = marked()
        moved, now = shown(view(kind), image, truth)
        assert np.array_equal(now.boxes, truth.boxes)
        assert np.array_equal(now.points, truth.points)
        assert moved.shape == image.shape
        assert not np.array_equal(moved, image)

    def test_no_transform_is_the_picture_itself(self) -> None:
        image, truth = marked()
        moved, now = shown(view(), image, truth)
        assert moved is image
        assert now is truth

    @pytest.mark.parametrize("kind", ["Rotate", "MotionBlur"])
    def test_chance_comes_from_the_generator_alone(self, kind: str) -> None:
        image, truth = marked()
        one, two = view(kind), view(kind)
        shown(two, image, truth, seed=9)
        results = [shown(chosen, image, truth, seed)[0].tobytes() for chosen in (one, two) for seed in (1, 2)]
        assert results[:2] == results[2:]
        assert results[0] != results[1]


class TestObjectPx:
    def test_no_objects_no_scaling(self) -> None:
        image, truth = marked()
        moved, _ = shown(view(object_px=[10, 12]), image, Annotations.empty(3))
        assert moved.shape == image.shape
        moved, _ = shown(view(object_px=[10, 12]), image, truth.replace(ignore=np.ones(2, bool)))
        assert moved.shape == image.shape

    @pytest.mark.parametrize("seed", range(5))
    def test_the_median_object_gets_a_height_of_the_range(self, seed: int) -> None:
        image, truth = marked()  # heights 60 and 36: median 48
        moved, now = shown(view(object_px=[12, 24]), image, truth, seed)
        assert 12 - 0.3 <= np.median(now.boxes[:, 3] - now.boxes[:, 1]) <= 24 + 0.3
        factor = np.array([moved.shape[1] / 160, moved.shape[0] / 120])
        assert now.boxes == pytest.approx(BOXES * np.tile(factor, 2), abs=1e-3)
        assert now.points == pytest.approx(POINTS * factor, abs=1e-3)
        assert moved.shape[0] / moved.shape[1] == pytest.approx(0.75, abs=0.02)

    def test_heights_of_the_range_differ(self) -> None:
        image, truth = marked()
        assert len({shown(view(object_px=[12, 40]), image, truth, seed)[0].shape for seed in range(8)}) > 4

    @pytest.mark.parametrize("object_px", [[48, 48], [60, 90], [500, 1000]])
    def test_never_up(self, object_px: list[float]) -> None:
        image, truth = marked()
        moved, now = shown(view(object_px=object_px), image, truth)
        assert np.array_equal(moved, image)
        assert np.array_equal(now.boxes, truth.boxes)

    def test_scaling_comes_before_the_transform(self) -> None:
        image, truth = marked()
        moved, now = shown(view("HorizontalFlip", object_px=[24, 24]), image, truth)
        assert moved.shape == (60, 80, 3)
        assert now.boxes[0] == pytest.approx([80 - 35, 12, 80 - 15, 42], abs=1e-3)


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "params", "message"),
        [
            (
                "HorizontalFlop",
                {},
                r"data\.views\.test\.transform\.kind='HorizontalFlop'.*did you mean 'HorizontalFlip'",
            ),
            ("Compose", {}, r"transform\.kind='Compose': albumentations has no such transform"),
            ("Rotate", {"limit": "far"}, r"data\.views\.test\.transform\.params=\{'limit': 'far'\}"),
            ("Rotate", {"angle": 3}, r"data\.views\.test\.transform\.params=\{'angle': 3\}"),
        ],
    )
    def test_a_wrong_transform_is_named(self, kind: str, params: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            view(kind, **params)


def crops(rows: int) -> tuple[NDArray[np.uint8], CropTruth]:
    """Return crops of 24 px, each with a white box and two coloured points at random places, and their truth."""
    rng = np.random.default_rng(rows)
    pixels = np.full((rows, 24, 24, 3), 60, np.uint8)
    low, side = rng.integers(2, 9, (rows, 2)), rng.integers(7, 12, (rows, 2))
    box = np.concatenate([low, low + side], axis=1)
    points = np.stack([low + 2, low + np.array([4, 1]), low + np.array([3, 4])], axis=1)
    for row in range(rows):
        x0, y0, x1, y1 = box[row]
        pixels[row, y0:y1, x0:x1] = 255
        for k, (x, y) in enumerate(points[row]):
            pixels[row, y, x] = COLOURS[k]
    known = np.ones((rows, 3), bool)
    return pixels, CropTruth(np.full(rows, 2), box / 24, known[:, 0], (points + 0.5) / 24, known)


class TestJitter:
    @pytest.mark.parametrize("jitter", [OFF, JitterSection()])
    def test_no_crops(self, jitter: JitterSection) -> None:
        pixels, truth = crops(0)
        batch, now = jitter_batch(pixels, truth, jitter, FLIP, np.random.default_rng(0))
        assert batch.shape == (0, 24, 24, 3)
        assert len(now) == 0

    def test_off_is_the_identity(self) -> None:
        pixels, truth = crops(9)
        batch, now = jitter_batch(pixels, truth, OFF, FLIP, np.random.default_rng(0))
        assert batch.dtype == np.float32
        assert np.array_equal(batch, pixels)
        for name in ("role", "box", "has_box", "points", "points_known"):
            assert np.array_equal(getattr(now, name), getattr(truth, name)), name

    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_a_mirror_moves_pixels_and_truth_together(self, share: float) -> None:
        pixels, truth = crops(200)
        jitter = dataclasses.replace(OFF, mirror=share)
        batch, now = jitter_batch(pixels, truth, jitter, FLIP, np.random.default_rng(0))
        mirrored = np.array([not np.array_equal(a, b) for a, b in zip(batch, pixels, strict=True)])
        assert mirrored.mean() == pytest.approx(share, abs=0.1)
        for row in range(200):
            x0, y0, x1, y1 = np.round(now.box[row] * 24).astype(int)
            bright = (batch[row] != 60).any(axis=2)
            assert bright.sum() == (x1 - x0) * (y1 - y0)
            assert bright[y0:y1, x0:x1].all()
            for k in range(3):
                x, y = (now.points[row, k] * 24).astype(int)
                assert batch[row, y, x].tolist() == COLOURS[FLIP[k] if mirrored[row] else k].tolist()

    @pytest.mark.parametrize(
        ("change", "moves"),
        [
            ({"brightness": 0.2}, lambda a, b: np.ptp((b - a)[:, :3], axis=(1, 2, 3)).max() < 1e-3),
            ({"contrast": 0.5}, lambda a, b: b.std() != a.std()),
            ({"colour": 0.5}, lambda a, b: np.abs(b[..., 0] - b[..., 1]).max() > 10),
            ({"grey": 1.0}, lambda a, b: np.ptp(b, axis=3).max() < 1e-3),
            ({"blur": 1.0}, lambda a, b: np.abs(np.diff(b, axis=2)).max() < np.abs(np.diff(a, axis=2)).max()),
            ({"dark": 1.0}, lambda a, b: (b.mean(axis=(1, 2, 3)) < 0.65 * a.mean(axis=(1, 2, 3))).all()),
            ({"cover": 1.0}, lambda a, b: ((a != b).any(axis=3).mean(axis=(1, 2)) < 0.55).all()),
        ],
    )
    def test_photometric_changes_leave_the_truth(self, change: dict[str, float], moves: Any) -> None:
        pixels, truth = crops(40)
        pixels = pixels // 3 + 80  # room below 0 and 255
        batch, now = jitter_batch(pixels, truth, dataclasses.replace(OFF, **change), FLIP, np.random.default_rng(0))
        assert not np.array_equal(batch, pixels)
        assert moves(pixels.astype(np.float32), batch)
        assert np.array_equal(now.box, truth.box)
        assert np.array_equal(now.points, truth.points)

    def test_cover_reaches_halves_of_any_side_and_no_more(self) -> None:
        pixels = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None, None], (200, 24, 24, 3)).copy()
        truth = crops(200)[1]
        batch, _ = jitter_batch(pixels, truth, dataclasses.replace(OFF, cover=1), FLIP, np.random.default_rng(0))
        changed = (batch != pixels).any(axis=3)
        high, wide = changed.any(axis=2).sum(axis=1), changed.any(axis=1).sum(axis=1)
        assert (np.minimum(high, wide) <= 12).all()  # a rectangle, half of one side at most
        assert (high > 18).any()
        assert (wide > 18).any()
        assert (changed.mean(axis=(1, 2)) > 0.35).any()

    def test_values_stay_in_range(self) -> None:
        pixels, truth = crops(50)
        wild = JitterSection(brightness=1, contrast=1, colour=1, grey=0.5, blur=0.5, cover=0.5, dark=0.5)
        batch, _ = jitter_batch(pixels, truth, wild, FLIP, np.random.default_rng(0))
        assert batch.min() == 0
        assert batch.max() == 255
        assert np.isfinite(batch).all()

    def test_equal_streams_agree_and_others_differ(self) -> None:
        pixels, truth = crops(20)
        runs = [jitter_batch(pixels, truth, JitterSection(), FLIP, np.random.default_rng(s))[0] for s in (0, 0, 1)]
        assert np.array_equal(runs[0], runs[1])
        assert not np.array_equal(runs[0], runs[2])
