"""Mining: the same shards from any number of workers, resumed, with views, and without what a source does not teach."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_det.core.geometry import widen
from cascade_det.core.imaging import write_image
from cascade_det.core.recipe import build_samplers, load_recipe
from cascade_det.core.schema import SourcePart
from cascade_det.core.types import SampleRole
from cascade_det.data.shards import Pool, read_manifest
from cascade_det.data.synthetic import Synthetic
from cascade_det.errors import RecipeError
from cascade_det.samplers.from_cascade import FromCascade
from cascade_det.training.mining import Miner, MiningJob, build_views, mine, mistakes_sampler

FLIPPED = "data.views.flipped={share: 1.0, transform: {kind: HorizontalFlip, params: {}}}"


def job(
    tiny: Any, stage: str, numbers: Sequence[int], *overrides: str, split: str = "train", round_number: int = 1
) -> MiningJob:
    """Return a job on the small recipe; a later stage is mined by the trained stages before it."""
    recipe = load_recipe(tiny.recipe, *overrides)
    model = tiny.folder / "rnet" / "mine" / "before.safetensors" if stage == "rnet" else None
    return MiningJob(recipe, stage, split, round_number, numbers, tiny.model if round_number > 1 else model)


def mined_here(of: MiningJob, folder: Path) -> Pool:
    """Return the pool of a job, mined in this process."""
    miner = Miner(of)
    folders = [folder / f"{shard:05d}" for shard in range(of.shard_count)]
    for shard, path in enumerate(folders):
        miner.mine_shard(shard, path)
    return Pool(folders)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestWorkers:
    @pytest.mark.parametrize(("stage", "pictures", "shard_images"), [("pnet", 17, 3), ("rnet", 9, 2)])
    def test_shards_are_byte_equal_for_any_number_of_workers(
        self, tiny: Any, tmp_path: Path, stage: str, pictures: int, shard_images: int
    ) -> None:
        results = {}
        for workers in (1, 2, 3):
            overrides = (f"mine.workers={workers}", f"mine.shard_images={shard_images}", FLIPPED)
            done: list[int] = []
            folders = mine(job(tiny, stage, range(pictures), *overrides), tmp_path / str(workers), done.append)
            assert len(folders) == -(-pictures // shard_images)
            assert sum(done) == pictures
            results[workers] = contents(tmp_path / str(workers))
        assert results[1] == results[2] == results[3]
        pool = Pool(folders)
        assert {SampleRole.negative, SampleRole.positive, SampleRole.part} == set(pool.role)
        assert np.unique(pool.column("image")).tolist() == list(range(pictures))

    def test_another_seed_gives_other_shards_and_the_same_one_these(self, tiny: Any, tmp_path: Path) -> None:
        seeds = (0, 0, 1)
        digests = []
        for number, seed in enumerate(seeds):
            mined_here(job(tiny, "pnet", range(2), f"seed={seed}"), tmp_path / str(number))
            digests.append(read_manifest(tmp_path / str(number) / "00000")["digest"])
        assert digests[0] == digests[1] != digests[2]

    def test_a_picture_gives_the_same_windows_in_any_shard(self, tiny: Any, tmp_path: Path) -> None:
        alone = mined_here(job(tiny, "rnet", [5]), tmp_path / "alone")
        among = mined_here(job(tiny, "rnet", range(4, 7), "mine.shard_images=2"), tmp_path / "among")
        rows = np.flatnonzero(among.column("image") == 5)
        assert len(alone) == len(rows) > 0
        assert np.array_equal(among.pixels(rows), alone.pixels(np.arange(len(alone))))


class TestResume:
    def test_no_pictures(self, tiny: Any, tmp_path: Path) -> None:
        done: list[int] = []
        assert mine(job(tiny, "pnet", []), tmp_path, done.append) == []
        assert done == []

    def test_finished_shards_are_kept(self, tiny: Any, tmp_path: Path) -> None:
        of = job(tiny, "pnet", range(6), "mine.shard_images=2")
        folders = mine(of, tmp_path, lambda done: None)
        before = contents(tmp_path)
        shutil.rmtree(folders[1])
        (tmp_path / ".tmp-00001-77").mkdir()  # what a killed worker left
        times = {path: (path / "crops.npy").stat().st_mtime_ns for path in (folders[0], folders[2])}
        done: list[int] = []
        assert mine(of, tmp_path, done.append) == folders
        assert sorted(done) == [2, 2, 2]
        assert contents(tmp_path) == before
        assert {path: (path / "crops.npy").stat().st_mtime_ns for path in times} == times


class TestPictures:
    @pytest.fixture
    def coco(self, tmp_path: Path) -> SourcePart:
        """Write four pictures in COCO's form, the second of them damaged."""
        source = Synthetic(images=4, size_hw=(96, 128), objects=(1, 3), object_px=(24, 64), seed=1)
        images, annotations = [], []
        for index, picture in enumerate(source.pictures):
            write_image(tmp_path / f"{index}.png", source.read(index))
            images.append({"id": index, "file_name": f"{index}.png", "width": 128, "height": 96})
            for box in source.annotations(index).boxes.astype(float):
                xywh = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
                row = {"id": len(annotations) + 1, "image_id": index, "category_id": 1, "bbox": xywh}
                annotations.append(row)
            assert picture.image_hw == (96, 128)
        (tmp_path / "1.png").write_bytes(b"no picture")
        text = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
        (tmp_path / "truth.json").write_text(json.dumps(text))
        return SourcePart("coco", {"images": str(tmp_path), "annotations": str(tmp_path / "truth.json")})

    def test_an_unreadable_picture_is_skipped_and_counted(self, tiny: Any, tmp_path: Path, coco: SourcePart) -> None:
        recipe = load_recipe(tiny.recipe)
        recipe.data.train = {"photos": coco}
        of = MiningJob(recipe, "pnet", "train", 1, range(4), None)
        pool = mined_here(of, tmp_path / "shards")
        manifest = read_manifest(tmp_path / "shards" / "00000")
        assert manifest["skipped"] == 1
        assert manifest["images"] == 4
        assert np.unique(pool.column("image")).tolist() == [0, 2, 3]
        readable = [len(Miner(of).pictures.annotations(n)) for n in (0, 2, 3)]
        assert 0 < manifest["covered"] <= manifest["objects"] == sum(readable)

    @pytest.mark.parametrize(
        ("teaches", "negatives"),
        [("null", True), ("[score, box, points]", True), ("[score]", True), ("[box, points]", False), ("[]", False)],
    )
    def test_a_source_that_does_not_teach_the_score_gives_no_negatives(
        self, tiny: Any, tmp_path: Path, teaches: str, negatives: bool
    ) -> None:
        pool = mined_here(job(tiny, "pnet", range(3), f"data.train.drawn.teaches={teaches}"), tmp_path)
        assert bool((pool.role == SampleRole.negative).any()) == negatives
        assert (pool.role == SampleRole.positive).any()

    def test_validation_windows_have_no_views_and_always_negatives(self, tiny: Any, tmp_path: Path) -> None:
        overrides = (FLIPPED, "data.train.drawn.teaches=[points]")
        pool = mined_here(job(tiny, "pnet", range(3), *overrides, split="val"), tmp_path)
        assert set(pool.column("view")) == {0}
        assert (pool.role == SampleRole.negative).any()


