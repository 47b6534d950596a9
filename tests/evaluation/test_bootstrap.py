"""Intervals over resampled pictures: by hand, against pictures that are really there twice, and by their properties."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cascade_det.core.registry import EVALUATORS
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.sources import Picture
from cascade_det.errors import RecipeError
from cascade_det.evaluation.base import ScoredSet
from cascade_det.evaluation.bootstrap import figures_of, resampled_intervals
from cascade_det.evaluation.coco import FALSE_POSITIVES_PER_IMAGE, Coco
from cascade_det.evaluation.coco_matching import CocoMatching
from cascade_det.evaluation.files import coco_results, coco_truth
from cascade_det.evaluation.summary import summary_line


def scored_set(truth: Sequence[Annotations], detections: Sequence[Detections]) -> ScoredSet:
    pictures = [Picture(number, f"{number}.jpg", (400, 400), {"odd": number % 2}) for number in range(len(truth))]
    return ScoredSet(pictures, list(truth), list(detections), [], "face")


def drawn_set(pictures: int, seed: int = 0, *, skill: float = 0.7) -> ScoredSet:
    """Return pictures with 0 to 4 objects, some ignored; detections near `skill` of them, others anywhere."""
    rng, truth, found = np.random.default_rng(seed), [], []
    for _ in range(pictures):
        corner = rng.uniform(0, 300, (rng.integers(5), 2)).astype(np.float32)
        boxes = np.concatenate([corner, corner + rng.uniform(20, 90, (len(corner), 1)).astype(np.float32)], axis=1)
        ignore = rng.random(len(boxes)) < 0.2
        truth.append(Annotations.of(boxes, ignore=ignore))
        near = boxes[rng.random(len(boxes)) < skill] + rng.normal(0, 4, 4).astype(np.float32)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        corner = rng.uniform(0, 300, (rng.integers(4), 2)).astype(np.float32)
        chosen = np.concatenate([near, np.concatenate([corner, corner + 40], axis=1)])
        scores = np.concatenate([rng.uniform(0.3, 1, len(near)), rng.uniform(0, 0.7, len(corner))])  # none are equal
        found.append(Detections(chosen, scores.astype(np.float32)))
    return scored_set(truth, found)


def matching(scored: ScoredSet) -> CocoMatching:
    return CocoMatching(coco_truth(scored), coco_results(scored.pictures, scored.detections), (1, 10, 100, 300))


def plain(figures: Mapping[str, Any]) -> list[float]:
    return [figures["AP"], figures["AP50"], *(figures["recall_at_fppi"][f] for f in FALSE_POSITIVES_PER_IMAGE)]


BOX = np.array([[10, 10, 50, 50]], np.float32)
HIT, MISSED, FALSE = (
    Detections(BOX, np.array([0.9], np.float32)),
    Detections.empty(),
    Detections(BOX + 200, np.array([0.8], np.float32)),
)
OBJECT, NOTHING = Annotations.of(BOX), Annotations.empty(0)


@pytest.mark.parametrize(
    ("scored", "ap"),
    [
        (scored_set([], []), [-1, -1]),
        (scored_set([NOTHING], [MISSED]), [-1, -1]),
        (scored_set([NOTHING] * 3, [FALSE] * 3), [-1, -1]),  # no object: no figure, so no interval
        (scored_set([OBJECT], [HIT]), [1, 1]),  # one picture: every resample is that picture
        (scored_set([OBJECT], [MISSED]), [0, 0]),
        (scored_set([OBJECT] * 4, [HIT] * 4), [1, 1]),  # alike pictures vary in nothing
        (scored_set([OBJECT, NOTHING], [HIT, MISSED]), [1, 1]),  # a resample without an object is left out
        (scored_set([OBJECT] * 2, [HIT, MISSED]), [0, 1]),
    ],
)
def test_small_sets(scored: ScoredSet, ap: list[float]) -> None:
    figures = Coco(bootstrap=200).evaluate(scored)
    assert [figures["intervals"][name] for name in ("AP", "AP50")] == [pytest.approx(ap)] * 2
    assert figures["intervals"]["recall_at_fppi"] == {"0.1": pytest.approx(ap), "1": pytest.approx(ap)}
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


@pytest.mark.parametrize("seed", range(5))
def test_each_picture_drawn_once_gives_the_plain_figures_exactly(seed: int) -> None:
    scored = drawn_set(30, seed)
    table = matching(scored).table(300)
    once = figures_of(table, np.ones(30, np.int64), FALSE_POSITIVES_PER_IMAGE)
    assert once == plain(Coco().evaluate(scored))


@pytest.mark.parametrize("seed", range(8))
def test_a_weight_is_a_picture_that_is_there_so_often(seed: int) -> None:
    scored = drawn_set(12, seed)
    rows = np.sort(np.random.default_rng(seed).integers(12, size=12))
    drawn = scored_set([scored.truth[row] for row in rows], [scored.detections[row] for row in rows])
    expected = plain(Coco().evaluate(drawn))
    weights = np.bincount(rows, minlength=12)
    assert figures_of(matching(scored).table(300), weights, FALSE_POSITIVES_PER_IMAGE) == pytest.approx(expected)


def test_the_seed_decides() -> None:
    scored = drawn_set(20)
    first, second = (Coco(bootstrap=50).evaluate(scored)["intervals"] for _ in range(2))
    assert first == second
    assert Coco(bootstrap=50, bootstrap_seed=1).evaluate(scored)["intervals"] != first
    backwards = replace(
        scored,
        pictures=scored.pictures[::-1],
        truth=scored.truth[::-1],
        detections=scored.detections[::-1],
    )
    assert Coco(bootstrap=50).evaluate(backwards)["intervals"] == first  # pictures are drawn by their ids


def test_an_interval_holds_its_figure_and_narrows_with_more_pictures() -> None:
    widths = {}
    for pictures in (25, 400):
        figures = Coco(bootstrap=300).evaluate(drawn_set(pictures))
        ends = figures["intervals"]
        pairs = [ends["AP"], ends["AP50"], *ends["recall_at_fppi"].values()]
        for value, (low, high) in zip(plain(figures), pairs, strict=True):
            assert 0 <= low <= value <= high <= 1
        widths[pictures] = np.array([high - low for low, high in pairs])
    assert (widths[400] > 0).all()
    assert (widths[400] < widths[25] / 2).all()  # a quarter, since there are 16 times as many


def test_an_interval_covers_the_figure_of_a_large_set() -> None:
    """Of 30 samples, about 28 should; intervals of half the width would hold about 20."""
    large = plain(Coco().evaluate(drawn_set(2000, 99)))[1]
    held = 0
    for seed in range(30):
        low, high = resampled_intervals(matching(drawn_set(60, seed)).table(300), 200, 0, ("1",))["AP50"]
        held += low <= large <= high
    assert held >= 25


def test_groups_have_intervals_of_their_own() -> None:
    scored = drawn_set(40)
    assert "intervals" not in Coco().evaluate(scored)
    figures = Coco(bootstrap=100, group_by=["odd"]).evaluate(scored)
    odd = replace(scored, pictures=scored.pictures[1::2], truth=scored.truth[1::2], detections=scored.detections[1::2])
    assert figures["groups"]["1"]["intervals"] == Coco(bootstrap=100).evaluate(odd)["intervals"]


@pytest.mark.parametrize("params", [{"bootstrap": -1}, {"bootstrap_seed": -3}])
def test_wrong_parameters(params: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.coco.*must be 0 or more"):
        EVALUATORS.build("coco", params, "evaluate.coco")


def test_the_summary_shows_intervals_beside_their_figures() -> None:
    metrics: dict[str, Any] = {"AP": 0.3, "AP50": 0.52, "AP75": 0.2, "recall_at_fppi": {"0.1": 0.5, "1": 0.8}}
    told = summary_line("val", metrics)
    assert "[" not in told
    metrics["intervals"] = {"AP": [0.2, 0.4], "AP50": [0.41, 0.63], "recall_at_fppi": {"0.1": [0.4, 0.6]}}
    told = summary_line("val", metrics)
    assert "AP 0.300 [0.200, 0.400], AP50 0.520 [0.410, 0.630], AP75 0.200, recall 0.500 [0.400, 0.600] at" in told
