"""The synthetic source: its truth keeps its promises, its pictures repeat, and figures are drawn where truth says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cascade_det.core.geometry import box_area, box_sides, clip_boxes, iou_matrix
from cascade_det.core.registry import SOURCES
from cascade_det.core.types import Annotations
from cascade_det.data.synthetic import Synthetic
from cascade_det.data.synthetic_drawing import COVERS, PAINTERS, Figure, Pen, arc, capsule, draw_body, draw_figure
from cascade_det.errors import RecipeError

KINDS = [("face", 5), ("upright", 0)]
SMALL: dict[str, Any] = {"size_hw": (72, 96), "object_px": (12, 40)}


def truths(source: Synthetic) -> list[Annotations]:
    return [source.annotations(i) for i in range(len(source.pictures))]


def test_no_pictures() -> None:
    source = Synthetic(images=0)
    assert source.pictures == []
    assert source.digest()
    for method in (source.annotations, source.read, source.content_hash):
        with pytest.raises(IndexError, match="0 pictures"):
            method(0)


@pytest.mark.parametrize(("kind", "num_points"), KINDS)
def test_pictures_without_objects(kind: str, num_points: int) -> None:
    source = Synthetic(images=30, kind=kind, num_points=num_points, objects=(0, 0), **SMALL)
    for truth in truths(source):
        assert len(truth) == 0
        assert truth.points.shape == (0, num_points, 2)
        assert {name: column.shape for name, column in truth.extras.items()} == {"tilt_deg": (0,), "occluded": (0,)}
    assert source.read(0).shape == (72, 96, 3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "cat"}, r"kind='cat'.*Choices: face, upright"),
        ({"kind": "uprite", "num_points": 0}, r"did you mean 'upright'"),
        ({"num_points": 3}, r"num_points=3.*0 or 5 points"),
        ({"kind": "upright", "num_points": 5}, r"num_points=5.*'upright' has 0 points"),
        ({"images": -1}, r"images=-1"),
        ({"images": 2.5}, r"images=2\.5"),
        ({"seed": -1}, r"seed=-1"),
        ({"size_hw": (16, 96)}, r"size_hw=\[16, 96\].*from 32"),
        ({"size_hw": (96, 96, 3), "object_px": (12, 40)}, r"size_hw=\[96, 96, 3\]"),
        ({"size_hw": (96.5, 96), "object_px": (12, 40)}, r"size_hw=\[96\.5, 96\].*whole"),
        ({"objects": (3, 1)}, r"objects=\[3, 1\].*first number"),
        ({"objects": (0, 1.5)}, r"objects=\[0, 1\.5\].*whole"),
        ({"objects": (-1, 1)}, r"objects=\[-1, 1\]"),
        ({"object_px": (40, 12)}, r"object_px=\[40, 12\].*first number"),
        ({"object_px": (2, 12)}, r"object_px=\[2, 12\].*from 8"),
        ({"size_hw": (96, 128)}, r"object_px=\[24, 140\].*to 96"),  # the default does not fit a smaller picture
    ],
)
def test_refuses(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Synthetic(**params)


def test_is_built_by_name_from_a_recipe() -> None:
    source = SOURCES.build("synthetic", {"images": 3, "size_hw": [72, 96], "object_px": [12, 40]}, "data", num_points=0)
    assert source.annotations(0).points.shape[1] == 0
    with pytest.raises(RecipeError, match="num_points=3"):
        SOURCES.build("synthetic", {}, "data", num_points=3)


def test_pictures_are_listed() -> None:
    pictures = Synthetic(images=3, seed=7).pictures
    assert [p.image_id for p in pictures] == [1, 2, 3]
    assert pictures[2].name == "synthetic-7-00002"
    assert pictures[2].image_hw == (240, 320)
    assert pictures[2].fields == {"source": "synthetic"}


@pytest.mark.parametrize(("kind", "num_points"), KINDS)
def test_truth_keeps_its_promises(kind: str, num_points: int) -> None:
    source = Synthetic(images=300, kind=kind, num_points=num_points)
    counts, heights, aspects, ignored = [], [], [], 0
    for truth in truths(source):
        counted = truth[~truth.ignore]
        width, height = box_sides(truth.boxes)
        assert truth.points.shape[1] == num_points
        assert truth.points_known.all()
        assert (np.abs(truth.extras["tilt_deg"]) <= 25).all()
        assert (box_area(clip_boxes(truth.boxes, (240, 320))) >= 0.85 * box_area(truth.boxes)).all()
        assert (np.triu(iou_matrix(truth.boxes, truth.boxes), 1) <= 0.2).all()
        assert (height[truth.ignore] < 0.7 * 24).all()
        counts.append(len(counted))
        ignored += int(truth.ignore.sum())
        heights.append(height[~truth.ignore])
        aspects.append(width / height)
    height, aspect = np.concatenate(heights), np.concatenate(aspects)
    low, high = {"face": (0.6, 0.92), "upright": (0.38, 0.6)}[kind]
    assert set(counts) == {0, 1, 2, 3, 4}
    assert 24 - 1e-3 <= height.min() < 28
    assert 110 < height.max() <= 140 + 1e-3
    assert low < aspect.min() < aspect.max() < high
    assert 15 <= ignored <= 50


def test_points_lie_in_the_face_and_in_order() -> None:
    turned = occluded = 0
    for truth in truths(Synthetic(images=200)):
        x, y = truth.points[..., 0], truth.points[..., 1]
        assert (truth.points > truth.boxes[:, None, :2]).all()
        assert (truth.points < truth.boxes[:, None, 2:]).all()
        assert (x[:, 0] < x[:, 1]).all()  # left_eye has the smaller x
        assert (x[:, 3] < x[:, 4]).all()
        assert (y[:, :2].mean(axis=1) < y[:, 2]).all()  # eyes above nose above mouth
        assert (y[:, 2] < y[:, 3:].mean(axis=1)).all()
        eye_line = np.degrees(np.arctan2(y[:, 1] - y[:, 0], x[:, 1] - x[:, 0]))
        np.testing.assert_allclose(eye_line, truth.extras["tilt_deg"], atol=0.01)  # clockwise on the screen
        turned += int((np.abs(truth.extras["tilt_deg"]) > 10).sum())
        occluded += int(truth.extras["occluded"].sum())
    assert turned > 40
    assert occluded > 20


@pytest.mark.parametrize(("kind", "num_points"), KINDS)
def test_pictures_repeat_in_any_order_and_instance(kind: str, num_points: int) -> None:
    first = Synthetic(images=6, kind=kind, num_points=num_points, **SMALL)
    other = Synthetic(images=60, kind=kind, num_points=num_points, **SMALL)  # the number of pictures plays no part
    forth = [first.read(i) for i in range(6)]
    back = [other.read(i) for i in reversed(range(6))][::-1]
    for index, (a, b) in enumerate(zip(forth, back, strict=True)):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, first.read(index))
        np.testing.assert_array_equal(first.annotations(index).boxes, other.annotations(index).boxes)
        np.testing.assert_array_equal(first.annotations(index).points, other.annotations(index).points)
        assert first.content_hash(index) == other.content_hash(index)
    assert len({picture.tobytes() for picture in forth}) == 6


def test_another_seed_gives_other_pictures() -> None:
    seeds = [Synthetic(images=4, seed=seed, **SMALL) for seed in (0, 1)]
    assert not any(np.array_equal(seeds[0].read(i), seeds[1].read(i)) for i in range(4))
    assert len({source.content_hash(i) for source in seeds for i in range(4)}) == 8


def test_points_do_not_change_the_pixels() -> None:
    with_points, without = Synthetic(images=1, **SMALL), Synthetic(images=1, num_points=0, **SMALL)
    np.testing.assert_array_equal(with_points.read(0), without.read(0))
    assert with_points.content_hash(0) == without.content_hash(0)
    assert with_points.digest() != without.digest()


def test_digest_tells_all_parameters_apart() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"images": 3}, {"seed": 1}, {"kind": "upright", "num_points": 0}, {"num_points": 0},
        {"objects": (1, 4)}, {"object_px": (12, 41)}, {"size_hw": (96, 72)},
    ]  # fmt: skip
    digests = [Synthetic(**{"images": 2, **SMALL, **change}).digest() for change in changes]
    assert len(set(digests)) == len(changes)
    assert digests[0] == Synthetic(images=2, size_hw=[72, 96], object_px=[12.0, 40.0]).digest()


@pytest.mark.parametrize("size_hw", [(32, 32), (33, 131), (150, 47)])
def test_reads_rgb_of_any_size(size_hw: tuple[int, int]) -> None:
    source = Synthetic(images=3, size_hw=size_hw, object_px=(8, 30), objects=(2, 9))
    for index in range(3):
        image = source.read(index)
        assert image.shape == (*size_hw, 3)
        assert image.dtype == np.uint8
        assert image.std() > 5


def test_a_crowd_gets_as_many_objects_as_find_room() -> None:
    counts = [len(t) for t in truths(Synthetic(images=5, objects=(60, 60), size_hw=(96, 96), object_px=(12, 60)))]
    assert all(5 < count < 60 for count in counts)


# ------------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize("unit_px", [10.0, 37.3, 60.0, 150.0])
def test_a_polygon_fills_the_pixels_it_covers(unit_px: float) -> None:
    canvas = np.zeros((200, 200, 3), np.uint8)
    to_px = np.array([(unit_px, 0, 100.0), (0, unit_px, 100.0)])
    Pen(canvas, to_px).ellipse((0, 0), 0.4, 0.5, np.full(3, 255.0))
    rows, columns = np.nonzero(canvas[..., 0] > 127)
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    np.testing.assert_allclose(edges, 100 + unit_px * np.array([-0.4, -0.5, 0.4, 0.5]), atol=1.1)
    assert canvas.sum() / 765 == pytest.approx(np.pi * 0.2 * unit_px**2, rel=5 / unit_px)


@pytest.mark.parametrize("index", range(6))
def test_uprights_are_drawn_in_their_box(index: int) -> None:
    source = Synthetic(images=6, kind="upright", num_points=0, objects=(1, 1), seed=3)
    for placed in source._plan(index):
        if placed.role == "object" and not placed.figure.cover:
            white = np.full((240, 320, 3), 255, np.uint8)
            draw_figure(white, placed.figure, np.random.default_rng(0))
            rows, columns = np.nonzero((white < 200).any(axis=2))
            drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            np.testing.assert_allclose(drawn, clip_boxes(placed.box[None], (240, 320))[0], atol=1.3)


@pytest.mark.parametrize("unit_px", [12.0, 50.0, 120.0])
@pytest.mark.parametrize("name", sorted(PAINTERS))
def test_drawing_leaves_the_rest_of_the_picture_alone(name: str, unit_px: float) -> None:
    before = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    limbs = tuple(capsule(np.zeros(2), np.array([0, 0.2]), 0.1, 0.1) for _ in range(14))
    outlines = (arc(64) / 2,) if name == "face" else limbs
    figure = Figure(name, np.array([(unit_px, 0, 80.0), (0, unit_px, 80.0)]), outlines)
    after = before.copy()
    draw_figure(after, figure, np.random.default_rng(1))
    changed = (before != after).any(axis=2)
    far = np.hypot(*(np.mgrid[:160, :160] - 79.5)) > 0.9 * unit_px + 2
    assert changed.any()
    assert not changed[far].any()


@pytest.mark.parametrize("cover", sorted(COVERS))
def test_a_cover_hides_a_part_of_a_face(cover: str) -> None:
    pictures = []
    for hidden in ("", cover):
        image = np.zeros((160, 160, 3), np.uint8)
        figure = Figure("face", np.array([(100.0, 0, 80.0), (0, 100.0, 80.0)]), (arc(64) * (0.37, 0.5),), cover=hidden)
        draw_figure(image, figure, np.random.default_rng(2))
        pictures.append(image)
    changed = (pictures[0] != pictures[1]).any(axis=2)
    assert 0.02 < changed[30:130, 43:117].mean() < 0.7


def test_figures_outside_the_picture_draw_nothing() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    figure = Figure("face", np.array([(20.0, 0, 300.0), (0, 20.0, -90.0)]), (arc(64) / 2,))
    draw_figure(image, figure, np.random.default_rng(0))
    draw_body(image, figure, np.random.default_rng(0))
    assert not image.any()
