"""Shards: what is written is read back, over the bounds of shards and with any attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_det.core.types import CropPlan, CropTruth, SampleRole
from cascade_det.data.shards import Crops, Pool, read_manifest, shard_fault, shards_in, write_shard
from cascade_det.errors import DataError

HW = (3, 4)
FACTS = {"images": 2, "skipped": 1, "objects": 5, "covered": 4}


def crops(rows: int, seed: int = 0, image: int = 0, extras: Mapping[str, Any] | None = None) -> Crops:
    """Return random crops with two points each; pixel 0 of each holds its number."""
    rng = np.random.default_rng(seed)
    role = rng.integers(0, 4, rows)
    known = rng.random((rows, 2)) < 0.5
    pixels = rng.integers(0, 256, (rows, *HW, 3), dtype=np.uint8)
    truth = CropTruth(
        role, rng.random((rows, 4)), rng.random(rows) < 0.5, rng.random((rows, 2, 2)), known, extras or {}
    )
    plan = CropPlan(
        rng.random((rows, 4)) * 50, role, np.full(rows, -1), rng.uniform(-15, 15, rows), rng.random(rows) < 0.5
    )
    number = np.arange(rows)
    return Crops(
        pixels,
        truth,
        np.full(rows, image, np.int32),
        (number % 3).astype(np.int16),
        (number % 2).astype(np.int16),
        plan,
    )


def table(folder: Path) -> list[bytes]:
    """Return all that a pool reads of a shard."""
    pool = Pool([folder])
    rows = np.arange(len(pool))
    truth = pool.truth(rows)
    names = ("image", "view", "source", "window", "angle_deg", "mirror")
    columns = [truth.role, truth.box, truth.has_box, truth.points, truth.points_known, *map(pool.column, names)]
    return [pool.pixels(rows).tobytes(), *(np.asarray(column).tobytes() for column in columns)]


def write(folder: Path, *shards: list[Crops]) -> list[Path]:
    folders = [folder / f"{number:05d}" for number in range(len(shards))]
    for path, parts in zip(folders, shards, strict=True):
        write_shard(path, parts, crops(0), FACTS)
    return folders


class TestFaults:
    def test_sound(self, tmp_path: Path) -> None:
        assert [shard_fault(path) for path in write(tmp_path, [], [crops(0)], [crops(9)])] == [None] * 3

    def test_missing(self, tmp_path: Path) -> None:
        assert shard_fault(tmp_path / "none") == "its manifest is missing or cannot be read"

    @pytest.mark.parametrize("name", ["crops.npy", "truth.npz", "manifest.json"])
    def test_a_flipped_byte_is_found_wherever_it_matters(self, tmp_path: Path, name: str) -> None:
        (folder,) = write(tmp_path, [crops(40)])
        content, manifest = table(folder), read_manifest(folder)
        data = (folder / name).read_bytes()
        found = 0
        for position in np.linspace(0, len(data) - 1, 150).astype(int).tolist():
            flipped = bytearray(data)
            flipped[position] ^= 0x10
            (folder / name).write_bytes(flipped)
            if shard_fault(folder) is None:  # a time stamp in a zip, a blank: nothing that is read
                assert table(folder) == content
                assert read_manifest(folder) == manifest
            else:
                found += 1
        assert found > 75

    @pytest.mark.parametrize("name", ["crops.npy", "truth.npz", "manifest.json"])
    @pytest.mark.parametrize("share", [0.0, 0.5, None])
    def test_a_file_cut_short_or_gone(self, tmp_path: Path, name: str, share: float | None) -> None:
        (folder,) = write(tmp_path, [crops(40)])
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        if share is not None:
            (folder / name).write_bytes(data[: int(len(data) * share)])
        assert shard_fault(folder) is not None

    def test_what_a_killed_process_left_is_no_shard(self, tmp_path: Path) -> None:
        assert shards_in(tmp_path / "none") == []
        folders = write(tmp_path, [crops(1)], [crops(2)])
        write_shard(tmp_path / ".tmp-00007-1", [], crops(0), FACTS)
        assert shards_in(tmp_path) == folders


class TestEmpty:
    def test_no_shards(self) -> None:
        pool = Pool([])
        assert len(pool) == 0
        assert pool.role.shape == (0,)
        assert pool.column("source").shape == (0,)

    @pytest.mark.parametrize("parts", [[], [crops(0)], [crops(0), crops(0)]])
    def test_a_shard_without_crops(self, tmp_path: Path, parts: list[Crops]) -> None:
        (folder,) = write(tmp_path, parts)
        assert read_manifest(folder)["rows"] == 0
        pool, none = Pool([folder]), np.zeros(0, np.intp)
        assert len(pool) == 0
        assert pool.pixels(none).shape == (0, *HW, 3)
        assert pool.truth(none).points.shape == (0, 2, 2)
        assert len(pool.plan(none)) == 0

    def test_an_empty_shard_between_others(self, tmp_path: Path) -> None:
        pool = Pool(write(tmp_path, [crops(2)], [], [crops(3, seed=1)]))
        assert len(pool) == 5
        rows = np.array([4, 0, 2])
        both = np.concatenate([crops(2).pixels, crops(3, seed=1).pixels])
        assert np.array_equal(pool.pixels(rows), both[rows])


class TestRoundTrip:
    def test_every_column_survives(self, tmp_path: Path) -> None:
        parts = [crops(4, seed=1, image=7), crops(3, seed=2, image=9)]
        pool, rows = Pool(write(tmp_path, parts)), np.arange(7)
        truth, plan = pool.truth(rows), pool.plan(rows)
        assert np.array_equal(pool.pixels(rows), np.concatenate([p.pixels for p in parts]))
        for name in ("role", "box", "has_box", "points", "points_known"):
            wanted = np.concatenate([getattr(p.truth, name) for p in parts])
            assert np.array_equal(getattr(truth, name), wanted), name
            assert getattr(truth, name).dtype == wanted.dtype
        for name in ("boxes", "role", "angle_deg", "mirror"):
            assert np.array_equal(getattr(plan, name), np.concatenate([getattr(p.plan, name) for p in parts])), name
        assert plan.truth.tolist() == [-1] * 7
        for name in ("image", "view", "source"):
            assert np.array_equal(pool.column(name), np.concatenate([getattr(p, name) for p in parts])), name

    def test_the_manifest_counts(self, tmp_path: Path) -> None:
        parts = [crops(40, seed=1), crops(10, seed=2)]
        manifest = read_manifest(write(tmp_path, parts)[0])
        role = np.concatenate([p.truth.role for p in parts])
        assert manifest["rows"] == 50
        assert manifest["roles"] == {r.name: int((role == r).sum()) for r in SampleRole}
        assert {name: manifest[name] for name in FACTS} == FACTS

    def test_the_digest_is_of_the_content(self, tmp_path: Path) -> None:
        same, other, split = [crops(5)], [crops(5, image=1)], [crops(5), crops(0)]
        digests = [read_manifest(path)["digest"] for path in write(tmp_path, same, same, other, split)]
        assert digests[0] == digests[1] == digests[3]
        assert digests[0] != digests[2]

    def test_equal_content_gives_equal_bytes(self, tmp_path: Path) -> None:
        one, two = write(tmp_path, [crops(5)], [crops(5)])
        assert sorted(p.name for p in one.iterdir()) == ["crops.npy", "manifest.json", "truth.npz"]
        for path in one.iterdir():
            assert path.read_bytes() == (two / path.name).read_bytes()

    @pytest.mark.parametrize("text", [None, "", "{", "\xff"])
    def test_a_damaged_manifest_is_named(self, tmp_path: Path, text: str | None) -> None:
        (folder,) = write(tmp_path, [crops(1)])
        (folder / "manifest.json").unlink()
        if text is not None:
            (folder / "manifest.json").write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=r"00000: not a readable shard.*delete it and run the same command again"):
            Pool([folder])

    def test_a_second_write_replaces_the_first(self, tmp_path: Path) -> None:
        write(tmp_path, [crops(5)])
        (folder,) = write(tmp_path, [crops(2, seed=3)])
        assert len(Pool([folder])) == 2
        assert [p.name for p in tmp_path.iterdir()] == ["00000"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool(write(tmp_path_factory.mktemp("pool"), *[[crops(n, seed=n)] for n in (3, 1, 0, 6)]))


class TestGather:
    @settings(max_examples=60, deadline=None)
    @given(rows=st.lists(st.integers(0, 9), max_size=30))
    def test_any_rows_in_any_order(self, pool: Pool, rows: list[int]) -> None:
        pixels = np.concatenate([crops(n, seed=n).pixels for n in (3, 1, 0, 6)])
        boxes = np.concatenate([crops(n, seed=n).plan.boxes for n in (3, 1, 0, 6)])
        wanted = np.array(rows, np.intp)
        assert len(pool) == 10
        assert np.array_equal(pool.pixels(wanted), pixels[wanted])
        assert np.array_equal(pool.plan(wanted).boxes, boxes[wanted])
        assert np.array_equal(pool.truth(wanted).role, pool.role[wanted])

    def test_the_order_of_the_shards_is_the_order_of_the_rows(self, tmp_path: Path) -> None:
        folders = write(tmp_path, [crops(2, seed=1)], [crops(3, seed=2)])
        forward, backward = Pool(folders), Pool(folders[::-1])
        assert np.array_equal(forward.pixels(np.arange(5)), backward.pixels(np.array([3, 4, 0, 1, 2])))


def unknown_as_none(column: Any) -> Any:
    return np.where(column == column, column.astype(object), None).tolist()


class TestExtras:
    @pytest.mark.parametrize("apart", [False, True])
    @pytest.mark.parametrize(
        ("first", "second", "wanted"),
        [
            ({}, {}, {}),
            ({"age": np.array([5.0, 7.0])}, {"age": np.array([9.0])}, {"age": [5, 7, 9]}),
            ({"age": np.array([5.0, 7.0])}, {}, {"age": [5, 7, None]}),
            ({}, {"side": np.array(["left"])}, {"side": ["", "", "left"]}),
            ({"side": np.array(["a", "bc"])}, {"side": np.array(["longer"])}, {"side": ["a", "bc", "longer"]}),
            ({"side": np.array(["a", "b"], object)}, {}, {"side": ["a", "b", ""]}),
            ({"old": np.array([True, False])}, {"old": np.array([True])}, {"old": [True, False, True]}),
            ({"old": np.array([True, False])}, {}, {"old": [1, 0, None]}),
            ({"code": np.ones((2, 3))}, {}, {"code": [[1, 1, 1], [1, 1, 1], [None] * 3]}),
            ({"a": np.array([1, 2])}, {"b": np.array([3])}, {"a": [1, 2, None], "b": [None, None, 3]}),
            ({"a": np.array([1, 2])}, {"a": np.array([0.5])}, {"a": [1, 2, 0.5]}),
        ],
    )
    def test_the_union_of_all_pictures(
        self, tmp_path: Path, first: dict[str, Any], second: dict[str, Any], wanted: dict[str, Any], apart: bool
    ) -> None:
        parts = [crops(2, extras=first), crops(1, extras=second)]
        pool = Pool(write(tmp_path, *([[p] for p in parts] if apart else [parts])))
        got = pool.truth(np.arange(3)).extras
        assert {name: unknown_as_none(column) for name, column in got.items()} == wanted

    def test_a_picture_without_crops_changes_no_type(self, tmp_path: Path) -> None:
        pool = Pool(write(tmp_path, [crops(2, extras={"old": np.array([True, False])}), crops(0)], []))
        assert pool.truth(np.arange(2)).extras["old"].dtype == bool

    def test_nothing_is_pickled(self, tmp_path: Path) -> None:
        (folder,) = write(tmp_path, [crops(2, extras={"side": np.array(["a", "b"], object)})])
        with np.load(folder / "truth.npz", allow_pickle=False) as table:
            assert table["extra:side"].tolist() == ["a", "b"]
        assert json.loads((folder / "manifest.json").read_text())["rows"] == 2
