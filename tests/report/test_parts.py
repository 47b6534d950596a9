"""What a report decides before anything is drawn: verdicts, who lost an object, which published figures apply."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.core.types import Detections
from cascade_det.evaluation.curves import box_curves
from cascade_det.evaluation.given import Given, read_given
from cascade_det.report.examples import SHOWN, find_examples, stage_that_lost
from cascade_det.report.figures import figure_rows, funnel_tables, headline, published_rows, shown

A, B, NEAR_A, FAR = [0, 0, 20, 20], [100, 0, 40, 40], [0, 2, 20, 20], [300, 300, 20, 20]


def given(tmp_path: Path, found: Sequence[tuple[list[int], float]], truth: Sequence[tuple[list[int], int]]) -> Given:
    objects = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": ignored, "ignore": ignored}
        for n, (box, ignored) in enumerate(truth, 1)
    ]
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in found]
    data = {"images": [{"id": 1}], "annotations": objects, "categories": [{"id": 1, "name": "face"}]}
    paths = tmp_path / "detections.json", tmp_path / "truth.json"
    for path, content in zip(paths, (results, data), strict=True):
        path.write_text(json.dumps(content))
    return read_given(*paths)


@pytest.mark.parametrize(
    ("found", "truth", "counts"),
    [
        ([], [], (0, 0, 0, 0)),
        ([], [(A, 0)], (0, 1, 0, 0)),
        ([(A, 0.9)], [], (0, 0, 1, 0)),
        ([(A, 0.9)], [(A, 0), (B, 0)], (1, 1, 0, 0)),
        ([(A, 0.9), (NEAR_A, 0.8)], [(A, 0)], (1, 0, 1, 0)),  # the second of one object is false
        ([(A, 0.4)], [(A, 0)], (0, 1, 0, 0)),  # below the threshold
        ([(A, 0.9)], [(A, 1)], (0, 0, 0, 1)),  # an ignored object is neither found nor missed
        ([(A, 0.5)], [(A, 0)], (1, 0, 0, 0)),  # the threshold itself counts
    ],
)
def test_verdicts(tmp_path: Path, found: Any, truth: Any, counts: tuple[int, ...]) -> None:
    examples = find_examples(given(tmp_path, found, truth), 0.5)
    assert tuple(examples.counts[name] for name in ("correct", "missed", "false", "dropped")) == counts
    assert (len(examples.correct), len(examples.missed), len(examples.false)) == counts[:3]


def test_the_order_of_examples(tmp_path: Path) -> None:
    truth = [([50 * n, 0, 20, 20 + n], 0) for n in range(4)]
    found = [(truth[2][0], 0.3), (truth[0][0], 0.6), (FAR, 0.7), ([400, 0, 9, 9], 0.9)]
    examples = find_examples(given(tmp_path, found, truth), 0.5)
    assert [example.score for example in examples.false] == [0.9, 0.7]
    assert [(e.box_xyxy[0], e.score) for e in examples.missed] == [(100, 0.3), (150, None), (50, None)]
    assert (examples.recall, examples.precision) == (0.25, 1 / 3)


def test_correct_ones_are_spread_over_their_scores(tmp_path: Path) -> None:
    truth = [([50 * n, 0, 20, 20], 0) for n in range(100)]
    found = [(box, 0.5 + n / 1000) for n, (box, _) in enumerate(truth)]
    scores = [example.score for example in find_examples(given(tmp_path, found, truth), 0.5).correct]
    assert len(scores) == SHOWN
    assert scores == sorted(scores, reverse=True)
    assert (scores[0], scores[-1]) == (0.599, 0.5)


def held(*boxes: list[int]) -> Detections:
    edges = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Detections(np.concatenate([edges[:, :2], edges[:, :2] + edges[:, 2:]], axis=1), np.ones(len(edges)))


@pytest.mark.parametrize(
    ("outputs", "stage"),
    [
        ([], None),
        ([held()], "s0"),
        ([held(A)], None),
        ([held(A), held(B)], "s1"),
        ([held(B), held(A)], None),  # regained
        ([held(B), held(A), held()], "s2"),  # the last loss counts
        ([held(B), held(), held()], "s0"),
    ],
)
def test_which_stage_lost_an_object(outputs: list[Detections], stage: str | None) -> None:
    named = [(f"s{number}", found) for number, found in enumerate(outputs)]
    assert stage_that_lost(named, [0, 0, 20, 20]) == stage


WIDER = {"easy": 0.9, "medium": 0.8, "hard": 0.5}


@pytest.mark.parametrize(
    ("figures", "published"),
    [
        ({}, []),
        ({"wider": WIDER, "settings": {"images": 3226}}, ["0.848", "0.825", "0.598"]),
        ({**WIDER, "settings": {"images": 3226}}, ["0.848", "0.825", "0.598"]),
        ({"wider": WIDER, "settings": {"images": 100}}, []),  # a part of the pictures is another set
        ({"wider": {"all": 0.5}, "settings": {"images": 3226}}, []),
        ({"wider": {**WIDER, "hard": None}, "settings": {"images": 3226}}, ["0.848", "0.825"]),
        ({"fddb": {"discrete_tpr_at": {"1000": 0.95}}, "settings": {"images": 2845}}, ["0.9504"]),
        ({"AP": 0.5, "settings": {"images": 2845}}, []),
    ],
)
def test_published_figures_stand_beside_the_same_protocol_alone(figures: Any, published: list[str]) -> None:
    assert [row[2] for row in published_rows("", figures)] == published


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (-1, "–"), (-1.0, "–"), (0.5, "0.500"), (1234, "1,234"), ("a", "a"), (True, "True")],
)
def test_how_figures_are_shown(value: Any, text: str) -> None:
    assert shown(value) == text


def test_intervals_stand_beside_their_figures() -> None:
    intervals = {"AP50": [0.4, 0.61], "recall_at_fppi": {"0.1": [-1, -1]}}
    rows = dict(figure_rows({"a": {"AP50": 0.5, "AP": 0.2, "recall_at_fppi": {"0.1": -1}, "intervals": intervals}}))
    assert rows["AP50"] == ["0.500 [0.400, 0.610]"]
    assert rows["AP"] == ["0.200"]
    assert rows["Recall at 0.1 FPPI"] == ["– [–, –]"]


def test_figures_of_other_evaluators_are_told_too() -> None:
    rows = dict(figure_rows({"a": {"flags": {"mask": {"recall": 0.5}}, "coco12": {"AP": 1.0}, "funnel": []}}))
    assert rows == {"Pictures": ["–"], "flags mask recall": ["0.500"]}
    assert headline({"flags": {}}) == []


def test_a_funnel_of_an_older_evaluation() -> None:
    tables = funnel_tables([{"stage": "pnet", "recall_by_size": {"12-24": 0.5}}], {"12-24": 2, "24-48": 0})
    assert (tables.sizes, tables.by_size) == (["12-24"], [("pnet", [("0.500", "–")])])
    assert funnel_tables([], {}).stages == []


def test_curves(tmp_path: Path) -> None:
    assert box_curves(given(tmp_path, [], [(A, 0)]), {}) == []
    assert box_curves(given(tmp_path, [(A, 0.9)], [(A, 1)]), {}) == []
    curves = {c.kind: c for c in box_curves(given(tmp_path, [(A, 0.9), (FAR, 0.8)], [(A, 0), (B, 0)]), {"AP50": 0.5})}
    assert curves["precision-recall"].x.tolist() == [0.5, 0.5]
    assert curves["precision-recall"].y.tolist() == [1, 0.5]
    assert curves["precision-recall"].figure == "AP50 .500"
    assert curves["roc"].x.tolist() == [1, 1]  # none stands at the left end of the axis
    assert curves["recall-fppi"].x.tolist() == [0.001, 1]
    assert curves["miss-rate"].y.tolist() == [0.5, 0.5]
