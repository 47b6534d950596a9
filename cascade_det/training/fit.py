"""Fits one stage on its mined crops. Runs in a process of its own: ``python -m cascade_det.training.fit FOLDER``.

Lightning's distributed launcher starts further ranks by repeating the current command, so that command must do nothing
but fit; and the memory of a fit goes back when its process ends.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cascade_det.core import registry
from cascade_det.core.recipe import (
    build_heads,
    build_stage,
    flip_points_of,
    recipe_from_dict,
    recipe_to_dict,
    stage_train,
)
from cascade_det.core.schema import Recipe
from cascade_det.data.atomic import write_bytes_atomic, write_json_atomic
from cascade_det.errors import CascadeError, RecipeError, RunError
from cascade_det.training.checkpoints import checkpoint_callback, newest_checkpoint
from cascade_det.training.plan import WEIGHTS
from cascade_det.training.run_folder import explanation

_FIGURES = "figures.json"
# Freed activations that go back to the system fault in again at each step: half of the speed of a fit on a CPU.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


def run_fit(
    recipe: Recipe, stage: str, folder: Path, shards: Sequence[Path], val_shards: Sequence[Path], start: Path | None
) -> dict[str, float]:
    """Fit a stage in a child process and return its last figures; the weights lie in ``folder/weights.safetensors``.

    Args:
        recipe: the whole recipe.
        stage: its name.
        folder: of the step; checkpoints and logs lie in it, and a fit that was ended goes on from the last one.
        shards: crops to learn from.
        val_shards: crops to validate on, possibly none.
        start: weights to start from, or None for fresh ones.

    Raises:
        RunError: the child failed; its last words are on standard error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if all((folder / name).is_file() for name in (WEIGHTS, _FIGURES)):  # cut off after it had ended
        return dict(json.loads((folder / _FIGURES).read_text()))
    job = {
        "recipe": recipe_to_dict(recipe),
        "stage": stage,
        "shards": [str(path) for path in shards],
        "val_shards": [str(path) for path in val_shards],
        "start": str(start) if start is not None else None,
    }
    write_json_atomic(folder / "job.json", job)
    command = [sys.executable, "-m", "cascade_det.training.fit", str(folder)]
    # in a session of its own, so that Ctrl-C reaches the parent alone, which then ends the child
    result = subprocess.run(command, env={**_MALLOC, **os.environ}, start_new_session=True, check=False)
    if result.returncode != 0:
        raise RunError(
            f"fitting stage {stage!r} ended with exit code {result.returncode}; what it said stands above. "
            "The same command goes on from the last checkpoint."
        )
    return dict(json.loads((folder / _FIGURES).read_text()))


def main(folder: Path) -> int:
    """Fit what ``job.json`` in `folder` describes."""
    from cascade_det.training.mining import end_with_parent

    end_with_parent()
    job = json.loads((folder / "job.json").read_text())
    recipe = recipe_from_dict(job["recipe"], folder)
    for plugin in recipe.plugins:
        registry.load_plugin(plugin, Path(recipe.base_dir or "."))
    try:
        _fit(recipe, job, folder)
    except (CascadeError, OSError) as error:
        told = explanation(f"fit of {job['stage']!r}", folder, error) if isinstance(error, OSError) else error
        print(f"error: {told}", file=sys.stderr)
        return 2
    return 0


