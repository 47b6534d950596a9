"""The refiner: crops of candidates in, fewer and better candidates out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cascade_det.core.geometry import mirror_detections
from cascade_det.core.imaging import Border, Resampler
from cascade_det.core.nms import NmsMode
from cascade_det.core.types import Detections
from cascade_det.heads.base import Head
from cascade_det.heads.box_offset import BoxOffset
from cascade_det.heads.classification import Classification
from cascade_det.heads.points import Points
from cascade_det.nets.base import Net
from cascade_det.nets.mtcnn import mtcnn_rnet
from cascade_det.stages.base import StageSettings
from cascade_det.stages.refiner import Refiner

SETTINGS = StageSettings(
    score=0.5,
    nms=None,
    nms_mode=NmsMode.union,
    nms_across_levels=0.1,  # a proposer's, and none of a refiner's business
    max_per_image=1000,
    min_object_px=12,
    max_object_px=None,
    factor=0.5,
    mean=0,
    scale=1 / 255,
)
FLIP = [1, 0, 2, 4, 3]
PATCH = (20.0, 8.0, 44.0, 32.0)


def settings(**changes: Any) -> StageSettings:
    return dataclasses.replace(SETTINGS, **changes)


class Brightness(Net):
    """The mean of red in the crop."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1].mean(dim=(2, 3), keepdim=True)


def set_layer(refiner: Refiner, head: str, weight: float, bias: Sequence[float]) -> None:
    """Make a head's raw output `weight` times the feature plus `bias`."""
    layer = refiner.runner.network.heads[head]
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.fill_(weight)
        layer.bias.copy_(torch.tensor(bias))


def bright(window_hw: tuple[int, int] = (8, 8), heads: dict[str, Head] | None = None, **params: Any) -> Refiner:
    """Return a refiner that scores .5 where 90 % of a crop is bright; other heads say zero."""
    heads = {"score": Classification(), **(heads or {})}
    refiner = Refiner("second", window_hw, Brightness(), heads, **params)
    for name in heads:
        layer = refiner.runner.network.heads[name]
        assert isinstance(layer, nn.Conv2d)
        set_layer(refiner, name, *((20, [-18]) if name == "score" else (0, [0] * layer.out_channels)))
    return refiner


