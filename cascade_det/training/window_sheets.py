"""Sheets of the windows that a stage learns from: those of its run, or some that are cut now for a first stage."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from cascade_det.core.schema import Recipe
from cascade_det.data.picture_set import PictureSet
from cascade_det.data.shards import shards_in
from cascade_det.errors import RunError, choices
from cascade_det.training.mining import Miner, MiningJob, shard_folder
from cascade_det.training.mining_report import write_sheet
from cascade_det.training.plan import Plan

_FRESH_PICTURES = 16  # enough for all roles and views; a second of work


def stages_to_show(recipe: Recipe, stage: str | None) -> dict[str, str]:
    """Return the stages whose windows can be shown, and for each that cannot the reason; "" for those that can.

    Args:
        recipe: valid.
        stage: only this one, or None for all.

    Raises:
        RunError: there is no such stage, or its windows cannot be shown.
    """
    if stage is not None and stage not in recipe.stages:
        raise RunError(f"--stage {stage!r}: there is no such stage; {choices(stage, recipe.stages)}.")
    reasons = {name: _reason(recipe, name) for name in ([stage] if stage else recipe.stages)}
    if stage is not None and reasons[stage]:
        raise RunError(f"--stage {stage}: {reasons[stage]}.")
    return reasons


def write_windows(recipe: Recipe, stage: str, path: Path, count: int) -> str:
    """Write the sheet of a stage's windows by role, with the box and points that each teaches; return their origin.

    Args:
        recipe: valid.
        stage: one that `stages_to_show` gives no reason against.
        path: the picture to write.
        count: windows of each role at most, drawn at random.

    Raises:
        DataError: windows are to be cut now, and the pictures are missing or wrong.
    """
    shards = _mined(recipe, stage)
    if shards:
        origin = f"from {Path(recipe.run_dir) / stage}, {len(shards):,} shards"
        write_sheet(path, shards, recipe, stage, rows=count, origin=origin)
        return origin
    pictures = PictureSet.of(recipe, "train")
    chosen = np.unique(np.linspace(0, max(len(pictures) - 1, 0), min(_FRESH_PICTURES, len(pictures))).astype(int))
    origin = f"cut now from {len(chosen):,} of {len(pictures):,} pictures; nothing is mined in {recipe.run_dir}"
    job = MiningJob(recipe, stage, "train", 1, chosen.tolist(), None)
    miner = Miner(job)
    with tempfile.TemporaryDirectory() as folder:
        fresh = [shard_folder(Path(folder), shard) for shard in range(job.shard_count)]
        for shard, place in enumerate(fresh):
            miner.mine_shard(shard, place)
        write_sheet(path, fresh, recipe, stage, rows=count, origin=origin)
    return origin


def _mined(recipe: Recipe, stage: str) -> list[Path]:
    """Return all shards of a stage in its run, those of a mining that was cut off too."""
    plan = Plan(recipe)
    steps = [step for step in plan.steps if step.stage == stage and step.kind == "mine"]
    return [shard for step in steps for shard in shards_in(plan.path(step) / "shards")]


def _reason(recipe: Recipe, stage: str) -> str:
    if not recipe.stages[stage].heads:
        return "it learns nothing, so no windows are cut for it"
    if stage == next(iter(recipe.stages)) or _mined(recipe, stage):
        return ""
    return (
        f"nothing is mined in {Path(recipe.run_dir) / stage}; its windows are what the stages before let through, "
        "so train those first"
    )
