"""Points of given files: which objects are measured, and what is said of those that are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.core.types import Annotations, Detections
from cascade_det.data.sources import Picture
from cascade_det.errors import DataError
from cascade_det.evaluation.base import ScoredSet
from cascade_det.evaluation.coco import Coco
from cascade_det.evaluation.files import write_evaluation
from cascade_det.evaluation.points import Normaliser, score_points

WriteFiles = Callable[..., tuple[Path, Path]]
# eyes 10 px apart in a box of 30 x 40 px: sqrt(w h) = 34.64, diagonal = 50
BOX = [0, 0, 30, 40]
POINTS = [(10, 10), (20, 10), (15, 20), (11, 30), (19, 30)]


def keypoints(shift: float = 0, flags: Sequence[int] = (2,) * 5) -> dict[str, Any]:
    return {"keypoints": [v for (x, y), flag in zip(POINTS, flags, strict=True) for v in (x + shift, y, flag)]}


def face(image: int = 1, flags: Sequence[int] = (2,) * 5, **more: Any) -> tuple[Any, ...]:
    return image, BOX, keypoints(flags=flags) | more


def found(shift: float, image: int = 1, score: float = 0.9) -> tuple[Any, ...]:
    return image, BOX, score, keypoints(shift)


@pytest.mark.parametrize(
    ("detections", "truth", "expected", "counts"),
    [
        ([], [], (None, None, None), (0, 0)),
        ([found(1)], [], (None, None, None), (0, 0)),  # pictures without objects
        ([], [face()], (None, None, None), (0, 1)),  # empty predictions
        ([found(0.5)], [face()], (5, 0, 0.5), (1, 1)),
        ([found(0.5), found(3, 2)], [face(1), face(2)], (17.5, 0.5, 0.25), (2, 2)),
        ([found(0.5)], [face(1), face(2)], (5, 0, 0.5), (1, 2)),  # the undetected face is left out
        ([found(0.5, score=0.49)], [face()], (None, None, None), (0, 1)),
        ([found(0.5)] * 3, [face()], (5, 0, 0.5), (1, 1)),  # constant scores: the first of the best
        ([found(0.5), found(9)], [face()], (5, 0, 0.5), (1, 1)),
        ([found(0.5)], [face(iscrowd=1)], (None, None, None), (0, 0)),
        ([found(0.5)], [face(flags=[2, 2, 2, 0, 0])], (5, 0, 0.5), (1, 1)),
        ([found(0.5)], [face(flags=[2, 2, 2, 1, 1])], (5, 0, 0.5), (1, 1)),  # marked invisible
        ([found(0.5)], [face(flags=[2, 2, 1, 1, 1])], (None, None, None), (0, 0)),
        ([found(0.5)], [face(), (1, BOX), (1, BOX, {"keypoints": []})], (5, 0, 0.5), (1, 1)),  # objects without points
    ],
)
def test_figures(
    write_files: WriteFiles, detections: list[Any], truth: list[Any], expected: tuple[Any, ...], counts: tuple[int, int]
) -> None:
    figures = score_points(*write_files(detections, truth, images=2)).figures
    assert list(figures) == ["nme", "failure_rate", "auc", "nme_matched", "nme_total"]
    assert (figures["nme_matched"], figures["nme_total"]) == counts
    for name, value in zip(("nme", "failure_rate", "auc"), expected, strict=True):
        assert figures[name] == (None if value is None else pytest.approx(value, abs=1e-6))


@pytest.mark.parametrize(("normaliser", "length"), [("eyes", 10.0), ("box", 1200**0.5), ("diagonal", 50.0)])
def test_normalisers(write_files: WriteFiles, normaliser: str, length: float) -> None:
    result = score_points(*write_files([found(2)], [face()]), normaliser=Normaliser(normaliser))
    assert result.figures["nme"] == pytest.approx(200 / length)
    assert [curve.name for curve in result.curves] == [normaliser]


def test_the_curve_is_the_share_of_matched_faces(write_files: WriteFiles) -> None:
    files = write_files([found(3), found(0.5, 2)], [face(1), face(2), face(3)], images=3)
    (curve,) = score_points(*files).curves
    assert (curve.kind, curve.figure) == ("ced", "NME 17.50 %, AUC .250")
    assert curve.x == pytest.approx([0, 5, 30], abs=1e-5)
    assert curve.y.tolist() == [0, 0.5, 1]
    assert score_points(*write_files([], [face()])).curves == []


def test_warnings(write_files: WriteFiles) -> None:
    result = score_points(*write_files([found(1)], [face(1), face(2, [2, 2, 2, 1, 0])], images=2))
    assert [warning.split(": ")[-1] for warning in result.warnings] == [
        "1 points are marked invisible (flag 1) and left out.",
        "1 of 2 objects have no detection and are left out of all figures.",
    ]
    assert score_points(*write_files([found(1)], [face()])).warnings == []


@pytest.mark.parametrize(
    ("detections", "truth", "told"),
    [
        ([found(1)], [(1, BOX)], "truth.json: no annotation has `keypoints`"),
        (
            [(1, BOX, 0.9)],
            [face()],
            "detections.json: entry 0 .the first is 0. needs 15 numbers as `keypoints`, it has N",
        ),
        ([(1, BOX, 0.9, {"keypoints": [1, 2, 2]})], [face()], r"needs 15 numbers as `keypoints`, it has \[1, 2, 2\]"),
        ([found(float("nan"))], [face()], "entry 0 .the first is 0. has keypoints .nan"),
        ([found(1)], [face(), (1, BOX, {"keypoints": [1, 2, 2]})], "annotation 2 needs 15 numbers as `keypoints`"),
        ([found(1)], [(1, BOX, {"keypoints": [1, 2, 2, 3]})], "annotation 1 needs 3 numbers as `keypoints`"),
        ([found(1)], [(1, BOX, {"keypoints": "all"})], "no annotation has `keypoints`"),
        ([found(1)], [(1, BOX, keypoints(float("inf")))], "annotation 1 has keypoints .inf"),
    ],
)
def test_points_that_cannot_be_scored(
    write_files: WriteFiles, detections: list[Any], truth: list[Any], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        score_points(*write_files(detections, truth))


def test_the_figures_of_an_evaluation(tmp_path: Path) -> None:
    """The files of `evaluate --out` give the NME that it says."""
    rng = np.random.default_rng(1)
    pictures, truth, detections = [], [], []
    for number in range(12):
        corner = rng.random((4, 2)).astype(np.float32) * 500
        boxes = np.concatenate([corner, corner + np.float32([30, 40])], axis=1)
        points = corner[:, None] + np.asarray(POINTS)
        known = rng.random((4, 5)) < 0.9
        truth.append(Annotations(boxes, rng.random(4) < 0.2, np.where(known[..., None], points, 0), known))
        seen = rng.random(4) < 0.8
        detections.append(
            Detections(boxes + rng.normal(0, 2, boxes.shape), rng.random(4), points + rng.normal(0, 1, points.shape))[
                seen
            ]
        )
        pictures.append(Picture(number, f"{number}.jpg", (600, 600)))
    scored = ScoredSet(pictures, truth, detections, list("abcde"), "face")
    write_evaluation(tmp_path, scored)
    figures = score_points(tmp_path / "detections.json", tmp_path / "truth.json").figures
    expected = Coco().evaluate(scored)
    assert figures["nme"] == pytest.approx(expected["nme"], rel=1e-6)
    assert {n: figures[n] for n in ("nme_matched", "nme_total")} == {
        n: expected[n] for n in ("nme_matched", "nme_total")
    }
    assert 0 < figures["nme_matched"] < figures["nme_total"]
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