def _fit(recipe: Recipe, job: dict[str, Any], folder: Path) -> None:
    import pytorch_lightning as pl

    from cascade_det.data.loader import CropData

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # device tables and tips, at each fit
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated")  # Lightning 2.6's own, under torch 2.13
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # a fit that goes on

    stage = job["stage"]
    values = stage_train(recipe, stage)
    pl.seed_everything((recipe.seed * 1000 + list(recipe.stages).index(stage)) % 2**32, verbose=False)
    steps = max(1, (values.samples or 1) // (values.batch_size or 1))
    epochs = min(recipe.train.validations, steps)
    per_epoch = -(-steps // epochs)
    # Lightning steps the optimizer, and with it schedule and average, once for so many batches and at an epoch's end
    updates = epochs * -(-per_epoch // int(recipe.train.trainer.get("accumulate_grad_batches") or 1))
    network, module = _module(recipe, stage, values, updates, job["start"])
    train, val = _datasets(recipe, job, values)
    data = CropData(train, val, per_epoch)
    trainer = _trainer(recipe, stage, folder, epochs, values.ema or 0.0, updates, val is not None)
    last = newest_checkpoint(folder / "checkpoints", lambda line: print(line, file=sys.stderr))
    ended = last is not None and _load_ended(module, last, trainer.max_epochs or -1)
    if ended and val is not None:
        trainer.validate(module, data, verbose=False)
    elif not ended:
        trainer.fit(module, data, ckpt_path=last, weights_only=True)
    if trainer.is_global_zero:
        _save(network, folder, {k: float(v) for k, v in trainer.callback_metrics.items()})


def _load_ended(module: Any, checkpoint: Path, epochs: int) -> bool:
    """Load the weights of a checkpoint where the fit was cut off after its last epoch; return whether it was.

    Lightning would run no batch, and leave the last weights in the module instead of the averaged ones. Its -1 for
    `epochs` is no end.
    """
    import torch

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not 0 < epochs <= state["epoch"] + 1:
        return False
    module.load_state_dict(state["state_dict"])
    return True


def _module(recipe: Recipe, stage: str, values: Any, steps: int, start: str | None) -> tuple[Any, Any]:
    from safetensors.numpy import load_file

    from cascade_det.heads.base import Reduction
    from cascade_det.training.module import HeadLoss, StageModule

    built = build_stage(recipe, stage)
    if start is not None:
        built.load_arrays(load_file(start))
    heads = build_heads(recipe, stage)
    losses = {
        name: HeadLoss(part.weight, Reduction(part.reduction or heads[name].reduction), part.hardest_share)
        for name, part in recipe.stages[stage].heads.items()
    }
    network = built.runner.network.train()
    pixels = (recipe.image.mean, recipe.image.scale)
    module = StageModule(network, heads, losses, pixels, values.optimizer, values.schedule, values.lr, steps)
    return network, module


def _datasets(recipe: Recipe, job: dict[str, Any], values: Any) -> tuple[Callable[..., Any], Any]:
    import numpy as np

    from cascade_det.core.types import SampleRole
    from cascade_det.data.batch_plan import BatchPlan
    from cascade_det.data.loader import Batches
    from cascade_det.data.shards import Pool

    stage = job["stage"]
    heads, flip = build_heads(recipe, stage), flip_points_of(recipe)
    seed = [recipe.seed, list(recipe.stages).index(stage), zlib.crc32(stage.encode())]
    pool = Pool([Path(path) for path in job["shards"]])
    plan = BatchPlan(pool.role, values.batch_size, values.batch_mix, seed)
    report = ", ".join(f"{name} {count}" for name, count in plan.counts.items())
    print(f"{stage}: {len(pool):,} crops; rows of a batch: {report}", file=sys.stderr)
    teaches = [part.teaches for part in recipe.data.train.values()]

    def train(span: tuple[int, int], part: tuple[int, int]) -> Batches:
        return Batches(pool, plan, heads, teaches, recipe.data.jitter, flip, seed, span, part)

    val_pool = Pool([Path(path) for path in job["val_shards"]])
    scored = np.isin(val_pool.role, [SampleRole.positive, SampleRole.negative]).any() if len(val_pool) else False
    if not scored:
        return train, None
    val_plan = BatchPlan(val_pool.role, min(1024, len(val_pool)), "natural", [*seed, 1])
    batches = min(16, -(-len(val_pool) // 1024))
    return train, Batches(val_pool, val_plan, heads, [], None, flip, seed, (0, batches))


def check_trainer(recipe: Recipe) -> None:
    """Build a trainer as the fits will, and run nothing.

    Raises:
        RecipeError: Lightning refuses `train.trainer`, or a package that `train.logger` needs is missing.
    """
    import pytorch_lightning as pl  # sets the level of its logger when it is first imported

    logging.getLogger(pl.__name__).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        _trainer(recipe, next(iter(recipe.stages)), Path(folder), 1, 0.0, 1, False)


def _loggers(kind: str, folder: Path) -> list[Any]:
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

    loggers: list[Any] = []
    if kind in ("csv", "both"):
        attempts = len(list(folder.glob("log*")))  # a resumed fit keeps the log of its beginning
        loggers.append(CSVLogger(str(folder), name="", version=f"log-{attempts + 1}"))
    if kind in ("tensorboard", "both"):
        try:
            loggers.append(TensorBoardLogger(str(folder), name="", version="tensorboard"))
        except ModuleNotFoundError as error:
            raise RecipeError(
                f"train.logger={kind!r}: tensorboard is not installed; pip install 'cascade_det[tensorboard]', or "
                "take csv."
            ) from error
    return loggers


def _trainer(recipe: Recipe, stage: str, folder: Path, epochs: int, ema: float, steps: int, validated: bool) -> Any:
    import pytorch_lightning as pl
    from pytorch_lightning import callbacks as cb
    from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

    loggers = _loggers(recipe.train.logger, folder)
    calls: list[Any] = [
        checkpoint_callback(folder / "checkpoints"),
        _progress_bar(stage),
    ]
    if loggers:
        calls.append(cb.LearningRateMonitor("step"))
    if ema:
        # A short fit needs a shorter memory, or the average still holds the first, random weights at its end.
        calls.append(cb.EMAWeightAveraging(decay=min(ema, max(0.0, 1 - 20 / steps))))
    if recipe.train.early_stopping and validated:
        calls.append(cb.EarlyStopping("val/f1", mode="max", patience=recipe.train.early_stopping))
    values = {
        "max_epochs": epochs,
        "logger": loggers or False,
        "callbacks": calls,
        "reload_dataloaders_every_n_epochs": 1,
        "num_sanity_val_steps": 0,
        "limit_val_batches": None if validated else 0,
        "use_distributed_sampler": False,  # the batch plan gives each rank its own rows
        "enable_model_summary": False,
        "log_every_n_steps": max(1, min(50, steps // epochs)),
        "default_root_dir": str(folder),
    }
    try:
        return pl.Trainer(**{**values, **recipe.train.trainer})
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise RecipeError(f"train.trainer={recipe.train.trainer!r}: {' '.join(str(error).split())}") from error


def _progress_bar(stage: str) -> Any:
    from pytorch_lightning.callbacks import TQDMProgressBar

    class StageProgressBar(TQDMProgressBar):
        """Lightning's bar with the stage's name before it."""

        def init_train_tqdm(self) -> Any:
            bar = super().init_train_tqdm()
            bar.set_description_str(f"fit {stage}")
            return bar

    return StageProgressBar(refresh_rate=20 if sys.stderr.isatty() else 0)


def _save(network: Any, folder: Path, figures: dict[str, float]) -> None:
    from safetensors.numpy import save

    arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in network.state_dict().items()}
    write_bytes_atomic(folder / WEIGHTS, save(arrays))
    write_json_atomic(folder / _FIGURES, {k: round(v, 6) for k, v in figures.items()}, indent=1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