class TestViews:
    @pytest.mark.parametrize(("share", "wanted"), [(0.0, set()), (1.0, set(range(12)))])
    def test_share(self, tiny: Any, tmp_path: Path, share: float, wanted: set[int]) -> None:
        view = f"data.views.small={{share: {share}, object_px: [24, 30]}}"
        pool = mined_here(job(tiny, "pnet", range(12), view), tmp_path)
        assert set(pool.column("image")[pool.column("view") == 0]) == set(range(12))
        assert set(pool.column("image")[pool.column("view") == 1]) == wanted

    def test_part_of_the_pictures_by_chance_that_is_not_the_views(self, tiny: Any, tmp_path: Path) -> None:
        views = [f"data.views.{name}={{share: 0.5, object_px: [24, 30]}}" for name in ("a", "b")]
        pool = mined_here(job(tiny, "pnet", range(16), *views), tmp_path)
        seen = [set(pool.column("image")[pool.column("view") == view].tolist()) for view in (1, 2)]
        assert all(3 <= len(pictures) <= 13 for pictures in seen)
        assert seen[0] != seen[1]

    def test_crops_of_a_view_are_cut_from_the_picture_as_it_shows_it(self, tiny: Any, tmp_path: Path) -> None:
        views = (FLIPPED, "data.views.turned={share: 0.5, transform: {kind: Rotate, params: {limit: [5, 15]}}}")
        of = job(tiny, "rnet", range(4), *views)
        pool, miner = mined_here(of, tmp_path), Miner(of)
        places = np.stack([pool.column("image"), pool.column("view")], axis=1)
        assert set(pool.column("view")) == {0, 1, 2}
        for number, view in np.unique(places, axis=0):
            rows = np.flatnonzero((places == (number, view)).all(axis=1))
            again = miner.cut_again(int(number), int(view), pool.plan(rows))
            assert np.array_equal(again.pixels, pool.pixels(rows))
            assert not again.truth.has_box.any()
            assert set(again.view) == {view}

    def test_a_wrong_transform_is_a_recipe_error(self, tiny: Any) -> None:
        recipe = load_recipe(tiny.recipe, "data.views.odd={transform: {kind: Rotat}}")
        with pytest.raises(RecipeError, match=r"data\.views\.odd\.transform\.kind='Rotat'.*did you mean 'Rotate'"):
            build_views(recipe)


