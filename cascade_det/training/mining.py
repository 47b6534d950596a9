"""Mining: which windows of which pictures become crops, cut in parallel into shards.

A worker takes whole shards and computes on one thread, and all chance is keyed by (seed, stage, round, picture, view),
so shards are byte-equal for any number of workers.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import dataclasses
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascade_det.core import registry
from cascade_det.core.geometry import crop_truth, widen
from cascade_det.core.imaging import Resampler
from cascade_det.core.recipe import build_resampler, build_samplers, flip_points_of, silent_sources
from cascade_det.core.schema import Recipe, window_of
from cascade_det.core.types import Annotations, CropPlan, Detections, SampleRole
from cascade_det.data.augment import PictureView
from cascade_det.data.picture_set import PictureSet
from cascade_det.data.shards import Crops, shard_fault, write_shard
from cascade_det.errors import DataError, MiningError
from cascade_det.samplers.base import Sampler
from cascade_det.samplers.from_cascade import FromCascade

if TYPE_CHECKING:
    from cascade_det.cascade import Cascade

Progress = Callable[[int], None]


@dataclass(frozen=True)
class MiningJob:
    """What a worker needs to mine one stage; sent to each process once.

    Attributes:
        recipe: the whole recipe.
        stage: name of the stage that is mined for.
        split: "train" or "val".
        round_number: 1 for the stage's first pool; from 2 on its own mistakes are mined.
        numbers: pictures of the split, in order.
        model: file of the cascade before this stage (from round 2 on, with it); None for a first stage.
    """

    recipe: Recipe
    stage: str
    split: str
    round_number: int
    numbers: Sequence[int]
    model: Path | None

    def chunk(self, shard: int) -> Sequence[int]:
        """Return the pictures of one shard."""
        size = self.recipe.mine.shard_images
        return self.numbers[shard * size : (shard + 1) * size]

    @property
    def shard_count(self) -> int:
        """How many shards the job has."""
        return -(-len(self.numbers) // self.recipe.mine.shard_images)


def build_views(recipe: Recipe) -> list[PictureView]:
    """Return the views of the recipe in order; a `RecipeError` names a transform that does not exist."""
    flip = flip_points_of(recipe)
    return [PictureView(view, f"data.views.{name}", flip) for name, view in recipe.data.views.items()]


def mistakes_sampler(samplers: Mapping[str, Sampler]) -> FromCascade:
    """Return what a later round mines with: negatives alone, judged by the bands that the stage's own samplers have."""
    own = next((sampler for sampler in samplers.values() if isinstance(sampler, FromCascade)), None)
    mistakes = FromCascade() if own is None else copy.copy(own)
    bands = next((sampler.bands for sampler in samplers.values() if sampler.bands is not None), None)
    if own is None and bands is not None:
        mistakes.bands = bands
    mistakes.positives_per_box = mistakes.parts_per_box = mistakes.tries_per_box = 0
    return mistakes


