"""What `data check` computes: counts by size, reach of the pyramid, equal pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cascade_det.core.geometry import window_reach
from cascade_det.training.data_check import equal_groups, object_facts


def test_no_objects() -> None:
    facts = object_facts(np.zeros((0, 4), np.float32))
    assert set(facts["heights_px"].values()) == set(facts["aspects"].values()) == {0}
    assert facts["height_px_10_50_90"] is None
    assert window_reach(np.zeros((0, 4)), np.zeros((0, 2))).shape == (0,)


def test_counts_by_height_and_aspect() -> None:
    sizes_wh = [(10, 11.9), (12, 12), (24, 24), (20, 48), (100, 96), (300, 150)]
    boxes = np.array([[5, 5, 5 + w, 5 + h] for w, h in sizes_wh], np.float32)
    facts = object_facts(boxes)
    assert facts["heights_px"] == {"0-12": 1, "12-24": 1, "24-48": 1, "48-96": 1, "96+": 2}
    assert facts["aspects"] == {"below 0.5": 1, "0.5-0.8": 0, "0.8-1.25": 4, "1.25-2": 0, "2 and more": 1}
    assert facts["height_px_10_50_90"][1] == pytest.approx(36)


@pytest.mark.parametrize(
    ("sizes_hw", "reach"),
    [
        ([], 0),
        ([(20, 10)], 1),
        ([(10, 10)], 0.5),
        ([(40, 20)], 0.25),
        ([(40, 20), (10, 10), (20, 20)], 0.5),
    ],
)
def test_reach_of_windows(sizes_hw: Any, reach: float) -> None:
    got = window_reach(np.array([[3, 4, 13, 24]], np.float64), np.array(sizes_hw, np.float64).reshape(-1, 2))
    np.testing.assert_allclose(got, [reach])


@pytest.mark.parametrize(
    ("hashes", "groups"),
    [([], []), (["", ""], []), (["a", "b"], []), (["a", "b", "a", "", "b", "a"], [[0, 2, 5], [1, 4]])],
)
def test_equal_groups(hashes: list[str], groups: list[list[int]]) -> None:
    assert equal_groups(hashes) == groups
