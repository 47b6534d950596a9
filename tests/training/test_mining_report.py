"""The report on a pool, and the refusal of one that cannot train a stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.core.imaging import read_image
from cascade_det.core.recipe import recipe_from_dict
from cascade_det.core.schema import Recipe
from cascade_det.core.types import CropPlan, CropTruth, SampleRole
from cascade_det.data.shards import Crops, write_shard
from cascade_det.errors import MiningError
from cascade_det.training.mining_report import lines, mining_report, refuse_poor, write_sheet
from cascade_det.visual.drawing import FOUND

ROLES = ("positive", "part", "negative", "points")


def crops(counts: Mapping[str, int]) -> Crops:
    role = np.concatenate(
        [np.zeros(0, np.int8), *(np.full(n, SampleRole[name], np.int8) for name, n in counts.items())]
    )
    rows = len(role)
    has_box = role != SampleRole.negative
    truth = CropTruth(
        role, np.tile([0.25, 0.25, 0.75, 0.75], (rows, 1)), has_box, np.zeros((rows, 0, 2)), np.zeros((rows, 0))
    )
    plan = CropPlan(np.zeros((rows, 4)), role, np.full(rows, -1), np.zeros(rows), np.zeros(rows))
    number = np.zeros(rows, np.int32)
    pixels = np.full((rows, 12, 12, 3), 128, np.uint8)
    return Crops(pixels, truth, number, number.astype(np.int16), number.astype(np.int16), plan)


def shards(folder: Path, *counts: Mapping[str, int], **facts: int) -> list[Path]:
    whole = {"images": 3, "skipped": 0, "objects": 4, "covered": 3, **facts}
    paths = [folder / f"{number:05d}" for number in range(len(counts))]
    for path, count in zip(paths, counts, strict=True):
        write_shard(path, [crops(count)], crops({}), whole)
    return paths


def recipe(positives: int = 10, negatives: int = 10) -> Recipe:
    mine = {"min_positives": positives, "min_negatives": negatives}
    return recipe_from_dict({"mine": mine}, None)  # type: ignore[arg-type]


def with_context(context: float) -> Recipe:
    return recipe_from_dict({"stages": {"first": {"kind": "refiner", "context": context}}}, Path())


class TestReport:
    def test_no_shards(self) -> None:
        report = mining_report([], None)
        assert report["rows"] == dict.fromkeys(ROLES, 0)
        assert report["images"] == report["objects"] == report["size_mib"] == 0
        assert report["objects_covered"] is None
        assert "mined 0 pictures" in "".join(lines("first", report))

    def test_sums_over_shards(self, tmp_path: Path) -> None:
        paths = shards(tmp_path, {"positive": 3, "negative": 4}, {}, {"positive": 2, "points": 1}, skipped=1)
        report = mining_report(paths, None)
        assert report["rows"] == {"positive": 5, "part": 0, "negative": 4, "points": 1}
        assert report["images"] == 9
        assert report["skipped_images"] == 3
        assert report["objects"] == 12
        assert report["objects_covered"] == 0.75
        text = "\n".join(lines("first", report))
        assert "positive 5, part 0, negative 4, points 1" in text
        assert "75.0% of 12 objects" in text
        assert "skipped 3 unreadable pictures" in text

    @pytest.mark.parametrize(
        ("mix", "missing"),
        [
            (None, []),
            ("natural", []),
            ({"positive": 1}, []),
            ({"positive": 1, "points": 2, "part": 0}, ["points"]),
            ({"negative": 1, "part": 1, "points": 2}, ["part", "points"]),
        ],
    )
    def test_roles_that_the_mix_wants_and_the_pool_lacks(self, tmp_path: Path, mix: Any, missing: list[str]) -> None:
        report = mining_report(shards(tmp_path, {"positive": 1, "negative": 1}), mix)
        assert report["roles_without_rows"] == missing
        told = [line for line in lines("first", report) if "no rows for" in line]
        assert len(told) == bool(missing)

    @pytest.mark.parametrize(
        ("mix", "passes"),
        [
            (None, {"negative": 7.5, "positive": 5.0}),  # 3:1 of those that have rows
            ("natural", {"positive": 6.67, "negative": 6.67}),
            ({"positive": 1, "negative": 1, "part": 5}, {"positive": 10.0, "negative": 5.0}),
        ],
    )
    def test_passes_of_the_fit(self, tmp_path: Path, mix: Any, passes: dict[str, float]) -> None:
        report = mining_report(shards(tmp_path, {"positive": 5, "negative": 10}), mix, samples=100)
        assert report["passes"] == passes
        assert any("positive" in line and "passes" in line for line in lines("first", report))

    def test_size_on_disk(self, tmp_path: Path) -> None:
        paths = shards(tmp_path, {"negative": 2500})
        assert mining_report(paths, None)["size_mib"] == pytest.approx(2500 * 12 * 12 * 3 / 2**20, abs=0.3)


class TestSheet:
    @pytest.mark.parametrize("counts", [[], [{}], [{"positive": 2, "negative": 60}, {"part": 1}]])
    def test_is_a_picture(self, tmp_path: Path, counts: list[dict[str, int]]) -> None:
        write_sheet(tmp_path / "mined.png", shards(tmp_path, *counts), with_context(1), "first")
        assert read_image(tmp_path / "mined.png").std() > 0

    def test_what_windows_with_context_teach_is_drawn_where_it_lies(self, tmp_path: Path) -> None:
        drawn = {}
        for context in (1, 2):
            write_sheet(tmp_path / "mined.png", shards(tmp_path, {"positive": 1}), with_context(context), "first")
            rows, _ = np.nonzero((read_image(tmp_path / "mined.png") == FOUND).all(axis=2))
            drawn[context] = np.ptp(rows)
        assert drawn[2] == pytest.approx(drawn[1] / 2, abs=2)


class TestRefusal:
    @pytest.mark.parametrize(
        ("rows", "floors", "refused"),
        [
            ({"positive": 10, "negative": 10}, (10, 10), None),
            (
                {"positive": 9, "negative": 10, "part": 77},
                (10, 10),
                ("9 positive rows", "mine.min_positives=10", "77 part"),
            ),
            ({"positive": 10, "negative": 9}, (10, 10), ("9 negative rows", "mine.min_negatives=10", "10 positive")),
            ({}, (1, 1), ("0 positive rows", "mine.min_positives=1", "0 part")),
            ({}, (0, 0), None),
            ({}, (0, 1), ("0 negative rows", "mine.min_negatives=1", "0 positive")),
        ],
    )
    def test_a_pool_below_a_floor(
        self, tmp_path: Path, rows: dict[str, int], floors: tuple[int, int], refused: tuple[str, ...] | None
    ) -> None:
        report = mining_report(shards(tmp_path, rows), None)
        if refused is None:
            refuse_poor("first", report, recipe(*floors))
            return
        with pytest.raises(MiningError) as caught:
            refuse_poor("first", report, recipe(*floors))
        message = str(caught.value)
        for part in (
            "stage 'first'",
            *refused,
            "Look at mined.png",
            "add pictures",
            "calibrate.mine_recall",
            "lower the floor",
        ):
            assert part in message
        assert "\n" not in message
