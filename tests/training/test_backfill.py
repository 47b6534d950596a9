"""Backfill: negatives that a stage lacks are cut from the pools of the stages before, at its own size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.core.recipe import load_recipe
from cascade_det.core.types import SampleRole
from cascade_det.data.shards import Pool, read_manifest
from cascade_det.training.backfill import backfill
from cascade_det.training.mining import Miner, MiningJob

VIEW = "data.views.flipped={share: 0.5, transform: {kind: HorizontalFlip, params: {}}}"


def mined(job: MiningJob, folder: Path) -> list[Path]:
    miner = Miner(job)
    folders = [folder / f"{shard:05d}" for shard in range(job.shard_count)]
    for shard, path in enumerate(folders):
        miner.mine_shard(shard, path)
    return folders


@pytest.fixture
def job(tiny: Any) -> MiningJob:
    """Return the job of the second stage on five pictures, with few negatives."""
    overrides = (VIEW, "mine.shard_images=2", "stages.rnet.samplers.mined.params.negatives_per_image=3")
    model = tiny.folder / "rnet" / "mine" / "before.safetensors"
    return MiningJob(load_recipe(tiny.recipe, *overrides), "rnet", "train", 1, range(5), model)


@pytest.fixture
def first(tiny: Any, tmp_path: Path) -> list[Path]:
    """Return the pool of the first stage."""
    recipe = load_recipe(tiny.recipe, VIEW, "mine.shard_images=2")
    return mined(MiningJob(recipe, "pnet", "train", 1, range(5), None), tmp_path / "first")


def negatives(folders: list[Path]) -> int:
    return sum(read_manifest(folder)["roles"]["negative"] for folder in folders)


def positives(folders: list[Path]) -> int:
    return sum(read_manifest(folder)["roles"]["positive"] for folder in folders)


class TestNothingMissing:
    def test_no_earlier_stage(self, job: MiningJob, tmp_path: Path) -> None:
        own = mined(job, tmp_path / "own")
        assert backfill(job, tmp_path / "own", own, [], 100, pytest.fail) == []

    @pytest.mark.parametrize("per_positive", [0.0, 0.01])
    def test_enough(self, job: MiningJob, tmp_path: Path, first: list[Path], per_positive: float) -> None:
        own = mined(job, tmp_path / "own")
        assert negatives(own) >= per_positive * positives(own)
        assert backfill(job, tmp_path / "own", own, [first], per_positive, pytest.fail) == []

    def test_an_empty_pool(self, job: MiningJob, tmp_path: Path, first: list[Path]) -> None:
        assert backfill(job, tmp_path, [], [first], 2, pytest.fail) == []


class TestCut:
    def test_what_is_missing_comes_from_the_pool_before(
        self, job: MiningJob, tmp_path: Path, first: list[Path]
    ) -> None:
        own = mined(job, tmp_path / "own")
        said: list[str] = []
        more = backfill(job, tmp_path / "own", own, [first], 1.0, said.append)
        assert [path.name for path in more[:2]] == ["backfill-00000", "backfill-00001"]
        missing = positives(own) - negatives(own)
        assert negatives(more) == missing > 0
        assert len(said) == 1
        assert f"{missing:,} more are cut from earlier pools" in said[0]

        pool, source, miner = Pool(more), Pool(first), Miner(job)
        assert pool.pixels(np.arange(1)).shape == (1, 24, 24, 3)
        assert set(pool.role) == {SampleRole.negative}
        assert set(pool.column("view")) == {0, 1}
        place = ("image", "view", "window")
        rows = [np.column_stack([p.column(name) for name in place]) for p in (pool, source)]
        known = {tuple(row) for row in rows[1][source.role == SampleRole.negative]}
        assert len({tuple(row) for row in rows[0]}) == len(pool)  # none twice
        assert {tuple(row) for row in rows[0]} <= known
        for row in range(0, len(pool), 7):
            again = miner.cut_again(int(rows[0][row, 0]), int(rows[0][row, 1]), pool.plan(np.array([row])))
            assert np.array_equal(again.pixels, pool.pixels(np.array([row])))

    def test_no_more_than_there_is(self, job: MiningJob, tmp_path: Path, first: list[Path]) -> None:
        own = mined(job, tmp_path / "own")
        said: list[str] = []
        more = backfill(job, tmp_path / "own", own, [first], 1000, said.append)
        assert negatives(more) == negatives(first)
        assert f"{negatives(first):,} more are cut" in said[0]

    def test_the_stage_just_before_is_drawn_from_first(
        self, job: MiningJob, tmp_path: Path, first: list[Path], tiny: Any
    ) -> None:
        own = mined(job, tmp_path / "own")
        key = "stages.pnet.samplers.windows.params.negatives_per"
        recipe = load_recipe(tiny.recipe, "seed=9", f"{key}_image=2", f"{key}_box=0")
        between = mined(MiningJob(recipe, "pnet", "train", 1, range(5), None), tmp_path / "between")
        assert 0 < negatives(between) < positives(own) - negatives(own)
        more = backfill(job, tmp_path / "own", own, [first, between], 1.0, lambda line: None)
        windows = {tuple(row) for row in Pool(more).column("window")}
        pool = Pool(between)
        assert {tuple(row) for row in pool.column("window")[pool.role == SampleRole.negative]} <= windows
        assert negatives(more) == positives(own) - negatives(own)

    def test_the_same_call_gives_the_same_shards(self, job: MiningJob, tmp_path: Path, first: list[Path]) -> None:
        own = mined(job, tmp_path / "own")
        results = [backfill(job, tmp_path / name, own, [first], 1.0, lambda line: None) for name in ("a", "b")]
        digests = [[read_manifest(path)["digest"] for path in paths] for paths in results]
        assert digests[0] == digests[1]
        assert len(set(digests[0])) == len(digests[0]) > 1
