"""The proposer: its pyramid, from positions of the map to windows of the picture, and both suppressions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from cascade_det.core.geometry import iou_matrix
from cascade_det.core.imaging import Resample, Resampler
from cascade_det.core.nms import NmsMode
from cascade_det.core.types import CropTruth, Detections
from cascade_det.heads.base import Head
from cascade_det.heads.box_offset import BoxOffset
from cascade_det.heads.classification import Classification
from cascade_det.heads.points import Points
from cascade_det.nets.base import Net
from cascade_det.nets.mtcnn import mtcnn_pnet, mtcnn_rnet
from cascade_det.stages.base import StageSettings
from cascade_det.stages.proposer import Proposer, level_tiles, pyramid_levels

SETTINGS = StageSettings(
    score=0.5,
    nms=None,
    nms_mode=NmsMode.union,
    nms_across_levels=None,
    max_per_image=1000,
    min_object_px=12,
    max_object_px=None,
    factor=0.5,
    mean=0,
    scale=1 / 255,
)


def settings(**changes: Any) -> StageSettings:
    return dataclasses.replace(SETTINGS, **changes)


class Brightness(Net):
    """The mean of red in the window: its map peaks where the picture has a bright patch of the window's size."""

    def __init__(self, window_hw: tuple[int, int], stride: int = 2) -> None:
        super().__init__()
        self.window_hw, self.out_channels, self.stride = window_hw, 1, stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(images[:, :1], self.window_hw, self.stride or 1)