class Miner:
    """Mines pictures of one job; lives in a worker process."""

    def __init__(self, job: MiningJob) -> None:
        recipe = job.recipe
        self.job = job
        self.pictures = PictureSet.of(recipe, job.split)
        self.window_hw = window_of(recipe.stages[job.stage])
        self.context = recipe.stages[job.stage].context
        self.flip_points = flip_points_of(recipe)
        self.views = build_views(recipe) if job.split == "train" else []
        self.samplers: Mapping[str, Sampler] = build_samplers(recipe, job.stage)
        if job.round_number > 1:
            self.samplers = {"mistakes": mistakes_sampler(self.samplers)}
        self.cascade = self._load_cascade() if job.model is not None else None
        self.stage_number = list(recipe.stages).index(job.stage)
        silent = silent_sources(recipe, job.stage) if job.split == "train" else set()
        self.no_negatives = [name in silent for name in self.pictures.names]

    def _load_cascade(self) -> Cascade:
        from cascade_det.cascade import Cascade

        assert self.job.model is not None
        recipe = self.job.recipe
        return Cascade.load(
            self.job.model, plugins=recipe.plugins, device="cpu", threads=1, plugin_dir=recipe.base_dir or "."
        )

    def mine_shard(self, shard: int, folder: Path) -> None:
        """Mine the pictures of one shard and write it; an unreadable picture is skipped and counted."""
        parts, skipped, objects, covered = [], 0, 0, 0
        for number in self.job.chunk(shard):
            try:
                image = self.pictures.read(number)
            except DataError:
                skipped += 1
                continue
            truth = self.pictures.annotations(number)
            seen = np.zeros(len(truth), bool)
            for view_number in range(len(self.views) + 1):
                shown, moved = self._seen(number, view_number, image, truth)
                if shown is None:
                    continue
                crops, taught = self._mine_picture(number, view_number, shown, moved)
                parts.append(crops)
                seen[taught] = True
            objects += int((~truth.ignore).sum())
            covered += int((seen & ~truth.ignore).sum())
        facts = {"images": len(self.job.chunk(shard)), "skipped": skipped, "objects": objects, "covered": covered}
        write_shard(folder, parts, self._empty(), facts)

    def _seen(
        self, number: int, view_number: int, image: NDArray[np.uint8], truth: Annotations
    ) -> tuple[NDArray[np.uint8] | None, Annotations]:
        """Return a picture as one of its views shows it, None where chance leaves the view out; view 0 is itself."""
        if view_number == 0:
            return image, truth
        view = self.views[view_number - 1]
        rng = np.random.default_rng([self.job.recipe.seed, 1, number, view_number - 1])
        return view(image, truth, rng) if rng.random() < view.share else (None, truth)

    def _mine_picture(
        self, number: int, view_number: int, image: NDArray[np.uint8], truth: Annotations
    ) -> tuple[Crops, NDArray[np.intp]]:
        source, _ = self.pictures.places[number]
        resampler = self._resampler(image)
        plans = []
        for index, (name, sampler) in enumerate(self.samplers.items()):
            key = [self.job.recipe.seed, 2, self.stage_number, self.job.round_number, number, view_number]
            rng = np.random.default_rng([*key, index, zlib.crc32(name.encode())])
            found = self._candidates(resampler, sampler) if sampler.needs_candidates else None
            plans.append(sampler.sample(resampler.image_hw, self.window_hw, truth, found, rng))
        plan = CropPlan.concat(plans)
        if self.no_negatives[source]:
            plan = plan[plan.role != SampleRole.negative]
        crops = self._cut(resampler, plan, truth, (number, view_number, source))
        return crops, plan.truth[plan.truth >= 0].astype(np.intp)

    def _candidates(self, resampler: Resampler, sampler: Sampler) -> Detections | None:
        """Run the stages before at their mining thresholds: mining is detection with the last stages left off."""
        if self.cascade is None:
            return None
        settings = self.cascade.settings(purpose="mine")
        if isinstance(sampler, FromCascade) and sampler.nms != "keep":
            changed = {"nms": sampler.nms, "nms_across_levels": sampler.nms}
            settings = [dataclasses.replace(values, **changed) for values in settings]  # type: ignore[arg-type]
        *_, (_, outputs, _) = self.cascade.run_stages([resampler], settings)
        return outputs[0]

    def _resampler(self, image: NDArray[np.uint8]) -> Resampler:
        return build_resampler(self.job.recipe, image)

    def _cut(self, resampler: Resampler, plan: CropPlan, truth: Annotations, place: tuple[int, int, int]) -> Crops:
        number, view_number, source = place
        return Crops(
            resampler.cut(dataclasses.replace(plan, boxes=widen(plan.boxes, self.context)), self.window_hw),
            crop_truth(plan, truth, self.flip_points),
            np.full(len(plan), number, np.int32),
            np.full(len(plan), view_number, np.int16),
            np.full(len(plan), source, np.int16),
            plan,
        )

    def _empty(self) -> Crops:
        blank = np.zeros((*self.window_hw, 3), np.uint8)
        truth = Annotations.empty(len(self.job.recipe.object.points))
        return self._cut(self._resampler(blank), CropPlan.concat([]), truth, (0, 0, 0))

    def cut_again(self, number: int, view_number: int, plan: CropPlan) -> Crops:
        """Cut windows that another stage mined once more, at this stage's size; they carry no truth."""
        image, truth = self._seen(number, view_number, self.pictures.read(number), self.pictures.annotations(number))
        assert image is not None
        return self._cut(self._resampler(image), plan, truth, (number, view_number, self.pictures.places[number][0]))


