"""What each stage holds, loses and lets through, counted by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from cascade_det.core.types import Annotations, Detections
from cascade_det.evaluation.funnel import Funnel

Box = tuple[float, float, float, float]
SMALL: Box = (0, 0, 20, 20)  # 12-24 px
MIDDLE: Box = (100, 0, 140, 40)  # 24-48 px
LARGE: Box = (200, 0, 300, 100)  # 96+ px
NOWHERE: Box = (500, 500, 520, 520)
TINY: Box = (0, 300, 8, 308)  # below all bands
IGNORED: Box = (400, 0, 500, 100)
IN_IGNORED: Box = (410, 10, 430, 30)


def found(*boxes: Box) -> Detections:
    return Detections(np.asarray(boxes, np.float32).reshape(-1, 4), np.ones(len(boxes), np.float32))


def truth(*boxes: Box, ignore: Sequence[bool] | None = None) -> Annotations:
    flags = np.asarray(ignore if ignore is not None else [False] * len(boxes), bool)
    return Annotations.of(np.asarray(boxes, np.float32).reshape(-1, 4), ignore=flags)


def test_no_pictures() -> None:
    row = Funnel(["pnet"]).result([0.5])[0]
    assert row == {
        "stage": "pnet",
        "score": 0.5,
        "candidates_in": None,
        "candidates_out": None,
        "recall": None,
        "precision": None,
        "lost": 0,
        "recall_by_size": {"12-24": None, "24-48": None, "48-96": None, "96+": None},
        "lost_by_size": {"12-24": 0, "24-48": 0, "48-96": 0, "96+": 0},
        "ms_per_image": None,
    }
    assert Funnel([]).result([]) == []


@pytest.mark.parametrize(
    ("objects", "candidates", "recall", "precision", "lost"),
    [
        (truth(), found(), None, None, 0),
        (truth(), found(NOWHERE), None, 0, 0),
        (truth(SMALL), found(), 0, None, 1),
        (truth(SMALL), found(SMALL, NOWHERE), 1, 0.5, 0),
        (truth(SMALL), found(SMALL, SMALL), 1, 1, 0),  # a duplicate is a good candidate too
        (truth(SMALL), found((0, 0, 20, 10)), 1, 1, 0),  # IoU 0.5 holds
        (truth(SMALL), found((0, 0, 20, 9.9)), 0, 0, 1),
        (truth(SMALL, SMALL), found(SMALL), 1, 1, 0),  # one candidate may hold two objects
        (truth(IGNORED, ignore=[True]), found(IGNORED, IN_IGNORED), None, None, 0),  # neither rewarded nor punished
        (truth(IGNORED, ignore=[True]), found((390, 0, 410, 20)), None, None, 0),  # half of it inside
        (truth(IGNORED, ignore=[True]), found((389, 0, 409, 20)), None, 0, 0),  # less than half
        (truth(IN_IGNORED, IGNORED, ignore=[False, True]), found(IN_IGNORED), 1, 1, 0),  # a counted object there
    ],
)
def test_one_stage(
    objects: Annotations, candidates: Detections, recall: float | None, precision: float | None, lost: int
) -> None:
    funnel = Funnel(["pnet"])
    funnel.add(objects, [candidates])
    row = funnel.result([0.5])[0]
    assert (row["recall"], row["precision"], row["lost"]) == (recall, precision, lost)


def test_two_stages_over_pictures() -> None:
    funnel = Funnel(["pnet", "rnet"])
    funnel.add(truth(SMALL, IGNORED, MIDDLE, LARGE, ignore=[False, True, False, False]),
               [found(SMALL, LARGE, NOWHERE, IN_IGNORED), found(LARGE)])  # fmt: skip
    funnel.add(truth(TINY), [found(TINY, NOWHERE), found(TINY)])
    funnel.add(truth(), [found(), found()])
    first, second = funnel.result([0.6, 0.7])
    assert first["candidates_in"] is None
    assert first["candidates_out"] == second["candidates_in"] == 2
    assert second["candidates_out"] == pytest.approx(2 / 3)
    assert (first["recall"], second["recall"]) == (0.75, 0.5)
    assert (first["precision"], second["precision"]) == (0.6, 1)
    assert (first["lost"], second["lost"]) == (1, 1)
    assert first["recall_by_size"] == {"12-24": 1, "24-48": 0, "48-96": None, "96+": 1}
    assert second["recall_by_size"] == {"12-24": 0, "24-48": 0, "48-96": None, "96+": 1}
    assert first["lost_by_size"] == {"12-24": 0, "24-48": 1, "48-96": 0, "96+": 0}
    assert second["lost_by_size"] == {"12-24": 1, "24-48": 0, "48-96": 0, "96+": 0}
    assert (first["score"], second["score"]) == (0.6, 0.7)


def test_an_object_that_a_later_stage_regains_is_lost_once() -> None:
    funnel = Funnel(["pnet", "rnet", "onet"])
    funnel.add(truth(SMALL), [found(NOWHERE), found(SMALL), found(SMALL)])
    assert [row["lost"] for row in funnel.result([0, 0, 0])] == [1, 0, 0]


def test_time_is_a_mean_over_pictures() -> None:
    funnel = Funnel(["pnet", "rnet"])
    for seconds in (0.01, 0.03):
        funnel.add(truth(), [found(), found()])
        funnel.add_time(1, seconds)
    first, second = funnel.result([0.5, 0.5])
    assert first["ms_per_image"] is None
    assert second["ms_per_image"] == pytest.approx(20)


def test_result_is_ready_for_json() -> None:
    funnel = Funnel(["pnet"])
    funnel.add(truth(SMALL), [found(SMALL)])
    row = funnel.result([np.float32(0.5)])  # type: ignore[list-item]
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_the_overlap_is_a_parameter() -> None:
    funnel = Funnel(["pnet"], iou=0.65)
    funnel.add(truth(SMALL), [found((0, 0, 20, 12))])
    assert funnel.result([0.5])[0]["recall"] == 0


def test_wrong_lengths_are_named() -> None:
    funnel = Funnel(["pnet", "rnet"])
    with pytest.raises(ValueError, match=r"outputs must have one entry for each of \['pnet', 'rnet'\], got 1"):
        funnel.add(truth(), [found()])
    with pytest.raises(ValueError, match="thresholds must have one entry"):
        funnel.result([0.5])


def test_counts_added_to_an_empty_funnel_give_the_same_result() -> None:
    whole, parts = Funnel(["pnet", "rnet"]), Funnel(["pnet", "rnet"])
    for outputs in ([found(TINY, SMALL), found(SMALL)], [found(NOWHERE), found()]):
        alone = Funnel(["pnet", "rnet"])
        for funnel in (whole, alone):
            funnel.add(truth(TINY, SMALL), outputs)
            funnel.add_time(0, 0.5)
        parts.add_counts(json.loads(json.dumps(alone.counts())))
    assert parts.result([0.1, 0.2]) == whole.result([0.1, 0.2])
    assert sum(parts.result([0.1, 0.2])[0]["lost_by_size"].values()) == 1  # TINY is below all bands
