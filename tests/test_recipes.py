"""Every shipped recipe loads and builds, by file and by name, without the data it names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cascade_det.core.imaging import Resampler
from cascade_det.core.recipe import build_heads, build_samplers, build_source, build_stage, load_recipe, stage_train
from cascade_det.core.shipped import shipped_folder, shipped_names
from cascade_det.data.sources import Source
from cascade_det.samplers.base import Sampler

NAMES = shipped_names("recipes", ".yaml")
every_recipe = pytest.mark.parametrize("name", NAMES)


def test_there_are_recipes() -> None:
    assert {"quickstart", "mtcnn_face"} <= set(NAMES)


@every_recipe
def test_a_recipe_loads_by_file_and_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_file = load_recipe(shipped_folder("recipes") / f"{name}.yaml")
    monkeypatch.chdir(tmp_path)  # a shipped name is found from anywhere
    assert load_recipe(name) == dataclasses.replace(by_file, base_dir=str(tmp_path))  # its data lie where we are
    assert by_file.name == name
    assert by_file.description
    for preset in by_file.presets:
        assert load_recipe(name, preset=preset) != by_file


@every_recipe
def test_every_part_builds(name: str) -> None:
    recipe = load_recipe(name)
    for position, stage in enumerate(recipe.stages):
        assert {head.field for head in build_heads(recipe, stage).values()} >= {"scores", "boxes"}
        samplers = build_samplers(recipe, stage).values()
        assert all(isinstance(sampler, Sampler) for sampler in samplers)
        assert any(sampler.needs_candidates for sampler in samplers) == (position > 0)
        values = stage_train(recipe, stage)
        assert values.samples is not None
        assert values.batch_size is not None
        assert values.samples >= values.batch_size > 0
    for split in ("train", "val"):
        sources = getattr(recipe.data, split)
        assert sources
        for source in sources:
            assert isinstance(build_source(recipe, split, source), Source)


@every_recipe
def test_every_stage_builds(name: str) -> None:
    recipe = load_recipe(name)
    for stage in recipe.stages:
        built = build_stage(recipe, stage)
        assert built.name == stage
        assert list(built.window_hw) == recipe.stages[stage].window_hw
        assert built.num_points in (None, len(recipe.object.points))
        assert all(np.isfinite(value).all() for value in built.arrays().values())
    last = list(recipe.stages)[-1]
    assert build_stage(recipe, last).num_points == (len(recipe.object.points) or None)


def test_a_source_of_drawn_pictures_needs_no_data() -> None:
    recipe = load_recipe("quickstart", "data.train.drawn.params.images=2")
    source = build_source(recipe, "train", "drawn")
    assert len(source.pictures) == 2
    assert Resampler(source.read(0)).image_hw == source.pictures[0].image_hw
    assert source.annotations(0).points.shape[1] == 5
