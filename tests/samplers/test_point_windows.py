"""Windows for points: known points strictly inside the turned and mirrored window, overlap before the turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_det.core.types import Annotations, CropPlan, SampleRole
from cascade_det.samplers.point_windows import PointWindows

quick = settings(deadline=None, max_examples=30)
HW = (200, 200)


def iou(a: Any, b: Any) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    return float(common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common))


def scene(seed: int, known: float = 0.7) -> Annotations:
    """Return four objects with points anywhere in their boxes; unknown points hold 0, far outside."""
    rng = np.random.default_rng(seed)
    side = rng.uniform(20, 60, (4, 1)) * rng.uniform(0.8, 1.2, (4, 2))
    corner = rng.uniform(60, 130, (4, 2))
    is_known = rng.random((4, 3)) < known
    points = np.where(is_known[..., None], corner[:, None] + side[:, None] * rng.random((4, 3, 2)), 0)
    return Annotations(np.concatenate([corner, corner + side], axis=1), np.zeros(4, bool), points, is_known)


def sample(truth: Annotations, seed: int = 0, window_hw: tuple[int, int] = (12, 12), **params: Any) -> CropPlan:
    return PointWindows(**params).sample(HW, window_hw, truth, None, np.random.default_rng(seed))


def test_no_objects() -> None:
    plan = sample(Annotations.empty(5), rotate_deg=10)
    assert len(plan) == 0
    assert plan.boxes.shape == (0, 4)


def in_window(points: Any, window: Any, angle: float) -> Any:
    """Return points as fractions of a window turned clockwise on the screen about its centre; mirror changes none."""
    radians = np.deg2rad(angle)
    along, down = np.array([np.cos(radians), np.sin(radians)]), np.array([-np.sin(radians), np.cos(radians)])
    offset = points - (window[:2] + window[2:]) / 2
    return np.stack([offset @ along, offset @ down], axis=1) / (window[2:] - window[:2]) + 0.5


@quick
@given(st.integers(0, 9999), st.sampled_from([0.0, 15.0, 90.0]), st.booleans(), st.sampled_from([(12, 12), (24, 20)]))
def test_known_points_lie_strictly_inside_and_the_overlap_holds(
    seed: int, rotate_deg: float, fit_truth: bool, window_hw: tuple[int, int]
) -> None:
    truth = scene(seed)
    plan = sample(truth, seed, window_hw, rotate_deg=rotate_deg, fit_truth=fit_truth, min_iou=0.5)
    assert (plan.role == SampleRole.points).all()
    assert (np.abs(plan.angle_deg) <= rotate_deg).all()
    for window, row, angle in zip(plan.boxes.astype(float), plan.truth, plan.angle_deg, strict=True):
        known = truth.points_known[row]
        assert known.any()
        inside = in_window(truth.points[row, known].astype(float), window, float(angle))
        assert (inside > -1e-4).all()
        assert (inside < 1 + 1e-4).all()
        box = truth.boxes[row].astype(float)
        if fit_truth:
            height = max(box[3] - box[1], (box[2] - box[0]) * window_hw[0] / window_hw[1])
            half = np.array([height * window_hw[1] / window_hw[0], height]) / 2
            centre = (box[:2] + box[2:]) / 2
            box = np.concatenate([centre - half, centre + half])
        assert iou(window, box) > 0.5 - 1e-4


@pytest.mark.parametrize(("point", "found"), [([100, 100], True), ([100.0, 140.0], False), ([0, 0], False)])
def test_a_point_outside_drops_the_window(point: list[float], found: bool) -> None:
    """A window of IoU > .65 with a square of 40 px never reaches a point 20 px below it."""
    truth = Annotations([[80, 80, 120, 120]], [False], [[point]], [[True]])
    assert (len(sample(truth, per_box=50)) > 0) == found


def test_an_unknown_point_outside_does_not() -> None:
    points, known = [[[100, 100], [0, 0]]], [[True, False]]
    truth = Annotations([[80, 80, 120, 120]], [False], points, known)
    assert len(sample(truth, per_box=50)) > 10


@pytest.mark.parametrize(
    ("change", "usable"),
    [
        ({}, True),
        ({"ignore": np.array([True])}, False),
        ({"points_known": np.array([[False]])}, False),
        ({"boxes": np.array([[80, 95, 120, 106]])}, False),  # 11 px high
    ],
)
def test_which_objects_teach(change: dict[str, Any], usable: bool) -> None:
    truth = Annotations([[80, 80, 120, 120]], [False], [[[100, 100]]], [[True]])
    assert (len(sample(truth.replace(**change), per_box=30, min_iou=0.1)) > 0) == usable


def test_mirror_and_turn_vary_and_can_be_switched_off() -> None:
    truth = scene(1, known=1.0)
    plan = sample(truth, per_box=60, rotate_deg=20, min_iou=0.3)
    assert 0.3 < plan.mirror.mean() < 0.7
    assert plan.angle_deg.min() < -10
    assert plan.angle_deg.max() > 10
    assert len(np.unique(plan.angle_deg)) == len(plan)
    plain = sample(truth, per_box=60, mirror=False, min_iou=0.3)
    assert len(plain) > 20
    assert not plain.mirror.any()
    assert not plain.angle_deg.any()


@pytest.mark.parametrize("per_box", [0, 1, 7])
def test_counts_are_capped(per_box: int) -> None:
    plan = sample(scene(1), per_box=per_box, min_iou=0.0)
    for row in range(4):
        assert (plan.truth == row).sum() <= per_box


@pytest.mark.parametrize("params", [{"per_box": -1}, {"min_iou": -0.1}, {"min_iou": 1.0}, {"rotate_deg": -5}])
def test_refuses(params: dict[str, Any]) -> None:
    name, value = next(iter(params.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        PointWindows(**params)
