"""The figures of `Coco` against figures computed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from cascade_det.core.registry import EVALUATORS
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.sources import Picture
from cascade_det.errors import RecipeError
from cascade_det.evaluation.base import ScoredSet
from cascade_det.evaluation.coco import Coco

Box = tuple[float, float, float, float]
A: Box = (0, 0, 20, 20)
B: Box = (100, 0, 120, 20)
C: Box = (200, 0, 220, 20)
TALL: Box = (300, 0, 340, 100)  # 96+ px
REGION: Box = (400, 0, 500, 100)
MISS: Box = (600, 600, 620, 620)
COCO12 = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
COCO12 += ["AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"]


def found(*rows: tuple[Box, float]) -> Detections:
    return Detections(
        np.asarray([box for box, _ in rows], np.float32).reshape(-1, 4), np.asarray([s for _, s in rows], np.float32)
    )


def truth(*boxes: Box, ignore: Sequence[bool] | None = None, **extras: Any) -> Annotations:
    flags = np.asarray(ignore if ignore is not None else [False] * len(boxes), bool)
    objects = Annotations.of(np.asarray(boxes, np.float32).reshape(-1, 4), ignore=flags)
    return objects.replace(extras={name: np.asarray(column) for name, column in extras.items()})


def scored_set(
    *parts: tuple[Annotations, Detections],
    ids: Sequence[int] | None = None,
    fields: Sequence[Mapping[str, Any]] | None = None,
) -> ScoredSet:
    ids = ids or range(1, len(parts) + 1)
    fields = fields or [{}] * len(parts)
    pictures = [Picture(n, f"{n}.jpg", (700, 700), own) for n, own in zip(ids, fields, strict=True)]
    return ScoredSet(pictures, [t for t, _ in parts], [d for _, d in parts], [], "face")


@pytest.mark.parametrize(
    ("scored", "ap50", "recalls"),
    [
        (scored_set(), -1, (-1, -1)),  # no pictures
        (scored_set((truth(), found())), -1, (-1, -1)),  # a picture with nothing
        (scored_set((truth(), found((A, 0.9)))), -1, (-1, -1)),  # no object
        (scored_set((truth(A, ignore=[True]), found((A, 0.9)))), -1, (-1, -1)),  # none counted
        (scored_set((truth(A), found())), 0, (0, 0)),  # nothing found
        (scored_set((truth(A), found((A, 0.9)))), 1, (1, 1)),
        (scored_set((truth(A), found((MISS, 0.9)))), 0, (0, 0)),
        # precision 1 up to recall 1/3 (34 of the 101 levels), 2/3 up to 2/3 (33 levels): (34 + 22) / 101
        (
            scored_set((truth(A, B), found((A, 0.9), (B, 0.7))), (truth(C), found((MISS, 0.8)))),
            56 / 101,
            (1 / 3, 2 / 3),
        ),
        # a second detection of an object is a false positive
        (scored_set((truth(A, B), found((A, 0.9), (A, 0.8), (B, 0.7)))), (51 + 50 * 2 / 3) / 101, (0.5, 1)),
        # 0.1 an image: one false positive in ten images is allowed, a second is not
        (
            scored_set(
                (truth(A, B, C), found((MISS, 0.9), (A, 0.8), (MISS, 0.7), (B, 0.6))), *[(truth(), found())] * 9
            ),
            (34 * 0.5 + 33 * 0.5) / 101,
            (1 / 3, 2 / 3),
        ),
    ],
)
def test_figures(scored: ScoredSet, ap50: float, recalls: tuple[float, float]) -> None:
    figures = Coco().evaluate(scored)
    # boxes are exact or far off, so all thresholds agree
    assert [figures[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([ap50] * 3)
    assert [figures["recall_at_fppi"][f] for f in ("0.1", "1")] == pytest.approx(recalls)
    assert list(figures["coco12"]) == COCO12
    assert (figures["nme"], figures["nme_matched"], figures["nme_total"], figures["groups"]) == (None, 0, 0, {})
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_iou_thresholds() -> None:
    figures = Coco().evaluate(scored_set((truth(A), found(((0, 0, 20, 12.4), 0.9)))))  # IoU 0.62: 0.5, 0.55, 0.6
    assert [figures[name] for name in ("AP", "AP50", "AP75", "AR")] == pytest.approx([0.3, 1, 0, 0.3])


def test_coco12_by_area_and_rank() -> None:
    scored = scored_set((truth(A, TALL), found((A, 0.5), (MISS, 0.9))))  # 400 and 4000 square px
    coco12 = Coco().evaluate(scored)["coco12"]
    assert coco12["AP_small"] == pytest.approx(0.5)
    assert (coco12["AP_medium"], coco12["AP_large"], coco12["AR_large"]) == (0, -1, -1)
    assert [coco12[name] for name in ("AR_1", "AR_10", "AR_small")] == pytest.approx([0, 0.5, 1])


def test_area_of_the_source_decides_coco_sizes() -> None:
    scored = scored_set((truth(A, area=[5000.0]), found((A, 0.9))))  # COCO's area is that of the outline
    coco12 = Coco().evaluate(scored)["coco12"]
    assert (coco12["AP_small"], coco12["AP_medium"]) == pytest.approx((-1, 1))


def noise(count: int) -> list[tuple[Box, float]]:
    return [((n, 600, n + 20, 620), 0.9) for n in range(count)]


@pytest.mark.parametrize(
    ("false_before", "max_dets", "ap", "ap_of_coco"),
    [
        (99, 300, 1 / 100, 1 / 100),
        (100, 300, 1 / 101, 0),  # rank 101: COCO's limit cuts it off, ours does not
        (299, 300, 1 / 300, 0),
        (300, 300, 0, 0),
        (299, 299, 0, 0),
        (50, 51, 1 / 51, 1 / 51),
        (51, 51, 0, 1 / 52),  # our limit below COCO's leaves COCO's figures alone
    ],
)
def test_limit_of_detections(false_before: int, max_dets: int, ap: float, ap_of_coco: float) -> None:
    figures = Coco(max_dets=max_dets).evaluate(scored_set((truth(A), found(*noise(false_before), (A, 0.5)))))
    assert [figures[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([ap] * 3)
    assert figures["AR"] == (ap > 0)
    assert figures["coco12"]["AP"] == pytest.approx(ap_of_coco)
    assert figures["coco12"]["AR_100"] == (ap_of_coco > 0)


@pytest.mark.parametrize(("max_dets", "recall"), [(300, 1.0), (100, 2 / 3)])
def test_recall_of_a_crowd(max_dets: int, recall: float) -> None:
    boxes: list[Box] = [(x * 40, y * 40, x * 40 + 20, y * 40 + 20) for x in range(15) for y in range(10)]
    figures = Coco(max_dets=max_dets).evaluate(scored_set((truth(*boxes), found(*((box, 0.9) for box in boxes)))))
    assert figures["recall_at_fppi"] == {"0.1": pytest.approx(recall), "1": pytest.approx(recall)}
    assert figures["AR"] == pytest.approx(recall)


def test_ignored_objects_are_neither_rewarded_nor_punished() -> None:
    inside: Box = (410, 10, 430, 30)
    plain = scored_set((truth(A, B), found((A, 0.8), (MISS, 0.7))))
    ignoring = scored_set(
        (
            truth(A, B, REGION, ignore=[False, False, True]),
            found((REGION, 0.99), (inside, 0.98), (inside, 0.97), (A, 0.8), (MISS, 0.7)),
        )
    )
    # COCO's AR_1 and AR_10 differ: an ignored detection takes a place among the first
    figures, expected = ({**Coco().evaluate(scored), "coco12": None} for scored in (ignoring, plain))
    assert figures == expected


def test_a_counted_object_is_matched_before_an_ignored_one() -> None:
    scored = scored_set((truth(REGION, A, ignore=[True, False]), found((A, 0.9))))
    beside = scored_set((truth((0, 0, 100, 100), A, ignore=[True, False]), found((A, 0.9))))
    assert Coco().evaluate(scored)["AP"] == Coco().evaluate(beside)["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("ids", "ap", "recalls"),
    [
        ((1, 2), 0.5, {"0.1": 0, "1": 1}),  # the false positive comes first
        ((2, 1), 1, {"0.1": 1, "1": 1}),  # order is by id, whatever the order of the pictures
    ],
)
def test_ties_between_pictures(ids: tuple[int, int], ap: float, recalls: dict[str, float]) -> None:
    figures = Coco().evaluate(scored_set((truth(), found((MISS, 0.9))), (truth(A), found((A, 0.9))), ids=ids))
    assert figures["AP"] == pytest.approx(ap)
    assert figures["recall_at_fppi"] == recalls


@pytest.mark.parametrize(("order", "ap"), [((A, MISS), 1), ((MISS, A), 0.5)])
def test_ties_within_a_picture_keep_their_order(order: tuple[Box, Box], ap: float) -> None:
    assert Coco().evaluate(scored_set((truth(A), found(*((box, 0.9) for box in order)))))["AP"] == pytest.approx(ap)


def test_points_are_normalised_as_asked() -> None:
    points = np.asarray([[[2, 5], [12, 5], [10, 15]]], np.float32)
    objects = Annotations(np.asarray([A]), np.zeros(1, bool), points, np.ones((1, 3), bool))
    detections = found((A, 0.9)).replace(points=points + np.asarray([1, 0], np.float32))
    scored = ScoredSet([Picture(0, "a", (30, 30))], [objects], [detections], ["a", "b", "c"], "face")
    nme = {name: Coco(normaliser=name).evaluate(scored)["nme"] for name in ("eyes", "box", "diagonal")}
    assert nme == pytest.approx({"eyes": 10, "box": 5, "diagonal": 100 / 800**0.5})
    figures = Coco(group_by=["size"]).evaluate(scored)
    assert (figures["nme_matched"], figures["nme_total"]) == (1, 1)
    in_band, other = figures["groups"]["12-24"], figures["groups"]["24-48"]
    assert (in_band["nme"], in_band["nme_total"], other["nme"], other["nme_total"]) == (pytest.approx(10), 1, None, 0)


FIELDS: list[dict[str, Any]] = [{"source": "helen", "level": 10}, {"source": "web", "level": 2}, {"level": 2}]
GROUPED = scored_set(
    (truth(A, TALL, mask=["on", "off"], grade=[2.0, 1.0]), found((A, 0.9), (TALL, 0.8), (MISS, 0.7))),
    (truth(B, C, mask=["on", ""], grade=[2.0, 2.0]), found((MISS, 0.95), (B, 0.6))),
    (truth(A, mask=["off"], grade=[1.0]), found((A, 0.5))),
    fields=FIELDS,
)


def brief(group: Mapping[str, Any]) -> tuple[float, float, int, int]:
    return round(group["AP"], 4), round(group["recall_at_fppi"]["0.1"], 4), group["images"], group["objects"]


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        ([], {}),
        # the third picture has no source; of two objects one is found, after a false positive: 51 levels of 0.5
        (["source"], {"helen": (1, 1, 1, 2), "web": (round(51 * 0.5 / 101, 4), 0, 1, 2)}),
        (["level"], {"2": (round(67 * 2 / 3 / 101, 4), 0, 2, 3), "10": (1, 1, 1, 2)}),
        # on: miss .95, A .9, miss .7, B .6. off: miss .95, TALL .8, miss .7, A .5. An object with "" is in no group
        (["mask"], {"off": (0.5, 0, 3, 2), "on": (0.5, 0, 3, 2)}),
        (["grade"], {"1": (0.5, 0, 3, 2), "2": (round(67 * 0.5 / 101, 4), 0, 3, 3)}),  # grade 2: C is missed
        # 12-24: as all, but TALL is ignored. 96+: the misses are 20 px high, so they are ignored
        (
            ["size"],
            {
                "12-24": (round(76 * 0.6 / 101, 4), 0, 3, 4),
                "24-48": (-1, -1, 3, 0),
                "48-96": (-1, -1, 3, 0),
                "96+": (1, 1, 3, 1),
            },
        ),
        (
            ["source", "mask"],
            {
                "source=helen": (1, 1, 1, 2),
                "source=web": (round(51 * 0.5 / 101, 4), 0, 1, 2),
                "mask=off": (0.5, 0, 3, 2),
                "mask=on": (0.5, 0, 3, 2),
            },
        ),
    ],
)
def test_groups(group_by: list[str], groups: dict[str, tuple[float, float, int, int]]) -> None:
    figures = Coco(group_by=group_by).evaluate(GROUPED)
    got = figures["groups"]
    assert {name: brief(group) for name, group in got.items()} == groups
    assert list(got) == list(groups)
    for group in got.values():
        keys = ["AP", "AP50", "AP75", "recall_at_fppi", "nme", "nme_matched", "nme_total", "images", "objects"]
        assert list(group) == keys
    del figures["groups"]
    assert figures == {k: v for k, v in Coco().evaluate(GROUPED).items() if k != "groups"}


@pytest.mark.parametrize(("field", "name"), [("mask", "on"), ("size", "96+")])
def test_ignored_objects_are_ignored_in_their_group_too(field: str, name: str) -> None:
    objects = truth(TALL, REGION, ignore=[False, True], mask=["on", "on"])
    group = Coco(group_by=[field]).evaluate(scored_set((objects, found((REGION, 0.9), (TALL, 0.8)))))["groups"][name]
    assert brief(group) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("height", "band"), [(11.9, None), (12, "12-24"), (23.9, "12-24"), (24, "24-48"), (48, "48-96"), (96, "96+")]
)
def test_bounds_of_size_bands(height: float, band: str | None) -> None:
    box: Box = (0, 0, 200, height)  # height decides, not width or area
    groups = Coco(group_by=["size"]).evaluate(scored_set((truth(box), found((box, 0.9)))))["groups"]
    assert {name for name, group in groups.items() if group["AP"] == pytest.approx(1)} == ({band} if band else set())
    assert sum(group["objects"] for group in groups.values()) == (band is not None)


def test_a_detection_of_another_band_may_match() -> None:
    scored = scored_set((truth(A), found(((0, 0, 20, 26), 0.9))))  # 26 px high, IoU 0.77 with an object of 20 px
    groups = Coco(group_by=["size"]).evaluate(scored)["groups"]
    assert (groups["12-24"]["AP50"], groups["12-24"]["AP75"]) == pytest.approx((1, 1))


@pytest.mark.parametrize("scored", [scored_set(), scored_set((truth(), found((A, 0.9))))])
def test_groups_of_nothing(scored: ScoredSet) -> None:
    groups = Coco(group_by=["size"]).evaluate(scored)["groups"]
    assert [brief(group) for group in groups.values()] == [(-1, -1, len(scored.pictures), 0)] * 4
    if not scored.pictures:
        assert Coco(group_by=["source"]).evaluate(scored)["groups"] == {}


def test_unknown_field_lists_the_choices() -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'source'\? Choices: grade, level, mask, size, source"):
        Coco(group_by=["sourc"]).evaluate(GROUPED)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"group_by": "size"}, r"write \[size\]"),
        ({"max_dets": 0}, "max_dets=0"),
        ({"normaliser": "pupil"}, "eyes, box, diagonal"),
    ],
)
def test_wrong_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        EVALUATORS.build("coco", params, "evaluate.coco")


def test_scoring_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Coco(group_by=["size"]).evaluate(GROUPED)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_sets_that_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="one length"):
        ScoredSet([Picture(1, "a", (9, 9))], [], [], [], "face")
    with pytest.raises(ValueError, match="different ids"):
        scored_set((truth(), found()), (truth(), found()), ids=(1, 1))