class TestCandidates:
    def test_windows_of_a_later_stage_come_from_the_stages_before(self, tiny: Any, tmp_path: Path) -> None:
        few = mined_here(
            job(tiny, "rnet", range(4), "stages.rnet.samplers.mined.params.tries_per_box=0"), tmp_path / "0"
        )
        miner = Miner(job(tiny, "rnet", range(4)))
        assert miner.cascade is not None
        assert [stage.name for stage in miner.cascade.stages] == ["pnet"]
        (found,) = miner.cascade.run_stages(
            [miner.cascade.resampler(miner.pictures.read(0))], miner.cascade.settings(purpose="mine")
        )
        centres = (found[1][0].boxes[:, :2] + found[1][0].boxes[:, 2:]) / 2
        windows = few.column("window")[few.column("image") == 0]
        assert len(windows) > 0
        for window in windows:
            distance = np.abs(centres - (window[:2] + window[2:]) / 2).max(axis=1)
            assert distance.min() < 1e-3

    def test_context_widens_what_is_cut_and_nothing_else(self, tiny: Any, tmp_path: Path) -> None:
        plain = mined_here(job(tiny, "rnet", [0]), tmp_path / "plain")
        wide = mined_here(job(tiny, "rnet", [0], "stages.rnet.context=1.5"), tmp_path / "wide")
        rows = np.arange(len(plain))
        for name in ("window", "box", "points", "role"):
            assert np.array_equal(plain.column(name), wide.column(name)), name
        miner = Miner(job(tiny, "rnet", [0]))
        around = miner._resampler(miner.pictures.read(0)).crops(widen(plain.column("window"), 1.5), miner.window_hw)
        assert np.array_equal(wide.pixels(rows), around)
        assert not np.array_equal(wide.pixels(rows), plain.pixels(rows))

    @pytest.mark.parametrize("nms", ["null", "0.9"])
    def test_a_sampler_may_loosen_the_suppression_before_it(self, tiny: Any, tmp_path: Path, nms: str) -> None:
        key = "stages.rnet.samplers.mined.params"
        free = f"{key}.negatives_per_image=1000"
        kept = mined_here(job(tiny, "rnet", range(4), free), tmp_path / "kept")
        loose = mined_here(job(tiny, "rnet", range(4), free, f"{key}.nms={nms}"), tmp_path / "loose")
        counts = [int((pool.role == SampleRole.negative).sum()) for pool in (kept, loose)]
        assert counts[1] > counts[0] > 0

    def test_a_second_round_judges_as_the_first(self, tiny: Any) -> None:
        first = build_samplers(load_recipe(tiny.recipe, "stages.rnet.samplers.mined.params.negative=0.21"), "rnet")
        mistakes = mistakes_sampler(first)
        assert vars(mistakes) == {
            **vars(first["mined"]), "positives_per_box": 0, "parts_per_box": 0, "tries_per_box": 0
        }  # fmt: skip
        assert mistakes.bands.negative == 0.21
        assert first["mined"].positives_per_box > 0  # type: ignore[attr-defined]
        windows = build_samplers(load_recipe(tiny.recipe, "stages.pnet.samplers.windows.params.negative=0.21"), "pnet")
        assert mistakes_sampler(windows).bands.negative == 0.21
        assert mistakes_sampler({}).negatives_per_image == FromCascade().negatives_per_image

    def test_a_second_round_cuts_the_mistakes_of_the_stage_itself(self, tiny: Any, tmp_path: Path) -> None:
        of = job(tiny, "rnet", range(12), round_number=2)
        pool = mined_here(of, tmp_path)
        assert set(pool.role) == {SampleRole.negative}
        assert len(pool) < len(mined_here(job(tiny, "rnet", range(12)), tmp_path / "first"))