class Column(Head):
    """A head of a plug-in: it fills a column of extras with the raw output."""

    field = "darkness"

    def teaches(self, truth: CropTruth) -> NDArray[np.bool_]:
        raise NotImplementedError

    def encode(self, truth: CropTruth) -> NDArray[np.float32]:
        raise NotImplementedError

    def decode(self, raw: NDArray[np.float32], windows_xyxy: NDArray[np.float32]) -> NDArray[Any]:
        return raw[:, 0]

    def layer(self, in_channels: int) -> nn.Module:
        return nn.Conv2d(in_channels, 1, kernel_size=1)

    def loss(self, raw: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def set_layer(proposer: Proposer, head: str, weight: float, bias: Sequence[float]) -> None:
    """Make a head's raw output `weight` times the feature plus `bias`."""
    layer = proposer.runner.network.heads[head]
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.fill_(weight)
        layer.bias.copy_(torch.tensor(bias))


def bright(window_hw: tuple[int, int] = (12, 12), heads: dict[str, Head] | None = None, **params: Any) -> Proposer:
    """Return a proposer that scores .5 where 90 % of a window is bright; other heads say zero."""
    heads = {"score": Classification(), **(heads or {})}
    proposer = Proposer("first", window_hw, Brightness(window_hw), heads, **params)
    for name in heads:
        layer = proposer.runner.network.heads[name]
        assert isinstance(layer, nn.Conv2d)
        set_layer(proposer, name, *((20, [-18]) if name == "score" else (0, [0] * layer.out_channels)))
    return proposer


def picture(hw: tuple[int, int], *patches: tuple[int, int, int, int]) -> Resampler:
    """Return a black picture with white patches x0 y0 x1 y1."""
    image = np.zeros((*hw, 3), np.uint8)
    for x0, y0, x1, y1 in patches:
        image[y0:y1, x0:x1] = 255
    return Resampler(image, Resample.area)


def random_pictures() -> list[Resampler]:
    """Return pictures of several sizes, some of them equal, one smaller than the window."""
    rng = np.random.default_rng(0)
    sizes = [(40, 40), (40, 40), (61, 33), (9, 50), (40, 40), (61, 33)]
    return [Resampler(rng.integers(0, 256, (*hw, 3), dtype=np.uint8)) for hw in sizes]


def trained_like(**params: Any) -> Proposer:
    """Return P-Net with random weights and all heads."""
    torch.manual_seed(0)
    heads: dict[str, Head] = {"score": Classification(), "box": BoxOffset(), "points": Points(5)}
    return Proposer("first", (12, 12), mtcnn_pnet((12, 12), alpha=0.5), heads, **params)


class TestPyramid:
    @pytest.mark.parametrize(
        ("image_hw", "window_hw", "changes", "levels"),
        [
            ((11, 100), (12, 12), {}, []),
            ((100, 11), (12, 12), {}, []),
            ((12, 12), (12, 12), {}, [(12, 12)]),
            ((48, 96), (12, 12), {}, [(48, 96), (24, 48), (12, 24)]),
            ((48, 96), (12, 12), {"min_object_px": 24}, [(24, 48), (12, 24)]),
            ((48, 96), (12, 12), {"min_object_px": 53}, []),
            ((10, 10), (12, 12), {"min_object_px": 6}, [(20, 20)]),
            ((48, 96), (12, 12), {"max_object_px": 24}, [(48, 96), (24, 48)]),
            ((48, 96), (12, 12), {"max_object_px": 23}, [(48, 96)]),
            ((48, 96), (12, 12), {"max_object_px": 5}, [(48, 96)]),  # the first level is always built
            ((48, 96), (24, 12), {"min_object_px": 24}, [(48, 96), (24, 48)]),
            ((48, 11), (24, 12), {"min_object_px": 24}, []),
            ((31, 17), (12, 12), {"min_object_px": 15}, [(25, 14)]),
        ],
    )
    def test_levels(
        self,
        image_hw: tuple[int, int],
        window_hw: tuple[int, int],
        changes: dict[str, Any],
        levels: list[tuple[int, int]],
    ) -> None:
        assert pyramid_levels(image_hw, window_hw, settings(**changes)) == levels

    @given(
        st.tuples(st.integers(1, 900), st.integers(1, 900)),
        st.tuples(st.integers(4, 48), st.integers(4, 48)),
        st.floats(4, 200),
        st.floats(0.05, 0.95),
    )
    def test_every_level_holds_the_window_and_is_a_factor_smaller(
        self, image_hw: tuple[int, int], window_hw: tuple[int, int], min_object_px: float, factor: float
    ) -> None:
        levels = pyramid_levels(image_hw, window_hw, settings(min_object_px=min_object_px, factor=factor))
        for number, level_hw in enumerate(levels):
            scale = window_hw[0] / min_object_px * factor**number
            assert level_hw[0] >= window_hw[0]
            assert level_hw[1] >= window_hw[1]
            assert level_hw == pytest.approx((image_hw[0] * scale, image_hw[1] * scale), abs=1.001)
        scale = window_hw[0] / min_object_px * factor ** len(levels)
        fits = math.floor(image_hw[0] * scale) >= window_hw[0] and math.floor(image_hw[1] * scale) >= window_hw[1]
        assert not fits, "the pyramid ended early"


class TestWholePixels:
    """Levels and windows as ports of MTCNN round them, by formulas of their own."""

    @pytest.mark.parametrize(
        ("image_hw", "levels"),
        [
            ((48, 64), [(49, 65), (25, 33), (13, 17)]),  # every side comes out whole: one pixel more
            ((47, 63), [(48, 64), (24, 32)]),  # the third would be 11.75 high: rounded up it would hold the window
            ((11, 500), []),
        ],
    )
    def test_levels(self, image_hw: tuple[int, int], levels: list[tuple[int, int]]) -> None:
        assert pyramid_levels(image_hw, (12, 12), settings(), whole_pixels=True) == levels

    def test_windows(self) -> None:
        given = settings(score=0, min_object_px=16, max_object_px=16)
        found = bright(whole_pixels=True)([picture((60, 80))], None, given)[0]
        scale = 12 / 16
        across = [(np.floor((2 * i + 1) / scale), np.floor((2 * i + 12) / scale)) for i in range((61 - 12) // 2 + 1)]
        down = [(np.floor((2 * i + 1) / scale), np.floor((2 * i + 12) / scale)) for i in range((46 - 12) // 2 + 1)]
        # pixels are counted from 1 and the last one is part of the window
        expected = [[x0 - 1, y0 - 1, x1, y1] for y0, y1 in down for x0, x1 in across]
        assert sorted(found.boxes.tolist()) == sorted(expected)


class TestConstructor:
    @pytest.mark.parametrize(
        ("net", "nms_on", "message"),
        [
            (None, "windows", "choose a net with a stride"),
            (mtcnn_rnet((24, 24)), "windows", "choose a net with a stride"),
            (Brightness((12, 12)), "corners", "nms_on='corners'"),
        ],
    )
    def test_wrong_parts(self, net: Any, nms_on: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Proposer("first", (12, 12), net, {"score": Classification()}, nms_on)


class TestEmpty:
    def test_no_pictures(self) -> None:
        assert bright()([], None, SETTINGS) == []

    @pytest.mark.parametrize("hw", [(1, 1), (11, 40), (12, 12), (40, 40)])
    def test_nothing_found_has_every_column(self, hw: tuple[int, int]) -> None:
        heads: dict[str, Head] = {"box": BoxOffset(), "points": Points(3), "dark": Column()}
        (found,) = bright(heads=heads)([picture(hw)], None, SETTINGS)
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == (0,)
        assert found.points is not None
        assert found.points.shape == (0, 3, 2)
        assert {name: column.shape for name, column in found.extras.items()} == {"darkness": (0,)}

    def test_without_heads_for_them_there_are_no_columns(self) -> None:
        (found,) = bright()([picture((8, 8))], None, SETTINGS)
        assert found.points is None
        assert found.extras == {}


class TestWindows:
    @pytest.mark.parametrize(
        ("hw", "window_hw", "min_object_px", "patch"),
        [
            ((40, 60), (12, 12), 12, (0, 0, 12, 12)),
            ((40, 60), (12, 12), 12, (24, 10, 36, 22)),
            ((40, 60), (12, 12), 12, (48, 28, 60, 40)),  # the last position of the map
            ((80, 120), (12, 12), 24, (48, 20, 72, 44)),
            ((40, 60), (12, 12), 6, (24, 10, 30, 16)),  # a level larger than the picture
            ((40, 60), (24, 12), 24, (16, 10, 28, 34)),
            ((61, 59), (12, 12), 20, (20, 10, 40, 30)),  # sides of the level are rounded
        ],
    )
    def test_the_best_window_is_the_patch(
        self, hw: tuple[int, int], window_hw: tuple[int, int], min_object_px: float, patch: tuple[int, int, int, int]
    ) -> None:
        (found,) = bright(window_hw)([picture(hw, patch)], None, settings(min_object_px=min_object_px, score=0.1))
        best = found.boxes[found.scores.argmax()]
        assert np.abs(best - patch).max() <= min_object_px / window_hw[0] + 1e-3  # half a step of the map

    def test_an_exact_patch_has_an_exact_window_and_score(self) -> None:
        (found,) = bright()([picture((40, 60), (24, 10, 36, 22))], None, SETTINGS)
        assert found.boxes.tolist() == [[24, 10, 36, 22]]
        assert found.scores == pytest.approx([1 / (1 + math.exp(-2))], abs=1e-5)

    def test_two_sizes_on_two_levels(self) -> None:
        small, large = (4, 4, 16, 16), (40, 16, 64, 40)
        (found,) = bright()([picture((64, 96), small, large)], None, SETTINGS)
        height = found.boxes[:, 3] - found.boxes[:, 1]
        assert found.boxes[height == 24].tolist() == [list(large)]
        low = found.boxes[height == 12]
        assert low[low[:, 0] < 40].tolist() == [list(small)]

    def test_heads_decode_in_the_frame_of_the_window(self) -> None:
        proposer = bright(heads={"box": BoxOffset(), "points": Points(1)})
        set_layer(proposer, "box", 0, [0.25, 0, 0.5, -0.25])
        set_layer(proposer, "points", 0, [0.5, 0.25])
        (found,) = proposer([picture((80, 120), (48, 20, 72, 44))], None, settings(min_object_px=24))
        assert found.boxes.tolist() == [[54, 20, 84, 38]]
        assert found.points is not None
        assert found.points.tolist() == [[[60, 26]]]

    @pytest.mark.parametrize("score", [0.0, 0.3, 0.7, 1.0])
    def test_score_is_the_lowest_that_passes(self, score: float) -> None:
        everything = trained_like()(random_pictures(), None, settings(score=0))
        found = trained_like()(random_pictures(), None, settings(score=score))
        assert [len(f) for f in found] == [int((e.scores >= score).sum()) for e in everything]


class TestSameness:
    @pytest.mark.parametrize("nms", [None, 0.5])
    def test_a_batch_is_each_picture_alone(self, nms: float | None) -> None:
        proposer, pictures = trained_like(), random_pictures()
        chosen = settings(nms=nms, nms_across_levels=nms, score=0.4)
        together = proposer(pictures, None, chosen)
        assert sum(map(len, together)) > 100
        for image, found in zip(pictures, together, strict=True):
            assert_close(found, proposer([image], None, chosen)[0])

    @pytest.mark.parametrize("pass_pixels", [1, 150, 700, 40 * 40, 2 * 40 * 40])
    def test_pictures_that_do_not_fit_one_forward_pass(self, monkeypatch: pytest.MonkeyPatch, pass_pixels: int) -> None:
        proposer, chosen = trained_like(), settings(score=0.5, nms=0.5, nms_across_levels=0.7, min_object_px=20)
        together = proposer(random_pictures(), None, chosen)
        monkeypatch.setattr("cascade_det.stages.proposer._PASS_PIXELS", pass_pixels)
        for found, alone in zip(together, proposer(random_pictures(), None, chosen), strict=True):
            assert_close(found, alone)

    def test_weights_round_trip(self) -> None:
        first, second = trained_like(), trained_like()
        with torch.no_grad():
            for value in second.runner.network.parameters():
                value.add_(1)
        second.load_arrays(first.arrays())
        for found, again in zip(*(p(random_pictures(), None, SETTINGS) for p in (first, second)), strict=True):
            assert_close(found, again)


def ceiled() -> Net:
    """Return P-Net as its authors ran it: pooling rounds up, so odd levels get positions that no crop has."""
    net = mtcnn_pnet((12, 12), alpha=0.5)
    for layer in net.modules():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    return net


# name: its net and window
DENSE: dict[str, Callable[[], tuple[Net, tuple[int, int]]]] = {
    "P-Net": lambda: (mtcnn_pnet((12, 12), alpha=0.5), (12, 12)),
    "P-Net of a tall window": lambda: (mtcnn_pnet((16, 12), alpha=0.5), (16, 12)),
    "P-Net with ceil pooling": lambda: (ceiled(), (12, 12)),
    "stride 1": lambda: (Brightness((5, 4), 1), (5, 4)),
    "stride 3": lambda: (Brightness((7, 10), 3), (7, 10)),
    "stride beyond the window": lambda: (Brightness((4, 4), 5), (4, 4)),
}


class TestTiles:
    @pytest.mark.parametrize(
        ("level_hw", "pass_pixels", "pixels"),
        [
            ((12, 12), 144, [((0, 12), (0, 12))]),
            ((12, 12), 1, [((0, 12), (0, 12))]),  # never smaller than the window
            ((13, 13), 1, [((0, 13), (0, 13))]),
            ((14, 12), 1, [((0, 12), (0, 12)), ((2, 14), (0, 12))]),
            ((20, 30), 600, [((0, 20), (0, 30))]),
            ((20, 30), 599, [((0, 20), (0, 20)), ((0, 20), (10, 30))]),  # of equal length
            ((12, 1000), 6100, [((0, 12), (0, 506)), ((0, 12), (496, 1000))]),
            ((1000, 12), 6100, [((0, 506), (0, 12)), ((496, 1000), (0, 12))]),
        ],
    )
    def test_pixels_of_the_tiles(
        self, level_hw: tuple[int, int], pass_pixels: int, pixels: list[tuple[tuple[int, int], tuple[int, int]]]
    ) -> None:
        tiles = level_tiles(level_hw, (12, 12), 2, pass_pixels)
        got = [((t.rows.start, t.rows.stop), (t.columns.start, t.columns.stop)) for t in tiles]
        assert got == pixels

    @given(
        st.tuples(st.integers(0, 120), st.integers(0, 120)),
        st.tuples(st.integers(1, 20), st.integers(1, 20)),
        st.integers(1, 5),
        st.integers(1, 10_000),
    )
    @hypothesis_settings(deadline=None)
    def test_every_position_is_in_one_tile_and_a_tile_is_small(
        self, more_hw: tuple[int, int], window_hw: tuple[int, int], stride: int, pass_pixels: int
    ) -> None:
        height, width = more_hw[0] + window_hw[0], more_hw[1] + window_hw[1]
        seen = np.zeros(((height - window_hw[0]) // stride + 1, (width - window_hw[1]) // stride + 1), int)
        for tile in level_tiles((height, width), window_hw, stride, pass_pixels):
            assert (tile.rows.start, tile.columns.start) == (tile.first[0] * stride, tile.first[1] * stride)
            tile_hw = (tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start)
            own = [(side - window) // stride + 1 for side, window in zip(tile_hw, window_hw, strict=True)]
            needed = [(count - 1) * stride + window for count, window in zip(own, window_hw, strict=True)]
            assert needed[0] * needed[1] <= pass_pixels or min(own) == 1
            seen[tile.first[0] : tile.first[0] + own[0], tile.first[1] : tile.first[1] + own[1]] += 1
        assert (seen == 1).all()

    @pytest.mark.parametrize("name", list(DENSE))
    @given(st.tuples(st.integers(0, 30), st.integers(0, 30)), st.integers(250, 1500))
    @hypothesis_settings(deadline=None, max_examples=25)
    def test_a_level_in_tiles_is_the_whole_level(self, name: str, more_hw: tuple[int, int], pass_pixels: int) -> None:
        torch.manual_seed(1)
        net, window_hw = DENSE[name]()
        proposer = Proposer("first", window_hw, net, {"score": Classification(), "points": Points(2)})
        hw = (window_hw[0] + more_hw[0], window_hw[1] + more_hw[1])
        image = Resampler(np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8))
        # one level, all of its positions; without a box head a box is its window
        chosen = settings(
            score=0, min_object_px=window_hw[0], max_object_px=window_hw[0], max_per_image=10**9, scale=1 / 64
        )
        found = []
        for limit in (10**9, min(pass_pixels, hw[0] * hw[1] - 1)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("cascade_det.stages.proposer._PASS_PIXELS", limit)
                (here,) = proposer([image], None, chosen)
                found.append(here[np.lexsort((here.boxes[:, 0], here.boxes[:, 1]))])
        whole, tiled = found
        assert net.stride is not None
        assert len(whole) >= math.prod((side - w) // net.stride + 1 for side, w in zip(hw, window_hw, strict=True))
        np.testing.assert_array_equal(whole.boxes, tiled.boxes)
        assert_close(whole, tiled)

    def test_equal_scores_are_decided_as_on_the_whole_level(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen = settings(nms=0.3, max_object_px=12)
        (whole,) = bright()([picture((60, 70), (0, 0, 70, 60))], None, chosen)
        monkeypatch.setattr("cascade_det.stages.proposer._PASS_PIXELS", 900)
        (tiled,) = bright()([picture((60, 70), (0, 0, 70, 60))], None, chosen)
        assert len(whole) > 10
        assert tiled.boxes.tolist() == whole.boxes.tolist()


class TestSuppression:
    # windows at 0, 2 and 4 px of a patch that is 16 px wide overlap by 10/14 and 8/16
    IMAGE = ((12, 40), (10, 0, 26, 12))

    @pytest.mark.parametrize(
        ("changes", "left_edges"),
        [
            ({}, [10, 12, 14]),
            ({"nms": 0.75}, [10, 12, 14]),
            ({"nms": 0.7}, [10, 14]),
            ({"nms": 0.45}, [10]),
            ({"nms_across_levels": 0.7}, [10, 14]),
            ({"nms_across_levels": 0.45}, [10]),
            ({"nms": 0.8, "nms_mode": NmsMode.minimum}, [10, 14]),
            ({"max_per_image": 2}, [10, 12]),
            ({"max_per_image": 1}, [10]),
        ],
    )
    def test_within_one_level(self, changes: dict[str, Any], left_edges: list[float]) -> None:
        (found,) = bright()([picture(*self.IMAGE[:1], self.IMAGE[1])], None, settings(**changes))
        assert found.boxes[:, 0].tolist() == left_edges  # equal scores keep the order of the map

    def test_a_level_of_very_many_hits_has_its_best_suppressed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The best by score, never fewer than may pass on."""
        case, wide = (random_pictures(), None), settings(score=0, max_per_image=20, max_object_px=12)  # one level
        (first, *_) = trained_like()(*case, wide)
        for most in (20, 3):
            monkeypatch.setattr("cascade_det.stages.proposer._MOST_HITS", most)
            (found, *_) = trained_like()(*case, wide)
            assert np.array_equal(found.scores, first.scores)
        (fewer, *_) = trained_like()(*case, dataclasses.replace(wide, nms=0.01))
        assert 0 < len(fewer) < 20, "the twenty best were left to suppress each other"

    def test_per_level_suppression_leaves_other_levels_alone(self) -> None:
        image = picture((48, 48), (0, 0, 24, 24))  # its windows: many of 12 px, one of 24 px
        (found,) = bright()([image], None, settings(nms=0.01))
        assert {float(v) for v in found.boxes[:, 3] - found.boxes[:, 1]} == {12, 24}
        (found,) = bright()([image], None, settings(nms=0.01, nms_across_levels=0.01))
        overlap = iou_matrix(found.boxes, found.boxes)
        assert (overlap - np.eye(len(found)) <= 0.01).all()
        assert len(found) >= 1

    def test_suppression_looks_at_windows_or_at_boxes(self) -> None:
        image = picture(*self.IMAGE[:1], self.IMAGE[1])
        counts = {}
        for nms_on in ("windows", "boxes"):
            proposer = bright(heads={"box": BoxOffset()}, nms_on=nms_on)
            set_layer(proposer, "box", 0, [0.45, 0, -0.45, 0])  # narrow boxes, apart from each other
            counts[nms_on] = len(proposer([image], None, settings(nms=0.45, nms_across_levels=0.45))[0])
        assert counts == {"windows": 1, "boxes": 3}

    def test_results_fall_by_score(self) -> None:
        for found in trained_like()(random_pictures(), None, settings(nms=0.9)):
            assert (np.diff(found.scores) <= 0).all()


def assert_close(a: Detections, b: Detections) -> None:
    assert len(a) == len(b)
    assert np.abs(a.scores - b.scores).max(initial=0) <= 1e-5
    assert np.abs(a.boxes - b.boxes).max(initial=0) <= 0.01
    assert a.points is not None
    assert b.points is not None
    assert np.abs(a.points - b.points).max(initial=0) <= 0.01
