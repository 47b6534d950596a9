"""Batches: which rows form batch t, for one process and for several, and the tensors made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cascade_det.core.schema import JitterSection
from cascade_det.core.types import CropPlan, CropTruth, SampleRole
from cascade_det.data.batch_plan import BatchPlan
from cascade_det.data.loader import Batches, head_targets
from cascade_det.data.shards import Crops, Pool, write_shard
from cascade_det.heads.base import Head
from cascade_det.heads.box_offset import BoxOffset
from cascade_det.heads.classification import Classification
from cascade_det.heads.points import Points

HEADS: dict[str, Head] = {"score": Classification(), "box": BoxOffset(), "points": Points(2)}
OFF = JitterSection(mirror=0, brightness=0, contrast=0)


def roles(**counts: int) -> NDArray[np.int8]:
    """Return shuffled roles of a pool."""
    column = np.concatenate([np.full(n, SampleRole[name], np.int8) for name, n in counts.items()])
    return np.random.default_rng(0).permutation(column)


def counted(role: NDArray[Any], rows: NDArray[Any]) -> dict[str, int]:
    return dict(Counter(SampleRole(int(r)).name for r in role[rows]))


class TestCounts:
    @pytest.mark.parametrize(
        ("counts", "batch_size", "mix", "wanted"),
        [
            ({"negative": 50, "positive": 50, "part": 50, "points": 50}, 70, None, (30, 10, 10, 20)),
            ({"negative": 50, "positive": 50, "part": 50}, 50, None, (30, 10, 10, 0)),  # the share of no rows moves on
            (
                {"negative": 50, "positive": 50, "part": 50},
                51,
                {"negative": 1, "positive": 1, "part": 1},
                (17, 17, 17, 0),
            ),
            ({"negative": 50, "positive": 50}, 10, {"negative": 1, "positive": 0}, (10, 0, 0, 0)),
            ({"negative": 50, "positive": 50}, 10, {"negative": 1, "positive": 0.001}, (9, 1, 0, 0)),  # at least one
            ({"negative": 9, "positive": 9, "part": 9}, 10, {"negative": 98, "positive": 1, "part": 1}, (8, 1, 1, 0)),
            ({"negative": 9, "positive": 9, "part": 9}, 2, {"negative": 3, "positive": 1, "part": 1}, (1, 1, 1, 0)),
            ({"positive": 1}, 5, None, (0, 5, 0, 0)),
            ({"points": 3}, 4, {"negative": 3, "points": 1}, (0, 0, 0, 4)),
        ],
    )
    def test_a_batch_has_the_mix(
        self, counts: dict[str, int], batch_size: int, mix: dict[str, float] | None, wanted: tuple[int, ...]
    ) -> None:
        role = roles(**counts)
        plan = BatchPlan(role, batch_size, mix, [0])
        names = ("negative", "positive", "part", "points")
        want = {name: n for name, n in zip(names, wanted, strict=True) if n}
        for batch in (0, 1, 17):
            assert counted(role, plan.rows(batch)) == want

    @settings(max_examples=100, deadline=None)
    @given(
        have=st.lists(st.integers(0, 9), min_size=4, max_size=4),
        mix=st.lists(st.floats(0, 100), min_size=4, max_size=4),
        batch_size=st.integers(4, 64),
    )
    def test_the_counts_add_up(self, have: list[int], mix: list[float], batch_size: int) -> None:
        names = [role.name for role in SampleRole]
        role = roles(**dict(zip(names, have, strict=True)))
        plan = BatchPlan(role, batch_size, dict(zip(names, mix, strict=True)), [0])
        usable = [name for name, n, share in zip(names, have, mix, strict=True) if n and share > 0]
        assert set(plan.counts) == set(usable)
        assert sum(plan.counts.values()) == (batch_size if usable else 0)
        assert min(plan.counts.values(), default=1) >= 1
        assert len(plan.rows(3)) == sum(plan.counts.values())

    @pytest.mark.parametrize("mix", [None, "natural", {"negative": 1}])
    def test_an_empty_pool(self, mix: Any) -> None:
        plan = BatchPlan(np.zeros(0, np.int8), 8, mix, [0])
        assert plan.rows(0).shape == (0,)
        assert plan.rows(5).dtype == np.intp


class TestPasses:
    @pytest.mark.parametrize("mix", ["natural", {"negative": 3, "positive": 1}])
    def test_no_row_comes_twice_within_a_pass(self, mix: Any) -> None:
        role = roles(negative=60, positive=20)
        plan = BatchPlan(role, 16, mix, [0])
        passes = [np.concatenate([plan.rows(5 * p + b) for b in range(5)]) for p in range(3)]
        for rows in passes:
            assert sorted(rows) == list(range(80))
        assert not np.array_equal(passes[0], passes[1])

    def test_a_pass_that_ends_within_a_batch(self) -> None:
        plan = BatchPlan(roles(positive=10), 4, None, [0])
        rows = np.concatenate([plan.rows(b) for b in range(5)])
        assert sorted(rows[:8]) == sorted(set(rows[:8]))
        assert Counter(rows.tolist()) == dict.fromkeys(range(10), 2)

    @pytest.mark.parametrize(("size", "batch_size"), [(1, 7), (3, 7), (3, 1), (2, 100)])
    def test_tiny_pools_repeat_evenly(self, size: int, batch_size: int) -> None:
        plan = BatchPlan(roles(negative=size), batch_size, None, [0])
        counts = Counter(np.concatenate([plan.rows(b) for b in range(size)]).tolist())
        assert counts == dict.fromkeys(range(size), batch_size)

    def test_natural_is_the_pool_as_it_is(self) -> None:
        role = roles(negative=70, positive=20, points=10)
        plan = BatchPlan(role, 100, "natural", [0])
        assert counted(role, plan.rows(0)) == {"negative": 70, "positive": 20, "points": 10}

    def test_roles_are_mixed_within_a_batch(self) -> None:
        role = roles(negative=500, positive=500)
        rows = BatchPlan(role, 200, {"negative": 1, "positive": 1}, [0]).rows(0)
        assert 20 < (role[rows[:100]] == SampleRole.positive).sum() < 80


class TestChance:
    @settings(max_examples=40, deadline=None)
    @given(order=st.permutations(range(12)))
    def test_a_batch_depends_on_its_number_alone(self, order: list[int]) -> None:
        role = roles(negative=30, positive=7)
        plan = BatchPlan(role, 10, None, [3, 1])
        for batch in order:
            assert np.array_equal(plan.rows(batch), BatchPlan(role, 10, None, [3, 1]).rows(batch))

    def test_seeds_and_numbers_differ(self) -> None:
        role = roles(negative=1000)
        drawn = {
            tuple(BatchPlan(role, 20, None, seed).rows(batch)) for seed in ([0], [1], [0, 1]) for batch in range(4)
        }
        assert len(drawn) == 12


def pool_of(folder: Path, role: NDArray[Any], source: Sequence[int] | None = None) -> Pool:
    """Return a pool whose crops show their row number and whose truth has it as x0."""
    rows = len(role)
    number = np.arange(rows)
    pixels = np.zeros((rows, 4, 4, 3), np.uint8) + number[:, None, None, None].astype(np.uint8)
    box = np.stack([number / 100, number * 0, number * 0 + 0.5, number * 0 + 0.5], axis=1)
    truth = CropTruth(
        role, box, role != SampleRole.negative, np.full((rows, 2, 2), 0.25), np.tile([True, False], (rows, 1))
    )
    plan = CropPlan(np.zeros((rows, 4)), role, np.full(rows, -1), np.zeros(rows), np.zeros(rows, bool))
    owner = np.zeros(rows, np.int16) if source is None else np.array(source, np.int16)
    whole = Crops(pixels, truth, np.zeros(rows, np.int32), np.zeros(rows, np.int16), owner, plan)
    write_shard(folder, [whole], whole, {})
    return Pool([folder])


def batches(pool: Pool, plan: BatchPlan, **changes: Any) -> Batches:
    values: dict[str, Any] = {
        "heads": HEADS, "teaches": [], "jitter": OFF, "flip_points": np.array([1, 0]), "seed": [0], "span": (0, 10)
    }  # fmt: skip
    return Batches(pool, plan, **{**values, **changes})


def numbers(batch: Mapping[str, Any]) -> list[int]:
    return [int(v) for v in batch["images"][:, 0, 0, 0]]


class TestBatches:
    def test_span(self, tmp_path: Path) -> None:
        pool = pool_of(tmp_path / "s", roles(negative=40, positive=10))
        plan = BatchPlan(pool.role, 8, None, [0])
        assert len(batches(pool, plan, span=(5, 0))) == 0
        some = batches(pool, plan, span=(5, 3))
        assert [numbers(batch) for batch in some] == [plan.rows(t).tolist() for t in (5, 6, 7)]
        for index in (-1, 3):
            with pytest.raises(IndexError):
                some[index]

    def test_tensors(self, tmp_path: Path) -> None:
        pool = pool_of(tmp_path / "s", roles(negative=40, positive=10, part=10, points=10))
        batch = batches(pool, BatchPlan(pool.role, 14, None, [0]))[0]
        rows = np.array(numbers(batch))
        assert batch["images"].shape == (14, 3, 4, 4)
        role = pool.role[rows]
        targets = {name: (target.numpy(), mask.numpy()) for name, (target, mask) in batch["targets"].items()}
        assert targets["score"][0][:, 0].tolist() == (role == SampleRole.positive).tolist()
        assert targets["score"][1].tolist() == np.isin(role, [SampleRole.negative, SampleRole.positive]).tolist()
        assert targets["box"][0][:, 0] == pytest.approx(rows / 100)
        assert targets["box"][1].tolist() == np.isin(role, [SampleRole.part, SampleRole.positive]).tolist()
        assert targets["points"][1].tolist() == [[r != SampleRole.negative, False] for r in role]

    @pytest.mark.parametrize("world", [1, 2, 3, 7])
    def test_ranks_share_out_a_batch(self, tmp_path: Path, world: int) -> None:
        pool = pool_of(tmp_path / "s", roles(negative=40, positive=40))
        plan = BatchPlan(pool.role, 12, None, [0])
        for index in (0, 9):
            parts = [numbers(batches(pool, plan, part=(rank, world))[index]) for rank in range(world)]
            assert sorted(row for part in parts for row in part) == sorted(plan.rows(index))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1

    @pytest.mark.parametrize(
        ("teaches", "source", "wanted"),
        [
            ([], [0, 0], {"score": [True, True], "box": [True, True], "points": [True, True]}),
            ([None], [0, 0], {"score": [True, True], "box": [True, True], "points": [True, True]}),
            ([None, ["points"]], [0, 1], {"score": [True, False], "box": [True, False], "points": [True, True]}),
            ([["score", "box"]], [0, 0], {"score": [True, True], "box": [True, True], "points": [False, False]}),
            ([[], None], [0, 1], {"score": [False, True], "box": [False, True], "points": [False, True]}),
        ],
    )
    def test_a_source_may_teach_less(
        self, tmp_path: Path, teaches: Any, source: list[int], wanted: dict[str, list[bool]]
    ) -> None:
        pool = pool_of(tmp_path / "s", roles(positive=2), source)
        batch = batches(pool, BatchPlan(pool.role, 2, None, [0]), teaches=teaches)[0]
        order = np.argsort(numbers(batch))
        masks = {name: mask.numpy()[order] for name, (_, mask) in batch["targets"].items()}
        masks["points"] = masks["points"][:, 0]
        assert {name: mask.tolist() for name, mask in masks.items()} == wanted

    def test_jitter_depends_on_the_batch_and_not_on_what_was_read_before(self, tmp_path: Path) -> None:
        pool = pool_of(tmp_path / "s", roles(negative=40, positive=10))
        plan = BatchPlan(pool.role, 8, None, [0])
        jittered = batches(pool, plan, jitter=JitterSection())
        images = [jittered[index]["images"] for index in (3, 0, 3)]
        assert torch.equal(images[0], images[2])
        resumed = batches(pool, plan, jitter=JitterSection(), span=(3, 1))[0]["images"]
        assert torch.equal(images[0], resumed)
        assert not torch.equal(batches(pool, plan, jitter=JitterSection(), seed=[1])[3]["images"], images[0])

    def test_without_jitter_the_crops_are_as_cut(self, tmp_path: Path) -> None:
        pool = pool_of(tmp_path / "s", roles(negative=40))
        plan = BatchPlan(pool.role, 8, None, [0])
        images = batches(pool, plan, jitter=None)[0]["images"]
        assert images.dtype == torch.uint8
        assert torch.equal(images, torch.from_numpy(pool.pixels(plan.rows(0))).permute(0, 3, 1, 2))


def test_targets_of_no_rows() -> None:
    none = CropTruth(np.zeros(0), np.zeros((0, 4)), np.zeros(0), np.zeros((0, 2, 2)), np.zeros((0, 2)))
    targets = head_targets(HEADS, none, {name: np.zeros(0, bool) for name in HEADS})
    assert {name: (tuple(t.shape), tuple(m.shape)) for name, (t, m) in targets.items()} == {
        "score": ((0, 1), (0,)),
        "box": ((0, 4), (0,)),
        "points": ((0, 4), (0, 2)),
    }


class Old(Classification):
    """Learns a column of truth."""

    field, extras = "old", ("old",)

    def encode(self, truth: CropTruth) -> NDArray[np.float32]:
        return (truth.extras["old"] == "yes").astype(np.float32)[:, None]


@pytest.mark.parametrize(("column", "wanted"), [(None, [0, 0]), (["yes", ""], [1, 0])])
def test_a_head_always_gets_the_columns_that_it_learns_from(column: list[str] | None, wanted: list[int]) -> None:
    extras = {} if column is None else {"old": np.array(column)}
    truth = CropTruth([2, 2], np.zeros((2, 4)), [True, True], np.zeros((2, 2, 2)), np.zeros((2, 2)), extras)
    target, _ = head_targets({"old": Old()}, truth, {"old": np.ones(2, bool)})["old"]
    assert target[:, 0].tolist() == wanted
    assert set(truth.extras) == set(extras)
