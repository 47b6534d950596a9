"""What a fit costs beside the bare model: samples a second of each stage through Lightning, shards, jitter, losses and
EMA, against the same network and optimizer on one batch that never changes; both interleaved.

    python benchmarks/fit.py [--recipe mtcnn_face] [--steps 60] [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timing import print_machine, spread
from training_data import draw_pool

from cascade_det.core.recipe import load_recipe, stage_train
from cascade_det.core.schema import window_of
from cascade_det.data.loader import CropData
from cascade_det.training import fit


class Clock:
    """Seconds between the end of the first training batch and the end of the last one."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())


def whole_fit(recipe: Any, stage: str, folder: Path, shard: Path, steps: int) -> float:
    """Return samples a second of the real fit."""
    import pytorch_lightning as pl

    values = stage_train(recipe, stage)
    job = {"stage": stage, "shards": [str(shard)], "val_shards": [], "start": None}
    _, module = fit._module(recipe, stage, values, steps, None)
    train, _ = fit._datasets(recipe, job, values)
    trainer = fit._trainer(recipe, stage, folder, 1, values.ema or 0.0, steps, False)
    clock = Clock()
    callback = type("_Clock", (pl.Callback,), {"on_train_batch_end": lambda self, *a, **k: clock()})()
    trainer.callbacks.append(callback)
    trainer.fit(module, CropData(train, None, steps))
    return (steps - 1) * values.batch_size / (clock.times[-1] - clock.times[0])


def bare_model(recipe: Any, stage: str, steps: int) -> float:
    """Return samples a second of forward, a plain loss, backward and the optimizer's step."""
    values = stage_train(recipe, stage)
    network, module = fit._module(recipe, stage, values, steps, None)
    optimizer = module.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    images = torch.randn(values.batch_size, 3, *window_of(recipe.stages[stage]))
    begin = 0.0
    for step in range(steps):
        optimizer.zero_grad()
        sum(output.square().mean() for output in network(images).values()).backward()
        optimizer.step()
        begin = time.perf_counter() if step == 0 else begin
    return (steps - 1) * values.batch_size / (time.perf_counter() - begin)


def main() -> None:
    """Print samples a second and the ratio of each stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="mtcnn_face")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    recipe = load_recipe(given.recipe, "train.logger=none")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print_machine("torch", "pytorch-lightning")
    for stage, section in recipe.stages.items():
        with tempfile.TemporaryDirectory() as name:
            shard = Path(name) / "shard"
            draw_pool(shard, window_of(section), 30_000)
            whole, bare = [], []
            for number in range(given.rounds + 1):
                bare.append(bare_model(recipe, stage, given.steps))
                with contextlib.redirect_stderr(io.StringIO()):
                    whole.append(whole_fit(recipe, stage, Path(name) / str(number), shard, given.steps))
        whole, bare = whole[1:], bare[1:]
        ratio = statistics.median(w / b for w, b in zip(whole, bare, strict=True))
        print(f"{stage}: fit {spread(whole)}, bare model {spread(bare)} samples a second; ratio {ratio:.2f}")


if __name__ == "__main__":
    if not os.environ.keys() >= fit._MALLOC.keys():  # the allocator reads them at the start of a process
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **fit._MALLOC})
    main()
