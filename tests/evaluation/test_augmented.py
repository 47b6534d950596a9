"""Views of a picture at test time: the plain one changes nothing, a mirrored one mirrors, and all are merged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascade_det.cascade import Cascade
from cascade_det.core.geometry import mirror_detections
from cascade_det.core.nms import NmsMode
from cascade_det.core.recipe import recipe_from_dict
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.sources import Picture, Source
from cascade_det.errors import DataError
from cascade_det.evaluation.augmented import PLAIN, Augmentation, View, detect_stages, merge, refuse_large, see
from cascade_det.evaluation.run import evaluate_source

FLIP = [1, 0, 2]
RECIPE: dict[str, Any] = {
    "name": "chance",
    "object": {"category": "face", "points": ["left", "right", "nose"], "flip_points": FLIP},
    "stages": {
        "first": {
            "kind": "proposer",
            "window_hw": [12, 12],
            "net": {"kind": "mtcnn_pnet", "params": {"alpha": 0.2}},
            "heads": {"score": {"kind": "classification"}, "box": {"kind": "box_offset"}},
            "keep": {"max_per_image": 40},
            "samplers": {"windows": {"kind": "iou_bands"}},
        },
        "last": {
            "kind": "refiner",
            "window_hw": [24, 24],
            "net": {"kind": "mtcnn_rnet", "params": {"alpha": 0.2}},
            "heads": {"score": {"kind": "classification"}, "box": {"kind": "box_offset"}, "points": {"kind": "points"}},
            "keep": {"nms": 0.4, "max_per_image": 15},
            "samplers": {"mined": {"kind": "from_cascade"}},
        },
    },
}


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    """Return a cascade of chance weights that keeps whatever it sees."""
    torch.manual_seed(0)
    built = Cascade.build(recipe_from_dict(RECIPE, None, where="here"))
    built.thresholds = {"first": {"detect": 0.0, "mine": 0.0}, "last": {"detect": 0.0, "mine": 0.0}}
    return built


def pictures(count: int = 3) -> list[Any]:
    """Return pictures of noise of several sizes."""
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, (50 + 7 * row, 64 + 3 * row, 3), np.uint8) for row in range(count)]


class Noise(Source):
    """These pictures, each with one object."""

    @property
    def pictures(self) -> list[Picture]:
        return [Picture(row, f"{row}", image.shape[:2]) for row, image in enumerate(pictures())]

    def annotations(self, index: int) -> Annotations:
        return Annotations.of(np.array([[10, 10, 34, 34]]), num_points=3)

    def read(self, index: int) -> Any:
        return pictures()[index]


def final(cascade: Cascade, images: list[Any], augmentation: Augmentation) -> list[Detections]:
    return detect_stages(cascade, images, cascade.settings(), augmentation)[-1][0]


def assert_alike(a: Detections, b: Detections, exact: bool = False) -> None:
    assert len(a) == len(b) > 1
    assert a.points is not None
    assert b.points is not None
    near = {"atol": 0 if exact else 1e-3, "rtol": 0}
    np.testing.assert_allclose(a.scores, b.scores, **({"atol": 0} if exact else {"atol": 1e-6}), rtol=0)
    np.testing.assert_allclose(a.boxes, b.boxes, **near)
    np.testing.assert_allclose(a.points, b.points, **near)


def test_no_pictures(cascade: Cascade) -> None:
    for augmentation in (PLAIN, Augmentation((1.0, 2.0), flip=True)):
        assert [found for found, _ in detect_stages(cascade, [], cascade.settings(), augmentation)] == [[], []]


def test_scale_1_is_the_plain_result_exactly(cascade: Cascade) -> None:
    *_, (_, plain, _) = cascade.run_stages([cascade.resampler(image) for image in pictures()], cascade.settings())
    for found, expected in zip(final(cascade, pictures(), Augmentation((1.0,))), plain, strict=True):
        assert_alike(found, expected, exact=True)
    given = [
        evaluate_source(cascade, Noise(), {}, score=0.0, augmentation=how).scored.detections
        for how in (PLAIN, Augmentation((1.0,), flip=False))
    ]
    for found, expected, image in zip(*given, pictures(), strict=True):
        assert_alike(found, expected, exact=True)
        assert_alike(found, cascade(image, score=0.0))


@pytest.mark.parametrize("scales", [(1.0,), (2.0,), (1.0, 0.75)])
def test_the_flip_of_a_mirrored_picture_is_the_mirrored_result(cascade: Cascade, scales: tuple[float, ...]) -> None:
    augmentation = Augmentation(scales, flip=True)
    turned = [np.ascontiguousarray(image[:, ::-1]) for image in pictures()]
    for image, found, expected in zip(
        pictures(), final(cascade, turned, augmentation), final(cascade, pictures(), augmentation), strict=True
    ):
        assert_alike(mirror_detections(found, image.shape[1], np.array(FLIP)), expected)


def test_a_mirrored_view_alone_mirrors(cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Augmentation, "views", [View(mirrored=True)])
    turned = [np.ascontiguousarray(image[:, ::-1]) for image in pictures()]
    alone = final(cascade, pictures(), PLAIN)
    monkeypatch.setattr(Augmentation, "views", [View()])
    for image, found, expected in zip(pictures(), alone, final(cascade, turned, PLAIN), strict=True):
        assert_alike(found, mirror_detections(expected, image.shape[1], np.array(FLIP)), exact=True)


def test_a_scale_alone_is_the_resized_picture_s_result_in_the_picture_s_frame(cascade: Cascade) -> None:
    (image,) = pictures(1)  # 50 x 64
    resized = cascade.resampler(image).level((75, 96))
    (found,) = final(cascade, [image], Augmentation((1.5,)))
    (expected,) = final(cascade, [resized], PLAIN)
    assert_alike(found, expected.scaled(1 / 1.5))
    (found,) = final(cascade, [image], Augmentation((0.77,)))  # 38.5 x 49.28 px: 38 x 49
    (expected,) = final(cascade, [cascade.resampler(image).level((38, 49))], PLAIN)
    factor_xy = np.float32([64 / 49, 50 / 38])
    boxes, points = expected.boxes * np.tile(factor_xy, 2), expected.points * factor_xy
    assert_alike(found, expected.replace(boxes=boxes, points=points))


def test_a_dark_picture_is_lifted_once_whatever_its_scale(cascade: Cascade) -> None:
    recipe = recipe_from_dict({**RECIPE, "image": {"lift_to": 150}}, Path())
    lifting = Cascade.build(recipe, cascade.thresholds)
    image = np.full((40, 60, 3), 10, np.uint8)
    for scale in (0.5, 1.0, 2.0):
        shown = lifting.resampler(see(lifting, image, View(scale)))
        assert shown.level(shown.image_hw).max() == 80, "eight times at most"


def test_all_views_are_merged_and_counted(cascade: Cascade) -> None:
    settings = cascade.settings()
    how = Augmentation((1.0, 2.0), flip=True)
    alone = [detect_stages(cascade, pictures(), settings, Augmentation((scale,), flip=True)) for scale in how.scales]
    both = detect_stages(cascade, pictures(), settings, how)
    for row in range(3):
        assert len(both[0][0][row]) == sum(len(stages[0][0][row]) for stages in alone)
        last = both[1][0][row]
        assert len(last) <= settings[-1].max_per_image
        assert (np.diff(last.scores) <= 0).all()
        assert last.scores[0] >= max(stages[1][0][row].scores[0] for stages in alone)
    done = evaluate_source(cascade, Noise(), {}, score=0.0, augmentation=how)
    assert done.metrics["settings"]["scales"] == [1.0, 2.0]
    assert done.metrics["settings"]["flip"] is True
    assert [row["stage"] for row in done.metrics["funnel"]] == ["first", "last"]
    assert done.metrics["funnel"][0]["candidates_out"] == np.mean([len(found) for found in both[0][0]])


A, NEAR_A, B = [0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]
INSIDE_A = [0, 0, 5, 5]


@pytest.mark.parametrize(
    ("boxes", "scores", "change", "kept"),
    [
        ([], [], {}, []),
        ([A, B, NEAR_A], [0.5, 0.6, 0.9], {}, [2, 1]),
        ([A, NEAR_A, B], [0.5, 0.5, 0.5], {}, [0, 2]),  # of equal scores the earlier view's stays
        ([A, INSIDE_A], [0.5, 0.4], {}, [0, 1]),
        ([A, INSIDE_A], [0.5, 0.4], {"nms_mode": NmsMode.minimum}, [0]),
        ([A, NEAR_A, B], [0.1, 0.2, 0.3], {"nms": None}, [2, 1, 0]),
        ([A, NEAR_A, B], [0.1, 0.2, 0.3], {"nms": None, "max_per_image": 2}, [2, 1]),
    ],
)
def test_merge(cascade: Cascade, boxes: Any, scores: Any, change: Any, kept: list[int]) -> None:
    settings = dataclasses.replace(cascade.settings()[-1], **{"nms": 0.4, "nms_mode": NmsMode.union, **change})
    found = Detections(np.reshape(boxes, (-1, 4)), scores, extras={"row": np.arange(len(scores))})
    assert merge(found, settings).extras["row"].tolist() == kept


@pytest.mark.parametrize(
    ("scales", "told"),
    [
        ((), r"scales \(none\): name each once, and at least one"),
        ((1.0, 2.0, 1.0), "scales 1, 2, 1: name each once"),
        ((0.0,), "scale 0 must lie in 0.1 to 10"),
        ((float("nan"),), "scale nan must lie"),
        ((11.0,), "scale 11 must lie"),
    ],
)
def test_wrong_scales(scales: tuple[float, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Augmentation(scales)


def test_what_gets_too_large_is_told() -> None:
    def refuse(image_hw: tuple[int, int], augmentation: Augmentation, cap: int, min_object_px: float = 12) -> None:
        recipe = recipe_from_dict({**RECIPE, "image": {"max_pixels": cap}}, None, where="here")
        refuse_large(Cascade.build(recipe), image_hw, augmentation, min_object_px)

    refuse((100, 100), Augmentation((0.5, 1.0, 2.0)), 40_000)
    refuse((100, 100), PLAIN, 1)  # the picture itself is the reader's to refuse
    with pytest.raises(DataError, match=r"a picture of 100 x 90 px at the scale 3 is above the cap of 40,000 pixels"):
        refuse((90, 100), Augmentation((1.0, 3.0)), 40_000)
    with pytest.raises(DataError, match=r"a picture of 100 x 90 px, enlarged 12\.0 times .* raise min_object_px"):
        refuse((90, 100), PLAIN, 40_000, min_object_px=1)
