"""Suppression against a plain reference, with ties, blocks and the empty case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_det.core.nms import NmsMode, nms

quick = settings(deadline=None, max_examples=50)
MODES = list(NmsMode)


def reference(boxes: Any, scores: Any, threshold: float, mode: NmsMode) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(overlap(boxes[i], boxes[j], mode) <= threshold for j in kept):
            kept.append(i)
    return kept


def overlap(a: Any, b: Any, mode: NmsMode) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = float(max(width, 0) * max(height, 0))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    base = min(areas) if mode == NmsMode.minimum else sum(areas) - common
    return common / base if base else 0.0


def random_boxes(count: int, room: int, rng: np.random.Generator) -> Any:
    corner = rng.integers(0, room, (count, 2))
    return np.concatenate([corner, corner + rng.integers(0, 30, (count, 2))], axis=1).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_no_boxes(mode: NmsMode) -> None:
    kept = nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5, mode)
    assert kept.shape == (0,)
    assert kept.dtype == np.intp


@pytest.mark.parametrize(
    ("boxes", "scores", "threshold", "mode", "expected"),
    [
        ([[0, 0, 2, 2]], [0.5], 0.0, "union", [0]),
        ([[0, 0, 2, 2], [0, 0, 2, 2]], [0.1, 0.9], 0.5, "union", [1]),
        ([[0, 0, 2, 2], [0, 0, 2, 2]], [0.5, 0.5], 0.5, "union", [0]),  # a tie goes to the lower index
        ([[0, 0, 2, 2], [0, 0, 2, 2]], [0.5, 0.5], 1.0, "union", [0, 1]),  # nothing exceeds 1
        ([[0, 0, 2, 2], [2, 0, 4, 2]], [0.1, 0.9], 0.0, "union", [1, 0]),  # touching is no overlap
        ([[0, 0, 2, 2], [1, 0, 3, 2]], [0.9, 0.1], 1 / 3, "union", [0, 1]),  # not more than the threshold
        ([[0, 0, 2, 2], [1, 0, 3, 2]], [0.9, 0.1], 0.33, "union", [0]),
        ([[0, 0, 10, 10], [2, 2, 4, 4]], [0.9, 0.1], 0.7, "union", [0, 1]),
        ([[0, 0, 10, 10], [2, 2, 4, 4]], [0.9, 0.1], 0.7, "minimum", [0]),  # a box inside another
        ([[0, 0, 4, 2], [1, 0, 5, 2], [2, 0, 6, 2]], [0.9, 0.8, 0.7], 0.5, "union", [0, 2]),  # 1 goes, so 2 stays
        ([[1, 1, 1, 1], [1, 1, 1, 1]], [0.9, 0.8], 0.5, "union", [0, 1]),  # no area, no overlap
    ],
)
def test_by_hand(boxes: Any, scores: Any, threshold: float, mode: str, expected: list[int]) -> None:
    assert nms(np.array(boxes), np.array(scores), threshold, NmsMode(mode)).tolist() == expected
    assert reference(boxes, scores, threshold, NmsMode(mode)) == expected


@quick
@given(st.integers(0, 60), st.integers(1, 80), st.integers(0, 10), st.sampled_from(MODES), st.integers(0, 2**32 - 1))
def test_equals_the_reference(count: int, room: int, tenths: int, mode: NmsMode, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(count, room, rng)
    scores = rng.integers(0, 6, count) / 5  # many ties
    assert nms(boxes, scores, tenths / 10, mode).tolist() == reference(boxes, scores, tenths / 10, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [511, 512, 513, 1100])
def test_blocks_do_not_show(count: int, mode: NmsMode) -> None:
    rng = np.random.default_rng(count)
    boxes, scores = random_boxes(count, 200, rng), rng.integers(0, 50, count) / 50
    kept = nms(boxes, scores, 0.3, mode)
    assert kept.tolist() == reference(boxes, scores, 0.3, mode)
    assert 0 < len(kept) < count


def test_a_long_chain_alternates() -> None:
    """Each box overlaps the next alone: every second stays, over the border of a block too."""
    start = np.arange(1200) * 4
    boxes = np.stack([start, start * 0, start + 7, start * 0 + 5], axis=1).astype(np.float32)
    kept = nms(boxes, np.linspace(1, 0, 1200), 0.2)
    assert kept.tolist() == list(range(0, 1200, 2))


def test_all_of_equal_score_and_place_leave_the_first() -> None:
    assert nms(np.tile(np.float32([0, 0, 5, 5]), (2000, 1)), np.full(2000, 0.5), 0.5).tolist() == [0]


@pytest.mark.parametrize("limit", [0, 1, 5, 700, 5000])
def test_a_limit_keeps_the_first_of_all(limit: int) -> None:
    rng = np.random.default_rng(limit)
    low = rng.uniform(0, 300, (3000, 2))
    boxes, scores = np.concatenate([low, low + rng.uniform(5, 20, (3000, 2))], axis=1), rng.random(3000).round(2)
    everything = nms(boxes, scores, 0.3)
    assert 700 < len(everything) < 5000
    assert np.array_equal(nms(boxes, scores, 0.3, limit=limit), everything[:limit])
