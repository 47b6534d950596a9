"""One small cascade, trained once a session through the command line, that many tests look at and none changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cascade_det.cli.app import main

TINY = """
format: 1
name: tiny
seed: 0
run_dir: {run_dir}
object:
  category: face
  points: [left_eye, right_eye, nose, mouth_left, mouth_right]
  flip_points: [1, 0, 2, 4, 3]
image: {{resample: area}}
pyramid: {{min_object_px: 20}}
stages:
  pnet:
    kind: proposer
    window_hw: [12, 12]
    net: {{kind: mtcnn_pnet, params: {{activation: relu}}}}
    heads:
      score: {{kind: classification}}
      box: {{kind: box_offset, weight: 0.5}}
    keep: {{max_per_image: 60}}
    samplers:
      windows: {{kind: iou_bands, params: {{fit_truth: true, negatives_per_image: 30}}}}
    train: {{samples: 100_000, batch_size: 256, lr: 1.0e-2}}
  rnet:
    kind: refiner
    window_hw: [24, 24]
    net: {{kind: mtcnn_rnet, params: {{alpha: 0.5, activation: relu}}}}
    heads:
      score: {{kind: classification}}
      box: {{kind: box_offset, weight: 0.5}}
      points: {{kind: points}}
    keep: {{nms: 0.4, max_per_image: 20}}
    calibrate: {{max_fppi: 0.5}}
    samplers:
      mined: {{kind: from_cascade, params: {{fit_truth: true, tries_per_box: 10}}}}
    train: {{samples: 20_000, batch_size: 96, lr: 4.0e-3}}
data:
  train:
    drawn: {{kind: synthetic, params: {{images: 80, seed: 1, size_hw: [96, 128], objects: [1,3], object_px: [24, 64]}}}}
  val:
    drawn: {{kind: synthetic, params: {{images: 16, seed: 2, size_hw: [96, 128], objects: [1,3], object_px: [24, 64]}}}}
mine: {{val_images: 8, workers: 1}}
train: {{validations: 2, trainer: {{accelerator: cpu, devices: 1}}}}
"""


@dataclass(frozen=True)
class TinyRun:
    """A finished run.

    Attributes:
        recipe: the file that it was trained from.
        folder: its run directory.
    """

    recipe: Path
    folder: Path

    @property
    def model(self) -> Path:
        """The trained cascade."""
        return self.folder / "model.safetensors"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Return a trained two-stage cascade; a test that would change the run takes `tiny_copy`."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY.format(run_dir=folder / "run"))
    assert main(["train", str(recipe)]) == 0
    return TinyRun(recipe, folder / "run")


@pytest.fixture
def tiny_copy(tiny: TinyRun, tmp_path: Path) -> TinyRun:
    """Return a copy of the run that a test may change."""
    folder = tmp_path / "tiny_copy"
    shutil.copytree(tiny.folder, folder)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY.format(run_dir=folder))
    return TinyRun(recipe, folder)


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Callable[[], Path]:
    """Return a function that writes the recipe for a run that does not exist yet."""

    def write() -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(TINY.format(run_dir=tmp_path / "new_run"))
        return path

    return write
