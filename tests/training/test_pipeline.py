"""The run of a recipe as a whole: its order of steps, and stages that repeat on their own mistakes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.cli.app import main
from cascade_det.core.recipe import load_recipe, silent_sources
from cascade_det.core.types import SampleRole
from cascade_det.data.shards import Pool
from cascade_det.training import pipeline
from cascade_det.training.pipeline import Run

SHORT = ["stages.pnet.train.samples=30_000", "stages.rnet.train.samples=6_000", "mine.val_images=2"]


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "shards").iterdir())


def test_a_second_round_mines_the_mistakes_of_the_first(tiny_recipe: Callable[[], Path], tmp_path: Path) -> None:
    recipe = str(tiny_recipe())
    overrides = [*SHORT, "stages.rnet.rounds=2"]
    assert main(["train", recipe, *overrides]) == 0
    assert main(["status", recipe, *overrides, "--json", str(tmp_path / "s.json")]) == 0
    steps = json.loads((tmp_path / "s.json").read_text())["steps"]
    assert {row["state"] for row in steps} == {"done"}
    rounds = ["mine", "fit", "calibrate", "mine-2", "fit-2", "calibrate-2"]
    assert [row["step"] for row in steps[3:-1]] == [f"rnet {name}" for name in rounds]

    rnet = tmp_path / "new_run" / "rnet"
    first, second = Pool(shards(rnet / "mine")), Pool(shards(rnet / "mine-2"))
    assert len(second) > 0
    assert set(second.role.tolist()) == {SampleRole.negative}, "a second round brings negatives alone"
    assert set(first.role.tolist()) > {SampleRole.negative}
    windows = {tuple(np.round(row, 3)) for row in first.column("window").tolist()}
    mistakes = {tuple(np.round(row, 3)) for row in second.column("window").tolist()}
    assert len(mistakes - windows) > len(mistakes) / 2, "its windows come from the stage's own boxes"
    job = json.loads((rnet / "fit-2" / "job.json").read_text())
    assert job["shards"] == [str(path) for path in [*shards(rnet / "mine"), *shards(rnet / "mine-2")]]
    assert job["start"] == str(rnet / "fit" / "weights.safetensors")
    assert (rnet / "fit-2" / "weights.safetensors").read_bytes() != (rnet / "fit" / "weights.safetensors").read_bytes()


def test_damaged_shards_are_found_and_mined_again(tiny_copy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped byte, a shard that is gone and a manifest cut short: the next fit mends them and ends as before."""
    pnet, model = tiny_copy.folder / "pnet", tiny_copy.model.read_bytes()
    before = {path: path.read_bytes() for path in (pnet / "mine").rglob("*.np*")}
    first, second = shards(pnet / "mine")
    pixels = bytearray((first / "crops.npy").read_bytes())
    pixels[len(pixels) // 2] ^= 1
    (first / "crops.npy").write_bytes(pixels)
    shutil.rmtree(second)
    manifest = pnet / "mine" / "val" / "00000" / "manifest.json"
    manifest.write_text(manifest.read_text()[:20])

    assert main(["train", str(tiny_copy.recipe), "--json", str(tiny_copy.folder / "m.json")]) == 0
    assert "mined again" not in capsys.readouterr().err  # nothing reads them: nothing is lost by them
    shutil.rmtree(pnet / "fit")
    assert main(["train", str(tiny_copy.recipe)]) == 0
    err = capsys.readouterr().err
    assert "pnet mine: mined again where it is damaged" in err
    assert f"{first}: a damaged shard (its content is not what was written) is mined again" in err
    assert {path: path.read_bytes() for path in (pnet / "mine").rglob("*.np*")} == before
    assert "rnet fit: done before" in err
    assert tiny_copy.model.read_bytes() == model


def test_a_mining_recall_out_of_reach_is_told_where_a_stage_is_mined_from(
    tiny_copy: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = pipeline.calibrate
    monkeypatch.setattr(pipeline, "calibrate", lambda *case: dataclasses.replace(real(*case), kept_mining=0.5))
    for stage, told in (("rnet", False), ("pnet", True)):  # nothing is mined with the last stage
        assert main(["train", str(tiny_copy.recipe), "--stage", stage, "--step", "calibrate", "--from", stage]) == 0
        assert ("even at the lowest threshold the stage keeps 50.0%" in capsys.readouterr().err) == told


@pytest.mark.parametrize(
    ("teaches", "stage", "silent"),
    [("null", "onet", False), ("[score]", "onet", False), ("[box, points]", "pnet", True), ("[points]", "onet", True)],
)
def test_pictures_that_may_lack_objects_calibrate_nothing(
    teaches: str, stage: str, silent: bool, tmp_path: Path
) -> None:
    """Where a source does not teach the score, its unmarked objects would count as false positives."""
    marked = "{kind: synthetic, params: {images: 5, seed: 9}, teaches: " + teaches + "}"
    overrides = (f"data.train.extra={marked}", "data.train.drawn.params.images=20", f"run_dir={tmp_path}")
    recipe = load_recipe("quickstart", *overrides)
    assert silent_sources(recipe, stage) == ({"extra"} if silent else set())
    assert Run(recipe)._calibrating(stage) == list(range(20 if silent else 25))