_worker: Miner | None = None


def end_with_parent(seconds: float = 1.0) -> None:
    """End this process when its parent is gone, so that a run killed by force leaves no process behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_worker(job: MiningJob) -> None:
    import cv2

    global _worker
    end_with_parent()
    cv2.setNumThreads(1)
    for plugin in job.recipe.plugins:
        registry.load_plugin(plugin, Path(job.recipe.base_dir or "."))
    _worker = Miner(job)


def _mine_shard(shard: int, folder: Path) -> int:
    assert _worker is not None
    _worker.mine_shard(shard, folder)
    return len(_worker.job.chunk(shard))


def _cut_shard(groups: Sequence[tuple[int, int, CropPlan]], folder: Path) -> int:
    assert _worker is not None
    parts = [_worker.cut_again(number, view, plan) for number, view, plan in groups]
    write_shard(folder, parts, _worker._empty(), dict.fromkeys(("images", "skipped", "objects", "covered"), 0))
    return len(groups)


def shard_folder(folder: Path, shard: int, prefix: str = "") -> Path:
    """Return the folder of shard number `shard`."""
    return folder / f"{prefix}{shard:05d}"


def mine(
    job: MiningJob, folder: Path, progress: Progress, say: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Mine all shards of a job that `folder` lacks, in parallel; return all of them in order.

    Args:
        job: what to mine.
        folder: where shards go; those that are there and sound are kept.
        progress: called with the number of pictures done, also for those already there.
        say: writes one line for people.
    """
    for left_over in folder.glob(".*"):  # of a killed process
        shutil.rmtree(left_over, ignore_errors=True)
    folders = [shard_folder(folder, shard) for shard in range(job.shard_count)]
    tasks = []
    for shard, path in enumerate(folders):
        fault = shard_fault(path) if path.is_dir() else "missing"
        if fault is None:
            progress(len(job.chunk(shard)))
            continue
        if path.is_dir():
            say(f"{path}: a damaged shard ({fault}) is mined again")
        tasks.append((shard, path))
    _run_pool(job, _mine_shard, tasks, progress)
    return folders


def cut_windows(
    job: MiningJob, folder: Path, groups: Sequence[tuple[int, int, CropPlan]], progress: Progress
) -> list[Path]:
    """Cut windows of earlier pools (picture, view, plan) at this stage's size into shards ``backfill-NNNNN``."""
    size = job.recipe.mine.shard_images
    chunks = [groups[start : start + size] for start in range(0, len(groups), size)]
    folders = [shard_folder(folder, number, "backfill-") for number in range(len(chunks))]
    _run_pool(dataclasses.replace(job, model=None), _cut_shard, list(zip(chunks, folders, strict=True)), progress)
    return folders


@contextlib.contextmanager
def _children_without_ctrl_c() -> Iterator[None]:
    """Mask Ctrl-C, which reaches all processes of a terminal, in those that start within: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_pool(job: MiningJob, task: Callable[..., int], calls: Sequence[tuple[Any, ...]], progress: Progress) -> None:
    if not calls:
        return
    workers = min(job.recipe.mine.workers or os.cpu_count() or 1, len(calls))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (job,)) as pool:
        try:
            with _children_without_ctrl_c():
                futures = [pool.submit(task, *call) for call in calls]
            for future in concurrent.futures.as_completed(futures):
                progress(future.result())
        except BrokenProcessPool as error:
            raise MiningError(
                f"mining for {job.stage!r}: a process was ended from outside, as the system does when memory runs out. "
                f"Lower mine.workers, now {workers}, and give the same command again; finished shards are kept."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():  # or the pool waits until they have ended their shards
                process.terminate()
            raise
