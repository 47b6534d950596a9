"""The written files: their content, and that pycocotools alone makes the same figures of them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from cascade_det.core.types import Annotations, Detections
from cascade_det.data.sources import Picture
from cascade_det.evaluation.base import ScoredSet
from cascade_det.evaluation.coco import Coco
from cascade_det.evaluation.files import write_evaluation

FILES = ["detections.json", "images.json", "truth.json"]


def read(folder: Path) -> tuple[Any, Any, Any]:
    detections, images, truth = (json.loads((folder / name).read_text()) for name in FILES)
    return detections, images, truth


def crowded_set(seed: int = 0, pictures: int = 5) -> ScoredSet:
    """Return pictures with up to 130 objects, some ignored, and jittered detections with ties between their scores."""
    rng = np.random.default_rng(seed)
    listed, truth, detections = [], [], []
    for n in range(pictures):
        count = int(rng.integers(0, 130)) if n else 130
        low, side = rng.random((count, 2)) * 600, rng.random((count, 1)) * 60 + 10
        boxes = np.concatenate([low, low + side * [1, 1.3]], axis=1).astype(np.float32)
        points = (low[:, None] + rng.random((count, 5, 2)) * side[:, None]).astype(np.float32)
        known = rng.random((count, 5)) < 0.9
        truth.append(Annotations(boxes, rng.random(count) < 0.2, np.where(known[..., None], points, 0), known))
        moved = boxes + rng.normal(0, 3, boxes.shape)
        false = rng.random((20, 2)) * 600
        found = np.concatenate([moved[rng.random(count) < 0.8], np.concatenate([false, false + 30], axis=1)])
        scores = rng.random(len(found)).round(2).astype(np.float32)
        found_points = (rng.random((len(found), 5, 2)) * 600).astype(np.float32)
        detections.append(Detections(found, scores, found_points).sorted())
        listed.append(Picture(1000 - n, f"{n}.jpg", (700, 800), {"source": "abc"[n % 3]}))
    return ScoredSet(listed, truth, detections, ["a", "b", "c", "d", "e"], "face")


def test_no_pictures(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "new" / "folder", ScoredSet([], [], [], [], "raccoon"))
    detections, images, truth = read(tmp_path / "new" / "folder")
    assert (detections, images) == ([], [])
    assert truth == {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "raccoon", "supercategory": "raccoon"}],
    }


def test_content(tmp_path: Path) -> None:
    objects = Annotations(
        np.asarray([[1.5, 2, 11.5, 22], [0, 0, 4, 4]]),
        np.asarray([False, True]),
        np.asarray([[[1, 2], [3, 4], [0, 0]], [[0, 0], [0, 0], [0, 0]]]),
        np.asarray([[True, True, False], [False] * 3]),
    )
    found = Detections(np.asarray([[1, 2, 4, 6]]), np.asarray([0.25]), np.asarray([[[1, 2], [3, 4], [5, 6.5]]]))
    pictures = [Picture(7, "dir/a.jpg", (30, 40), {"source": "helen", "id": -1}), Picture(3, "b.jpg", (5, 6))]
    scored = ScoredSet(pictures, [objects, Annotations.empty(3)], [found, Detections.empty()], ["l", "r", "n"], "face")
    write_evaluation(tmp_path, scored)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    detections, images, truth = read(tmp_path)
    assert detections == [
        {
            "image_id": 7,
            "category_id": 1,
            "bbox": [1, 2, 3, 4],
            "score": 0.25,
            "keypoints": [1, 2, 2, 3, 4, 2, 5, 6.5, 2],
        }
    ]
    assert images == [
        {"id": 7, "path": "dir/a.jpg", "width": 40, "height": 30},
        {"id": 3, "path": "b.jpg", "width": 6, "height": 5},
    ]
    assert truth["images"] == [
        {"id": 7, "file_name": "dir/a.jpg", "width": 40, "height": 30, "source": "helen"},
        {"id": 3, "file_name": "b.jpg", "width": 6, "height": 5},
    ]
    shared = {"image_id": 7, "category_id": 1}
    counted = {"bbox": [1.5, 2, 10, 20], "area": 200, "iscrowd": 0, "ignore": 0}
    ignored = {"bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 1, "ignore": 1}
    assert truth["annotations"] == [
        {"id": 1, **shared, **counted, "keypoints": [1, 2, 2, 3, 4, 2, 0, 0, 0], "num_keypoints": 2},
        {"id": 2, **shared, **ignored, "keypoints": [0] * 9, "num_keypoints": 0},
    ]
    assert truth["categories"] == [
        {"id": 1, "name": "face", "supercategory": "face", "keypoints": ["l", "r", "n"], "skeleton": []}
    ]


def test_objects_without_points_have_no_keypoints(tmp_path: Path) -> None:
    objects = Annotations.of(np.asarray([[0, 0, 4, 4]]))
    found = Detections(np.asarray([[0, 0, 4, 4]]), np.ones(1, np.float32))
    write_evaluation(tmp_path, ScoredSet([Picture(1, "a", (9, 9))], [objects], [found], [], "car"))
    detections, _, truth = read(tmp_path)
    assert not {"keypoints", "num_keypoints"} & {*detections[0], *truth["annotations"][0], *truth["categories"][0]}


def test_corners_survive_exactly(tmp_path: Path) -> None:
    scored = crowded_set()
    write_evaluation(tmp_path, scored)
    xywh = np.asarray([entry["bbox"] for entry in read(tmp_path)[0]])
    xywh[:, 2:] += xywh[:, :2]
    assert np.array_equal(xywh.astype(np.float32), np.concatenate([found.boxes for found in scored.detections]))


@pytest.mark.parametrize("seed", [0, 1])
def test_pycocotools_alone_gives_our_figures(tmp_path: Path, seed: int) -> None:
    scored = crowded_set(seed)
    write_evaluation(tmp_path, scored)
    ours = Coco().evaluate(scored)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(tmp_path / "truth.json")
        results = truth.loadRes(str(tmp_path / "detections.json"))
        run = COCOeval(truth, results, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
        wide = COCOeval(truth, results, "bbox")
        wide.params.maxDets = [1, 10, 300]
        wide.evaluate()
        wide.accumulate()
    assert list(ours["coco12"].values()) == pytest.approx(run.stats.tolist(), abs=1e-12)
    precision = wide.eval["precision"][:, :, 0, 0, 2]
    theirs = [precision.mean(), precision[0].mean(), precision[5].mean(), wide.eval["recall"][:, 0, 0, 2].mean()]
    assert [ours[name] for name in ("AP", "AP50", "AP75", "AR")] == pytest.approx(theirs, abs=1e-12)
    assert 0.1 < ours["AP"] < ours["AP50"] < 0.9
    assert ours["AR"] > ours["coco12"]["AR_100"]  # so the limit of 300 was put to the test


def test_scoring_leaves_the_set_alone(tmp_path: Path) -> None:
    scored = crowded_set(pictures=3)
    write_evaluation(tmp_path / "before", scored)
    first = Coco(group_by=["source", "size"]).evaluate(scored)
    write_evaluation(tmp_path / "after", scored)
    assert read(tmp_path / "before") == read(tmp_path / "after")
    assert Coco(group_by=["source", "size"]).evaluate(scored) == first
