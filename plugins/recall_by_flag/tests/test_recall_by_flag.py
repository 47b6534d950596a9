"""Recall by a flag of objects or of pictures, at one score, each detection finding one object."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cascade_det.core.registry import EVALUATORS
from cascade_det.core.types import Annotations, Detections
from cascade_det.data.sources import Picture
from cascade_det.errors import RecipeError
from cascade_det.evaluation.base import ScoredSet


def boxes(*left: float) -> Any:
    return np.array([[x, 0, x + 10, 10] for x in left], np.float32).reshape(-1, 4)


def objects(*left: float, ignore: Any = None, **extras: Any) -> Annotations:
    columns = {name: np.array(values) for name, values in extras.items()}
    return Annotations.of(boxes(*left), ignore=ignore).replace(extras=columns)


def found(*left: float, scores: Any = None) -> Detections:
    return Detections(boxes(*left), np.ones(len(left)) if scores is None else np.array(scores))


def recall(truth: list[Annotations], detections: list[Detections], fields: Any = None, **params: Any) -> Any:
    pictures = [Picture(n, str(n), (10, 99), (fields or [{}] * len(truth))[n]) for n in range(len(truth))]
    evaluator = EVALUATORS.build("recall_by_flag", params, "evaluate.a")
    figures = evaluator.evaluate(ScoredSet(pictures, truth, detections, [], "face"))
    json.dumps(figures, allow_nan=False)
    return figures


def row(objects: int, found: int) -> dict[str, Any]:
    return {"objects": objects, "found": found, "recall": found / objects if objects else None}


def test_no_pictures() -> None:
    assert recall([], [], flags=["occluded"]) == {"all": row(0, 0), "occluded": {}}


@pytest.mark.parametrize(
    ("column", "groups"),
    [
        ([True, True, False], {"True": row(2, 1), "False": row(1, 1)}),
        (["yes", "", "no"], {"yes": row(1, 1), "no": row(1, 1)}),
        ([2.0, np.nan, 0.5], {"2": row(1, 1), "0.5": row(1, 1)}),
    ],
)
def test_a_flag_of_objects(column: Any, groups: dict[str, Any]) -> None:
    """The first and the third of three objects are found."""
    figures = recall([objects(0, 20, 40, occluded=column)], [found(40, 0)], flags=["occluded"])
    assert figures == {"all": row(3, 2), "occluded": groups}


def test_a_flag_of_pictures_and_one_of_objects_that_some_pictures_lack() -> None:
    truth = [objects(0, 20), objects(0, old=[1])]
    figures = recall(truth, [found(0), found()], [{"weather": "fog"}, {"weather": None}], flags=["weather", "old"])
    assert figures == {"all": row(3, 1), "weather": {"fog": row(2, 1)}, "old": {"1": row(1, 0)}}


def test_ignored_objects_and_low_scores_do_not_count() -> None:
    truth = objects(0, 20, 40, ignore=[False, True, False], hard=[1, 1, 1])
    detections = found(0, 20, 40, scores=[0.9, 0.9, 0.4])
    assert recall([truth], [detections], flags=["hard"])["hard"] == {"1": row(2, 1)}
    assert recall([truth], [detections], flags=["hard"], score=0.4)["hard"] == {"1": row(2, 2)}


@pytest.mark.parametrize(
    ("left", "detections", "count"),
    [
        ([0, 2], found(1), 1),  # one detection finds one object, however well it overlaps two
        ([0, 2], found(1, 0.5), 2),
        ([0], found(0, 1), 1),
        ([0, 3], found(2, 0, scores=[0.9, 0.8]), 2),  # the surer takes its best, the other what is left
        ([0], found(4), 0),  # IoU .43
        ([], found(0), 0),
    ],
)
def test_each_detection_finds_one_object(left: list[float], detections: Detections, count: int) -> None:
    assert recall([objects(*left, a=np.ones(len(left)))], [detections], flags=["a"])["all"] == row(len(left), count)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"flags": "occluded"}, r"flags='occluded' must be a list of fields"),
        ({"flags": []}, r"flags=\[\] must be"),
        ({"flags": ["a"], "score": 2}, r"score=2, iou=0\.5 must lie in \[0, 1\]"),
        ({"flags": ["a"], "iou": 0}, r"iou=0 must lie"),
        ({}, "needs flags"),
        ({"flags": ["occlude"]}, r"flags='occlude': .*did you mean 'occluded'\?"),
    ],
)
def test_refuses(params: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recall([objects(0, occluded=[True])], [found(0)], **params)
