"""`init: FILE` goes on from an imported model: what the model lacks starts fresh, and the run says so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cascade_det.cli.app import main
from cascade_det.core.recipe import load_recipe, recipe_to_yaml
from cascade_det.core.schema import DataSection, SourcePart
from cascade_det.model_file import load_model

# A rate too low to move a weight: what the fit ends with is what it started from.
SHORT = [
    "stages.pnet.train.samples=400", "stages.pnet.train.batch_size=100", "stages.pnet.train.lr=1e-12", "train.ema=0",
    "train.validations=1", "mine.min_positives=1", "mine.val_images=4", "mine.workers=1",
    "train.trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Return the recipe of the paper with a few drawn pictures for data."""
    drawn = [
        {"drawn": SourcePart("synthetic", {"images": count, "seed": seed, "size_hw": [64, 64], "object_px": [24, 48]})}
        for seed, count in ((1, 16), (2, 4))
    ]
    changed = dataclasses.replace(
        load_recipe("mtcnn_paper"), run_dir=str(tmp_path / "run"), base_dir=None, data=DataSection(*drawn)
    )
    path = tmp_path / "mine.yaml"
    path.write_text(recipe_to_yaml(changed))
    return path


def test_a_head_that_the_imported_model_lacks_starts_fresh(
    recipe: Path, fakes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "imported.safetensors"
    told = tmp_path / "told.json"
    command = ["import", "facenet-pytorch", str(fakes.write("facenet-pytorch")), "--out", str(model)]
    assert main([*command, "--json", str(told)]) == 0
    assert json.loads(told.read_text())["stages"]["pnet"]["parameters"] == 6_599
    words = [str(recipe), f"init={model}", "stages.pnet.heads.points.kind=points", *SHORT, "--stage", "pnet", "--step"]
    assert main(["train", *words, "mine"]) == 0
    capsys.readouterr()
    assert main(["train", *words, "fit"]) == 0
    said = capsys.readouterr().err
    assert f"pnet: starts from {model}; fresh: heads.points.weight, heads.points.bias\n" in said
    fitted = load_file(tmp_path / "run" / "pnet" / "fit" / "weights.safetensors")
    given = load_model(model).arrays["pnet"]
    assert set(fitted) - set(given) == {"heads.points.weight", "heads.points.bias"}
    assert fitted["heads.points.weight"].any()
    for name, array in given.items():
        np.testing.assert_allclose(fitted[name], array, atol=1e-6)
