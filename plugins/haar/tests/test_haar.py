"""OpenCV's Haar cascade as a first stage: the contract of a stage, sizes, and in front of a stage that is trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cascade_det import Cascade
from cascade_det.cli.app import main
from cascade_det.core.geometry import iou_matrix
from cascade_det.core.imaging import Resampler
from cascade_det.core.nms import NmsMode
from cascade_det.core.registry import STAGES
from cascade_det.data.synthetic import Synthetic
from cascade_det.errors import RecipeError
from cascade_det.stages.base import StageSettings
from cascade_det.testing import check_stage

if not hasattr(cv2, "CascadeClassifier"):
    pytest.skip("this OpenCV has no CascadeClassifier", allow_module_level=True)

DRAWN = Synthetic(images=8, size_hw=(160, 200), objects=(1, 2), object_px=(40, 80))
SETTINGS = StageSettings(
    score=0.0, nms=None, nms_mode=NmsMode.union, nms_across_levels=None, max_per_image=1000, min_object_px=24,
    max_object_px=None, factor=0.709, mean=0, scale=1,
)  # fmt: skip


def haar(window_hw: tuple[int, int] = (24, 24), **params: Any) -> Any:
    return STAGES.build("haar", params, "stages.haar", name="haar", window_hw=window_hw, net=None, heads={})


def candidates(index: int, stage: Any = None, **changed: Any) -> Any:
    images = [Resampler(DRAWN.read(index))]
    return (stage or haar())(images, None, dataclasses.replace(SETTINGS, **changed))[0]


@pytest.mark.parametrize(
    ("window_hw", "params"),
    [((24, 24), {}), ((24, 24), {"min_neighbors": 1}), ((20, 20), {"file": "haarcascade_frontalface_alt2.xml"})],
)
def test_the_contract_of_a_stage(window_hw: tuple[int, int], params: dict[str, Any]) -> None:
    pictures = [DRAWN.read(index)[: 160 - 8 * index] for index in range(4)]
    stage = haar(window_hw, **params)
    check_stage(stage, first=True, pictures=pictures, rebuild=lambda: haar(window_hw, **params))
    assert not stage.trainable


def test_it_finds_drawn_faces() -> None:
    held, total = 0, 0
    for index in range(8):
        truth = DRAWN.annotations(index)
        overlap = iou_matrix(truth.boxes[~truth.ignore], candidates(index).boxes)
        held, total = held + int((overlap >= 0.4).any(axis=1).sum()), total + len(overlap)
    assert held >= 0.3 * total  # it was made for photographs


@pytest.mark.parametrize(("smallest", "largest"), [(16, None), (48, None), (24, 60)])
def test_sizes_are_respected(smallest: float, largest: float | None) -> None:
    heights = np.concatenate(
        [np.diff(candidates(i, min_object_px=smallest, max_object_px=largest).boxes[:, 1::2])[:, 0] for i in range(8)]
    )
    assert len(heights)
    assert heights.min() >= smallest * 0.98  # a level has whole pixels
    assert heights.max() <= (largest or 160) * 1.02


def test_neighbours_are_merged_and_every_candidate_is_scored() -> None:
    single, merged = candidates(0), candidates(0, haar(min_neighbors=1))
    assert len(single) > len(merged) > 0
    assert len(np.unique(single.scores)) > 1
    assert ((single.scores > 0) & (single.scores < 1)).all()


def test_a_picture_smaller_than_the_window() -> None:
    for shape in ((1, 1, 3), (10, 300, 3), (23, 23, 3)):
        assert len(haar()([Resampler(np.zeros(shape, np.uint8))], None, SETTINGS)[0]) == 0


@pytest.mark.parametrize(
    ("window_hw", "params", "message"),
    [
        ((12, 12), {}, r"window_hw=\[12, 12\]: the window of haarcascade_frontalface_default\.xml is \[24, 24\]"),
        ((24, 24), {"file": "haarcascade_frontalface_defalt.xml"}, "did you mean 'haarcascade_frontalface_default"),
        ((24, 24), {"file": __file__}, "is no Haar cascade as opencv_traincascade writes them"),
        ((24, 24), {"scale_factor": 1.0}, r"scale_factor=1\.0 must be above 1"),
        ((24, 24), {"min_neighbors": -1}, "min_neighbors=-1 must not be negative"),
    ],
)
def test_refuses(window_hw: tuple[int, int], params: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        haar(window_hw, **params)


def test_an_opencv_without_haar_cascades_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(RecipeError, match=r"has no CascadeClassifier \(it was removed in 5\.0\); pip install"):
        haar()


RECIPE = """
format: 1
name: small_haar
run_dir: {folder}/run
plugins: [{plugin}]
object: {{category: face}}
image: {{resample: area}}
pyramid: {{min_object_px: 24}}
stages:
  haar: {{kind: haar, window_hw: [24, 24], keep: {{nms: 0.6}}}}
  rnet:
    kind: refiner
    window_hw: [24, 24]
    net: {{kind: mtcnn_rnet, params: {{alpha: 0.5, activation: relu}}}}
    heads: {{score: {{kind: classification}}, box: {{kind: box_offset, weight: 0.5}}}}
    keep: {{nms: 0.4}}
    calibrate: {{max_fppi: 0.5}}
    samplers:
      mined: {{kind: from_cascade, params: {{fit_truth: true, tries_per_box: 10}}}}
      anywhere: {{kind: iou_bands, params: {{fit_truth: true, tries_per_box: 0, negatives_per_image: 10}}}}
    train: {{samples: 20_000, batch_size: 96, lr: 4.0e-3}}
data:
  train: {{drawn: {{kind: synthetic, params: {{images: 80, seed: 1, size_hw: [96, 128], object_px: [28, 64]}}}}}}
  val: {{drawn: {{kind: synthetic, params: {{images: 16, seed: 2, size_hw: [96, 128], object_px: [28, 64]}}}}}}
mine: {{val_images: 4, workers: 1}}
train: {{validations: 2, trainer: {{accelerator: cpu, devices: 1}}}}
"""


def test_in_front_of_a_stage_that_is_trained(plugin: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small_haar.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path, plugin=plugin))
    assert main(["check", str(recipe)]) == 0
    assert main(["train", str(recipe)]) == 0
    assert sorted(path.name for path in (tmp_path / "run" / "haar").iterdir()) == ["calibrate"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    proposed, refined = metrics["funnel"]
    assert (proposed["stage"], refined["stage"]) == ("haar", "rnet")
    assert proposed["recall"] > 0.25  # the Haar cascade was made for photographs, not for drawings
    assert metrics["AP50"] > 0.6 * proposed["recall"], "what it holds is told from what else it proposes"

    cascade = Cascade.load(tmp_path / "run", plugins=[str(plugin)], device="cpu")
    image = Synthetic(images=4, seed=3, objects=(2, 3), object_px=(40, 100)).read(0)
    assert len(cascade.run([image], upto="haar")[0]) > 0
