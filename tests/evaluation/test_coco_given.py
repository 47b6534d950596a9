"""COCO figures of given files: those of the library alone, and what differs from what a user may think."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from cascade_det.errors import DataError
from cascade_det.evaluation.coco import score_coco
from cascade_det.evaluation.coco_matching import Backend

WriteFiles = Callable[..., tuple[Path, Path]]
VECTORS = Path(os.environ.get("CASCADE_DET_DATA", "")) / "eval_vectors" / "coco" / "small"
NAMES = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
NAMES += ["AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"]
A, B, MISS, CROWD = [0, 0, 20, 20], [100, 0, 20, 20], [600, 600, 20, 20], [0, 300, 200, 200]


def pycocotools_alone(predictions: Path, annotations: Path) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        run = COCOeval(truth, truth.loadRes(str(predictions)), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return list(run.stats)


@pytest.fixture(params=list(Backend))
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param is Backend.faster_coco_eval:
        pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed (the extra `faster`)")
    return Backend(request.param)


@pytest.mark.skipif(
    not os.environ.get("CASCADE_DET_DATA") or not VECTORS.is_dir(),
    reason="CASCADE_DET_DATA names no folder that holds eval_vectors/coco/small",
)
def test_figures_of_the_example(tmp_path: Path, backend: Backend) -> None:
    for name in ("dets", "gt"):
        (tmp_path / f"{name}.json").write_bytes(gzip.decompress((VECTORS / f"{name}.json.gz").read_bytes()))
    figures = score_coco(tmp_path / "dets.json", tmp_path / "gt.json", backend=backend).figures
    expected = json.loads((VECTORS / "expected.json").read_text())["coco_bbox_stats"]
    assert figures == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("found", "truth", "ap50", "recall"),
    [
        ([], [], -1, -1),  # absent
        ([(1, A, 0.9)], [], -1, -1),  # pictures without objects
        ([(1, A, 0.9)], [(1, A, {"iscrowd": 1})], -1, -1),
        ([], [(1, A)], 0, 0),  # empty predictions
        ([(1, A, 0.9)], [(1, A)], 1, 1),
        ([(1, A, 0.9)], [(1, A, {"ignore": 1})], 1, 1),  # iscrowd alone ignores
        ([(1, A, 0.5), (1, MISS, 0.5)], [(1, A)], 1, 1),  # constant scores: the order of the file decides
        ([(1, MISS, 0.5), (1, A, 0.5)], [(1, A)], 0.5, 1),
        # an ignored object takes any number of detections
        ([(1, CROWD, 0.9), (1, [9, 309, 20, 20], 0.8), (1, A, 0.7)], [(1, A), (1, CROWD, {"iscrowd": 1})], 1, 1),
        ([(1, A, 0.9), (2, A, 0.8)], [(1, A, {"id": 0}), (2, A)], 1, 1),  # an id of 0 is no miss
    ],
)
def test_edges(
    write_files: WriteFiles, backend: Backend, found: list[Any], truth: list[Any], ap50: float, recall: float
) -> None:
    result = score_coco(*write_files(found, truth, images=3), backend=backend)
    assert list(result.figures) == NAMES
    assert (result.figures["AP50"], result.figures["AR_100"]) == pytest.approx((ap50, recall))
    assert len(result.curves) == (ap50 >= 0)
    for curve in result.curves:
        assert (curve.kind, len(curve.x)) == ("precision-recall", 101)
        assert curve.y.mean() == pytest.approx(ap50)


@pytest.mark.parametrize("categories", [[1], [1, 5, 9]])
def test_pycocotools_alone_gives_the_same(write_files: WriteFiles, backend: Backend, categories: list[int]) -> None:
    rng = np.random.default_rng(len(categories))
    truth, found = [], []
    for _ in range(120):
        image, kind = int(rng.integers(1, 9)), {"category_id": int(rng.choice(categories))}
        box = [*(rng.random(2) * 500).tolist(), *(rng.random(2) * 150 + 5).tolist()]
        crowd = int(rng.random() < 0.1)
        truth.append((image, box, {"area": box[2] * box[3] * 0.7, "iscrowd": crowd} | kind))
        for _ in range(rng.integers(0, 3)):
            found.append(
                (image, np.maximum(np.add(box, rng.normal(0, 5, 4)), 0).tolist(), round(rng.random(), 1), kind)
            )
    files = write_files(found, truth, images=10, categories=categories)
    figures = score_coco(*files, backend=backend).figures
    assert list(figures.values()) == pytest.approx(pycocotools_alone(*files), abs=1e-12)


def test_an_object_without_area_has_its_box_s(write_files: WriteFiles) -> None:
    figures = score_coco(*write_files([(1, A, 0.9)], [(1, A)])).figures
    assert (figures["AP_small"], figures["AP_medium"]) == pytest.approx((1, -1))
    figures = score_coco(*write_files([(1, A, 0.9)], [(1, A, {"area": 5000})])).figures
    assert (figures["AP_small"], figures["AP_medium"]) == pytest.approx((-1, 1))
    with pytest.raises(DataError, match="annotation 1 has area 'big'"):
        score_coco(*write_files([], [(1, A, {"area": "big"})]))


@pytest.mark.parametrize(
    ("found", "truth", "told"),
    [
        ([(1, A, 0.9)] * 100, [(1, A)], []),
        ([(1, A, 0.9)] * 101 + [(2, A, 0.9)], [(1, A)],
         ["1 pictures have more than 100 detections; the best 100 count."]),
        ([], [(1, A, {"ignore": 1}), (1, A, {"ignore": 1, "iscrowd": 1})],
         ["1 objects with `ignore` count, since COCO ignores `iscrowd` alone."]),
        ([], [(1, A, {"id": 0})],
         ["an annotation has the id 0, which pycocotools alone takes for no match; here it is matched like any "
          "other."]),
    ],
)  # fmt: skip
def test_warnings(write_files: WriteFiles, found: list[Any], truth: list[Any], told: list[str]) -> None:
    result = score_coco(*write_files(found, truth, images=2))
    assert [warning.split(": ")[1] for warning in result.warnings] == told


def test_nothing_is_printed(write_files: WriteFiles, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    score_coco(*write_files([(1, A, 0.9)], [(1, A)]), backend=backend)
    assert capsys.readouterr() == ("", "")


def test_a_missing_backend_names_its_extra(write_files: WriteFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(DataError, match=r"pip install 'cascade_det\[faster\]'"):
        score_coco(*write_files([], [(1, A)]), backend=Backend.faster_coco_eval)
