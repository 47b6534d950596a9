"""Not only faces, not only squares: another object, windows of 2:1 and no points, through the command line alone."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from cascade_det.cli.app import main

UPRIGHT = """
format: 1
name: upright
description: drawn people, twice as high as wide, without points
seed: 0
object: {category: person}
image: {resample: area}
pyramid: {min_object_px: 28, factor: 0.75}
stages:
  first:
    kind: proposer
    window_hw: [24, 12]
    net: {kind: mtcnn_pnet, params: {activation: relu}}
    heads:
      score: {kind: classification}
      box: {kind: box_offset, weight: 0.5}
    keep: {nms: 0.5, nms_across_levels: 0.7, max_per_image: 150}
    samplers:
      windows: {kind: iou_bands, params: {fit_truth: true, negatives_per_image: 40}}
    train: {samples: 600_000, batch_size: 512, lr: 6.0e-3}
  second:
    kind: refiner
    window_hw: [48, 24]
    net: {kind: mtcnn_rnet, params: {activation: relu}}
    heads:
      score: {kind: classification}
      box: {kind: box_offset, weight: 1.0}
    keep: {nms: 0.4, max_per_image: 50}
    calibrate: {max_fppi: 0.1}
    samplers:
      mined: {kind: from_cascade, params: {fit_truth: true, tries_per_box: 10}}
    train: {samples: 100_000, batch_size: 128, lr: 3.0e-3}
data:
  train:
    drawn:
      kind: synthetic
      params: {kind: upright, images: 300, seed: 1, size_hw: [160, 200], objects: [0, 3], object_px: [32, 110]}
  val:
    drawn:
      kind: synthetic
      params: {kind: upright, images: 80, seed: 2, size_hw: [160, 200], objects: [0, 3], object_px: [32, 110]}
mine: {val_images: 20}
train: {validations: 2, trainer: {accelerator: cpu, devices: 1}}
"""


def ap50_by_pycocotools(folder: Path) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        run = COCOeval(truth, truth.loadRes(str(folder / "detections.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[1])


def test_upright_objects_with_windows_of_two_to_one(tmp_path: Path) -> None:
    recipe, folder = tmp_path / "upright.yaml", tmp_path / "run"
    recipe.write_text(UPRIGHT)
    assert main(["check", str(recipe)]) == 0
    assert main(["train", str(recipe), f"run_dir={folder}"]) == 0

    metrics = json.loads((folder / "metrics.json").read_text())
    ap50 = ap50_by_pycocotools(folder / "evaluation")
    assert metrics["AP50"] == pytest.approx(ap50, abs=1e-9)
    assert metrics["nme_total"] == 0
    assert ap50 >= 0.80
    detections = json.loads((folder / "evaluation" / "detections.json").read_text())
    assert not any("keypoints" in row for row in detections)
    sure = [row["bbox"] for row in detections if row["score"] >= 0.5]
    assert sum(h / w for _, _, w, h in sure) / len(sure) == pytest.approx(2, abs=0.3)
