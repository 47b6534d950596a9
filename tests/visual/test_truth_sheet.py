"""Tiles with the truth on them: scaled to fit, thin lines, each point in its colour."""

from __future__ import annotations

import numpy as np
import pytest

from cascade_det.core.types import Annotations
from cascade_det.visual.drawing import IGNORED, POINT_COLOURS, TRUTH
from cascade_det.visual.truth_sheet import legend, truth_tile

BLACK = np.zeros((300, 400, 3), np.uint8)


@pytest.mark.parametrize(("tile_hw", "shape"), [((30, 80), (30, 40)), ((600, 500), (375, 500)), ((1, 1), (1, 1))])
def test_a_picture_without_objects_is_scaled_to_fit(tile_hw: tuple[int, int], shape: tuple[int, int]) -> None:
    tile = truth_tile(BLACK, Annotations.empty(5), tile_hw)
    assert tile.shape == (*shape, 3)
    assert not tile.any()


def test_objects_are_drawn_at_the_tile_s_size() -> None:
    truth = Annotations(
        [[40, 40, 200, 200], [200, 100, 380, 280]],
        [False, True],
        [[[80, 80], [120, 160]], [[0, 0], [0, 0]]],
        [[True, True], [False, False]],
    )
    before = BLACK.copy()
    tile = truth_tile(BLACK, truth, (150, 200))
    np.testing.assert_array_equal(BLACK, before)
    assert tuple(tile[60, 20]) == TRUTH  # the left edge at half of 40
    assert tuple(tile[60, 22]) == (0, 0, 0)
    assert tuple(tile[100, 189]) == IGNORED
    assert tuple(tile[40, 40]) == POINT_COLOURS[0]
    assert tuple(tile[80, 60]) == POINT_COLOURS[1]


def test_the_legend_names_colours_in_order() -> None:
    assert legend([]) == ""
    assert legend(["left", "right"]) == "left red, right blue"
    assert legend([str(n) for n in range(8)]).endswith("7 red")