def picture(border: Border = Border.pad) -> Resampler:
    """Return a black picture of 40 x 60 with one white patch."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[8:32, 20:44] = 255
    return Resampler(image, border=border)


def candidates(*boxes: Sequence[float]) -> Detections:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(rows, np.linspace(1, 0.5, len(rows), dtype=np.float32))


def random_case(count: int = 5) -> tuple[list[Resampler], list[Detections]]:
    """Return pictures of several sizes with different numbers of candidates, some none, some across the border."""
    rng = np.random.default_rng(0)
    pictures, found = [], []
    for number in range(count):
        hw = (30 + 7 * number, 60 - 5 * number)
        pictures.append(Resampler(rng.integers(0, 256, (*hw, 3), dtype=np.uint8)))
        low = rng.uniform(-5, 30, (number * 9, 2))
        found.append(candidates(*np.concatenate([low, low + rng.uniform(8, 30, (len(low), 2))], axis=1)))
    return pictures, found


def trained_like(**params: Any) -> Refiner:
    """Return R-Net with random weights and all heads."""
    torch.manual_seed(0)
    box = BoxOffset(error="laplace" if params.get("score_certainty") else "squared")
    heads: dict[str, Head] = {"score": Classification(), "box": box, "points": Points(5)}
    return Refiner("second", (24, 24), mtcnn_rnet((24, 24), alpha=0.25), heads, **params)


def at_the_mirrored_picture(
    stage: Refiner, pictures: Sequence[Resampler], found: Sequence[Detections]
) -> list[Detections]:
    """Return what a stage says of the mirrored picture, mirrored back."""
    width, flip = pictures[0].image_hw[1], np.array(FLIP)
    mirrored = Resampler(np.ascontiguousarray(pictures[0].level(pictures[0].image_hw)[:, ::-1]))
    said = stage([mirrored], [mirror_detections(found[0], width, flip)], settings(score=0))
    return [mirror_detections(said[0], width, flip)]


def assert_close(a: Detections, b: Detections, far: float = 1) -> None:
    assert len(a) == len(b)
    assert np.abs(a.scores - b.scores).max(initial=0) <= 1e-5 * far
    assert np.abs(a.boxes - b.boxes).max(initial=0) <= 0.01 * far
    assert a.points is not None
    assert b.points is not None
    assert np.abs(a.points - b.points).max(initial=0) <= 0.01 * far


class TestEmpty:
    def test_no_pictures(self) -> None:
        assert bright()([], [], SETTINGS) == []

    @pytest.mark.parametrize("given", [0, 3])
    def test_no_candidates_or_none_kept_has_every_column(self, given: int) -> None:
        refiner = bright(heads={"box": BoxOffset(), "points": Points(3)})
        dark = [(0.0, 0.0, 8.0, 8.0)] * given
        (found,) = refiner([picture()], [candidates(*dark)], SETTINGS)
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == (0,)
        assert found.points is not None
        assert found.points.shape == (0, 3, 2)

    def test_no_candidates_at_all_is_a_mistake_of_the_caller(self) -> None:
        with pytest.raises(ValueError, match="needs the candidates of the stage before"):
            bright()([picture()], None, SETTINGS)

    def test_an_empty_picture_among_others(self) -> None:
        boxes = [candidates(), candidates(PATCH), candidates()]
        found = bright()([picture()] * 3, boxes, SETTINGS)
        assert [len(f) for f in found] == [0, 1, 0]
        assert found[1].boxes.tolist() == [list(PATCH)]


class TestCrops:
    @pytest.mark.parametrize(
        ("window_hw", "box", "window"),
        [
            ((8, 8), PATCH, PATCH),
            ((8, 8), (28, 8, 36, 32), PATCH),  # fitted to the window's aspect, same centre
            ((8, 8), (20, 16, 44, 24), PATCH),
            ((16, 8), (26, 12, 38, 30), (26, 9, 38, 33)),
        ],
    )
    def test_the_box_is_the_fitted_window(
        self, window_hw: tuple[int, int], box: tuple[float, ...], window: tuple[float, ...]
    ) -> None:
        (found,) = bright(window_hw)([picture()], [candidates(box)], settings(score=0))
        assert found.boxes.tolist() == [list(window)]

    @pytest.mark.parametrize(
        ("box", "share"),
        [
            (PATCH, 1),
            ((8, 8, 32, 32), 0.5),
            ((-12, 8, 12, 32), 0),
            ((0, 0, 0, 0), 0),  # a box without area
            ((24, 12, 40, 28), 1),
        ],
    )
    def test_the_score_is_of_the_crop(self, box: tuple[float, ...], share: float) -> None:
        refiner = bright()
        set_layer(refiner, "score", 4, [-2])
        (found,) = refiner([picture()], [candidates(box)], settings(score=0))
        assert found.scores == pytest.approx([1 / (1 + math.exp(2 - 4 * share))], abs=1e-4)

    def test_the_border_is_the_resamplers(self) -> None:
        image = np.full((20, 20, 3), 255, np.uint8)
        box = candidates((-20, 0, 20, 40))  # a quarter of it lies inside
        shares = {}
        for border in Border:
            refiner = bright()
            set_layer(refiner, "score", 1, [0])
            (found,) = refiner([Resampler(image, border=border)], [box], settings(score=0))
            shares[border] = float(np.log(found.scores[0] / (1 - found.scores[0])))
            assert found.boxes.tolist() == [[-20, 0, 20, 40]]  # the cascade clips, a stage does not
        assert shares[Border.pad] == pytest.approx(0.25, abs=0.01)
        assert shares[Border.clip] == pytest.approx(1, abs=0.01)

    def test_heads_decode_in_the_frame_of_the_window(self) -> None:
        refiner = bright(heads={"box": BoxOffset(), "points": Points(1)})
        set_layer(refiner, "box", 0, [0.25, 0, 0.5, -0.25])
        set_layer(refiner, "points", 0, [0.5, 0.25])
        (found,) = refiner([picture()], [candidates(PATCH)], SETTINGS)
        assert found.boxes.tolist() == [[26, 8, 56, 26]]
        assert found.points is not None
        assert found.points.tolist() == [[[32, 14]]]

    def test_context_shows_more_and_moves_nothing(self) -> None:
        refiner = bright(heads={"box": BoxOffset(), "points": Points(1)}, context=2.0)
        set_layer(refiner, "score", 4, [-2])
        set_layer(refiner, "box", 0, [0.25, 0, 0.5, -0.25])
        set_layer(refiner, "points", 0, [0.5, 0.25])
        (found,) = refiner([picture()], [candidates(PATCH)], settings(score=0))
        assert found.scores == pytest.approx([1 / (1 + math.exp(2 - 4 * 0.25))], abs=1e-4)  # white is a quarter of it
        assert found.boxes.tolist() == [[26, 8, 56, 26]]
        assert found.points is not None
        assert found.points.tolist() == [[[32, 14]]]


class TestSuppression:
    # crops of 16 px in the patch, 4 px apart: neighbours overlap by 12/20, the outer two by 8/24
    BOXES = ((22, 10, 38, 26), (26, 10, 42, 26), (22, 14, 38, 30), (26, 14, 42, 30))

    @pytest.mark.parametrize(
        ("changes", "kept"),
        [
            ({}, [0, 1, 2, 3]),
            ({"nms": 0.65}, [0, 1, 2, 3]),
            ({"nms": 0.5}, [0, 3]),
            ({"nms": 0.3}, [0]),
            ({"nms": 0.5, "nms_mode": NmsMode.minimum}, [0]),
            ({"max_per_image": 3}, [0, 1, 2]),
            ({"nms": 0.5, "max_per_image": 1}, [0]),
            ({"score": 0.9}, []),
        ],
    )
    def test_of_equal_scores_the_first_stays(self, changes: dict[str, Any], kept: list[int]) -> None:
        (found,) = bright()([picture()], [candidates(*self.BOXES)], settings(**changes))
        assert found.boxes.tolist() == [list(map(float, self.BOXES[row])) for row in kept]

    def test_higher_scores_win_whatever_came_before(self) -> None:
        refiner = bright()
        set_layer(refiner, "score", 4, [-2])
        boxes = [(14.0, 8.0, 38.0, 32.0), PATCH, (23.0, 8.0, 47.0, 32.0)]
        (found,) = refiner([picture()], [candidates(*boxes)], SETTINGS)
        assert found.boxes.tolist() == [list(boxes[row]) for row in (1, 2, 0)]
        (found,) = refiner([picture()], [candidates(*boxes)], settings(nms=0.4))
        assert found.boxes.tolist() == [list(PATCH)]

    def test_suppression_looks_at_boxes_or_at_windows(self) -> None:
        counts = {}
        for nms_on in ("boxes", "windows"):
            refiner = bright(heads={"box": BoxOffset()}, nms_on=nms_on)
            set_layer(refiner, "box", 0, [0.45, 0.45, -0.45, -0.45])
            counts[nms_on] = len(refiner([picture()], [candidates(*self.BOXES)], settings(nms=0.3))[0])
        assert counts == {"boxes": 4, "windows": 1}

    @pytest.mark.parametrize(("whole_pixels", "kept"), [(False, 1), (True, 2)])
    def test_whole_pixels_suppress_by_one_pixel_less(self, whole_pixels: bool, kept: int) -> None:
        found = candidates((20, 8, 30, 18), (22, 8, 32, 18))  # IoU 80 / 120; one pixel less: 63 / 99
        refiner = bright(nms_on="windows", whole_pixels=whole_pixels)
        assert len(refiner([picture()], [found], settings(score=0, nms=0.65))[0]) == kept

    @pytest.mark.parametrize(
        ("net", "nms_on", "message"),
        [(None, "boxes", "needs a net and heads"), (Brightness(), "corners", "nms_on='corners'")],
    )
    def test_wrong_parts(self, net: Any, nms_on: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Refiner("second", (8, 8), net, {"score": Classification()}, nms_on)


class TestSameness:
    def test_a_batch_is_each_picture_alone(self) -> None:
        refiner, (pictures, boxes) = trained_like(), random_case()
        together = refiner(pictures, boxes, settings(score=0.3, nms=0.6))
        assert sum(map(len, together)) > 30
        for image, box, found in zip(pictures, boxes, together, strict=True):
            assert_close(found, refiner([image], [box], settings(score=0.3, nms=0.6))[0])

    @pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
    def test_the_chunk_of_a_forward_pass_does_not_matter(self, chunk: int) -> None:
        refiner, (pictures, boxes) = trained_like(), random_case()
        expected = refiner(pictures, boxes, settings(score=0))
        assert sum(map(len, expected)) == sum(map(len, boxes))
        for found, wanted in zip(refiner(pictures, boxes, settings(score=0, chunk=chunk)), expected, strict=True):
            assert_close(found, wanted)

    @pytest.mark.parametrize("pool_pixels", [1, 24 * 24 * 10, 24 * 24 * 50])
    def test_the_pool_of_crops_does_not_matter(self, monkeypatch: pytest.MonkeyPatch, pool_pixels: int) -> None:
        refiner, (pictures, boxes) = trained_like(), random_case()
        expected = refiner(pictures, boxes, settings(score=0))
        monkeypatch.setattr("cascade_det.stages.refiner._POOL_PIXELS", pool_pixels)
        for found, wanted in zip(refiner(pictures, boxes, settings(score=0, chunk=8)), expected, strict=True):
            assert_close(found, wanted)

    def test_weights_round_trip(self) -> None:
        first, second = trained_like(), trained_like()
        with torch.no_grad():
            for value in second.runner.network.parameters():
                value.add_(1)
        second.load_arrays(first.arrays())
        case = random_case()
        for found, again in zip(*(stage(*case, settings(score=0)) for stage in (first, second)), strict=True):
            assert_close(found, again)


class TestLooks:
    """From the second look on a refiner looks at its own boxes, and answers with the mean of all looks."""

    @pytest.mark.parametrize("looks", [1, 2, 3])
    def test_nothing_to_look_at(self, looks: int) -> None:
        assert bright(looks=looks)([], [], SETTINGS) == []
        found = bright(looks=looks, heads={"points": Points(2)})([picture()], [candidates()], SETTINGS)
        assert [(len(f), f.points is not None) for f in found] == [(0, True)]

    @pytest.mark.parametrize(("looks", "mirror"), [(2, False), (3, False), (2, True), (3, True)])
    @pytest.mark.parametrize("certainty", [False, True])
    def test_the_mean_of_what_each_look_says(self, looks: int, mirror: bool, certainty: bool) -> None:
        once = trained_like(score_certainty=certainty)
        many = trained_like(looks=looks, mirror_looks=mirror, score_certainty=certainty, flip_points=FLIP)
        pictures, found = random_case()
        keep_all = settings(score=0)
        mean = [one.sorted() for one in once(pictures, found, keep_all)]
        scores = [one.scores for one in mean]
        for number in range(2, looks + 1):
            # a picture and a candidate at a time, so that each answer belongs to its candidate
            for row, before in enumerate(mean):
                turned = mirror and number % 2 == 0
                look = at_the_mirrored_picture if turned else lambda stage, *case: stage(*case, keep_all)
                again = [look(once, [pictures[row]], [before[[n]]])[0] for n in range(len(before))]
                last = Detections.concat(again) if again else before
                assert last.points is not None
                assert before.points is not None
                scores[row] = (scores[row].astype(np.float64) ** (number - 1) * last.scores) ** (1 / number)
                mean[row] = before.replace(
                    scores=scores[row],
                    boxes=before.boxes + (last.boxes - before.boxes) / number,
                    points=before.points + (last.points - before.points) / number,
                )
        for got, want in zip(many(pictures, found, keep_all), mean, strict=True):
            assert_close(got, want.sorted(), far=50 if mirror else 1)  # a mirrored crop may be rounded otherwise

    @pytest.mark.parametrize(("looks", "certainty"), [(1, False), (2, False), (3, False), (1, True), (3, True)])
    @pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
    def test_a_threshold_asks_for_what_a_lower_one_gives_from_it_on(
        self, looks: int, certainty: bool, share: float
    ) -> None:
        """No look drops what the mean of all looks would keep, so calibrated thresholds hold in use."""
        many = trained_like(looks=looks, score_certainty=certainty)
        pictures, found = random_case()
        everything = many(pictures, found, settings(score=0))
        score = float(np.quantile(np.concatenate([one.scores for one in everything]), share))
        for asked, all_of_them in zip(many(pictures, found, settings(score=score)), everything, strict=True):
            assert_close(asked, all_of_them[all_of_them.scores >= score])

    def test_what_falls_below_the_threshold_goes_and_what_meets_is_suppressed(self) -> None:
        """A box head that moves every window to the right by half its side: the second look sees another crop."""
        refiner = bright(heads={"box": BoxOffset()}, looks=2)
        set_layer(refiner, "box", 0, [0.5, 0, 0.5, 0])
        assert len(refiner([picture()], [candidates(PATCH)], SETTINGS)[0]) == 0
        refiner._looks = 1
        assert len(refiner([picture()], [candidates(PATCH)], SETTINGS)[0]) == 1
        twins = candidates(PATCH, PATCH)
        still = bright(heads={"box": BoxOffset()}, looks=2)
        assert len(still([picture()], [twins], SETTINGS)[0]) == 2
        assert len(still([picture()], [twins], settings(nms=0.5))[0]) == 1

    @pytest.mark.parametrize("looks", [0, -1])
    def test_too_few(self, looks: int) -> None:
        with pytest.raises(ValueError, match=f"looks={looks} must be at least 1"):
            bright(looks=looks)


class TestCertainty:
    """With `score_certainty` the score is the probability times how sure the box is."""

    def test_of_equal_probabilities_the_surer_box_comes_first(self) -> None:
        plain, sure = (bright(heads={"box": BoxOffset(error="laplace")}, score_certainty=on) for on in (False, True))
        for refiner in (plain, sure):
            set_layer(refiner, "box", 0, [0, 0, 0, 0, *np.log([0.1, 0.2, 0.3, 0.4])])
        (before,), (after,) = (r([picture()], [candidates(PATCH)], settings(score=0)) for r in (plain, sure))
        np.testing.assert_allclose(after.scores, before.scores * np.exp(-0.25), rtol=1e-6)
        np.testing.assert_array_equal(after.boxes, before.boxes)

    @pytest.mark.parametrize("heads", [{}, {"box": BoxOffset()}, {"points": Points(2, error="laplace")}])
    def test_a_head_of_boxes_must_tell_it(self, heads: dict[str, Head]) -> None:
        with pytest.raises(ValueError, match="no head tells how sure a box is; give box_offset `error: laplace`"):
            bright(heads=heads, score_certainty=True)
