"""How fast windows are labelled and fed: both must outrun the smallest net on one core.

    taskset -c 0 python benchmarks/training_data.py [--rounds 7]

Feeding: batches of 12-pixel crops from shards on disk, with mirror, jitter and every head's targets. Labelling: roles
of candidate windows against the objects of a picture, as mining does it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from timing import interleaved, print_machine, spread

from cascade_det.core.recipe import build_heads, build_samplers, load_recipe
from cascade_det.core.types import Annotations, CropPlan, CropTruth, Detections, SampleRole
from cascade_det.data.batch_plan import BatchPlan
from cascade_det.data.loader import Batches
from cascade_det.data.shards import Crops, Pool, write_shard
from cascade_det.training.mining import flip_points_of

_ROWS, _BATCH, _CANDIDATES, _OBJECTS = 200_000, 2048, 2_000, 8


def draw_pool(folder: Path, window_hw: tuple[int, int], rows: int = _ROWS) -> Pool:
    """Write random crops with boxes and five points and open them."""
    rng = np.random.default_rng(0)
    role = rng.choice([SampleRole.negative, SampleRole.positive, SampleRole.part, SampleRole.points], rows)
    box = np.sort(rng.random((rows, 2, 2)), axis=1).reshape(rows, 4)
    truth = CropTruth(role, box, role != SampleRole.negative, rng.random((rows, 5, 2)), rng.random((rows, 5)) < 0.5)
    zeros = np.zeros(rows)
    plan = CropPlan(np.tile([0.0, 0, 9, 9], (rows, 1)), role, np.full(rows, -1), zeros, zeros > 0)
    pixels = rng.integers(0, 256, (rows, *window_hw, 3), dtype=np.uint8)
    number = zeros.astype(np.int16)
    write_shard(folder, [Crops(pixels, truth, number.astype(np.int32), number, number, plan)], [], {})  # type: ignore[arg-type]
    return Pool([folder])


def feeding(folder: Path, recipe_name: str) -> Batches:
    """Return batches of the recipe's first stage."""
    recipe = load_recipe(recipe_name)
    stage = next(iter(recipe.stages))
    pool = draw_pool(folder, (12, 12))
    heads = build_heads(recipe, stage)
    plan = BatchPlan(pool.role, _BATCH, None, [0])
    return Batches(pool, plan, heads, [None], recipe.data.jitter, flip_points_of(recipe), [0], (0, 1_000_000))


def labelling(recipe_name: str) -> tuple[object, Annotations, Detections]:
    """Return the sampler of the recipe's second stage with a picture's objects and the candidates to label."""
    recipe = load_recipe(recipe_name)
    stage = list(recipe.stages)[1]
    rng = np.random.default_rng(1)

    def boxes(count: int, least: float, most: float) -> np.ndarray:
        corner = rng.uniform(0, 500, (count, 2))
        return np.concatenate([corner, corner + rng.uniform(least, most, (count, 1))], axis=1).astype(np.float32)

    objects = boxes(_OBJECTS, 30, 120)
    points = np.zeros((_OBJECTS, 5, 2), np.float32)
    truth = Annotations(objects, np.zeros(_OBJECTS, bool), points, points[..., 0] > 0)
    found = Detections(boxes(_CANDIDATES, 12, 200), rng.random(_CANDIDATES).astype(np.float32))
    return next(iter(build_samplers(recipe, stage).values())), truth, found


def main() -> None:
    """Print windows a second of both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--recipe", default="mtcnn_face")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print_machine("torch", "opencv-python-headless")
    with tempfile.TemporaryDirectory() as name:
        batches = feeding(Path(name) / "shard", given.recipe)
        numbers = iter(range(1_000_000))
        sampler, truth, found = labelling(given.recipe)

        def feed() -> None:
            for _ in range(20):
                batches[next(numbers)]

        def label() -> None:
            for seed in range(100):
                sampler.sample((640, 640), (24, 24), truth, found, np.random.default_rng(seed))  # type: ignore[attr-defined]

        seconds = interleaved({"feed": feed, "label": label}, given.rounds)
    print(f"feeding, 12 px with jitter: {spread([20 * _BATCH / s for s in seconds['feed']])} windows a second")
    print(f"labelling candidates: {spread([100 * _CANDIDATES / s for s in seconds['label']])} windows a second")


if __name__ == "__main__":
    main()
